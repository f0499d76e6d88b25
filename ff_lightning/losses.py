"""Local losses: what one block minimises, from goodness alone.

A contrastive loss (tier T1) wants goodness of positives above goodness of negatives; losses of blocks that give every
class or token a goodness are in :mod:`ff_lightning.candidates`. All are means over the batch, written with
``softplus`` so that no goodness, however large, overflows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.errors import InputError, positive
from ff_lightning.normalization import RunningMean
from ff_lightning.parts import Part


class ContrastiveLoss(Part, nn.Module, ABC):
    """Local loss of tier T1: positives against explicit negatives.

    Shape:
        - ``g_pos``, ``g_neg``: ``(B, …)``, the same shape for the pairwise losses.
        - Output: scalar.
    """

    @property
    def threshold(self) -> Tensor | None:
        """θ as a scalar tensor, or ``None`` for a loss that compares pairs."""
        return None

    @abstractmethod
    def forward(self, g_pos: Tensor, g_neg: Tensor) -> Tensor:
        """Loss of goodness ``g_pos`` of positives and ``g_neg`` of negatives."""


class ThresholdLoss(ContrastiveLoss):
    """Hinton's logistic loss around a fixed threshold (2212.13345, section 2).

    ``softplus(scale * (θ - g_pos)) + softplus(scale * (g_neg - θ))``: the negative log-likelihood of calling
    positives real and negatives not, with ``p(real) = σ(scale * (g - θ))``.

    Args:
        threshold: θ, in units of goodness; finite. (Hinton's sum of squares: the number of units.)
        scale: inverse temperature of the logistic, per unit of goodness; positive.

    >>> round(ThresholdLoss(2.0)(torch.tensor([2.0]), torch.tensor([2.0])).item(), 4)  # 2 log 2
    1.3863
    """

    def __init__(self, threshold: float = 2.0, *, scale: float = 1.0) -> None:
        super().__init__()
        if not math.isfinite(threshold):
            raise InputError(f"Passed `ThresholdLoss(threshold={threshold})`. `threshold` must be finite.")
        self.scale = positive("scale", scale)
        self.theta: Tensor
        self.register_buffer("theta", torch.tensor(float(threshold)))

    @property
    def threshold(self) -> Tensor:
        """θ, a scalar tensor."""
        return self.theta

    def forward(self, g_pos: Tensor, g_neg: Tensor) -> Tensor:  # noqa: D102
        return logistic_around(self.theta, self.scale, g_pos, g_neg)


class MovingThresholdLoss(ContrastiveLoss):
    """:class:`ThresholdLoss` whose θ follows the goodness it judges.

    θ is a running mean of the midpoint ``(mean g_pos + mean g_neg) / 2``, so a block whose goodness starts far from any
    fixed θ still gets a gradient. The first training batch sets it; it moves after every batch (see
    :class:`~ff_lightning.normalization.RunningMean`).

    Args:
        momentum: share of the old θ that stays at each batch, in ``[0, 1)``.
        scale: inverse temperature of the logistic, per unit of goodness; positive.
    """

    def __init__(self, *, momentum: float = 0.9, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = positive("scale", scale)
        self.midpoint = RunningMean(momentum=momentum)

    @property
    def threshold(self) -> Tensor:
        """θ, a scalar tensor; NaN before the first training batch."""
        return self.midpoint.value

    def forward(self, g_pos: Tensor, g_neg: Tensor) -> Tensor:  # noqa: D102
        theta: Tensor = self.midpoint((g_pos.mean() + g_neg.mean()) / 2)
        return logistic_around(theta, self.scale, g_pos, g_neg)


class TwoThresholdLoss(ContrastiveLoss):
    """Logistic loss with a threshold for each stream and a penalty on activity (SCFF, arXiv 2409.11593).

    ``softplus(θ+ - g_pos) + softplus(g_neg - θ-) + penalty * |g_pos|``, where ``|g_pos|`` is the Euclidean length
    over the positions of a sample, as in the authors' code (which the paper writes for one position).

    Args:
        positive: θ+, what the goodness of positives should exceed; finite.
        negative: θ-, what that of negatives should stay below; finite.
        penalty: weight of the activity of positives, not negative.

    >>> round(TwoThresholdLoss(1.0, 3.0)(torch.tensor([1.0]), torch.tensor([3.0])).item(), 4)  # 2 log 2
    1.3863
    """

    def __init__(self, positive: float, negative: float, *, penalty: float = 0.0) -> None:
        super().__init__()
        for name, value in (("positive", positive), ("negative", negative)):
            if not math.isfinite(value):
                raise InputError(f"Passed `TwoThresholdLoss({name}={value})`. `{name}` must be finite.")
        if not (penalty >= 0 and math.isfinite(penalty)):
            raise InputError(f"Passed `penalty={penalty}`. `penalty` must be finite and not negative.")
        self.positive, self.negative, self.penalty = float(positive), float(negative), penalty

    def forward(self, g_pos: Tensor, g_neg: Tensor) -> Tensor:  # noqa: D102
        if g_pos.dim() < 1:
            raise InputError("Passed the goodness of positives as one number. It must be (B, …), one a sample or more.")
        contrast = F.softplus(self.positive - g_pos).mean() + F.softplus(g_neg - self.negative).mean()
        activity: Tensor = torch.linalg.vector_norm(g_pos.reshape(len(g_pos), -1), dim=1)
        return contrast + self.penalty * activity.mean()


class SymBa(ContrastiveLoss):
    """Symmetric pairwise loss ``softplus(-alpha * (g_pos - g_neg))`` (SymBa, arXiv 2303.08418).

    Args:
        alpha: steepness, per unit of goodness; positive. The paper's 4 suits goodness of order 1.

    >>> round(SymBa()(torch.tensor([1.0]), torch.tensor([1.0])).item(), 4)  # log 2
    0.6931
    """

    def __init__(self, alpha: float = 4.0) -> None:
        super().__init__()
        self.alpha = positive("alpha", alpha)

    def forward(self, g_pos: Tensor, g_neg: Tensor) -> Tensor:  # noqa: D102
        refuse_unpaired(g_pos, g_neg)
        return F.softplus(-self.alpha * (g_pos - g_neg)).mean()


class Swish(ContrastiveLoss):
    """Pairwise loss ``SiLU(-alpha * (g_pos - g_neg))``; well separated pairs cost nothing.

    The form of D. Hamann's open experiments (github.com/dah33/explore_forward_forward). It is bounded below
    by about -0.278, reached slightly past the right order.

    Args:
        alpha: steepness, per unit of goodness; positive.
    """

    def __init__(self, alpha: float = 6.0) -> None:
        super().__init__()
        self.alpha = positive("alpha", alpha)

    def forward(self, g_pos: Tensor, g_neg: Tensor) -> Tensor:  # noqa: D102
        refuse_unpaired(g_pos, g_neg)
        return F.silu(-self.alpha * (g_pos - g_neg)).mean()


def refuse_unpaired(g_pos: Tensor, g_neg: Tensor) -> None:
    """Refuse goodness that does not come in pairs; torch would stretch one number over all of the other stream.

    Raises:
        InputError: the shapes differ.
    """
    if g_pos.shape != g_neg.shape:
        raise InputError(
            f"Passed goodness of shapes {tuple(g_pos.shape)} of positives and {tuple(g_neg.shape)} of negatives to a "
            "loss of pairs. They must be alike."
        )


def logistic_around(theta: Tensor, scale: float, g_pos: Tensor, g_neg: Tensor) -> Tensor:
    """Hinton's logistic loss: ``softplus(scale * (θ - g_pos)) + softplus(scale * (g_neg - θ))``, each a mean."""
    return F.softplus(scale * (theta - g_pos)).mean() + F.softplus(scale * (g_neg - theta)).mean()
