"""Separation and goodness gap, a batch at a time and over a whole evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ff_lightning.metrics import LabelContrast, goodness_gap, separation
from tests import references


def goodness_pair(*shape: int) -> tuple[Tensor, Tensor]:
    draw = torch.rand((2, *shape), generator=torch.Generator().manual_seed(0))
    return draw[0] + 0.2, draw[1]


@pytest.mark.parametrize("theta", [None, 0.6, -1.0, 5.0])
@pytest.mark.parametrize("shape", [(20,), (5, 4)])
def test_equal_the_reference(theta: float | None, shape: tuple[int, ...]) -> None:
    g_pos, g_neg = goodness_pair(*shape)
    rows = g_pos.flatten().tolist(), g_neg.flatten().tolist()
    found = separation(g_pos, g_neg, None if theta is None else torch.tensor(theta))
    assert found.item() == pytest.approx(references.separation(*rows, theta))
    assert goodness_gap(g_pos, g_neg).item() == pytest.approx(references.mean(rows[0]) - references.mean(rows[1]))


def test_a_tie_is_not_separated() -> None:
    g = torch.ones(4)
    assert separation(g, g).item() == 0
    assert separation(g, g, torch.tensor(1.0)).item() == 0


def test_streams_may_differ_in_size_if_there_is_a_threshold() -> None:
    found = separation(torch.tensor([2.0, 2.0, 2.0, 0.0]), torch.tensor([0.0]), torch.tensor(1.0))
    assert found.item() == pytest.approx((0.75 + 1.0) / 2)


# Over a whole evaluation ---------------------------------------------------------------------------------------


def evaluation(count: int) -> tuple[Tensor, Tensor]:
    """Goodness of two blocks for four labels, the true one a little higher, and the true labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (count,), generator=generator)
    goodness = torch.rand(2, count, 4, generator=generator) + 0.3 * torch.nn.functional.one_hot(labels, 4)
    return goodness, labels


@pytest.mark.parametrize("size", [1, 5, 23])
def test_a_whole_evaluation_equals_the_reference_however_it_is_cut(size: int) -> None:
    goodness, labels = evaluation(23)
    contrast = LabelContrast(2)
    for g, y in zip(goodness.split(size, dim=1), labels.split(size), strict=True):
        contrast.update(g, y, [None, torch.tensor(0.9)])
    found = contrast.compute()
    assert found.keys() == {"accuracy", "separation", "goodness_gap"}
    assert all(value.dtype == torch.float32 and value.shape == (2,) for value in found.values())
    for block, theta in enumerate((None, 0.9)):
        expected = references.label_contrast(goodness[block].tolist(), labels.tolist(), theta)
        for name, value in expected.items():
            assert found[name][block].item() == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_reset_forgets() -> None:
    goodness, labels = evaluation(10)
    contrast = LabelContrast(2)
    contrast.update(-goodness, labels, [None, None])
    contrast.reset()
    contrast.update(goodness, labels, [None, None])
    fresh = LabelContrast(2)
    fresh.update(goodness, labels, [None, None])
    for name, value in fresh.compute().items():
        assert torch.equal(contrast.compute()[name], value)


def test_every_sample_of_a_long_evaluation_counts() -> None:
    # In float32 a sum of 2 ** 24 stands still when 1 is added.
    contrast = LabelContrast(1)
    contrast.right += 2**24
    contrast.correct += 2**24
    contrast.samples += 2**24
    contrast.update(torch.tensor([[[1.0, 0.0]]]), torch.tensor([0]), [None])
    assert contrast.right.item() == contrast.correct.item() == contrast.samples.item() == 2**24 + 1
