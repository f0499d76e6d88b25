"""Losses a part of the positions at a time: equal to those of all together, with few logits alive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ff_lightning.candidates import CandidateLoss, LinearContrast, LogisticContrast, Softmax
from ff_lightning.language.chunked import chunked

ROWS, WIDTH, CANDIDATES = 23, 6, 40
LOSSES = [Softmax(), Softmax(scale=0.5), LinearContrast(8), LogisticContrast(8)]
EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)


def given() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(1, ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(CANDIDATES, WIDTH, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(CANDIDATES, dtype=torch.float64, requires_grad=True)
    return x, weight, bias, torch.randint(CANDIDATES, (1, ROWS))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@EVERY_LOSS
@pytest.mark.parametrize("at_once", [1, 5, 23, 100])
def test_loss_and_gradient_are_those_of_all_together(loss: CandidateLoss, at_once: int) -> None:
    """Draws of a sampled loss come one after the other from the same generator, whatever the parts."""
    *leaves, targets = given()
    x, weight, bias = leaves
    whole = loss.among_many(x, (weight, bias), targets, seeded())
    parts = chunked(loss, x, (weight, bias), targets, seeded(), at_once=at_once)
    torch.testing.assert_close(parts.loss.double(), whole.loss, rtol=1e-6, atol=1e-6)
    for side in ("g_pos", "g_neg"):
        found, expected = getattr(parts, side), getattr(whole, side)
        assert (found is None) == (expected is None)
        assert found is None or torch.allclose(found, expected.flatten())
    expected = torch.autograd.grad(3 * whole.loss, leaves)
    for got, wanted in zip(torch.autograd.grad(3 * parts.loss, leaves), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-9)


def test_a_constant_readout_gets_no_gradient_and_nothing_is_done_for_it() -> None:
    x, weight, bias, targets = given()
    found = chunked(Softmax(), x, (weight.detach(), bias.detach()), targets, at_once=4).loss
    found.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert weight.grad is None
    with torch.no_grad():
        assert not chunked(Softmax(), x, (weight, bias), targets).loss.requires_grad


def test_logits_of_a_part_alone_are_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is kept for the backward pass has the size of the activities."""
    seen: list[int] = []
    linear = torch.nn.functional.linear

    def watched(*args: Any) -> Tensor:
        seen.append(args[0].shape[:-1].numel())
        return linear(*args)

    monkeypatch.setattr("ff_lightning.candidates.F.linear", watched)
    x, weight, bias, targets = given()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        chunked(Softmax(), x, (weight.detach(), bias.detach()), targets, at_once=4)
    assert seen == [4, 4, 4, 4, 4, 3]
    assert max(size for size in kept if size != weight.numel()) <= 4 * CANDIDATES
