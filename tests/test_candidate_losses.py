"""Local losses on candidate tokens: what own negatives estimate, calibration, drawing."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ff_lightning.candidates import (
    CandidateLoss,
    EachLabel,
    LinearContrast,
    LogisticContrast,
    SampledContrast,
    Softmax,
    WrongCandidate,
    draw_tokens,
)
from ff_lightning.errors import InputError
from ff_lightning.losses import SymBa

V = 5
ALL_LOSSES = [LinearContrast(4), LogisticContrast(4), LogisticContrast(4, from_below=True), Softmax()]


def logits(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, V, generator=torch.Generator().manual_seed(3), dtype=dtype).requires_grad_()


def gradient(loss: CandidateLoss, at: Tensor, below: Tensor, targets: Tensor, seed: int = 0) -> Tensor:
    contrast = loss(at, targets, torch.Generator().manual_seed(seed), below)
    (grad,) = torch.autograd.grad(contrast.loss, at)
    return grad


def test_the_linear_contrast_is_cross_entropy_in_expectation_by_enumeration(monkeypatch: pytest.MonkeyPatch) -> None:
    at, targets, below = logits(1, 1), torch.tensor([[2]]), torch.zeros(V, dtype=torch.float64)
    expected = torch.zeros_like(at)
    for token, share in enumerate(at.detach().softmax(-1)[0, 0]):
        drawn = F.one_hot(torch.tensor([[token]]), V).double()
        monkeypatch.setattr("ff_lightning.candidates.draw_shares", lambda *_, drawn=drawn, even: drawn)
        expected += share * gradient(LinearContrast(1), at, below, targets)
    torch.testing.assert_close(expected, gradient(Softmax(), at, below, targets), rtol=1e-12, atol=1e-12)


def test_the_linear_contrast_is_cross_entropy_in_the_mean_of_many_draws() -> None:
    at, targets, below = logits(2, 3), torch.tensor([[0, 1, 2], [3, 4, 0]]), torch.zeros(V, dtype=torch.float64)
    exact = gradient(Softmax(), at, below, targets)
    few, many = (gradient(LinearContrast(k, even=False), at, below, targets) for k in (4, 200_000))
    assert (many - exact).abs().max() < 1e-3
    assert (few - exact).abs().max() > 10 * (many - exact).abs().max()


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("below_shape", [(V,), (2, 3, V)])
@pytest.mark.parametrize("kind", [LinearContrast, LogisticContrast, partial(LogisticContrast, from_below=True)])
def test_among_many_tokens_loss_and_gradient_are_the_same(
    kind: Callable[..., SampledContrast], below_shape: tuple[int, ...], even: bool
) -> None:
    loss, targets = kind(4, even=even), torch.tensor([[0, 1, 2], [3, 4, 0]])
    random = torch.Generator().manual_seed(5)
    energies, weight, bias, below = (
        torch.randn(shape, dtype=torch.float64, generator=random) for shape in ((2, 3, 7), (V, 7), (V,), below_shape)
    )
    leaves = [leaf.requires_grad_() for leaf in (energies, weight, bias)]
    dense = loss(below + F.linear(energies, weight, bias), targets, torch.Generator().manual_seed(1), below)
    few = loss.among_many(energies, (weight, bias), targets, torch.Generator().manual_seed(1), below)
    assert dense.g_pos is not None
    assert dense.g_neg is not None
    for ours, expected in ((few.loss, dense.loss), (few.g_pos, dense.g_pos), (few.g_neg, dense.g_neg)):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    gradients = zip(*(torch.autograd.grad(contrast.loss, leaves) for contrast in (few, dense)), strict=True)
    for ours, expected in gradients:
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("kind", [LinearContrast, LogisticContrast, partial(LogisticContrast, from_below=True)])
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "bf16 activities"])
def test_among_many_tokens_negatives_are_drawn_in_float32(
    kind: Callable[..., SampledContrast], even: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16, of 4,000 equal tokens a third of those would be drawn, and always the same ones."""
    drawn: list[Tensor] = []

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        drawn.append(draw_tokens(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr("ff_lightning.candidates.draw_tokens", watched)
    leaves = torch.randn(1, 2000, 8), torch.zeros(4000, 8), torch.zeros(4000)
    dtypes = {"bf16-mixed": (32, 32), "bf16-true": (16, 16), "bf16 activities": (16, 32)}[precision]
    types = [{16: torch.bfloat16, 32: torch.float32}[bits] for bits in (dtypes[0], dtypes[1], dtypes[1])]
    x, weight, bias = (leaf.to(dtype).requires_grad_() for leaf, dtype in zip(leaves, types, strict=True))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != "bf16-true"):
        found = kind(1, even=even).among_many(
            x, (weight, bias), torch.zeros(1, 2000, dtype=torch.int64), torch.Generator().manual_seed(0)
        )
    assert 1450 < drawn[0].unique().numel() < 1700
    assert found.loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(found.loss, (x, weight, bias)))


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=["linear", "logistic", "below", "softmax"])
def test_logits_may_be_in_half_precision(loss: CandidateLoss) -> None:
    at, targets, below = logits(3, 7, dtype=torch.bfloat16), torch.randint(V, (3, 7)), torch.zeros(V)
    exact = gradient(loss, at.detach().float().requires_grad_(), below, targets)
    torch.testing.assert_close(gradient(loss, at, below, targets).float(), exact, rtol=0.02, atol=2e-3)


def test_evenly_spread_draws_have_the_same_mean_and_less_noise() -> None:
    at, targets, below = logits(2, 3), torch.tensor([[0, 1, 2], [3, 4, 0]]), torch.zeros(V, dtype=torch.float64)
    exact = gradient(Softmax(), at, below, targets)

    def sampled(even: bool) -> Tensor:
        loss = LinearContrast(4, even=even)
        return torch.stack([gradient(loss, at, below, targets, seed) for seed in range(3000)])

    assert (sampled(True).mean(0) - exact).abs().max() < 2e-3
    assert sampled(True).var(0).sum() < 0.4 * sampled(False).var(0).sum()


def optimum(loss: CandidateLoss, below: Tensor, p: Tensor, steps: int = 400) -> Tensor:
    """What a free logit vector learns of data with distribution ``p``: the calibrated prediction."""
    at = below.clone().requires_grad_()
    optimizer = torch.optim.Adam([at], lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        targets = torch.multinomial(p, 2000, replacement=True, generator=generator).view(1, -1)
        contrast = loss(at.expand(1, 2000, V), targets, generator, below)
        optimizer.zero_grad()
        contrast.loss.backward()
        optimizer.step()
        schedule.step()
    return loss.calibrated(at.detach(), below).log_softmax(-1)


TEMPERED = [Softmax(scale=3.0), WrongCandidate(), WrongCandidate(SymBa(1.5))]


@pytest.mark.parametrize("loss", [*ALL_LOSSES, *TEMPERED], ids=lambda loss: type(loss).__name__)
def test_the_calibrated_optimum_is_log_probability(loss: CandidateLoss) -> None:
    p = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03])
    below = torch.tensor([0.3, 0.1, 0.2, 0.3, 0.1]).log()
    learned = optimum(loss, below, p)
    assert F.kl_div(learned, p, reduction="sum") < 1e-3


@pytest.mark.parametrize("loss", [*ALL_LOSSES, *TEMPERED], ids=lambda loss: type(loss).__name__)
def test_a_block_without_goodness_says_what_it_starts_from(loss: CandidateLoss) -> None:
    below = torch.tensor([0.3, 0.1, 0.2, 0.3, 0.1]).log()
    torch.testing.assert_close(loss.calibrated(below.clone(), below), below)


def test_logistic_goodness_alone_would_be_too_flat() -> None:
    """The factor 2 of the calibration is not decoration."""
    p = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03])
    uniform = torch.zeros(V)
    learned = optimum(LogisticContrast(4), uniform, p) / 2
    assert F.kl_div(learned.log_softmax(-1), p, reduction="sum") > 0.05


def test_collisions_are_kept() -> None:
    """A certain and right prediction gets no gradient: all its negatives are the real token."""
    at = torch.tensor([[[50.0, 0, 0, 0, 0]]], requires_grad=True)
    assert not gradient(LinearContrast(8), at, torch.zeros(V), torch.tensor([[0]])).any()


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=["linear", "logistic", "below", "softmax"])
def test_losses_are_computed_in_float32_under_autocast(loss: CandidateLoss) -> None:
    at, targets, below = logits(3, 7, dtype=torch.float32), torch.randint(V, (3, 7)), torch.zeros(V)
    exact, gradient_of_exact = (
        loss(at, targets, torch.Generator().manual_seed(0), below),
        gradient(loss, at, below, targets),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = loss(at, targets, torch.Generator().manual_seed(0), below)
        assert torch.equal(gradient(loss, at, below, targets), gradient_of_exact)
    for name in ("loss", "g_pos", "g_neg"):
        value = getattr(exact, name)
        assert value is None or torch.equal(getattr(low, name), value)


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_numbers_of_negatives_that_make_no_sense_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=r"negatives=.*1 or more"):
        LinearContrast(count)


@pytest.mark.parametrize("threshold", [math.nan, "0", None])
@pytest.mark.parametrize("loss", [LogisticContrast, EachLabel])
def test_a_threshold_is_a_finite_number(loss: Any, threshold: Any) -> None:
    with pytest.raises(InputError, match=rf"Passed `{loss.__name__}\(threshold={threshold!r}\)`. .* must be finite"):
        loss(threshold=threshold)


def test_weights_of_labels_are_numbers() -> None:
    logits, targets = torch.randn(4, 3), torch.tensor([[1, 0, 1]] * 4)
    weights: list[Any] = [[1, 2.0, 0.5], torch.tensor([1, 2, 0.5])]
    one, other = (EachLabel(weights=each)(logits, targets).loss for each in weights)
    assert torch.equal(one, other)
    for wrong in ([1.0, math.nan], torch.ones(2, 3), 2.0, "12", [0.0]):
        with pytest.raises(InputError, match=r"Passed `EachLabel\(weights=.*`. .* list of positive, finite numbers"):
            EachLabel(weights=wrong)  # type: ignore[arg-type]
