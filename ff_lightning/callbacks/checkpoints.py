"""The two checkpoints that every run keeps in its folder: ``last.ckpt`` and ``best.ckpt``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from ff_lightning.engine.checkpoints import AtomicCheckpointIO


class RunCheckpoint(ModelCheckpoint):
    """A checkpoint in the run folder."""

    @property
    def state_key(self) -> str:
        """Names its state in a checkpoint. Lightning would spell out all arguments, and asks for it at every hook."""
        return type(self).__qualname__

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the run folder."""
        self.dirpath = trainer.default_root_dir
        super().setup(trainer, pl_module, stage)


class LastCheckpoint(RunCheckpoint):
    """Writes ``last.ckpt`` into the run folder at the end of every epoch.

    Where :class:`BestCheckpoint` is to write the very same, it does so first, and ``last.ckpt`` becomes another name of
    its file: of a large network, writing is most of what showing and keeping a run costs.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", save_on_train_epoch_end=True, enable_version_counter=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write, after the best checkpoint if that has waited for it."""
        best = [one for one in trainer.checkpoint_callbacks if isinstance(one, BestCheckpoint)]
        written = [one.write(trainer) for one in best if one.waits]
        writer = trainer.strategy.checkpoint_io
        if not written or not isinstance(writer, AtomicCheckpointIO):
            super().on_train_epoch_end(trainer, pl_module)
            return
        with writer.same_as(Path(written[0])):
            super().on_train_epoch_end(trainer, pl_module)


class BestCheckpoint(RunCheckpoint):
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
        """Find the run folder; nothing waits from a training that was broken off."""
        super().setup(trainer, pl_module, stage)
        self.waits = ""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if the value is there and better; Lightning would stop the training where it is not."""
        if self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        # In the validation that closes an epoch: wait for its end, where the last checkpoint is due, too.
        if trainer.is_last_batch and any(isinstance(one, LastCheckpoint) for one in trainer.checkpoint_callbacks):
            self.waits = filepath
        else:
            super()._save_checkpoint(trainer, filepath)

    def write(self, trainer: pl.Trainer) -> str:
        """Write what has waited for the end of the epoch; where it is now."""
        path, self.waits = self.waits, ""
        super()._save_checkpoint(trainer, path)
        return path
