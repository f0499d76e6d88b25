"""What travels: an image with labels into a network, a signal from block to block, a local loss out of it.

Beside the signal stands what every process knows of a step and nobody sends: its :class:`StepContext`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ff_lightning.errors import InputError

Held = TypeVar("Held")

UNJUDGED = -1
"""Label of a position or frame at which no loss and no accuracy looks."""


@dataclass(frozen=True)
class Labelled:
    """Images with candidate labels, so that the first block can compute what does not depend on the label once.

    Attributes:
        image: ``(B, …)``, floating; ``(S * B, …)`` activities where a block above the first is told the labels.
        labels: ``(S, B)`` int64: ``S`` labels for every image.
        image_part: what the first layer has made of the image alone, if that is known; see
            :class:`~ff_lightning.stacks.Opened`.
    """

    image: Tensor
    labels: Tensor
    image_part: Tensor | None = None

    @property
    def streams(self) -> int:
        """How many labels each image carries."""
        return self.labels.shape[0]


@dataclass(frozen=True)
class Signal:
    """What travels between blocks: detached tensors and nothing else, so a network can be cut anywhere.

    Attributes:
        h: what the next block receives: ``(N, …)``, or a dataclass of tensors where it receives several, such as
            :class:`Labelled`. Where positives and negatives travel together, ``N = 2 * B``, and the positives come
            first.
        labels: ``(B,)`` int64, the true classes, for blocks that give every class a goodness; ``(B, K)`` of 0 and 1
            where every one of ``K`` labels may be there or not; ``None`` for others.
    """

    h: Any
    labels: Tensor | None = None

    @classmethod
    def pair(cls, x_pos: Tensor, x_neg: Tensor) -> Signal:
        """Join positives ``(B, …)`` and negatives ``(B, …)`` into one signal of two streams."""
        if x_pos.shape != x_neg.shape:
            raise InputError(
                f"Passed `x_pos` of shape {tuple(x_pos.shape)} and `x_neg` of shape {tuple(x_neg.shape)}. "
                "Positives and negatives must have the same shape."
            )
        return cls(torch.cat([x_pos, x_neg]))


@dataclass(frozen=True)
class BlockContext:
    """What one block is told of a step.

    Attributes:
        generator: its own source of randomness; ``None`` for torch's own.
        update: how many updates were done before this one.
    """

    generator: torch.Generator | None = None
    update: int = 0


def _torchs_own(index: int) -> torch.Generator | None:
    del index
    return None


@dataclass(frozen=True)
class StepContext:
    """What every process knows of a training step: it never travels, and says alone which blocks learn now.

    Attributes:
        generator: gives the source of randomness of a block, by its index; ``None`` for torch's own.
        update: how many updates were done before this one.
        learning: for every local module whether it learns now; ``None`` if all do.
    """

    generator: Callable[[int], torch.Generator | None] = _torchs_own
    update: int = 0
    learning: Sequence[bool] | None = None

    def learns(self, *indices: int) -> bool:
        """Whether all of these blocks learn now."""
        return self.learning is None or all(self.learning[index] for index in indices)

    def highest(self, depth: int) -> int:
        """The highest of ``depth`` blocks that learns now, -1 if none does: nothing above it needs to be computed."""
        return max((index for index in range(depth) if self.learns(index)), default=-1)

    def at(self, index: int) -> BlockContext:
        """What a block is told."""
        return BlockContext(self.generator(index), self.update)


class Contrast(NamedTuple):
    """What a local loss makes of goodness.

    Attributes:
        loss: scalar.
        g_pos: goodness of positives, detached; ``None`` where nothing is contrasted.
        g_neg: goodness of negatives, detached.
    """

    loss: Tensor
    g_pos: Tensor | None = None
    g_neg: Tensor | None = None


@dataclass(frozen=True)
class LocalStep:
    """One local loss, ready for its backward pass.

    Attributes:
        block: index of the module that this loss trains.
        loss: scalar; its graph reaches the parameters of that module and no other, unless there is ``below``.
        g_pos: ``(B, …)`` goodness of positives, detached; ``None`` where there is no contrast.
        g_neg: ``(B, …)`` goodness of negatives, detached.
        below: the step of another module that ``loss`` trains too; its own loss is a part of ``loss`` (tier T3).
        passed: ``(2 * B, …)`` what a block passes on to the next one, detached; ``None`` where nobody may read it.
    """

    block: int
    loss: Tensor
    g_pos: Tensor | None = None
    g_neg: Tensor | None = None
    below: LocalStep | None = None
    passed: Tensor | None = None

    @property
    def blocks(self) -> tuple[int, ...]:
        """Indices of all modules that this loss trains, from the input upwards."""
        return (self.block,) if self.below is None else (*self.below.blocks, self.block)


def detached(value: Held) -> Held:
    """A signal, or whatever else holds tensors, with every one of them cut off its graph.

    Args:
        value: a tensor, a dataclass, a tuple, or what holds no tensor.
    """
    found: Any = value
    if isinstance(value, Tensor):
        found = value.detach()
    elif isinstance(value, tuple):
        parts = [detached(part) for part in value]
        found = type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    elif is_dataclass(value):
        found = replace(value, **{field.name: detached(getattr(value, field.name)) for field in fields(value)})  # type: ignore[type-var]
    return found  # type: ignore[no-any-return]


def true_and_hardest(g: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Goodness of the true class and of the wrong one with the most, each ``(B,)``, of goodness ``(B, C)``."""
    true = torch.nn.functional.one_hot(labels, g.shape[1]).bool()
    return g.gather(1, labels.unsqueeze(1)).squeeze(1), g.masked_fill(true, -torch.inf).amax(1)
