"""Trainings of tasks of their own kind, which must give the same weights on one process and on two."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

import ff_lightning as ff
from ff_lightning.data import ImageDataModule
from ff_lightning.negatives import HardWrongLabel
from ff_lightning.networks import PredictiveCircuits
from tests import spiking
from tests.spiking import NextLabel
from tests.training import SGD, trainer, weights


def predictive(width: int = 20, *, noise: float = 0.01, **kwargs: Any) -> ff.FFPredictive:
    """A small task with the same weights at every call."""
    torch.manual_seed(0)
    network = PredictiveCircuits(64, [width, width], steps=4, threshold=2.0, noise=noise)
    module = ff.FFPredictive(
        network, **{"optimizer": partial(torch.optim.Adam, lr=2e-3), "negatives": HardWrongLabel()} | kwargs
    )
    module.seed = 0
    return module


def spiking_classifier() -> ff.FFSpikingClassifier:
    """A small task, whose negatives are the same on any number of ranks."""
    return spiking.classifier(spiking.network().double(), negatives=NextLabel(), optimizer=SGD)


def silent_predictive() -> ff.FFPredictive:
    """Another one, without noise, which ranks draw apart."""
    return predictive(noise=0.0, negatives=NextLabel(), optimizer=SGD).double()


CASES: dict[str, tuple[Callable[[], ff.FFLightningModule], int]] = {
    "spiking": (spiking_classifier, 100),
    "predictive": (silent_predictive, 200),
}
"""Tasks, and images a batch."""


def fit(folder: Path, case: str, ranks: int) -> dict[str, Tensor]:
    """Weights after four batches."""
    make, batch = CASES[case]
    module = make()
    parallel = {"strategy": "ddp", "devices": 2} if ranks == 2 else {}
    settings = {"precision": "64-true", "limit_train_batches": 4, "limit_val_batches": 0}
    trainer(folder, **settings, **parallel).fit(module, ImageDataModule("digits", batch_size=batch // ranks))
    return weights(module.network)


def main(folder: Path) -> None:
    """Train every case on this rank and store its weights."""
    warnings.filterwarnings("ignore")
    for case in CASES:
        found = fit(folder, case, ranks=2)
        torch.save(found, folder / f"{case}, rank {dist.get_rank()}.pt")
