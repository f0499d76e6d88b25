"""Contrasts over classes: what their gradient is on average, and what they are contrasted with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ff_lightning.candidates import CandidateLoss, LinearContrast, LogisticContrast, WrongCandidate
from ff_lightning.losses import ContrastiveLoss, SymBa, ThresholdLoss
from tests import references

LABELS = torch.tensor([2, 0, 1, 1])


def goodness() -> Tensor:
    return torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


def gradient(loss: CandidateLoss, *, seed: int = 1, times: int = 1) -> Tensor:
    g = goodness()
    generator = torch.Generator().manual_seed(seed)
    torch.stack([loss(g, LABELS, generator).loss for _ in range(times)]).mean().backward()
    return g.grad


def test_the_linear_contrast_has_the_gradient_of_the_softmax_on_average() -> None:
    g = goodness()
    F.cross_entropy(g, LABELS).backward()
    single = LinearContrast(1, even=False)
    assert (gradient(single) - g.grad).abs().max() > 0.02
    torch.testing.assert_close(gradient(single, times=4000), g.grad, atol=0.008, rtol=0)
    torch.testing.assert_close(gradient(LinearContrast(1000)), g.grad, atol=5e-4, rtol=0)


def test_the_logistic_contrast_is_hintons_loss_on_own_negatives() -> None:
    g = goodness()
    value = LogisticContrast(2000)(g, LABELS, torch.Generator().manual_seed(0)).loss
    expected = []
    for row, y in zip(g.tolist(), LABELS.tolist(), strict=True):
        shares = torch.tensor(row).double().softmax(0).tolist()
        push = sum(share * references.softplus(good) for share, good in zip(shares, row, strict=True))
        expected.append(references.softplus(-row[y]) + push)
    assert value.item() == pytest.approx(references.mean(expected), abs=2e-3)


@pytest.mark.parametrize("loss", [SymBa(4.0), ThresholdLoss(0.5)])
def test_a_wrong_class_is_never_the_true_one_and_all_others_come(loss: ContrastiveLoss) -> None:
    pushed = torch.stack([gradient(WrongCandidate(loss), seed=seed) for seed in range(30)])
    true = F.one_hot(LABELS, 3).bool()
    assert (pushed[:, true] < 0).all()
    assert (pushed[:, ~true] >= 0).all()
    assert ((pushed[:, ~true] > 0).sum(0) > 5).all()
    assert ((pushed > 0).sum(-1) == 1).all()


def test_negatives_follow_the_generator() -> None:
    loss = LinearContrast(2)
    assert torch.equal(gradient(loss, seed=3), gradient(loss, seed=3))
    assert not torch.equal(gradient(loss, seed=3), gradient(loss, seed=4))
