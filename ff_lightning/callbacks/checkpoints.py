"""The two checkpoints that every run keeps in its folder: ``last.ckpt`` and ``best.ckpt``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from ff_lightning.engine.checkpoints import AtomicCheckpointIO

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
"""Names, in the state of a checkpoint callback, of the files that it has written."""


class RunCheckpoint(ModelCheckpoint):
    """A checkpoint in the run folder, which may be spelled otherwise or moved when the run goes on."""

    resumed: str | None = None
    """The checkpoint that the training goes on from."""

    @property
    def state_key(self) -> str:
        """Names its state in a checkpoint. Lightning would spell out all arguments, and asks for it at every hook."""
        return type(self).__qualname__

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the run folder."""
        self.dirpath = trainer.default_root_dir
        super().setup(trainer, pl_module, stage)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note which checkpoint it is, just before its state comes."""
        self.resumed = None if trainer.ckpt_path is None else str(trainer.ckpt_path)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what is best so far, under the name that the run folder has now.

        Lightning forgets it where the folder is not spelled as before; what comes next would count as best ever. Of
        another folder, in which the best is not, it shall.
        """
        super().load_state_dict(self._renamed(state_dict) if self._holds(state_dict) else state_dict)

    def _holds(self, state: dict[str, Any]) -> bool:
        """Whether the run folder is that of a state, under another name, or with the best checkpoint moved there."""
        before, now = _local(state.get("dirpath")), _local(self.dirpath)
        if now is None or not now.is_dir():
            return False
        if before is not None and before.is_dir() and before.samefile(now):
            return True
        resumed, best = _local(self.resumed), _local(state.get("best_model_path"))
        from_here = resumed is not None and resumed.parent.is_dir() and resumed.parent.samefile(now)
        return from_here and best is not None and (now / best.name).is_file()

    def _renamed(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state with its paths in the folder as it is called now."""
        folder = str(self.dirpath)

        def here(path: str) -> str:
            return os.path.join(folder, Path(path).name) if path else path

        paths = {name: here(state[name]) for name in PATHS if name in state}
        best = {here(path): score for path, score in state.get("best_k_models", {}).items()}
        return {**state, **paths, "dirpath": self.dirpath, "best_k_models": best}


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


def _local(path: str | Path | None) -> Path | None:
    """A path on this machine; ``None`` for none, and for an address."""
    return Path(path) if path and "://" not in str(path) else None
