"""What passes between blocks, and peer normalisation.

A block must not be able to read its own answer off the length of what it receives, or the second block could
copy the goodness of the first (Hinton 2022, 2212.13345, section 2): activities are normalised before they are
passed on, and only their direction survives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.distributed import mean_over_ranks
from ff_lightning.errors import InputError, positive, whole


class UnitLength(nn.Module):
    """Scale every sample to Euclidean length 1 over all but the first dimension.

    Args:
        eps: shorter samples are scaled as if this were their length, so that silence stays silence.

    Shape:
        ``(B, …)`` to ``(B, …)``, the dtype kept. The length is accumulated in float32, whatever the autocast.
    """

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = positive("eps", eps)

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        return h * scale(lengths(h), self.eps, h.dtype)


class UnitRMS(nn.Module):
    """Scale every sample to mean square 1 over all but the first dimension.

    Args:
        eps: weaker samples are scaled as if this were their root mean square, so that silence stays silence.

    Shape:
        ``(B, …)`` to ``(B, …)``, the dtype kept; accumulated as in :class:`UnitLength`.
    """

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = positive("eps", eps)

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        return h * scale(lengths(h) * h.shape[1:].numel() ** -0.5, self.eps, h.dtype)


class Standardise(nn.Module):
    """Bring every sample to mean 0 and variance 1 over all but the first dimension.

    Args:
        eps: added to the variance, so that silence stays silence.

    Shape:
        ``(B, …)`` to ``(B, …)``, the dtype and the memory format kept; accumulated in at least float32.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = positive("eps", eps)

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        need_features(h)
        rows = h.movedim(1, -1)  # of channels-last maps a contiguous view
        return F.layer_norm(rows, rows.shape[1:], eps=self.eps).to(h.dtype).movedim(-1, 1)


class GroupStandard(nn.Module):
    """Bring every group of channels of a sample to mean 0 and variance 1: group norm without parameters.

    With one group a class, what is passed on no longer tells the mean activity of a group, which is its goodness
    (DeeperForward, Sun et al. 2025, OpenReview kOYnXVQCtA).

    Args:
        num_groups: must divide the number of channels.
        eps: added to the variance.

    Shape:
        ``(B, C, …)`` to ``(B, C, …)``.
    """

    def __init__(self, num_groups: int = 10, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_groups = whole("num_groups", num_groups, least=1)
        self.eps = positive("eps", eps)

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        need_features(h)
        if h.shape[1] % self.num_groups:
            raise InputError(
                f"Passed activities with {h.shape[1]} channels. `num_groups={self.num_groups}` must divide it."
            )
        return nn.functional.group_norm(h, self.num_groups, eps=self.eps)


class PeerNormalisation(nn.Module):
    """A small loss that keeps units from dying or shouting (Hinton 2022, 2212.13345, section 3, footnote).

    Each unit's mean activity over positives is tracked; the loss is ``weight`` times the mean squared distance
    of these means from the mean over all units of the block. The gradient reaches a unit through its current
    batch mean, as in the public reimplementation by Löwe (github.com/loeweX/Forward-Forward). The running means
    live in a buffer: they are saved in checkpoints, and averaged over ranks.

    Args:
        num_units: units of the block.
        weight: strength of the loss; not negative.
        momentum: share of the old running mean that stays at each training batch, in ``[0, 1)``.

    Shape:
        - Input: activities of positives, ``(B, num_units)``.
        - Output: scalar loss.
    """

    def __init__(self, num_units: int, *, weight: float = 0.03, momentum: float = 0.9) -> None:
        super().__init__()
        whole("num_units", num_units, least=1)
        if not 0 <= weight < math.inf:
            raise InputError(f"Passed `weight={weight}`. `weight` must be finite and not negative.")
        if not 0 <= momentum < 1:
            raise InputError(f"Passed `momentum={momentum}`. `momentum` must be in [0, 1).")
        self.weight = weight
        self.momentum = momentum
        self.running_mean: Tensor
        self.register_buffer("running_mean", torch.full((num_units,), 0.5))

    def forward(self, h_pos: Tensor) -> Tensor:  # noqa: D102
        if h_pos.shape[1:] != self.running_mean.shape:
            raise InputError(
                f"Passed activities of shape {tuple(h_pos.shape)}. The means are of {len(self.running_mean)} units."
            )
        batch_mean = h_pos.mean(0, dtype=torch.promote_types(h_pos.dtype, torch.float32))
        with torch.no_grad():
            mean = torch.lerp(mean_over_ranks(batch_mean).to(self.running_mean), self.running_mean, self.momentum)
            if self.training:  # an overflow in fp16 passes by
                self.running_mean.copy_(torch.where(mean.isfinite(), mean, self.running_mean))
        # The value is that of the running means; the gradient flows through this batch's share of them.
        share = (1 - self.momentum) * (batch_mean - batch_mean.detach())
        tracked = mean.to(batch_mean) + share
        return self.weight * (tracked.mean() - tracked).square().mean()


def need_features(h: Tensor) -> None:
    """Refuse activities that are one number a sample: there is nothing to normalise over.

    Raises:
        InputError: they have fewer than two dimensions.
    """
    if h.dim() < 2:
        raise InputError(f"Passed activities of shape {tuple(h.shape)}. They must be (B, D) or (B, C, …).")


def lengths(h: Tensor) -> Tensor:
    """Euclidean length of every sample, accumulated in at least float32.

    Args:
        h: ``(B, …)``.

    Returns:
        ``(B, 1, …)``. Of bf16 activities it is rounded to bf16, which is as exact as what it will scale and much
        faster on a CPU; fp16 could not hold it, so there it is float32.
    """
    need_features(h)
    dtype = torch.float32 if h.dtype == torch.float16 else None
    length: Tensor = torch.linalg.vector_norm(h, dim=tuple(range(1, h.dim())), keepdim=True, dtype=dtype)
    return length


def scale(length: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """One over ``length``, or over ``eps`` where it is less, as a finite number of ``dtype``."""
    least = min(max(eps, torch.finfo(dtype).tiny), torch.finfo(length.dtype).max)
    return length.clamp_min(least).reciprocal().to(dtype)
