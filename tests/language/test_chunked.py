"""Losses a part of the positions at a time: equal to those of all together, with few logits alive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ff_lightning.candidates import CandidateLoss, LinearContrast, LogisticContrast, Softmax
from ff_lightning.language.chunked import LARGEST, chunked

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


MANY, WIDE = 20_000, 32


def wide(kind: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of many candidates, whose vectors have a part in common: the small gradients of all of them add up to much."""
    torch.manual_seed(0)
    x, weight = torch.randn(256, WIDE), 0.02 * torch.randn(MANY, WIDE) + 0.1
    targets = torch.randint(MANY, (256,))
    if kind == "large":  # one candidate for all, rows that are alike, and vectors that cancel but for their length
        x, weight = 100 * x[0].sign() + x, 0.02 * torch.randn(MANY, WIDE)
        weight[0], targets = -100 * x[0].sign() / WIDE, torch.zeros(256, dtype=torch.int64)
    return x.requires_grad_(), weight.requires_grad_(), torch.zeros(MANY, requires_grad=True), targets


@pytest.mark.parametrize("kind", ["common", "large"])
@pytest.mark.parametrize("at_once", [60, 256])
def test_gradients_in_fp16_neither_vanish_nor_overflow(at_once: int, kind: str) -> None:
    """Whatever a gradient scaler brings later, it comes too late for them: here it is 2^16, as at its start."""
    *leaves, targets = wide(kind)
    x, weight, bias = leaves
    found = []
    for half in (False, True):
        with torch.autocast("cpu", torch.float16, enabled=half):
            lost = chunked(Softmax(), x, (weight, bias), targets, at_once=at_once).loss
        found.append([gradient / 2**16 for gradient in torch.autograd.grad(2**16 * lost, leaves)])
    for exact, half in zip(*found, strict=True):
        assert (half - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("loss", [Softmax(), LinearContrast(8)], ids=lambda loss: type(loss).__name__)
def test_weights_in_fp16_have_their_gradients_scaled_too(loss: CandidateLoss) -> None:
    """A few draws of a sampled loss are others, where logits are rounded."""
    *leaves, targets = wide("common")
    found = []
    for dtype in (torch.float16, torch.float32):
        some = [leaf.detach().half().to(dtype).requires_grad_() for leaf in leaves]
        lost = chunked(loss, some[0], (some[1], some[2]), targets, seeded(), at_once=100).loss
        found.append(torch.autograd.grad(2**12 * lost, some))
    for half, exact in zip(*found, strict=True):
        assert half.dtype == torch.float16
        assert (half - exact).norm() < (0.01 if isinstance(loss, Softmax) else 0.1) * exact.norm()


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bf16-mixed"])
def test_the_scale_changes_no_bit_of_other_types(mixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    *leaves, targets = wide("common")
    x, weight, bias = leaves
    found = []
    for largest in (LARGEST, 1.0):
        monkeypatch.setattr("ff_lightning.language.chunked.LARGEST", largest)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            lost = chunked(Softmax(), x, (weight, bias), targets, at_once=100).loss
        found.append([lost, *torch.autograd.grad(lost, leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


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
