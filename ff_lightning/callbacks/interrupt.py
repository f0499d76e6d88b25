"""Ctrl-C ends a training between two updates, and what was learned is kept."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from ff_lightning.module import FFLightningModule


class KeepOnInterrupt(pl.Callback):
    """Lets the first Ctrl-C finish the update at hand, write ``last.ckpt`` into the run folder, and end the training.

    The training then goes on from there exactly as if it had not been stopped. A Ctrl-C in a validation waits for its
    end, and with several processes that have to agree, for the next step that is logged. A second one ends everything
    at once.

    Args:
        resume: command that goes on with the training, without the path of the checkpoint.
    """

    def __init__(self, resume: str = "") -> None:
        self.resume = resume
        self._asked = False
        self._before: Any = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen for Ctrl-C, where Python allows that."""
        self._asked = False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the state and end the training if asked to; after the last batch of an epoch that waits for its end."""
        looks = trainer.world_size == 1 or not isinstance(pl_module, FFLightningModule) or pl_module.is_logged()
        if looks and self._stops(trainer) and not trainer.is_last_batch:
            path = Path(trainer.default_root_dir) / "last.ckpt"
            trainer.save_checkpoint(path)
            self._end(trainer, path)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the training if asked to; the last epoch has left its checkpoint."""
        if self._stops(trainer):
            self._end(trainer, Path(trainer.default_root_dir) / "last.ckpt")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave Ctrl-C as it was."""
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave Ctrl-C as it was."""
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._restore()  # the next one is not waited for
        self._asked = True
        rank_zero_info("\nStopping after this update (Ctrl-C again stops at once, without a checkpoint).")

    def _stops(self, trainer: pl.Trainer) -> bool:
        """Whether any rank was asked; ranks agree on it, so that all write the checkpoint together."""
        if trainer.world_size == 1:
            return self._asked
        return bool(trainer.strategy.reduce_boolean_decision(self._asked, all=False))

    def _end(self, trainer: pl.Trainer, path: Path) -> None:
        if path.exists():
            rank_zero_info(
                f"Stopped after {trainer.global_step:,} updates; the state is kept in {path}. To go on:\n"
                f"  {self.resume or 'the same command with'} --ckpt_path {path}"
            )
        raise KeyboardInterrupt

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
