"""Local losses over the goodness of classes that contrast the true class with negatives (tier T1).

A block gives every class ``c`` a goodness ``G(c)``, as a block of a language model gives one to every token. What
makes these losses contrastive FF and not a local softmax: a step compares the goodness of the positive, the true
class, with that of explicit negatives, classes drawn at random, as scalars; no sum over all classes is taken and
nothing is normalised over them. The class softmax of tier T2, :class:`~ff_lightning.losses.ClassSoftmax`, is the
limit of infinitely many negatives of :class:`OwnContrast`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ff_lightning.language.losses import LinearContrast, LogisticContrast
from ff_lightning.losses import ClassLoss, ContrastiveLoss, SymBa


class OwnContrast(ClassLoss):
    """The true class against classes drawn from the block's own current prediction (tier T1).

    The block predicts with ``softmax(G)``; its negatives are drawn from there, the true class among them, so they
    are always those that the block itself takes for likely.

    Args:
        contrast: how positives and negatives are compared: linearly by default, or by Hinton's logistic loss
            around a threshold. Here nothing is predicted below, so ``from_below`` would draw all classes alike.

    Shape:
        - ``g``: ``(B, C)``; ``labels``: ``(B,)`` int64.
        - Output: scalar.
    """

    def __init__(self, contrast: LinearContrast | LogisticContrast | None = None) -> None:
        super().__init__()
        self.contrast = LinearContrast() if contrast is None else contrast

    def forward(self, g: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: D102
        loss: Tensor = self.contrast(g, g.new_zeros(g.shape[1]), labels, generator).loss
        return loss


class WrongClass(ClassLoss):
    """The true class against one wrong class, all wrong ones equally likely (tier T1).

    Args:
        loss: contrasts the goodness of both; :class:`~ff_lightning.losses.SymBa` by default.

    Shape:
        - ``g``: ``(B, C)``; ``labels``: ``(B,)`` int64.
        - Output: scalar.
    """

    def __init__(self, loss: ContrastiveLoss | None = None) -> None:
        super().__init__()
        self.loss = SymBa() if loss is None else loss

    def forward(self, g: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: D102
        classes = g.shape[1]
        away = torch.randint(1, classes, labels.shape, generator=generator, device=labels.device)
        chosen = torch.stack([labels, (labels + away) % classes], 1)
        g_pos, g_neg = g.gather(1, chosen).unbind(1)
        loss: Tensor = self.loss(g_pos, g_neg)
        return loss
