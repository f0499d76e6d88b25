"""Recurrent nets with top-down connections (Hinton 2022, 2212.13345, section 3.4).

An image is a video of still frames. Every hidden layer reads the layers above and below as they were one iteration
before; the image stands below the lowest and the label above the highest. So what lies above a layer can tell it
what to expect, although no gradient ever goes down.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.blocks import ContrastiveBlock
from ff_lightning.errors import InputError, finite
from ff_lightning.goodness import Goodness, MeanOfSquares
from ff_lightning.losses import ContrastiveLoss, SymBa
from ff_lightning.networks.mlp import check_dense, refuse_other_size
from ff_lightning.normalization import UnitRMS
from ff_lightning.signals import Labelled, LocalStep, Signal, StepContext
from ff_lightning.stacks import Network, Opened


@dataclass(frozen=True)
class Surroundings:
    """What a hidden layer reads at one iteration; of each as many streams as it differs in, one after the other.

    Attributes:
        below: ``(N, …)`` the image, or normalised activities of the layer below.
        above: ``(M, …)`` the label, or normalised activities of the layer above; ``None`` in the pass that starts.
        old: ``(M, D)`` the layer's own activities, not normalised; ``None`` in the pass that starts.
    """

    below: Tensor
    above: Tensor | None = None
    old: Tensor | None = None


Start = tuple[Tensor, list[Tensor]]
"""An image as the blocks see it, and the activities of all of them before the first iteration."""


class TwoWayReLU(nn.Module):
    """ReLU of what comes from below and from above, mixed with what the layer was before.

    Args:
        below: values that come from below.
        width: units.
        above: values that come from above.
        damping: share of the old activities that stays, in ``[0, 1)``.
    """

    def __init__(self, below: int, width: int, above: int, *, damping: float) -> None:
        super().__init__()
        self.up = nn.Linear(below, width)
        self.down = nn.Linear(above, width, bias=False)
        for linear in (self.up, self.down):
            nn.init.normal_(linear.weight, std=(below + above) ** -0.5)
        nn.init.zeros_(self.up.bias)
        self.damping = damping

    def forward(self, x: Surroundings) -> Tensor:  # noqa: D102
        z = self.up(x.below)
        if x.above is not None:
            z = add_streams(z, self.down(x.above))
        h = F.relu(z, inplace=True)
        return h if x.old is None else add_streams(h * (1 - self.damping), x.old * self.damping)


@dataclass(frozen=True)
class Started(Labelled):
    """Labelled images of which the pass that starts is known."""

    start: Start | None = None


class OpenedRecurrent(Opened):
    """Images as the blocks see them, after the pass that starts; see :class:`~ff_lightning.stacks.Opened`."""

    network: RecurrentMLP

    def __init__(self, network: RecurrentMLP, image: Tensor) -> None:
        super().__init__(network, image)
        with torch.no_grad():
            self.start = network.start(image)

    def with_labels(self, *labels: Tensor) -> Started:
        """The images with labels, ``(B,)`` each."""
        return Started(self.image, torch.stack(labels), start=self.start)

    @torch.no_grad()
    def judge(self, x: Labelled, blocks: int) -> Tensor:
        """Goodness ``(S * B,)`` as soon as all blocks have seen the labels, summed over all blocks.

        ``blocks`` has no say: the highest block is the first to see a label.
        """
        del blocks
        *_, state = islice(self.network.course(x), len(self.network))
        return self.network.goodness_of(state).sum(0)


class TwoWayBlock(ContrastiveBlock):
    """A hidden layer; what it passes on is its raw activities, which its neighbours and the next iteration read."""

    def pass_on(self, x: Any, h: Any) -> Any:
        """The activities themselves; :class:`RecurrentMLP` normalises what neighbours read."""
        del x
        return h


class RecurrentMLP(Network):
    """Fully connected hidden layers that see the image below and the label above, iterated until they agree.

    One pass from the image upwards starts it. Then all layers change at once, ``h = damping * h + (1 - damping) *
    ReLU(…)``, from the normalised activities around them at the iteration before. In training every block has a
    local loss, and an update, at every iteration that the label has reached it. An image gets the label with the
    highest goodness, averaged over some of the iterations.

    Args:
        in_features: pixels of an image.
        widths: units of every hidden layer.
        num_classes: length of the one-hot label.
        label_scale: value of the hot label input; the image has unit RMS.
        iterations: in training.
        judged: first and last iteration whose goodness counts, from 1.
        damping: share of the old activities that stays, in ``[0, 1)``.
        goodness: copied for every block; mean of squares by default.
        loss: copied for every block; :class:`~ff_lightning.losses.SymBa` by default.
        dropout: share of the pixels that is dropped in training, the same ones at all iterations.
        image_norm: what an image passes first, which leaves it a unit RMS;
            :class:`~ff_lightning.normalization.UnitRMS` by default.

    Raises:
        InputError: sizes or iterations that make no sense.
    """

    repeats_blocks = True

    def __init__(
        self,
        in_features: int,
        widths: Sequence[int],
        *,
        num_classes: int = 10,
        label_scale: float = 10.0,
        iterations: int = 8,
        judged: tuple[int, int] = (3, 5),
        damping: float = 0.3,
        goodness: Goodness | None = None,
        loss: ContrastiveLoss | None = None,
        dropout: float = 0.0,
        image_norm: nn.Module | None = None,
    ) -> None:
        check_dense(in_features, widths, num_classes, dropout=dropout, peer_weight=0.0)
        if not len(widths) <= judged[0] <= judged[1] <= iterations:
            raise InputError(
                f"Passed `judged={tuple(judged)}` with `iterations={iterations}` and {len(widths)} widths. Needed: "
                "widths <= first <= last <= iterations, for the label takes an iteration for every block on its way."
            )
        if not 0 <= damping < 1:
            raise InputError(f"Passed `damping={damping}`. `damping` must be in [0, 1).")
        sizes = [in_features, *widths, num_classes]
        super().__init__(
            [
                TwoWayBlock(
                    TwoWayReLU(*sizes[index : index + 3], damping=damping),
                    copy.deepcopy(goodness) or MeanOfSquares(),
                    copy.deepcopy(loss) or SymBa(),
                )
                for index in range(len(widths))
            ]
        )
        self.in_features = in_features
        self.num_classes: int = num_classes
        self.label_scale = finite("label_scale", label_scale, least=0)
        self.iterations = iterations
        self.judged = tuple(judged)
        self.input = nn.Sequential(UnitRMS() if image_norm is None else image_norm, nn.Dropout(dropout))
        self.out_features = widths[-1]

    def local_losses(self, signal: Signal, context: StepContext = StepContext()) -> Iterator[LocalStep]:
        """Yield the local losses iteration by iteration, and in each from the image upwards.

        All blocks of an iteration read the activities of the iteration before, so the order within it does not
        matter. A block that the label has not reached yet has nothing to contrast and yields nothing.

        Args:
            signal: images with two labels each, right and wrong.
            context: what is known of the step.

        Yields:
            One :class:`LocalStep` for a block and an iteration.
        """
        assert isinstance(signal.h, Labelled)
        self.begin(context)
        with torch.no_grad():
            image, state, label = self._begin(signal.h)
        for iteration in range(self.iterations):
            around = self._around(image, state, label)
            reached = len(self) - 1 - iteration
            for index, block in enumerate(self):
                seen = Signal(around[index])
                found, passed = (None, block.rest(seen)) if index < reached else self.visit(index, seen, context)
                state[index] = passed.h
                if found is not None:
                    yield LocalStep(index, *found)
                del found

    def open(self, image: Tensor) -> OpenedRecurrent:
        """The image as the blocks see it, and the activities of the pass that starts, which no label changes."""
        return OpenedRecurrent(self, image)

    @torch.no_grad()
    def goodness(self, x: Tensor | Labelled, *, blocks: int | None = None) -> Tensor:
        """Goodness of every block, the mean over the iterations that are judged.

        Args:
            x: ``(N, …)``, or :class:`Labelled` with ``S`` labels for each of ``B`` images, ``N = S * B``.
            blocks: only this many of the lowest blocks; all by default.

        Returns:
            ``(L, N)``, at least float32.
        """
        first, last = self.judged
        found = [
            self.goodness_of(state) for iteration, state in enumerate(self._settle(x), start=1) if iteration >= first
        ]
        assert len(found) == last - first + 1
        return torch.stack(found).mean(0)[:blocks]

    @torch.no_grad()
    def activities(self, x: Tensor | Labelled) -> Iterator[Tensor]:
        """Yield the activities of every block at the last iteration that is judged, ``(N, …)``, not normalised."""
        *_, state = self._settle(x)
        yield from state

    def forward(self, x: Tensor | Labelled) -> Tensor:
        """What the highest block shows at the last judged iteration, with the gradient of the whole course."""
        *_, state = self._settle(x)
        shown: Tensor = self[len(self) - 1].norm(state[-1])
        return shown

    def goodness_of(self, state: list[Tensor]) -> Tensor:
        """Goodness ``(L, N)`` of the activities of all blocks at one iteration."""
        return torch.stack([block.goodness(h) for block, h in zip(self, state, strict=True)])

    def _settle(self, x: Tensor | Labelled) -> Iterator[list[Tensor]]:
        """Activities of all blocks after every iteration up to the last that is judged."""
        return islice(self.course(x), self.judged[1])

    def course(self, x: Tensor | Labelled) -> Iterator[list[Tensor]]:
        """Activities of all blocks after every iteration, without an end."""
        image, state, label = self._begin(x)
        while True:
            around = self._around(image, state, label)
            state = [block(seen) for block, seen in zip(self, around, strict=True)]
            yield state

    def _begin(self, x: Tensor | Labelled) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Image below the lowest block, activities of all blocks at the start, and labels above the highest."""
        if isinstance(x, Tensor):
            return *self.start(x), None
        known = x.start if isinstance(x, Started) else None
        image, state = self.start(x.image) if known is None else known
        label = F.one_hot(x.labels.flatten(), self.num_classes).to(image.dtype) * self.label_scale
        return image, list(state), label

    def start(self, image: Tensor) -> Start:
        """The image ``(B, in_features)``, and activities after one pass from it upwards, ``(B, D)`` each."""
        image = image.flatten(1)
        refuse_other_size(image, self.in_features)
        below = image = self.input(image)
        state: list[Tensor] = []
        for block in self:
            state.append(block(Surroundings(below)))
            below = block.norm(state[-1])
        return image, state

    def _around(self, image: Tensor, state: list[Tensor], label: Tensor | None) -> list[Surroundings]:
        """What every block reads at the next iteration."""
        passed = [block.norm(h) for block, h in zip(self, state, strict=True)]
        below, above = [image, *passed[:-1]], [*passed[1:], label]
        return [Surroundings(*seen) for seen in zip(below, above, state, strict=True)]


def add_streams(first: Tensor, second: Tensor) -> Tensor:
    """Add ``(S * B, D)`` and ``(B, D)``, in either order: what several streams share is added to each."""
    sizes = first.shape[0], second.shape[0]  # not `len`, which an exported program would take for a constant
    if sizes[0] == sizes[1]:
        return first + second
    shape = (-1, min(sizes), first.shape[1])
    return (first.reshape(shape) + second.reshape(shape)).flatten(0, 1)
