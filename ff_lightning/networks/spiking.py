"""Spiking networks trained by event-driven Forward-Forward.

Every layer has a local loss at every time step, on the traces of its own spikes (contrastive-signal-dependent
plasticity, Ororbia 2023, arXiv 2303.18187). The derivative is that of one time step: what a layer remembers is
detached between steps, so no gradient flows through time or from layer to layer, and nothing is kept of steps gone by.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ff_lightning.blocks import ContrastiveBlock
from ff_lightning.errors import InputError, finite, tell_left_out
from ff_lightning.goodness import Goodness, MeanOfSquares
from ff_lightning.losses import ContrastiveLoss, SymBa
from ff_lightning.networks.mlp import check_dense, refuse_other_size
from ff_lightning.networks.spike_encodings import RateEncoding, SpikeEncoding
from ff_lightning.networks.spiking_layers import LIF, LIFState, SpikingLayer
from ff_lightning.signals import BlockContext, Contrast, Labelled, LocalStep, Signal, StepContext
from ff_lightning.stacks import Network

LABEL_SCALE = 1.0
"""How strongly a label acts unless it is said."""

States = list[LIFState | None]


@dataclass(frozen=True)
class Spikes:
    """What a spiking block receives at one time step.

    Attributes:
        spikes: ``(B, D)`` or ``(S * B, D)`` from below.
        labels: ``(S, B)`` int64; ``None`` for none.
        state: the block's own, after the step before; ``None`` at rest.
    """

    spikes: Tensor
    labels: Tensor | None = None
    state: LIFState | None = None


class SpikingBlock(ContrastiveBlock):
    """A layer of spiking units with a contrastive loss on its traces (tier T1).

    Its activities are a :class:`~ff_lightning.networks.spiking_layers.LIFState`, and so is what it passes on: the block
    above reads its spikes, the block itself the rest of it at the next step.

    Args:
        layer: the units and their synapses.
        goodness: judges traces ``(N, D)``.
        loss: contrasts the goodness of both streams.
    """

    layer: SpikingLayer

    def __init__(self, layer: SpikingLayer, goodness: Goodness, loss: ContrastiveLoss) -> None:
        super().__init__(layer, goodness, loss)

    def forward(self, x: Spikes) -> LIFState:
        """One time step; see :class:`~ff_lightning.networks.spiking_layers.SpikingLayer`."""
        stepped: LIFState = self.layer(x.spikes, x.labels, x.state)
        return stepped

    def judge(self, h: LIFState, signal: Signal, context: BlockContext) -> Contrast:
        """Local loss of the traces of both streams."""
        return super().judge(h.trace, signal, context)

    def pass_on(self, x: Spikes, h: LIFState) -> LIFState:
        """The state itself."""
        del x
        return h


class SpikingMLP(Network):
    """Fully connected layers of leaky integrate-and-fire units, each of which is told the label.

    In training frames are drawn from torch's own generator, which
    :class:`~ff_lightning.FFLightningModule` seeds for every batch; in evaluation always from the same seed.

    Args:
        in_features: values of a frame: pixels of an image, or of both polarities of an event camera.
        widths: units of each block.
        encoding: how samples become spikes; :class:`RateEncoding` of ten steps by default.
        num_classes: classes of the label that enters every block; ``None`` for none.
        label_scale: how strongly the label acts; left out, with a line in the log, where there is none.
        lateral: strength of the competition within a layer at the start; 0 for none.
        neuron: the units of all blocks.
        goodness: copied for every block, of traces; mean of squares by default.
        loss: copied for every block; :class:`~ff_lightning.losses.SymBa` by default.
        learn_every: learn at every so many time steps.

    Raises:
        InputError: a size that makes no sense.
    """

    repeats_blocks = True

    def __init__(
        self,
        in_features: int,
        widths: Sequence[int],
        *,
        encoding: SpikeEncoding | None = None,
        num_classes: int | None = 10,
        label_scale: float = LABEL_SCALE,
        lateral: float = 0.0,
        neuron: LIF | None = None,
        goodness: Goodness | None = None,
        loss: ContrastiveLoss | None = None,
        learn_every: int = 1,
    ) -> None:
        check_dense(in_features, widths, num_classes, dropout=0.0, peer_weight=0.0)
        if num_classes is None and label_scale != LABEL_SCALE:
            tell_left_out("whose inputs carry no label", label_scale=label_scale)
        label_scale = finite("label_scale", label_scale, least=0)
        lateral = finite("lateral", lateral, least=0)
        super().__init__(
            [
                SpikingBlock(
                    SpikingLayer(
                        *sizes,
                        num_classes=num_classes,
                        label_scale=label_scale,
                        lateral=lateral,
                        neuron=copy.deepcopy(neuron),
                    ),
                    copy.deepcopy(goodness) or MeanOfSquares(),
                    copy.deepcopy(loss) or SymBa(60.0),
                )
                for sizes in pairwise([in_features, *widths])
            ]
        )
        self.in_features = in_features
        self.num_classes = num_classes
        self.out_features = widths[-1]
        self.encoding = RateEncoding() if encoding is None else encoding
        if not isinstance(learn_every, int) or not 1 <= learn_every <= self.encoding.steps:
            raise InputError(
                f"Passed `learn_every={learn_every}`. With {self.encoding.steps} time steps it must be a whole number "
                f"from 1 to {self.encoding.steps}."
            )
        self.learn_every = learn_every

    def spiking_blocks(self) -> list[SpikingBlock]:
        """The blocks, from the input upwards."""
        return list(self.blocks)  # type: ignore[arg-type]

    def frames(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the spikes of samples ``(B, …)``, one frame ``(B, in_features)`` a time step."""
        generator = None if self.training else torch.Generator(x.device).manual_seed(0)
        for frame in self.encoding.frames(x, generator):
            refuse_other_size(frame, self.in_features)
            yield frame

    def forward(self, x: Tensor | Labelled) -> Tensor:
        """Firing rates of the last block, ``(N, D)`` in [0, 1], with the gradient through layers and time."""
        return self._mean(states[-1].spikes for states in self._run(x, len(self)))

    def local_losses(self, signal: Signal, context: StepContext = StepContext()) -> Iterator[LocalStep]:
        """Yield the local loss of every block at every time step, or at every ``learn_every``-th.

        A block learns before the block above sees its spikes of the next step; its own spikes of this step are those
        of the weights before.

        Args:
            signal: :class:`~ff_lightning.signals.Labelled` samples of two streams, right and wrong labels.
            context: what is known of the step.

        Yields:
            One :class:`LocalStep` a block and time step.
        """
        x, labels = _parts(signal.h)
        if labels is None or len(labels) != 2:
            raise InputError("Passed a signal without right and wrong labels. A `SpikingMLP` contrasts labels (2, B).")
        self.begin(context)
        states: States = [None] * len(self)
        for number, spikes in enumerate(self.frames(x), start=1):
            for index, block in enumerate(self):
                seen = Signal(Spikes(spikes, labels, states[index]))
                rests = number % self.learn_every != 0
                found, passed = (None, block.rest(seen)) if rests else self.visit(index, seen, context)
                if found is not None:
                    yield LocalStep(index, *found)
                del found
                states[index], spikes = passed.h, passed.h.spikes

    @torch.no_grad()
    def activities(self, x: Tensor | Labelled) -> Iterator[Tensor]:
        """Yield the firing rates of every block over all steps, ``(N, D)`` in [0, 1], without gradient."""
        rates: list[Tensor] = []
        for states in self._run(x, len(self)):
            spikes = [state.spikes / self.encoding.steps for state in states]
            rates = [rate + new for rate, new in zip(rates, spikes, strict=True)] if rates else spikes
        yield from rates

    @torch.no_grad()
    def goodness(self, x: Tensor | Labelled, *, blocks: int | None = None) -> Tensor:
        """Goodness that every block gives its input, the mean over all time steps.

        Args:
            x: ``(B, …)``, or :class:`~ff_lightning.signals.Labelled` with ``S`` labels for each of ``B`` samples.
            blocks: only this many of the lowest blocks; all by default.

        Returns:
            ``(L, S * B)``, at least float32.
        """
        lowest = self.spiking_blocks()[:blocks]
        return self._mean(
            torch.stack([block.goodness(state.trace) for block, state in zip(lowest, states, strict=True)])
            for states in self._run(x, len(lowest))
        )

    def _mean(self, values: Iterator[Tensor]) -> Tensor:
        """Mean of one value a time step, added up as they come."""
        total = next(values)
        for value in values:
            total = total + value
        return total / self.encoding.steps

    def _run(self, x: Tensor | Labelled, blocks: int) -> Iterator[list[LIFState]]:
        """Yield the states of the lowest blocks after every time step, with the graph through layers and time."""
        sample, labels = _parts(x)
        states: States = [None] * blocks
        for spikes in self.frames(sample):
            after: list[LIFState] = []
            for block, state in zip(self.spiking_blocks(), states, strict=False):
                after.append(block(Spikes(after[-1].spikes if after else spikes, labels, state)))
            states = [*after]
            yield after


def _parts(x: Tensor | Labelled) -> tuple[Tensor, Tensor | None]:
    """Samples ``(B, …)`` and their labels ``(S, B)``, if they have any."""
    return (x.image, x.labels) if isinstance(x, Labelled) else (x, None)
