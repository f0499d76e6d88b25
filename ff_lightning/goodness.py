"""Goodness: how strongly a block answers.

Hinton (2022, arXiv 2212.13345, section 2) takes the sum of the squared activities of a layer; later work
takes their mean, a plain mean, or one value for every class. Whatever the autocast, the accumulation is in
float32: fp16 overflows at a few thousand units, and bf16 keeps only eight bits of a sum.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.errors import InputError, whole
from ff_lightning.parts import Part


def accumulation_dtype(h: Tensor) -> torch.dtype:
    """The dtype in which goodness of ``h`` accumulates: at least float32, float64 stays float64.

    Raises:
        InputError: activities are whole numbers, or no numbers.
    """
    if not h.is_floating_point():
        raise InputError(f"Passed activities as {h.dtype}. They must be floating point.")
    return torch.promote_types(h.dtype, torch.float32)


class Goodness(Part, nn.Module, ABC):
    """Turns activities into one number a sample, or one a position or class.

    Shape:
        - Input: ``(B, …, D)``, any floating dtype.
        - Output: ``(B, …)``, float32 (float64 for float64 input).
    """

    others_serve = True

    @abstractmethod
    def forward(self, h: Tensor) -> Tensor:
        """Goodness of the activities ``h``."""

    def sized(self, shape: Sequence[int]) -> Self:
        """A goodness of the same kind for activities ``(B, *shape)``, which shares nothing with this one."""
        del shape
        return copy.deepcopy(self)


class _Reduced(Goodness, ABC):
    """Goodness that reduces the last ``event_dims`` dimensions.

    Args:
        event_dims: how many trailing dimensions make one answer: 1 for units ``(B, D)`` or positions
            ``(B, T, D)``, 3 for feature maps ``(B, C, H, W)``.
    """

    def __init__(self, event_dims: int = 1) -> None:
        super().__init__()
        self.event_dims = whole("event_dims", event_dims, least=1)

    def _events(self, h: Tensor) -> Tensor:
        if h.dim() <= self.event_dims:
            raise InputError(
                f"Passed activities of shape {tuple(h.shape)}. With `event_dims={self.event_dims}` they need at "
                f"least {self.event_dims + 1} dimensions."
            )
        return h.flatten(start_dim=h.dim() - self.event_dims)


class _SquaredNorm(torch.autograd.Function):
    """Row-wise sum of squares in float32 that keeps only the activities themselves for the backward pass.

    Under autograd ``h.float().square().sum(-1)`` would keep a float32 copy of half-precision activities and
    walk through it again in the backward pass.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, h: Tensor) -> Tensor:
        ctx.save_for_backward(h)
        norm: Tensor = torch.linalg.vector_norm(h, dim=-1, dtype=accumulation_dtype(h))
        return norm.square()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors  # type: ignore[attr-defined]
        grad: Tensor = h * (2 * grads[0]).to(h.dtype).unsqueeze(-1)
        return grad


class SumOfSquares(_Reduced):
    """Hinton's goodness, the sum of squared activities (2212.13345, section 2, equation 1).

    >>> SumOfSquares()(torch.tensor([[1.0, 2.0, 2.0]]))
    tensor([9.])
    """

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        return squared_norm(self._events(h))


class MeanOfSquares(_Reduced):
    """Mean of squared activities: Hinton's goodness that does not grow with the width.

    >>> MeanOfSquares()(torch.tensor([[1.0, 2.0, 2.0]]))
    tensor([3.])
    """

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        events = self._events(h)
        return squared_norm(events) / events.shape[-1]


class MeanActivity(_Reduced):
    """Plain mean of the activities (DeeperForward, Sun et al. 2025, OpenReview kOYnXVQCtA).

    >>> MeanActivity()(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([2.])
    """

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        return self._events(h).mean(-1, dtype=accumulation_dtype(h))


class RectifiedEnergy(Goodness):
    """Mean square of the rectified pre-activations of all channels, one goodness a position (SCFF, arXiv 2409.11593).

    Shape:
        - Input: pre-activations ``(B, C)`` or ``(B, C, H, W)``; channels are dimension 1.
        - Output: ``(B,)`` or ``(B, H, W)``, float32.

    >>> RectifiedEnergy()(torch.tensor([[1.0, -2.0]]))
    tensor([0.5000])
    """

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        need_channels(h)
        return squared_norm(torch.relu(h).movedim(1, -1)) / h.shape[1]


class ChannelGroups(Goodness):
    """One goodness a class: the channels are cut into ``num_classes`` equal groups (CwC, arXiv 2312.12668).

    Args:
        num_classes: number of groups; must divide the number of channels.
        of: goodness of one group; :class:`MeanOfSquares` is CwC's, :class:`MeanActivity` DeeperForward's.
            It sees each group flattened, ``(B, num_classes, D')``.

    Shape:
        - Input: ``(B, C)`` or ``(B, C, H, W)``; channels are dimension 1.
        - Output: ``(B, num_classes)``, float32.

    >>> ChannelGroups(2)(torch.tensor([[3.0, 4.0, 6.0, 8.0]]))
    tensor([[12.5000, 50.0000]])
    """

    def __init__(self, num_classes: int, of: Goodness | None = None) -> None:
        super().__init__()
        self.num_classes = whole("num_classes", num_classes, least=2)
        self.of = MeanOfSquares() if of is None else of

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        need_channels(h)
        if h.shape[1] % self.num_classes or not h.shape[1]:
            raise InputError(
                f"Passed activities with {h.shape[1]} channels. `num_classes={self.num_classes}` must divide it."
            )
        groups: Tensor = self.of(h.reshape(h.shape[0], self.num_classes, -1))
        return groups


class _Weighted(Goodness, ABC):
    """Goodness of every class as a weighted sum over activities pooled on a coarse grid.

    The weights are the block's own, learned by its local loss; they and the biases start at 0. Computed in float32
    whatever the autocast.

    Args:
        num_classes: ``C``, 2 or more.
        shape: of the activities of one sample: ``(D,)``, or ``(channels, height, width)``. A network fills it in for
            each of its blocks; see :meth:`sized`.
        grid: feature maps are averaged over ``grid x grid`` fields; smaller maps are left as they are.
    """

    fields: Tensor

    def __init__(self, num_classes: int = 10, shape: Sequence[int] | None = None, *, grid: int = 4) -> None:
        super().__init__()
        whole("num_classes", num_classes, least=2)
        whole("grid", grid, least=1)
        if shape is not None and len(shape) not in (1, 3):
            raise InputError(f"Passed `shape={tuple(shape)}`. It must be (D,) or (channels, height, width).")
        self.num_classes = num_classes
        self.grid = grid
        self.shape = None if shape is None else tuple(shape)
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if shape is not None:
            sides = [min(side, grid) for side in shape[1:]]
            self.weight = nn.Parameter(torch.zeros(num_classes, torch.Size([shape[0], *sides]).numel()))
            self.bias = nn.Parameter(torch.zeros(num_classes))
            if sides:
                self.register_buffer("fields", grid_fields(shape[1:], sides), persistent=False)

    def sized(self, shape: Sequence[int]) -> Self:
        """A goodness of the same kind with weights of its own for activities ``(B, *shape)``."""
        return type(self)(self.num_classes, shape, grid=self.grid)

    def forward(self, h: Tensor) -> Tensor:
        """Goodness of every class, ``(B, C)``."""
        if self.weight is None or self.bias is None:
            raise InputError(
                f"Called a `{type(self).__name__}` without weights. Pass `shape`, or let a network size it."
            )
        if tuple(h.shape[1:]) != self.shape:
            raise InputError(
                f"Passed activities of shape {tuple(h.shape)}. The goodness was built for `shape={self.shape}`."
            )
        with torch.autocast(h.device.type, enabled=False):
            x, size = self.weighed(self.pooled(h))
            weight = self.weight.to(x.dtype)
            if h.dim() == 4:  # kept with the fields of a channel together
                weight = weight.view(self.num_classes, h.shape[1], -1).transpose(1, 2).flatten(1)
            # Divided by the size after the product, where there are C values a sample and not D'.
            g: Tensor = F.linear(x, weight) / size + self.bias.to(x.dtype)
            return g

    @abstractmethod
    def weighed(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """What the weights are applied to, of pooled activities ``(B, D')``, and its size, ``(B, 1)``, above 0."""

    def pooled(self, h: Tensor) -> Tensor:
        """Means over the fields of the grid, channels of a field together, ``(B, D')``, at least float32."""
        if h.dim() == 2:
            return h.to(accumulation_dtype(h))
        positions = h.permute(0, 2, 3, 1).flatten(1, 2)
        if positions.shape[1] == len(self.fields):
            return positions.flatten(1).to(accumulation_dtype(h))
        # A matrix product over positions: in channels-last layout far faster than `adaptive_avg_pool2d`.
        sums = (self.fields.to(h.dtype) @ positions).to(accumulation_dtype(h))
        return (sums / self.fields.sum(1, keepdim=True)).flatten(1)


def grid_fields(shape: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Which positions of a map belong to which field of a grid, as :func:`~torch.nn.functional.adaptive_avg_pool2d`.

    Args:
        shape: height and width of the map.
        grid: rows and columns of fields, no more than that.

    Returns:
        ``(fields, H * W)`` of 0 and 1.
    """
    rows, columns = (
        torch.tensor([[i * side // n <= at < -(-(i + 1) * side // n) for at in range(side)] for i in range(n)])
        for side, n in zip(shape, grid, strict=True)
    )
    return torch.kron(rows.float(), columns.float())


class WeightedEnergy(_Weighted):
    """A class's goodness is the weighted energy of the activities that answer to it.

    ``G(c) = Σ_j W[c, j] N(u)_j² + b[c]``, where ``u`` are the activities, averaged over the fields of a grid, and ``N``
    brings them to mean square 1. One matrix product scores all classes; the length of the activities does not matter.

    Args:
        num_classes: see :class:`ProjectedActivity`.
        shape: see :class:`ProjectedActivity`.
        grid: see :class:`ProjectedActivity`.

    Shape:
        - Input: ``(B, *shape)``.
        - Output: ``(B, num_classes)``, float32.

    >>> WeightedEnergy(3, (4, 8, 8), grid=2)(torch.ones(1, 4, 8, 8))
    tensor([[0., 0., 0.]], grad_fn=<AddBackward0>)
    """

    def weighed(self, u: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        energy = u.square()
        return energy, energy.mean(1, keepdim=True) + torch.finfo(u.dtype).eps


class ProjectedActivity(_Weighted):
    """Goodness of the classes by a projection matrix of the block's own (Mono-Forward, arXiv 2501.09238).

    ``G = M u + b``, where ``u`` are the activities, averaged over the fields of a grid and brought to mean square 1.

    Args:
        num_classes: ``C``, 2 or more.
        shape: of the activities of one sample: ``(D,)``, or ``(channels, height, width)``. A network fills it in for
            each of its blocks; see :meth:`sized`.
        grid: feature maps are averaged over ``grid x grid`` fields; smaller maps are left as they are.

    Shape:
        - Input: ``(B, *shape)``.
        - Output: ``(B, num_classes)``, float32.
    """

    def weighed(self, u: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return u, (u.square().mean(1, keepdim=True) + torch.finfo(u.dtype).eps).sqrt()


class LocalPrediction(_Weighted):
    """Goodness of the classes by a linear map of the pooled activities (Nøkland and Eidnes 2019, 1901.06656).

    ``G = W u + b``, where ``u`` are the activities themselves, averaged over the finest square grid on which they are
    no more than ``features`` values. Unlike :class:`ProjectedActivity` it reads their length.

    Args:
        num_classes: ``C``, 2 or more.
        shape: see :class:`ProjectedActivity`.
        features: most values that are read of a feature map; 2,048 in the paper's networks.

    Shape:
        - Input: ``(B, *shape)``.
        - Output: ``(B, num_classes)``, float32.

    >>> LocalPrediction(3, (4, 8, 8), features=20).weight.shape  # 4 channels on a grid of 2 x 2
    torch.Size([3, 16])
    """

    def __init__(self, num_classes: int = 10, shape: Sequence[int] | None = None, *, features: int = 2048) -> None:
        self.features = whole("features", features, least=1)
        channels = 1 if shape is None else shape[0]
        super().__init__(num_classes, shape, grid=max(1, math.isqrt(features // max(1, channels))))

    def sized(self, shape: Sequence[int]) -> Self:
        """A goodness of the same kind with weights of its own for activities ``(B, *shape)``."""
        return type(self)(self.num_classes, shape, features=self.features)

    def weighed(self, u: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return u, u.new_ones(1)


class FollowingGoodness(Goodness, ABC):
    """Goodness that reads what the next block of a chain is like: weights travel down, and nothing else does."""

    @abstractmethod
    def follow(self, above: nn.Module, update: int) -> None:
        """Take in the layer of the next block as it is; called before every step of the block, ``update`` its number.

        Raises:
            InputError: the layer is spread over processes.
        """


class LinearGoodness(Goodness):
    """Goodness of the classes by a linear softmax on the flattened activities: the readout of a twin.

    Args:
        in_features: values a sample.
        num_classes: ``C``, 2 or more.

    Shape:
        - Input: ``(B, …)``.
        - Output: ``(B, num_classes)``, at least float32.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        scores: Tensor = self.linear(h.flatten(1))
        return scores.to(accumulation_dtype(scores))


class OwnGoodness(Goodness):
    """Any module or function of activities as a goodness; blocks and networks wrap what is no :class:`Goodness` in it.

    Args:
        of: from activities ``(B, …)`` to goodness ``(B, …)``, floating. One that gives every class a goodness says how
            many there are: it has an attribute ``num_classes``. One with weights of its own may have a method
            ``sized(shape)``, which makes another one for activities ``(B, *shape)``; it is copied otherwise.

    Shape:
        - Input: ``(B, …)``.
        - Output: ``(B, …)``, at least float32.
    """

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if not callable(of) or isinstance(of, type):
            kind = of if isinstance(of, type) else type(of)
            raise InputError(
                f"Passed `goodness={kind.__name__}`. It must be an object: a `Goodness`, or a module or function that "
                "turns activities (B, …) into goodness (B, …)."
            )
        self.of = of
        if isinstance(classes := getattr(of, "num_classes", None), int):
            self.num_classes = classes

    def sized(self, shape: Sequence[int]) -> Self:
        """A goodness of the same kind for activities ``(B, *shape)``, which shares nothing with this one."""
        sized = getattr(self.of, "sized", None)
        return type(self)(copy.deepcopy(self.of) if sized is None else sized(shape))

    def forward(self, h: Tensor) -> Tensor:
        """Goodness of the activities ``h``.

        Raises:
            InputError: it is no tensor, not floating, or not one row a sample.
        """
        g = self.of(h)
        if not isinstance(g, Tensor) or not g.is_floating_point() or g.dim() < 1 or len(g) != len(h):
            got = f"{g.dtype} of shape {tuple(g.shape)}" if isinstance(g, Tensor) else f"a {type(g).__name__}"
            name = getattr(self.of, "__name__", type(self.of).__name__)
            raise InputError(
                f"Passed `goodness={name}`, which turns activities of shape {tuple(h.shape)} into {got}. It "
                f"must return floating goodness with a row for each of {len(h)} samples."
            )
        return g.to(accumulation_dtype(g))


def as_goodness(goodness: Goodness | Callable[[Tensor], Tensor]) -> Goodness:
    """A goodness as it is, any other module or function in an :class:`OwnGoodness`.

    Raises:
        InputError: it cannot be called.
    """
    return goodness if isinstance(goodness, Goodness) else OwnGoodness(goodness)


def need_channels(h: Tensor) -> None:
    """Refuse activities without a dimension of channels.

    Raises:
        InputError: they have fewer than two dimensions.
    """
    if h.dim() < 2:
        raise InputError(f"Passed activities of shape {tuple(h.shape)}. They must be (B, C) or (B, C, …).")


def squared_norm(h: Tensor) -> Tensor:
    """Sum of squares over the last dimension, accumulated in at least float32.

    Args:
        h: ``(…, D)``, any floating dtype.

    Returns:
        ``(…)``, float32 or float64.
    """
    result: Tensor = _SquaredNorm.apply(h)  # type: ignore[no-untyped-call]
    return result
