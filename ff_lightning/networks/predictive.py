"""Predictive Forward-Forward: one circuit that represents and one that generates (Ororbia and Mali 2023, 2301.01452).

The representation circuit settles over ``K`` steps, driven by the image from below and by a label from above. A layer
sees what its neighbours and its own rivals were one step earlier, with ``n`` the scaling to unit length:

    z_l(t) = (1 - a) relu(W_l n(z_l-1) + b_l + V_l n(z_l+1) - rivalry(z_l) + noise) + a z_l        (all at t - 1)

It learns at every step, to be calm for positives and stirred for negatives. After the first step of the same settling
the generative circuit learns to predict each layer of the positives from the one above, ``relu(G_l r(z_l+1) + c_l)``
with ``r`` the scaling to unit RMS, down to the image and up to a small latent state, which follows the error of its
own prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.errors import InputError, check_sizes, positive, whole_numbers
from ff_lightning.goodness import accumulation_dtype
from ff_lightning.losses import ThresholdLoss
from ff_lightning.networks.predictions import (
    LatentPrediction,
    LatentPrior,
    Prediction,
    PredictionBlock,
    PredictionSignal,
)
from ff_lightning.networks.predictive_layers import Calm, Neighbours, NoisePool, RecurrentReLU, SettlingBlock
from ff_lightning.normalization import UnitLength
from ff_lightning.signals import Labelled, LocalStep, Signal, StepContext
from ff_lightning.stacks import Network


class PredictiveCircuits(Network):
    """The two circuits of predictive Forward-Forward.

    The blocks are the layers of the representation circuit. Without a label they make one pass upwards, where
    settling starts; it is also what a twin trains.

    Args:
        in_features: pixels of an image.
        widths: units of each recurrent layer.
        num_classes: length of the one-hot label that drives the top layer.
        latents: units of the latent state on top of the generative circuit.
        steps: ``K``, steps of settling; each ends in an update of every layer.
        group: units that compete with each other.
        threshold: sum of squared activities above which a layer takes an input for a negative.
        scale: steepness of the logistic loss around it, per unit of that sum.
        damping: share of its last activity that a unit keeps at a step, in ``[0, 1)``.
        label_scale: value of the hot label input.
        noise: standard deviation of what is added to pre-activations in training.
        latent_rate: step of the latent state along the error of its prediction.

    Attributes:
        head: linear softmax on the top layer's pass upwards.
        predictions: the generative circuit, from the image upwards.
        prior: where the latent states of each class lie.

    Shape:
        Images are ``(B, …)`` in [0, 1].

    Raises:
        InputError: an argument makes no sense.
    """

    repeats_blocks = True

    def __init__(
        self,
        in_features: int,
        widths: Sequence[int],
        *,
        num_classes: int = 10,
        latents: int = 20,
        steps: int = 12,
        group: int = 10,
        threshold: float = 10.0,
        scale: float = 1.0,
        damping: float = 0.3,
        label_scale: float = 5.0,
        noise: float = 0.01,
        latent_rate: float = 0.5,
    ) -> None:
        check_sizes(in_features=in_features, num_classes=num_classes, latents=latents, steps=steps)
        whole_numbers("widths", widths, least=1)
        if not 0 <= damping < 1:
            raise InputError(f"Passed `damping={damping}`. `damping` must be in [0, 1).")
        if noise < 0:
            raise InputError(f"Passed `noise={noise}`. `noise` must not be negative.")
        sizes = [in_features, *widths, num_classes]
        layers = [
            RecurrentReLU(*around, group=group, damping=damping)
            for around in zip(sizes, sizes[1:], sizes[2:], strict=False)
        ]
        loss = -positive("threshold", threshold)
        super().__init__(
            [SettlingBlock(layer, Calm(), ThresholdLoss(loss, scale=scale), norm=UnitLength()) for layer in layers]
        )
        self.in_features, self.out_features = in_features, widths[-1]
        self.num_classes: int = num_classes
        self.steps = steps
        self.label_scale = positive("label_scale", label_scale)
        self.noise = noise
        self.norm = UnitLength()
        self.head = nn.Linear(widths[-1], num_classes)
        pairs = pairwise([in_features, *widths])
        known = [Prediction(above, below, ceiling=None if level else 1.0) for level, (below, above) in enumerate(pairs)]
        known.append(LatentPrediction(latents, widths[-1], latent_rate))
        self.predictions = nn.ModuleList(PredictionBlock(prediction) for prediction in known)
        self.prior = LatentPrior(num_classes, latents)

    # Representation --------------------------------------------------------------------------------------------

    def layer(self, index: int) -> RecurrentReLU:
        """One layer of the representation circuit, counted from the image."""
        layer = self[index].layer
        assert isinstance(layer, RecurrentReLU)
        return layer

    def start(self, x: Labelled) -> tuple[list[Tensor], list[Tensor]]:
        """Where settling starts: one pass upwards without the labels, the same for all streams.

        Returns:
            Activities ``(S * B, units)`` of all layers, and what layers see of each other: image ``(B, pixels)``,
            layers ``(S * B, units)`` and labels ``(S * B, num_classes)``, from below upwards.
        """
        states = [h.repeat(x.streams, 1) for h in self.activities(x.image)]
        label = F.one_hot(x.labels.flatten(), self.num_classes).to(states[0].dtype) * self.label_scale
        image = self.norm(x.image.flatten(1)).to(states[0].dtype)
        return states, [image, *map(self.norm, states), label]

    def forward(self, x: Tensor | Labelled) -> Tensor:
        """What the top layer passes on in one pass upwards, ``(N, units)``, with the gradient of the whole pass."""
        h = x
        for block in self:
            h = block.pass_on(h, block(h))
        assert isinstance(h, Tensor)
        return h

    @torch.no_grad()
    def activities(self, x: Tensor | Labelled) -> Iterator[Tensor]:
        """Yield the activities ``(N, units)`` of all layers in one pass upwards, not normalised."""
        for block in self:
            h: Tensor = block(x)
            yield h
            x = block.pass_on(x, h)

    @torch.no_grad()
    def settling(self, x: Labelled) -> Iterator[list[Tensor]]:
        """Yield the activities ``(S * B, units)`` of all layers after every step, without noise and without end.

        What the image drives is computed once.
        """
        states, seen = self.start(x)
        driven = self.layer(0).below(seen[0])
        while True:
            below = [driven, *(self.layer(index).below(seen[index]) for index in range(1, len(self)))]
            inputs = zip(below, seen[2:], states, strict=True)
            states = [self.layer(index).settle(*each) for index, each in enumerate(inputs)]
            seen[1:-1] = map(self.norm, states)
            yield states

    @torch.no_grad()
    def goodness(self, x: Tensor | Labelled, *, blocks: int | None = None) -> Tensor:
        """Goodness of every layer: with labels the mean of the two steps in the middle of settling.

        Args:
            x: images without labels, in one pass upwards, or ``S`` labels for each of ``B`` images.
            blocks: only this many of the lowest layers; all by default.

        Returns:
            ``(L, N)``, at least float32; with labels ``N = S * B``.
        """
        if isinstance(x, Tensor):
            return super().goodness(x, blocks=blocks)
        middle = islice(self.settling(x), max(self.steps // 2 - 1, 0), self.steps // 2 + 1)
        answers = [[block.goodness(h) for block, h in zip(self, states, strict=True)] for states in middle]
        return torch.stack([torch.stack(answer[:blocks]) for answer in answers]).mean(0)

    def classify(self, image: Tensor) -> Tensor:
        """What the softmax head makes of one pass upwards: logits ``(B, num_classes)``; its graph is the head's own."""
        *_, top = self.activities(image)
        logits: Tensor = self.head(self.norm(top))
        return logits.to(accumulation_dtype(logits))

    # Learning --------------------------------------------------------------------------------------------------

    def local_losses(self, signal: Signal, context: StepContext = StepContext()) -> Iterator[LocalStep]:
        """Settle on positives and negatives, and yield the losses of both circuits.

        Args:
            signal: images with right and wrong labels.
            context: what is known of the step.

        Yields:
            Losses of the layers, by their index, and of the predictions, counted on from there: ``L`` is that of
            the image. Latent states are taken into the prior.
        """
        x = signal.h
        if isinstance(x, Tensor) or x.streams != 2:
            raise InputError("Passed a signal without right and wrong labels. Predictive circuits learn from both.")
        self.begin(context)
        states, seen = self.start(x)
        noise = NoisePool(states, self.noise) if self.noise and self.training else None
        for step in range(self.steps):
            settled = []
            for index in range(len(self)):
                added = None if noise is None else noise.next(states[index])
                around = Neighbours(seen[index], seen[index + 2], states[index], added)
                found, passed = self.visit(index, Signal(around), context)
                if found is not None:
                    yield LocalStep(index, *found)
                settled.append(passed.h)
                del found, passed
            states = settled
            seen[1:-1] = map(self.norm, states)
            if step == 0:
                yield from self.generative_losses(x, states, context)

    def generative_losses(
        self, x: Labelled, states: Sequence[Tensor], context: StepContext = StepContext()
    ) -> Iterator[LocalStep]:
        """Yield how wrong the generative circuit predicts the positives, and take their latent states into the prior.

        Args:
            x: images with right labels, then with others.
            states: ``(S * B, units)`` of all layers after the first step of settling.
            context: what is known of the step.
        """
        layers = [x.image.flatten(1).to(states[0].dtype), *(h[: len(x.image)] for h in states)]
        latent = self.top_prediction.infer(layers[-1], self.steps)
        if self.training:
            self.prior.note(latent, x.labels[0])
        above = [*layers[1:], latent]
        for index, (prediction, h, below) in enumerate(zip(self.predicting(), above, layers, strict=True), len(self)):
            if context.learns(index):
                found, _ = prediction.local_step(PredictionSignal(h, below=below), context.at(index))
                yield LocalStep(index, *found)

    # Generation ------------------------------------------------------------------------------------------------

    @property
    def top_prediction(self) -> LatentPrediction:
        """The prediction of the top layer from the latent state."""
        *_, top = self.predicting()
        assert isinstance(top.layer, LatentPrediction)
        return top.layer

    def predicting(self) -> Iterator[PredictionBlock]:
        """The layers of the generative circuit, from the image upwards."""
        return iter(self.predictions)  # type: ignore[arg-type]

    @torch.no_grad()
    def generate(self, h: Tensor, level: int) -> Tensor:
        """Predict downwards.

        Args:
            h: ``(B, units)`` of the layer ``level``, counted from 1; ``L + 1`` are latent states.
            level: where to start.

        Returns:
            ``(B, in_features)`` in [0, 1].
        """
        for prediction in list(self.predicting())[:level][::-1]:
            h = prediction(h)
        return h

    def reconstruct(self, image: Tensor, labels: Tensor, *, level: int = 1) -> Tensor:
        """Images ``(B, …)`` as the generative circuit predicts them from a layer after the first step of settling.

        Args:
            image: ``(B, …)``.
            labels: ``(B,)``, which drive the top layer.
            level: the layer, counted from 1; by default the lowest, from which the authors measure.

        Returns:
            Shape and dtype of ``image``.
        """
        states = next(self.settling(Labelled(image, labels.unsqueeze(0))))
        return self.generate(states[level - 1], level).view_as(image).to(image.dtype)

    def sample(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images of classes ``(N,)``, ``(N, in_features)``, from latent states drawn from the prior."""
        return self.generate(self.prior.sample(labels, generator), len(self) + 1)
