"""Heads: private layers between the activities of a block and its goodness, which no block above ever reads.

Without one the activities that a block hands up are those that predict, and its top layer becomes a decoder. A head
takes that part: it is trained by the local loss of its block, and discarded upward.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ff_lightning.blocks import ClassBlock
from ff_lightning.candidates import CandidateLoss, EachLabel
from ff_lightning.distributed import is_sharded
from ff_lightning.errors import InputError, whole
from ff_lightning.goodness import FollowingGoodness, Goodness
from ff_lightning.losses import ContrastiveLoss, SimilarityMatching
from ff_lightning.optim import HiddenMatrix
from ff_lightning.parts import Part


@dataclass(frozen=True)
class Above:
    """The first layer of the next block, as a head knows it.

    Attributes:
        layer: maps ``(B, …)``, as it is passed on, to ``(B, *shape)``.
        shape: of the activities of a sample.
        norm: what is done to activities that are passed on.
    """

    layer: nn.Module
    shape: tuple[int, ...]
    norm: nn.Module


class Head(Part, ABC):
    """Says what stands between the activities of every block of a network and their goodness."""

    @abstractmethod
    def under(self, goodness: Goodness, shape: Sequence[int], above: Above | None) -> Goodness:
        """The goodness of one block, with a head of its own below it.

        Args:
            goodness: is not changed.
            shape: of the activities of a sample of the block: ``(D,)``, or ``(channels, height, width)``.
            above: the next block; ``None`` for the last one.
        """


class PrivateHead(Head):
    """Free layers, which keep the width of the block: SOLO (arXiv 2609.35440) and AugLocal (2402.17318) use such.

    Every layer is a linear map, or a convolution of 3 x 3, with batch normalisation and ReLU. The last block has none
    unless ``last`` says so: nobody reads its activities.

    Args:
        layers: of every head, 1 or more.
        last: give the last block a head, too.
    """

    def __init__(self, layers: int = 1, *, last: bool = False) -> None:
        self.layers = whole("layers", layers, least=1, owner=self)
        self.last = last

    def under(self, goodness: Goodness, shape: Sequence[int], above: Above | None) -> Goodness:
        """See :class:`Head`."""
        if above is None and not self.last:
            return goodness.sized(shape)
        private = nn.Sequential(*(part for _ in range(self.layers) for part in _layer(shape)))
        return HeadedGoodness(private, goodness.sized(shape))


class AveragedHead(Head):
    """An averaged copy of the first layer of the next block, beside a free layer of the same form (MAN, 2407.05623).

    A block is judged by what a slowly moving average of the next layer makes of its activities, so it learns what that
    layer can use. The free layer, the paper's learned bias, is added to it and learns with the block. The copy is a
    constant to the gradient: weights travel down, late, and nothing else does. The last block has no head.

    Args:
        momentum: share of the old average that stays at every update, in ``[0, 1)``.
        bias: whether there is a free layer.
    """

    def __init__(self, momentum: float = 0.995, *, bias: bool = True) -> None:
        if not 0 <= momentum < 1:
            raise InputError(f"Passed `AveragedHead(momentum={momentum})`. `momentum` must be in [0, 1).")
        self.momentum = momentum
        self.bias = bias

    def under(self, goodness: Goodness, shape: Sequence[int], above: Above | None) -> Goodness:
        """See :class:`Head`."""
        if above is None:
            return goodness.sized(shape)
        return AveragedGoodness(above, goodness.sized(above.shape), momentum=self.momentum, bias=self.bias)


class HeadedGoodness(Goodness):
    """Goodness of what private layers make of the activities.

    Args:
        head: ``(B, …)`` to ``(B, …)``.
        of: judges what comes out.
    """

    def __init__(self, head: nn.Module, of: Goodness) -> None:
        super().__init__()
        self.head = head
        self.of = of
        self.num_classes: int | None = getattr(of, "num_classes", None)

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        g: Tensor = self.of(self.head(h))
        return g


class AveragedGoodness(FollowingGoodness):
    """Goodness of what an averaged copy of a layer, and a free one, make of the activities.

    The copy is saved in checkpoints. Its batch normalisation has statistics of its own.

    Args:
        above: whose layer is copied.
        of: judges the sum of both.
        momentum: see :class:`AveragedHead`.
        bias: see :class:`AveragedHead`.
    """

    followed: Tensor

    def __init__(self, above: Above, of: Goodness, *, momentum: float, bias: bool) -> None:
        super().__init__()
        self.average = copy.deepcopy(above.layer).requires_grad_(False)
        self.free = copy.deepcopy(above.layer) if bias else None
        self.norm = copy.deepcopy(above.norm)
        self.of = of
        self.momentum = momentum
        self.num_classes: int | None = getattr(of, "num_classes", None)
        self.register_buffer("followed", torch.tensor(-1))

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        x = self.norm(h)
        made = self.average(x)
        g: Tensor = self.of(made if self.free is None else made + self.free(x))
        return g

    @torch.no_grad()
    def follow(self, above: nn.Module, update: int) -> None:
        """Move once an update, however many batches share it; see :class:`~ff_lightning.goodness.FollowingGoodness`."""
        if is_sharded(above):
            raise InputError(
                "Passed a network with `AveragedHead` to `ModelParallelStrategy`. A block needs all weights of the "
                "next one: use `strategy='ddp'`, or leave `head` out."
            )
        weight = (1 - self.momentum) * (self.followed != update)  # on the device: nobody waits for it
        for average, today in zip(self.average.parameters(), first_layer(above).parameters(), strict=True):
            average.lerp_(today, weight.to(average.dtype))
        self.followed.fill_(update)


@dataclass(frozen=True)
class ClassParts:
    """What makes blocks that give every class a goodness of layers; copied and sized for every block.

    Attributes:
        goodness: one a class.
        loss: over all classes.
        norm: what is done to activities that are passed on.
        matching: beside the loss; ``None`` for nothing.
        head: below the goodness; ``None`` for none.

    Raises:
        InputError: ``matching`` with a loss of several labels at once.
    """

    goodness: Goodness
    loss: CandidateLoss
    norm: nn.Module
    matching: SimilarityMatching | None = None
    head: Head | None = None

    def __post_init__(self) -> None:
        if self.matching is not None and isinstance(self.loss, EachLabel):
            raise InputError(
                "Passed `matching` with `loss=EachLabel`. It compares samples by the one class of each: leave it out, "
                "or use a loss of one true class, such as `Softmax()`."
            )

    def blocks(
        self,
        layers: Sequence[nn.Module],
        shapes: Sequence[Sequence[int]],
        first_shapes: Sequence[Sequence[int]] | None = None,
    ) -> list[ClassBlock]:
        """Blocks, from the input upwards.

        Args:
            layers: of each.
            shapes: of the activities of a sample of each.
            first_shapes: the same of the first layer of each, where a block has several; ``shapes`` by default.
        """
        first_shapes = shapes if first_shapes is None else first_shapes
        aboves = [
            Above(first_layer(layer), tuple(shape), self.norm)
            for layer, shape in zip(layers[1:], first_shapes[1:], strict=True)
        ]
        found = []
        for layer, shape, above in zip(layers, shapes, [*aboves, None], strict=True):
            goodness = self.goodness.sized(shape) if self.head is None else self.head.under(self.goodness, shape, above)
            matching = None if self.matching is None else self.matching.sized(classes_of(self.goodness), shape)
            norm = copy.deepcopy(self.norm)
            found.append(ClassBlock(layer, goodness, copy.deepcopy(self.loss), norm=norm, matching=matching))
        return found


def check_beside(
    loss: ContrastiveLoss | CandidateLoss | None, matching: SimilarityMatching | None, head: Head | None
) -> None:
    """Check that what stands beside a loss over candidates has one to stand beside.

    Args:
        loss: of the blocks; ``None`` for the network's own loss of two streams.
        matching: or ``None``.
        head: or ``None``.

    Raises:
        InputError: either of them, with a loss of two streams.
    """
    if isinstance(loss, CandidateLoss) or (matching is None and head is None):
        return
    name = "head" if matching is None else "matching"
    given = "" if loss is None else f", `{type(loss).__name__}`"
    raise InputError(
        f"Passed `{name}` with a loss of two streams{given}. Only blocks that give every class a goodness take it: "
        "pass `loss=Softmax()` or another `CandidateLoss`."
    )


def classes_of(goodness: Goodness, num_classes: int | None = None) -> int:
    """How many classes a goodness judges.

    Args:
        goodness: one a class.
        num_classes: that the network was told, if it was.

    Raises:
        InputError: the goodness says one number a sample, or judges another number of classes.
    """
    judged: int | None = getattr(goodness, "num_classes", None)
    if judged is None:
        raise InputError(
            f"Passed `goodness={type(getattr(goodness, 'of', goodness)).__name__}`, one number a sample. A block here "
            "needs one a class, such as `WeightedEnergy` or `ChannelGroups`; one of your own says how many by an "
            "attribute `num_classes`."
        )
    if num_classes not in (None, judged):
        raise InputError(
            f"Passed `num_classes={num_classes}` with `goodness={type(goodness).__name__}(num_classes={judged})`. They "
            "must be equal: leave out one of them."
        )
    return judged


def first_layer(layer: nn.Module) -> nn.Module:
    """The first of the layers of a block that has weights."""
    if not isinstance(layer, nn.Sequential):
        return layer
    return next(part for part in layer if any(True for _ in part.parameters()))


def _layer(shape: Sequence[int]) -> list[nn.Module]:
    """A layer of a head, for activities ``(B, *shape)``, which it leaves as many."""
    units = shape[0]
    if len(shape) == 1:
        return [nn.Linear(units, units, bias=False), nn.BatchNorm1d(units), nn.ReLU(inplace=True)]
    conv = nn.Conv2d(units, units, 3, padding=1, bias=False)
    conv.weight = HiddenMatrix(conv.weight.data)  # as those of the trunk
    return [conv, nn.BatchNorm2d(units), nn.ReLU(inplace=True)]
