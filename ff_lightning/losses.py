"""Local losses: what one block minimises, from goodness, or beside it from its activities.

A contrastive loss (tier T1) wants goodness of positives above goodness of negatives; losses of blocks that give every
class or token a goodness are in :mod:`ff_lightning.candidates`. All are means over the batch, written with
``softplus`` so that no goodness, however large, overflows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.errors import InputError, finite, positive
from ff_lightning.normalization import RunningMean
from ff_lightning.parts import Part

SQUARED = 1e18
"""Of larger numbers, float32 cannot hold the squares of many."""


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
        threshold = finite("threshold", threshold, owner=self)
        self.scale = positive("scale", scale)
        self.theta: Tensor
        self.register_buffer("theta", torch.tensor(float(threshold)))

    @property
    def threshold(self) -> Tensor:
        """θ, a scalar tensor."""
        return self.theta

    def forward(self, g_pos: Tensor, g_neg: Tensor) -> Tensor:  # noqa: D102
        refuse_no_goodness(g_pos, g_neg)
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
        refuse_no_goodness(g_pos, g_neg)
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
        self.positive = finite("positive", positive, owner=self)
        self.negative = finite("negative", negative, owner=self)
        self.penalty = finite("penalty", penalty, least=0)

    def forward(self, g_pos: Tensor, g_neg: Tensor) -> Tensor:  # noqa: D102
        refuse_no_goodness(g_pos, g_neg)
        if g_pos.dim() < 1:
            raise InputError("Passed the goodness of positives as one number. It must be (B, …), one a sample or more.")
        contrast = F.softplus(self.positive - g_pos).mean() + F.softplus(g_neg - self.negative).mean()
        if not self.penalty:
            return contrast
        return contrast + self.penalty * norms(g_pos).mean()


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


class SimilarityMatching(Part, nn.Module):
    """Loss of a block whose activities should be alike where labels are, and unlike elsewhere (1901.06656).

    ``mean((S(N(h)) - S(y))²)`` over all pairs of samples of a batch, where ``S`` are cosines between samples, each less
    its mean, ``y`` is one-hot, and ``N`` is a linear map of the loss's own: of units a matrix, of feature maps a
    convolution of 3 x 3, of whose maps the standard deviations are compared. Beside a loss of classes it makes
    *predsim* (Nøkland and Eidnes 2019); its tier is T2, since every sample is compared with all labels of its batch.

    Samples are compared with those of their own process and batch: two processes, or two batches that share an update,
    are two smaller batches.

    Args:
        num_classes: ``C``; that of the goodness by default.
        shape: of the activities of a sample, ``(D,)`` or ``(channels, height, width)``; a network fills it in for each
            of its blocks.
        share: weight of this loss, in ``(0, 1]``; that of the loss of classes is ``1 - share``.

    Shape:
        - ``h``: ``(B, *shape)``; ``labels``: ``(B,)`` int64, the true classes.
        - Output: scalar, at least float32.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self, num_classes: int | None = None, shape: Sequence[int] | None = None, *, share: float = 0.99
    ) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise InputError(f"Passed `SimilarityMatching(share={share})`. `share` must be in (0, 1].")
        self.num_classes = num_classes
        self.share = share
        self.shape = None if shape is None else tuple(shape)
        self.map: nn.Module | None = None
        if shape is not None and len(shape) not in (1, 3):
            raise InputError(f"Passed `shape={tuple(shape)}`. It must be (D,) or (channels, height, width).")
        if shape is not None:
            units = shape[0]
            of_maps = len(shape) == 3
            self.map = nn.Conv2d(units, units, 3, padding=1, bias=False) if of_maps else _square(units)

    def sized(self, num_classes: int, shape: Sequence[int]) -> Self:
        """The same loss with a map of its own, for activities ``(B, *shape)`` of so many classes.

        Raises:
            InputError: it was told another number of classes.
        """
        if self.num_classes not in (None, num_classes):
            raise InputError(
                f"Passed `matching=SimilarityMatching(num_classes={self.num_classes})` with goodness of {num_classes} "
                "classes. They must be equal: leave it out."
            )
        return type(self)(num_classes, shape, share=self.share)

    def beside(self, loss: Tensor, h: Tensor, labels: Tensor) -> Tensor:
        """``(1 - share) * loss`` and ``share`` times the matching of activities and labels, a scalar."""
        found: Tensor = (1 - self.share) * loss + self.share * self(h, labels)
        return found

    def forward(self, h: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        if self.map is None or self.num_classes is None:
            raise InputError("Called a `SimilarityMatching` without sizes. Pass `num_classes` and `shape`.")
        if tuple(h.shape[1:]) != self.shape:
            raise InputError(
                f"Passed activities of shape {tuple(h.shape)}. The loss was built for `shape={self.shape}`."
            )
        mapped = self.map(h)
        with torch.autocast(h.device.type, enabled=False):
            mapped = mapped.to(torch.promote_types(mapped.dtype, torch.float32))
            if mapped.dim() == 4:
                # Not `std`, whose gradient is not a number where a map is constant.
                mapped = (mapped.flatten(2).var(2, correction=min(1, mapped[0, 0].numel() - 1)) + 1e-12).sqrt()
            hot = F.one_hot(labels, self.num_classes).to(mapped.dtype)
            return (similarities(mapped) - similarities(hot)).square().mean()


def _square(units: int) -> nn.Linear:
    return nn.Linear(units, units, bias=False)


def similarities(x: Tensor) -> Tensor:
    """Cosines between samples ``(B, D)``, each less its own mean over ``D``: ``(B, B)``, in [-1, 1].

    >>> similarities(torch.eye(2)).round()
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    centred = x - x.mean(1, keepdim=True)
    unit = centred / (centred.square().sum(1, keepdim=True) + 1e-16).sqrt()
    return (unit @ unit.T).clamp(-1.0, 1.0)


def norms(g: Tensor) -> Tensor:
    """Euclidean length of every sample, over all its positions; of numbers whose squares overflow, too.

    Args:
        g: ``(B, …)``.
    """
    rows = g.reshape(len(g), -1)
    largest = rows.detach().abs().amax(1, keepdim=True)
    unit = torch.where(largest > SQUARED, largest, torch.ones_like(largest))  # the bits of all others stay
    scaled: Tensor = torch.linalg.vector_norm(rows / unit, dim=1)
    return scaled * unit.squeeze(1)


def refuse_no_goodness(g_pos: Tensor, g_neg: Tensor) -> None:
    """Refuse what has no mean: nothing at all, and whole numbers.

    Raises:
        InputError: a stream is empty, or of another type.
    """
    for name, g in (("positives", g_pos), ("negatives", g_neg)):
        if not g.is_floating_point() or g.numel() == 0:
            raise InputError(
                f"Passed goodness of {name} as {g.dtype} of shape {tuple(g.shape)}. It must be floating point, of one "
                "sample at least."
            )


def refuse_unpaired(g_pos: Tensor, g_neg: Tensor) -> None:
    """Refuse goodness that does not come in pairs; torch would stretch one number over all of the other stream.

    Raises:
        InputError: the shapes differ, or there is none.
    """
    refuse_no_goodness(g_pos, g_neg)
    if g_pos.shape != g_neg.shape:
        raise InputError(
            f"Passed goodness of shapes {tuple(g_pos.shape)} of positives and {tuple(g_neg.shape)} of negatives to a "
            "loss of pairs. They must be alike."
        )


def logistic_around(theta: Tensor, scale: float, g_pos: Tensor, g_neg: Tensor) -> Tensor:
    """Hinton's logistic loss: ``softplus(scale * (θ - g_pos)) + softplus(scale * (g_neg - θ))``, each a mean."""
    return F.softplus(scale * (theta - g_pos)).mean() + F.softplus(scale * (g_neg - theta)).mean()
