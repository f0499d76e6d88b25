"""Begins ``run.json`` in the run folder: command, surroundings, size and time of a training."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from ff_lightning.module import FFLightningModule
from ff_lightning.report.records import add_to_record, read_record, start_record, surroundings


class RunRecord(pl.Callback):
    """Writes down how a run was made, in the file to which tables of results are added.

    See :mod:`ff_lightning.report.records`.

    Args:
        command: the words that started the training.
    """

    def __init__(self, command: str = "") -> None:
        self.command = command
        self._since = 0.0
        self._earlier = 0.0

    def state_dict(self) -> dict[str, float]:
        """Seconds of the training so far, stops left out."""
        return {"seconds": self.seconds()}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on counting from there."""
        self._earlier = float(state_dict.get("seconds", 0.0))

    def seconds(self) -> float:
        """How long the training took so far, with what was done before it was resumed."""
        return self._earlier + (time.monotonic() - self._since if self._since else 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the record, or go on with that of the run that is resumed."""
        self._since = time.monotonic()
        if not trainer.global_step:
            self._earlier = 0.0
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        modules = pl_module.local_modules() if isinstance(pl_module, FFLightningModule) else [pl_module]
        run = {
            "name": folder.resolve().name,
            "command": self.command,
            "task": type(pl_module).__name__,
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "seed": getattr(pl_module, "seed", None),
            "local_modules": len(modules),
            "parameters": sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad),
            "processes": trainer.world_size,
        }
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                run["wandb_id"] = logger.version  # a resumed training goes on under it
        if trainer.global_step and (earlier := read_record(folder)):
            run |= {"resumed_at": trainer.global_step, "command": earlier.get("run", {}).get("command", self.command)}
            add_to_record(folder, "run", run)
        else:
            start_record(folder, {"run": run})
        add_to_record(folder, "surroundings", surroundings())

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Bring to the disk what was logged before, so that who goes on from the checkpoint has all of it."""
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.save()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write down how long it took."""
        self._earlier, self._since = self.seconds(), 0.0
        if trainer.is_global_zero:
            done = {"updates": trainer.global_step, "seconds": self._earlier}
            add_to_record(Path(trainer.default_root_dir), "run", done)
