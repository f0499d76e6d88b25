"""Trainings that must give the same weights on one process and on two; run as a script under torchrun."""

from __future__ import annotations

import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ff_lightning as ff
from ff_lightning.data import ImageDataModule, StringsDataModule
from ff_lightning.losses import MovingThresholdLoss
from ff_lightning.networks import HintonMLP
from ff_lightning.rollouts import SleepBuffer
from tests.training import mlp, trainer, weights


class FlippedPixels(ff.FFLightningModule):
    """Negatives that depend on the sample alone, so that ranks and one process see the same ones.

    It also counts what is sent: bytes and collectives of gradients.
    """

    def __init__(self, network: ff.BlockStack, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        self.sent = nn.Buffer(torch.zeros(2, dtype=torch.long))

    def pairs(self, batch: Any) -> tuple[Tensor, Tensor]:
        x = batch[0].flatten(1).double()
        return x, x.flip(1)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        assert self._updates is not None
        launch = self._updates.sync.launch

        def counted(parameters: Any) -> None:
            launch(parameters)
            in_flight = getattr(self._updates.sync, "in_flight", [])
            self.sent += torch.tensor([len(in_flight), sum(bucket.nbytes for bucket, *_ in in_flight)])

        self._updates.sync.launch = counted


class Branch(FlippedPixels):
    """Uses one parameter on the first rank only, as a data-dependent branch in a block would."""

    def __init__(self, network: ff.BlockStack, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        network[1].gate = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def local_losses(self, batch: Any) -> Any:
        for step in super().local_losses(batch):
            extra = self.network[1].gate.sum() if step.block == 1 and self.global_rank == 0 else 0
            yield ff.LocalStep(step.block, step.loss + extra)


ADAMW = partial(torch.optim.AdamW, lr=1e-3)
CASES: dict[str, tuple[type[FlippedPixels], dict[str, Any]]] = {
    "sgd": (FlippedPixels, {"optimizer": partial(torch.optim.SGD, lr=0.05, momentum=0.9)}),
    "adamw, accumulated, clipped": (
        FlippedPixels,
        {"optimizer": ADAMW, "accumulate_batches": 4, "clip_norm": 0.05},
    ),
    "adamw, fused": (FlippedPixels, {"optimizer": ADAMW, "update": "fused"}),
    "branch": (Branch, {"optimizer": partial(torch.optim.SGD, lr=0.1)}),
}


def fit(folder: Path, case: str, ranks: int) -> FlippedPixels:
    """Train one case for two epochs of 1,200 digits, 200 a step over all ranks."""
    task, recipe = CASES[case]
    network = mlp(3, 16, num_classes=None, loss=MovingThresholdLoss(), peer_weight=0.1).double()
    module = task(network, **recipe)
    parallel = {"strategy": "ddp", "devices": ranks} if ranks > 1 else {}
    run = trainer(folder, max_epochs=2, precision="64-true", **parallel)
    run.fit(module, ImageDataModule("digits", batch_size=200 // ranks, validation=237))
    return module


def strings() -> StringsDataModule:
    """Strings of a real text, four a step and rank."""
    return StringsDataModule("pydoc", length=17, strings=24, held_out=8, batch_size=4)


def sleep(folder: Path) -> ff.FFLanguageModel:
    """Train a language model on rollouts, renewed once, on two ranks."""
    torch.manual_seed(0)
    data = strings()
    network = HintonMLP(data.vocab_size, window=4, widths=[8, 8], context=16, teacher_forced=False)
    rollouts = SleepBuffer(16, sequences=11, refresh_every=2, renew=0.5, prefix=(2, 12), rows=3)
    module = ff.FFLanguageModel(network, rollouts=rollouts)
    run = trainer(folder, strategy="ddp", devices=2, limit_val_batches=0)
    run.fit(module, data)
    return module


def main(folder: Path) -> None:
    """Train every case on this rank and store its weights."""
    warnings.filterwarnings("ignore")
    for case in CASES:
        module = fit(folder, case, ranks=2)
        torch.save(weights(module), folder / f"{case}, rank {module.global_rank}.pt")
    slept = sleep(folder)
    torch.save(weights(slept), folder / f"rollouts, rank {slept.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
