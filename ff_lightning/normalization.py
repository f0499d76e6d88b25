"""What passes between blocks, peer normalisation, and the running values that training keeps.

A block must not be able to read its own answer off the length of what it receives, or the second block could
copy the goodness of the first (Hinton 2022, 2212.13345, section 2): activities are normalised before they are
passed on, and only their direction survives.

Running values are means over the batches so far: the threshold of a loss, the mean activities that peer normalisation
compares, the statistics of batch normalisation. All of them move at one moment, after the batch, and together
(:func:`settle`): so ranks agree on them without asking each other in the middle of a step, and a block at rest
(:func:`frozen_statistics`) moves none, and neither does a constant copy of one, nor a look at the network to choose
negatives or to read it. Who wants what the network answers once it is trained, asks it while :func:`evaluating`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.distributed import mean_over_ranks, num_ranks
from ff_lightning.errors import InputError, is_number, positive, whole
from ff_lightning.parts import Part

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class UnitLength(Part, nn.Module):
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


class UnitRMS(Part, nn.Module):
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


class Standardise(Part, nn.Module):
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


class GroupStandard(Part, nn.Module):
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


class Running(nn.Module):
    """What follows the training batches beside the weights: running means, and sequences that a model made.

    Attributes:
        frozen: whether a batch is only looked at, which moves nothing; see :func:`frozen_statistics`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frozen = False

    @property
    def moves(self) -> bool:
        """Whether the batch at hand is one to follow: of training, and not only looked at."""
        return self.training and not self.frozen


class RunningMean(Running):
    """A mean over the training batches so far.

    In training, calling it notes what this batch has, and gives the mean of the batches before. Once the batch is done,
    :func:`settle` moves the mean; :class:`~ff_lightning.FFLightningModule` calls it, and a training loop of your own
    must. Where a batch has several steps in time, the mean moves once, by their mean. The first batch sets it before it
    is used, unless there is a ``start``. What is not finite, as an overflow in fp16, passes by.

    Args:
        shape: of the values.
        momentum: share of the old mean that stays at each batch, in ``[0, 1)``.
        start: value before the first batch; ``None`` for that of the first batch.

    Attributes:
        value: ``shape``, float32; NaN before the first batch if there is no ``start``. Saved in checkpoints.

    Raises:
        InputError: the momentum is out of range.

    Shape:
        ``shape`` to ``shape``, without gradient.
    """

    value: Tensor
    total: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...] = (), *, momentum: float = 0.9, start: float | None = None) -> None:
        super().__init__()
        if not (is_number(momentum) and 0 <= momentum < 1):
            raise InputError(f"Passed `momentum={momentum}`. `momentum` must be in [0, 1).")
        self.momentum = momentum
        self.register_buffer("value", torch.full(shape, torch.nan if start is None else start))
        # One value is a row of one: compiled code loses what is added to a tensor without dimensions (torch 2.13).
        self.register_buffer("total", torch.zeros(shape or 1), persistent=False)
        self.register_buffer("count", torch.zeros(shape or 1), persistent=False)
        self.forget()
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def forget(self) -> None:
        """Drop what was noted, after ``value`` was set from outside."""
        self.started = False
        self.pending = False
        self.total.zero_()
        self.count.zero_()

    def forward(self, seen: Tensor) -> Tensor:  # noqa: D102
        if self.frozen:
            return self.value if self.started or not self.training else self.first(seen.detach())
        if self.training:
            self.note(seen)
        return self.value

    @torch.no_grad()
    def note(self, seen: Tensor) -> None:
        """Take in a value of the current batch, of this rank; none of a batch that is only looked at."""
        if self.frozen:
            return
        seen = seen.detach().to(self.value.dtype)
        if not self.started:
            self.set_first(seen)
        finite = seen.isfinite()
        self.total.add_(torch.where(finite, seen, 0.0))
        self.count.add_(finite)
        self.pending = True

    def set_first(self, seen: Tensor) -> None:
        """Let the first batch set the value; all ranks must call it."""
        if bool(self.value.isnan().any()):
            self.value.copy_(self.first(seen))
        self.started = not bool(self.value.isnan().any())

    def first(self, seen: Tensor) -> Tensor:
        """The value, or what this first batch would set it to; all ranks must call it."""
        mean = mean_over_ranks(seen.to(self.value.dtype))
        return torch.where(self.value.isnan() & mean.isfinite(), mean, self.value)

    @torch.no_grad()
    def move(self, total: Tensor, count: Tensor) -> None:
        """Move by the mean of what was noted, ``total / count``."""
        total, count = total.view_as(self.value), count.view_as(self.value)
        moved = torch.lerp(total / count, self.value, self.momentum)
        self.value.copy_(torch.where((count > 0) & self.value.isfinite(), moved, self.value))
        self.total.zero_()
        self.count.zero_()
        self.pending = False


def _forget(module: nn.Module, incompatible: object) -> None:
    del incompatible
    assert isinstance(module, RunningMean)
    module.forget()


def with_running_values(module: nn.Module) -> list[nn.Module]:
    """The parts of a module that :func:`settle` moves; to find them anew every batch takes longer than to move them."""
    return [part for part in module.modules() if isinstance(part, (RunningMean, *BATCH_NORMS))]


@torch.no_grad()
def settle(*modules: nn.Module) -> None:
    """Move the running values of all parts of modules, at the end of a training batch; every rank must call it.

    Each rank saw its part of the batch: what they noted is averaged in one collective, and so are the statistics of
    batch normalisation.

    Args:
        *modules: whose running values are to be equal on all ranks.
    """
    parts = [part for module in modules for part in module.modules()]
    means = [part for part in parts if isinstance(part, RunningMean) and part.pending]
    norms = [part for part in parts if isinstance(part, BATCH_NORMS)] if num_ranks() > 1 else []
    running = [value for part in norms for value in (part.running_mean, part.running_var) if value is not None]
    values = [value for part in means for value in (part.total, part.count)] + running
    if num_ranks() > 1 and values:
        mean = mean_over_ranks(torch.cat([value.flatten() for value in values]))
        pieces = torch.split(mean, [value.numel() for value in values])
        values = [piece.view_as(value) for value, piece in zip(values, pieces, strict=True)]
    for part, total, count in zip(means, values[0::2], values[1::2], strict=False):
        part.move(total, count)
    for value, piece in zip(running, values[2 * len(means) :], strict=True):
        value.copy_(piece)


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Meanwhile no running value moves.

    Batch normalisation brings batches to their own statistics, as in training, and keeps none of them. Running means
    give what they have; one without a value gives that of the batch at hand, as in a first batch. Sequences that a
    model made stay as they are.
    """
    # Those that are frozen already are left to the context around this one.
    means = [part for part in module.modules() if isinstance(part, Running) and not part.frozen]
    norms = [part for part in module.modules() if isinstance(part, BATCH_NORMS) and part.track_running_stats]
    for mean in means:
        mean.frozen = True
    for part in norms:
        part.track_running_stats = False
    try:
        yield
    finally:
        for mean in means:
            mean.frozen = False
        for part in norms:
            part.track_running_stats = True


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Meanwhile a module and all in it are in evaluation mode; each part goes back to its own.

    So what somebody froze by ``part.eval()``, such as batch normalisation in a network that trains, stays frozen.
    """
    learning = [part for part in module.modules() if part.training]
    if learning:
        module.eval()
    try:
        yield
    finally:
        for part in learning:
            part.training = True


class PeerNormalisation(Part, nn.Module):
    """A small loss that keeps units from dying or shouting (Hinton 2022, 2212.13345, section 3, footnote).

    Each unit's mean activity over positives is tracked; the loss is ``weight`` times the mean squared distance
    of these means from the mean over all units of the block. The gradient reaches a unit through its mean activity in
    the current batch, as in the public reimplementation by Löwe (github.com/loeweX/Forward-Forward).

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
        if not (is_number(weight) and 0 <= weight < math.inf):
            raise InputError(f"Passed `weight={weight}`. `weight` must be finite and not negative.")
        self.weight = weight
        self.means = RunningMean((num_units,), momentum=momentum)

    def forward(self, h_pos: Tensor) -> Tensor:  # noqa: D102
        if h_pos.shape[1:] != self.means.value.shape:
            raise InputError(
                f"Passed activities of shape {tuple(h_pos.shape)}. The means are of {len(self.means.value)} units."
            )
        batch_mean = h_pos.mean(0, dtype=torch.promote_types(h_pos.dtype, torch.float32))
        tracked: Tensor = self.means(batch_mean).to(batch_mean)
        # The value is that of the batches before; the gradient is that of this batch's share of the next one.
        tracked = tracked + (1 - self.means.momentum) * (batch_mean - batch_mean.detach())
        return self.weight * (tracked.mean() - tracked).square().mean()


def need_features(h: Tensor) -> None:
    """Refuse activities that are one number a sample: there is nothing to normalise over.

    Raises:
        InputError: they have fewer than two dimensions, or are whole numbers.
    """
    if h.dim() < 2:
        raise InputError(f"Passed activities of shape {tuple(h.shape)}. They must be (B, D) or (B, C, …).")
    if not h.is_floating_point():
        raise InputError(f"Passed activities as {h.dtype}. They must be floating point.")


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
