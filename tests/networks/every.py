"""One small network of every kind, with the same weights at every call, and what it learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ff_lightning.candidates import Softmax
from ff_lightning.goodness import LocalPrediction
from ff_lightning.language import GPT, HintonGPT, Independent, OwnChannels, Residual, WindowMLP
from ff_lightning.losses import MovingThresholdLoss, SimilarityMatching, TwoThresholdLoss
from ff_lightning.networks import (
    MLP,
    AveragedHead,
    CausalConvNet,
    ConvNet,
    FrameEnergy,
    LabelBias,
    LabelledConvNet,
    LatencyEncoding,
    LocalFields,
    Lookahead,
    PredictiveCircuits,
    RecurrentMLP,
    ResNet,
    SelfContrastConv,
    SelfContrastMLP,
    SpikingMLP,
)
from ff_lightning.networks.scff import PairSignal
from ff_lightning.normalization import settle
from ff_lightning.signals import UNJUDGED, Signal, StepContext
from ff_lightning.stacks import Network
from tests.texts import windows
from tests.training import digits

IMAGES, CLASSES = digits(12)
MAPS = IMAGES.view(-1, 1, 8, 8)
SMALL = {"width": 16, "layers": 2, "heads": 2, "context": 16}


def told(network: Network) -> Signal:
    """Images with their label and with a wrong one."""
    return Signal(network.open(MAPS).with_labels(CLASSES, (CLASSES + 3) % 10), CLASSES)


def plain(network: Network) -> Signal:
    return Signal(MAPS, CLASSES)


def paired(network: Network) -> Signal:
    return PairSignal(MAPS, partner=(torch.arange(len(MAPS)) - 3) % len(MAPS))


def frames(network: Network) -> Signal:
    """Images as spectrograms of eight frames, with a class at each of them but the first."""
    return Signal(MAPS, torch.cat([torch.full((len(MAPS), 1), UNJUDGED), CLASSES.unsqueeze(1).expand(-1, 7)], 1))


def text(network: Network) -> Signal:
    tokens = windows(4)
    return network.signal(tokens[:, :-1], tokens[:, 1:], StepContext(seeded))


def seeded(block: int) -> torch.Generator:
    return torch.Generator().manual_seed(block)


def two_thresholds() -> list[TwoThresholdLoss]:
    return [TwoThresholdLoss(1.0, 2.0), TwoThresholdLoss(1.0, 2.0)]


@dataclass(frozen=True)
class Kind:
    """A network, what it receives, and how many graphs its compiled steps need at most."""

    make: Callable[[], Network]
    receives: Callable[[Network], Signal]
    graphs: int

    def build(self) -> Network:
        torch.manual_seed(0)
        return self.make()


NETWORKS = {
    "mlp": Kind(lambda: MLP(64, [16, 16, 16], loss=MovingThresholdLoss(), peer_weight=0.1, overlay=False), told, 2),
    "labelled conv": Kind(lambda: LabelledConvNet((1, 8, 8), [4, 4], pool_after=[1], labels=LabelBias()), told, 2),
    "local fields": Kind(
        lambda: LocalFields((1, 8, 8), channels=[4, 4], fields=[4, 2], strides=[2, 1], num_classes=10), told, 2
    ),
    # A draw of random numbers cuts a step in two.
    "conv": Kind(lambda: ConvNet((1, 8, 8), [4, 4], pool_after=[1]), plain, 8),
    # Which frames are judged is read from the labels, which cuts a step once more.
    "causal conv": Kind(
        lambda: CausalConvNet(8, [8, 8], kernel_size=3, goodness=FrameEnergy(10, memory=2)), frames, 12
    ),
    "pairs of blocks": Kind(lambda: ConvNet((1, 8, 8), [4, 4, 4], pool_after=[1], overlapping=True), plain, 12),
    "conv, lookahead": Kind(lambda: ConvNet((1, 8, 8), [4, 4], pool_after=[1], lookahead=Lookahead(0.5)), plain, 12),
    "conv, local losses": Kind(
        lambda: ConvNet(
            (1, 8, 8),
            [4, 4],
            pool_after=[1],
            loss=Softmax(),
            goodness=LocalPrediction(),
            matching=SimilarityMatching(),
            head=AveragedHead(),
        ),
        plain,
        4,
    ),
    "resnet": Kind(lambda: ResNet((1, 8, 8), 10, stages=2, layers_per_stage=2), plain, 5),
    # With a block above or with the label; from a pass that starts, or with streams that differ.
    "recurrent": Kind(lambda: RecurrentMLP(64, [16, 12], iterations=4, judged=(2, 3)), told, 5),
    "spiking": Kind(lambda: SpikingMLP(64, [16, 12], encoding=LatencyEncoding(4), lateral=0.5), told, 4),
    "predictive": Kind(lambda: PredictiveCircuits(64, [20, 20], steps=3, latents=4), told, 5),
    "self-contrast mlp": Kind(
        lambda: SelfContrastMLP(64, [16, 12], losses=two_thresholds(), own_pairs=[True, False]), paired, 2
    ),
    "self-contrast conv": Kind(lambda: SelfContrastConv((1, 8, 8), [4, 6], losses=two_thresholds()), paired, 2),
    "gpt": Kind(lambda: GPT(100, **SMALL), text, 7),
    "gpt, residual": Kind(lambda: GPT(100, combination=Residual(), **SMALL), text, 10),
    "gpt, own channels": Kind(lambda: GPT(100, channels=OwnChannels(), **SMALL), text, 7),
    "gpt, lookahead": Kind(lambda: GPT(100, lookahead=Lookahead(refresh=2), **SMALL), text, 12),
    "gpt, inherited": Kind(lambda: GPT(100, combination=Independent(inherit=True), **SMALL), text, 8),
    "hinton's gpt": Kind(lambda: HintonGPT(100, **SMALL), text, 2),
    "window mlp": Kind(lambda: WindowMLP(100, widths=[16, 16], context=16, window=3), text, 7),
}


def local_modules(network: Network) -> list[nn.Module]:
    """What is trained by steps of its own: the blocks, and of predictive circuits the predictions."""
    return [*network, *(network.predicting() if isinstance(network, PredictiveCircuits) else ())]


def train(
    network: Network, receives: Callable[[Network], Signal], *, batches: int, learning: list[bool] | None
) -> None:
    """Plain gradient descent on the local losses, batch by batch."""
    for update in range(batches):
        torch.manual_seed(update)  # of dropout and of noise
        for step in network.local_losses(receives(network), StepContext(seeded, update, learning)):
            step.loss.backward()
            with torch.no_grad():
                for parameter in network.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.01 * parameter.grad
                        parameter.grad = None
        settle(network)
