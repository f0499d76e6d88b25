"""The two checkpoints that every run keeps in its folder: ``last.ckpt`` and ``best.ckpt``."""

from __future__ import annotations

from typing import Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Writes ``last.ckpt`` into the run folder at the end of every epoch."""

    def __init__(self) -> None:
        super().__init__(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the run folder."""
        self.dirpath = trainer.default_root_dir
        super().setup(trainer, pl_module, stage)


class BestCheckpoint(ModelCheckpoint):
    """Writes ``best.ckpt`` into the run folder whenever validation is better than ever before.

    Args:
        monitor: name of the logged value that decides. A task that does not log it gets no best checkpoint.
        mode: whether the highest or the lowest value is best.
    """

    def __init__(self, monitor: str = "val/accuracy", mode: Literal["max", "min"] = "max") -> None:
        super().__init__(
            filename="best",
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the run folder."""
        self.dirpath = trainer.default_root_dir
        super().setup(trainer, pl_module, stage)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if the value is there and better; Lightning would stop the training where it is not."""
        if self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)
