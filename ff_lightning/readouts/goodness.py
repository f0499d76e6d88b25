"""Readouts: how a prediction is taken from a stack trained by local losses.

Two ways, both Hinton's (2212.13345, section 3.3): run the net with every label and choose the one with the
highest summed goodness, or train a linear softmax on the activities, in one pass without a label. Where the blocks
give every class a goodness of their own, one pass says the goodness of all labels.
:mod:`ff_lightning.readouts.early_exit` stops the first at the block at which the answer is clear.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ff_lightning.distributed import mean_over_ranks
from ff_lightning.errors import InputError, whole
from ff_lightning.parts import Part
from ff_lightning.processor import running_sums
from ff_lightning.signals import Labelled
from ff_lightning.stacks import Network

SWEPT_AT_ONCE = 2500
"""Rows, images times labels, whose activities are alive together in a sweep, unless one image alone has more."""


@dataclass(frozen=True)
class Answer:
    """What a readout says of a batch.

    Attributes:
        scores: ``(B, C)``; the highest is the prediction.
        block: ``(B,)`` int64, the block that answered: no higher one was asked.
    """

    scores: Tensor
    block: Tensor


def label_goodness(network: Network, image: Tensor, num_classes: int) -> Tensor:
    """Goodness that every block gives to every label, in batched passes without gradient.

    The image part of the first block is computed once for all labels. Activities of at most 2,500 images times labels
    are alive at a time, whatever the batch. Blocks with a goodness for each class need no sweep.

    Args:
        network: a stack whose first layer takes :class:`~ff_lightning.signals.Labelled`, or one of
            :class:`~ff_lightning.blocks.ClassBlock`.
        image: ``(B, …)``.
        num_classes: number of labels.

    Returns:
        ``(L, B, num_classes)``, at least float32; ``L`` blocks.
    """
    parts = []
    for some in swept(network, image, num_classes):
        if network.gives_classes:
            parts.append(network.goodness(some))
            continue
        batch = some.shape[0]  # not `len`, which an exported program would take for a constant
        goodness = network.goodness(Labelled(some, all_labels(batch, num_classes, image.device)))
        parts.append(goodness.view(-1, num_classes, batch).transpose(1, 2))
    return torch.cat(parts, dim=1)


def all_labels(batch: int, num_classes: int, device: torch.device) -> Tensor:
    """Every label for every image, ``(num_classes, batch)``."""
    return torch.arange(num_classes, device=device).unsqueeze(1).expand(num_classes, batch)


def swept(network: Network, image: Tensor, num_classes: int) -> Sequence[Tensor]:
    """Cut a batch into parts that are swept one after the other; an exported program takes it whole."""
    if torch.compiler.is_compiling():
        return [image]
    labels = 1 if network.gives_classes else num_classes
    return torch.split(image, max(1, SWEPT_AT_ONCE // labels))


class Readout(Part, nn.Module, ABC):
    """Class scores from a stack.

    Args:
        first_block: the lowest block that is read, counted from 0.
    """

    def __init__(self, first_block: int = 0) -> None:
        super().__init__()
        self.first_block = whole("first_block", first_block, least=0)

    def check(self, network: Network) -> None:
        """Check that the readout fits the stack.

        Raises:
            InputError: ``first_block`` lies above the stack.
        """
        if self.first_block >= len(network):
            raise InputError(
                f"Passed `first_block={self.first_block}`. The network has {len(network)} blocks, so it must be at "
                f"most {len(network) - 1}."
            )

    def attach(self, network: Network, num_classes: int) -> None:
        """Take from the task what the readout was not told, and check that it fits.

        Args:
            network: the stack that it will read.
            num_classes: number of classes.

        Raises:
            InputError: it does not fit.
        """
        del num_classes
        self.check(network)

    @abstractmethod
    def forward(self, network: Network, image: Tensor, num_classes: int) -> Tensor:
        """Scores ``(B, num_classes)`` of images ``(B, …)``; the highest is the prediction. No gradient."""

    def answer(self, network: Network, image: Tensor, num_classes: int) -> Answer:
        """Scores of images ``(B, …)``, and which block gave them: the last one, unless a readout stops earlier."""
        scores = self(network, image, num_classes)
        return Answer(scores, torch.full((len(scores),), len(network) - 1, device=scores.device))

    def observe(self, goodness: Tensor, labels: Tensor) -> None:
        """Look at the goodness ``(L, B, C)`` of validation images and their classes ``(B,)``, to choose by it."""
        del goodness, labels

    def choose(self) -> None:
        """Calibrate by all that was observed, at the end of a validation; every rank must call it."""

    def local_loss(self, network: Network, image: Tensor, labels: Tensor) -> Tensor | None:
        """Loss that trains the readout's own parameters on detached activities, or ``None``."""
        del network, image, labels
        return None


class GoodnessReadout(Readout):
    """Goodness of every label summed over blocks ``first_block`` and above; nothing to train.

    Hinton leaves out the first block of four (section 3.3: ``first_block=1``).
    """

    def forward(self, network: Network, image: Tensor, num_classes: int) -> Tensor:  # noqa: D102
        return self.combine(label_goodness(network, image, num_classes))

    def combine(self, goodness: Tensor) -> Tensor:
        """Scores ``(B, C)`` from the goodness of every block, ``(L, B, C)``."""
        return goodness[self.first_block :].sum(0)


class LastBlock(GoodnessReadout):
    """Goodness of the last block alone: what fits blocks that each aim at the whole target."""

    def __init__(self) -> None:
        super().__init__()

    def combine(self, goodness: Tensor) -> Tensor:  # noqa: D102
        return goodness[-1]


class MeanLogProbability(GoodnessReadout):
    """Mean over blocks ``first_block`` and above of the log-probability that each gives to a class.

    What a block says is ``softmax(G)`` over the classes, or, in a task, what its loss trains: ``softmax(scale * G)`` of
    :class:`~ff_lightning.candidates.Softmax`.
    """

    def __init__(self, first_block: int = 0) -> None:
        super().__init__(first_block)
        self._losses: tuple[Any, ...] = ()

    def attach(self, network: Network, num_classes: int) -> None:
        """Take from the blocks what their goodness stands for, and check that the readout fits."""
        super().attach(network, num_classes)
        blocks: list[Any] = list(network)
        self._losses = tuple(block.loss for block in blocks) if network.gives_classes else ()

    def combine(self, goodness: Tensor) -> Tensor:  # noqa: D102
        if self._losses:
            goodness = torch.stack([loss.of_classes(g) for loss, g in zip(self._losses, goodness, strict=True)])
        return goodness[self.first_block :].log_softmax(-1).mean(0)


class ChosenBlocks(GoodnessReadout):
    """Goodness summed over the range of blocks that is best on validation images (DeeperForward's SIP).

    All ranges without a gap are compared at the end of every validation, and the best, the shorter one of equals, is
    used from then on and kept in checkpoints. Before the first validation all blocks are summed. (Sun et al. 2025,
    OpenReview kOYnXVQCtA, section on selective inference.)

    Args:
        depth: ``L``, blocks of the network.
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        if depth < 1:
            raise InputError(f"Passed `depth={depth}`. `depth` must be at least 1.")
        self.chosen: Tensor
        self.register_buffer("chosen", torch.tensor([0, depth]))
        self.correct: Tensor
        self.register_buffer("correct", torch.zeros(depth, depth, dtype=torch.float64), persistent=False)

    def check(self, network: Network) -> None:  # noqa: D102
        if len(network) != len(self.correct):
            raise InputError(
                f"Passed `depth={len(self.correct)}` with a network of {len(network)} blocks. They must be equal."
            )

    def combine(self, goodness: Tensor) -> Tensor:  # noqa: D102
        first, stop = self.chosen.tolist()
        return goodness[first:stop].sum(0)

    def observe(self, goodness: Tensor, labels: Tensor) -> None:  # noqa: D102
        for first in range(len(goodness)):
            predicted = running_sums(goodness[first:], 0).argmax(-1)
            self.correct[first, first:] += (predicted == labels).sum(-1)

    def choose(self) -> None:  # noqa: D102
        counts = mean_over_ranks(self.correct)
        if not counts.any():  # nothing was observed, or nothing right
            return
        depth = len(counts)
        ranges = sorted(((first, last) for first in range(depth) for last in range(first, depth)), key=_length)
        first, last = max(ranges, key=lambda ends: float(counts[ends]))
        self.chosen.copy_(torch.tensor([first, last + 1]))
        self.correct.zero_()


def _length(ends: tuple[int, int]) -> int:
    return ends[1] - ends[0]
