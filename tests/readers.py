"""Trainings that write down their batches, for tests of what a datamodule gives and of where a resumed run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor


class Reader(pl.LightningModule):
    """Writes down the training batches, counts the validation rows, and steps one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.train_batches: list[Tensor] = []
        self.rows = 0

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.train_batches.append(batch)
        return self.weight * batch.float().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.rows += len(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Saves a checkpoint after one step."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def read(data: pl.LightningDataModule, checkpoint: Path | None = None, **options: Any) -> Reader:
    """Train for three epochs, or as the options of the Trainer say."""
    module = Reader()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"max_epochs": 3} | options,
    )
    trainer.fit(module, data, ckpt_path=checkpoint)
    return module
