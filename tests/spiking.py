"""Small spiking networks for the tests, the same weights at every call."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import ff_lightning as ff
from ff_lightning.losses import SymBa
from ff_lightning.negatives import Judge, LabelNegatives
from ff_lightning.networks import LatencyEncoding, SpikingMLP
from ff_lightning.signals import LocalStep

ADAM = partial(torch.optim.Adam, lr=5e-3)


class NextLabel(LabelNegatives):
    """The next class as the wrong one: the same on any number of ranks."""

    def __call__(self, labels: Tensor, num_classes: int, judge: Judge, generator: torch.Generator) -> Tensor:
        return (labels + 1) % num_classes


def network(widths: tuple[int, ...] = (16, 12), **kwargs: Any) -> SpikingMLP:
    torch.manual_seed(0)
    settings = {"encoding": LatencyEncoding(4), "lateral": 0.5, "loss": SymBa(60.0)}
    return SpikingMLP(64, widths, **settings | kwargs)


def classifier(stack: SpikingMLP | None = None, **kwargs: Any) -> ff.FFSpikingClassifier:
    module = ff.FFSpikingClassifier(network() if stack is None else stack, **{"optimizer": ADAM} | kwargs)
    module.seed = 0
    return module


def descend(steps: Iterator[LocalStep], blocks: SpikingMLP, lr: float) -> list[float]:
    """Plain gradient descent on local losses, each when it is yielded; the losses."""
    losses = []
    for step in steps:
        losses.append(step.loss.item())
        step.loss.backward()
        with torch.no_grad():
            for parameter in blocks.parameters():
                if parameter.grad is not None:
                    parameter -= lr * parameter.grad
                    parameter.grad = None
    return losses
