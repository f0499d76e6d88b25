"""What is measured: separation and goodness gap.

Accuracy, confusion and the like come from torchmetrics; here is only what FF adds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics import Metric


def separation(g_pos: Tensor, g_neg: Tensor, threshold: Tensor | None = None) -> Tensor:
    """Share of samples on the right side.

    Args:
        g_pos: ``(B, …)`` goodness of positives.
        g_neg: ``(B, …)`` goodness of negatives; the same shape if there is no threshold.
        threshold: θ. Without it, the share of pairs in which the positive has the higher goodness.

    Returns:
        Scalar in [0, 1]; 0.5 is chance.

    >>> separation(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 0.0]), torch.tensor(1.5))
    tensor(0.5000)
    """
    if threshold is None:
        return (g_pos > g_neg).float().mean()
    return ((g_pos > threshold).float().mean() + (g_neg < threshold).float().mean()) / 2


def goodness_gap(g_pos: Tensor, g_neg: Tensor) -> Tensor:
    """Mean goodness of positives minus mean goodness of negatives, in units of goodness.

    >>> goodness_gap(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.0]))
    tensor(1.5000)
    """
    return g_pos.mean() - g_neg.mean()


class LabelContrast(Metric):
    """What every block makes of the labels over a whole evaluation: accuracy, separation, goodness gap.

    The true label is contrasted with the wrong one that the block likes best.

    Args:
        num_blocks: ``L``.
    """

    full_state_update = False
    correct: Tensor
    right: Tensor
    gap: Tensor
    samples: Tensor

    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        for name in ("correct", "right", "gap"):
            self.add_state(name, torch.zeros(num_blocks, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, goodness: Tensor, labels: Tensor, thresholds: Sequence[Tensor | None]) -> None:
        """Take in one batch.

        Args:
            goodness: ``(L, B, C)`` goodness of every label.
            labels: ``(B,)`` the true ones.
            thresholds: θ of every block, ``None`` where pairs are compared.
        """
        true = one_hot(labels, goodness.shape[2]).bool()
        for index, (g, threshold) in enumerate(zip(goodness, thresholds, strict=True)):
            g_pos, g_neg = g[true], g.masked_fill(true, -torch.inf).amax(1)
            self.correct[index] += (g_pos > g_neg).sum()
            self.right[index] += len(labels) * separation(g_pos, g_neg, threshold)
            self.gap[index] += len(labels) * goodness_gap(g_pos, g_neg)
        self.samples += len(labels)

    def compute(self) -> dict[str, Tensor]:
        """Means over all samples, each ``(L,)``: ``accuracy``, ``separation``, ``goodness_gap``.

        (torchmetrics makes a scalar of each if ``L`` is 1.)
        """
        return {
            "accuracy": (self.correct / self.samples).float(),
            "separation": (self.right / self.samples).float(),
            "goodness_gap": (self.gap / self.samples).float(),
        }
