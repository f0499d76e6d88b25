"""Readouts: how a prediction is taken from a stack trained by local losses.

Two ways, both Hinton's (2212.13345, section 3.3): run the net with every label and choose the one with the
highest summed goodness, or train a linear softmax on the activities, in one pass without a label. Where the blocks
give every class a goodness of their own, one pass says the goodness of all labels.
:mod:`ff_lightning.early_exit` stops the first at the block at which the answer is clear.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.distributed import mean_over_ranks
from ff_lightning.errors import InputError
from ff_lightning.goodness import accumulation_dtype
from ff_lightning.normalization import Standardise
from ff_lightning.signals import Labelled
from ff_lightning.stacks import BlockStack

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


def label_goodness(network: BlockStack, image: Tensor, num_classes: int) -> Tensor:
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


def swept(network: BlockStack, image: Tensor, num_classes: int) -> Sequence[Tensor]:
    """Cut a batch into parts that are swept one after the other; an exported program takes it whole."""
    if torch.compiler.is_compiling():
        return [image]
    labels = 1 if network.gives_classes else num_classes
    return torch.split(image, max(1, SWEPT_AT_ONCE // labels))


class Readout(nn.Module, ABC):
    """Class scores from a stack.

    Args:
        first_block: the lowest block that is read, counted from 0.
    """

    def __init__(self, first_block: int = 0) -> None:
        super().__init__()
        if first_block < 0:
            raise InputError(f"Passed `first_block={first_block}`. `first_block` must not be negative.")
        self.first_block = first_block

    def check(self, network: BlockStack) -> None:
        """Check that the readout fits the stack.

        Raises:
            InputError: ``first_block`` lies above the stack.
        """
        if self.first_block >= len(network):
            raise InputError(
                f"Passed `first_block={self.first_block}`. The network has {len(network)} blocks, so it must be at "
                f"most {len(network) - 1}."
            )

    @abstractmethod
    def forward(self, network: BlockStack, image: Tensor, num_classes: int) -> Tensor:
        """Scores ``(B, num_classes)`` of images ``(B, …)``; the highest is the prediction. No gradient."""

    def answer(self, network: BlockStack, image: Tensor, num_classes: int) -> Answer:
        """Scores of images ``(B, …)``, and which block gave them: the last one, unless a readout stops earlier."""
        scores = self(network, image, num_classes)
        return Answer(scores, torch.full((len(scores),), len(network) - 1, device=scores.device))

    def local_loss(self, network: BlockStack, image: Tensor, labels: Tensor) -> Tensor | None:
        """Loss that trains the readout's own parameters on detached activities, or ``None``."""
        del network, image, labels
        return None


class GoodnessReadout(Readout):
    """Goodness of every label summed over blocks ``first_block`` and above; nothing to train.

    Hinton leaves out the first block of four (section 3.3: ``first_block=1``).
    """

    def forward(self, network: BlockStack, image: Tensor, num_classes: int) -> Tensor:  # noqa: D102
        return self.combine(label_goodness(network, image, num_classes))

    def combine(self, goodness: Tensor) -> Tensor:
        """Scores ``(B, C)`` from the goodness of every block, ``(L, B, C)``."""
        return goodness[self.first_block :].sum(0)

    def observe(self, goodness: Tensor, labels: Tensor) -> None:
        """Look at the goodness ``(L, B, C)`` of validation images; a readout may choose by it."""
        del goodness, labels

    def choose(self) -> None:
        """Choose by all that was observed, at the end of a validation."""


class LastBlock(GoodnessReadout):
    """Goodness of the last block alone: what fits blocks that each aim at the whole target."""

    def combine(self, goodness: Tensor) -> Tensor:  # noqa: D102
        return goodness[-1]


class MeanLogProbability(GoodnessReadout):
    """Mean over blocks ``first_block`` and above of the log-probability that each gives to a class.

    What a block says is ``softmax(G)`` over the classes, as the class losses train it.
    """

    def combine(self, goodness: Tensor) -> Tensor:  # noqa: D102
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

    def check(self, network: BlockStack) -> None:  # noqa: D102
        if len(network) != len(self.correct):
            raise InputError(
                f"Passed `depth={len(self.correct)}` with a network of {len(network)} blocks. They must be equal."
            )

    def combine(self, goodness: Tensor) -> Tensor:  # noqa: D102
        first, stop = self.chosen.tolist()
        return goodness[first:stop].sum(0)

    def observe(self, goodness: Tensor, labels: Tensor) -> None:  # noqa: D102
        for first in range(len(goodness)):
            predicted = goodness[first:].cumsum(0).argmax(-1)
            self.correct[first, first:] += (predicted == labels).sum(-1)

    def choose(self) -> None:  # noqa: D102
        counts = mean_over_ranks(self.correct)
        depth = len(counts)
        ranges = sorted(((first, last) for first in range(depth) for last in range(first, depth)), key=_length)
        first, last = max(ranges, key=lambda ends: float(counts[ends]))
        self.chosen.copy_(torch.tensor([first, last + 1]))
        self.correct.zero_()


def _length(ends: tuple[int, int]) -> int:
    return ends[1] - ends[0]


class LinearReadout(Readout):
    """Linear softmax on the normalised activities of blocks ``first_block`` and above, without a label.

    Trained beside the blocks, on detached activities: no gradient reaches a block.

    Args:
        in_features: units of all blocks that are read, added up.
        num_classes: number of classes.
        first_block: the lowest block that is read; Hinton takes all but the first.
        pool: feature maps are averaged over squares of this side, and standardised for each sample; 1 for neither.
        dropout: share of the features that is dropped in training.
    """

    def __init__(
        self, in_features: int, num_classes: int, *, first_block: int = 1, pool: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__(first_block)
        if in_features < 1:
            raise InputError(f"Passed `in_features={in_features}`. `in_features` must be at least 1.")
        if pool < 1:
            raise InputError(f"Passed `pool={pool}`. `pool` must be at least 1.")
        if not 0 <= dropout < 1:
            raise InputError(f"Passed `dropout={dropout}`. `dropout` must be in [0, 1).")
        self.pool = pool
        self.standardise = Standardise()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_features, num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def features(self, network: BlockStack, image: Tensor) -> Tensor:
        """Activities that are read, ``(B, in_features)``, detached."""
        answers = zip(network, network.activities(image), strict=False)
        return self.joined([self.part(block.norm(h)) for block, h in islice(answers, self.first_block, None)])

    def part(self, passed: Tensor) -> Tensor:
        """What is read of one block, ``(B, D)``, from what it passes on, ``(B, …)``."""
        if self.pool > 1:
            passed = self.standardise(F.avg_pool2d(passed, self.pool, ceil_mode=True))
        return passed.flatten(1)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Features ``(B, in_features)`` from the parts of blocks ``first_block`` and above, ``(B, D)`` each.

        Raises:
            InputError: they have other sizes than the readout was built for.
        """
        self._check_units([part.shape[1] for part in parts])
        return torch.cat(list(parts), dim=1)

    def _check_units(self, units: list[int]) -> None:
        if sum(units) != self.linear.in_features:
            raise InputError(
                f"Passed `in_features={self.linear.in_features}` to the readout. Blocks {self.first_block} and above "
                f"have {sum(units)} units."
            )

    def forward(self, network: BlockStack, image: Tensor, num_classes: int) -> Tensor:  # noqa: D102
        del num_classes
        with torch.no_grad():
            scores: Tensor = self.linear(self.features(network, image))
        return scores

    def local_loss(self, network: BlockStack, image: Tensor, labels: Tensor) -> Tensor:
        """Loss that trains this readout alone, on detached activities."""
        return self.loss(self.features(network, image), labels)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the linear softmax, nats, on features ``(B, in_features)``."""
        scores = self.linear(self.dropout(features))
        return F.cross_entropy(scores.to(accumulation_dtype(scores)), labels)


class NestedReadout(LinearReadout):
    """Linear softmaxes on the lowest block that is read, on the lowest two, and so on, to tell what depth is worth.

    The last one reads all blocks, is the prediction, and learns as a :class:`LinearReadout` does. They share features,
    not parameters.

    Args:
        widths: units of every block that is read, after pooling, the lowest first.
        num_classes: number of classes.
        first_block: see :class:`LinearReadout`, as the others.
        pool: sides of the squares over which feature maps are averaged.
        dropout: share of the features that is dropped in training.
    """

    def __init__(
        self, widths: Sequence[int], num_classes: int, *, first_block: int = 1, pool: int = 1, dropout: float = 0.0
    ) -> None:
        if not widths or min(widths) < 1:
            raise InputError(f"Passed `widths={list(widths)}`. `widths` needs one or more numbers of at least 1.")
        super().__init__(sum(widths), num_classes, first_block=first_block, pool=pool, dropout=dropout)
        self.widths = list(widths)
        self.shallow = nn.ModuleList()
        for units in accumulate(widths[:-1]):
            linear = nn.Linear(units, num_classes, device="meta")  # draws no random numbers
            self.shallow.append(linear.to_empty(device=self.linear.weight.device))
        for parameter in self.shallow.parameters():
            nn.init.zeros_(parameter)

    def nested(self, features: Tensor) -> list[Tensor]:
        """Scores ``(B, num_classes)`` by number of blocks, of features ``(B, in_features)``; the last use them all."""
        return [linear(features[:, : linear.in_features]) for linear in (*self.shallow, self.linear)]

    def _check_units(self, units: list[int]) -> None:
        if units != self.widths:
            raise InputError(
                f"Passed `widths={self.widths}` to the readout. Blocks {self.first_block} and above have {units} units."
            )

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropies of all the softmaxes, nats, added up: each has parameters of its own."""
        scores = torch.stack(self.nested(self.dropout(features)))
        scores = scores.to(accumulation_dtype(scores)).flatten(0, 1)
        return F.cross_entropy(scores, labels.repeat(len(self.shallow) + 1), reduction="sum") / len(labels)
