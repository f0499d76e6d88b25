"""Ctrl-C, and what a scheduler sends, ends a training between two updates, and what was learned is kept."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info

from ff_lightning.engine.lightning import requeueing_signals
from ff_lightning.module import FFLightningModule

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""What asks a run to end: Ctrl-C, a scheduler, a terminal that is closed."""


class StoppedError(KeyboardInterrupt):
    """A run ends because it was asked to.

    Args:
        number: of the signal; a shell is told 128 more.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class KeepOnInterrupt(pl.Callback):
    """Lets the first Ctrl-C finish the update at hand, write ``last.ckpt`` into the run folder, and end the training.

    SIGTERM, SIGHUP and SIGUSR1 do the same; under SLURM, Lightning's own handling of them stays. The training then
    goes on from there exactly as if it had not been stopped. A signal in a validation of a training waits for its end,
    and with several processes that have to agree, for the next step that is logged. A second one ends everything at
    once, and so does the first one where nothing is trained.

    Args:
        resume: command that goes on with the training, without the path of the checkpoint.
    """

    def __init__(self, resume: str = "") -> None:
        self.resume = resume
        self._asked = 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen, where Python allows that; not earlier, since Lightning then puts its own in the place of others."""
        self._asked = 0
        self._listen(trainer, self._ask)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once if asked to: nothing would be lost."""
        if trainer.state.fn == "validate":
            self._listen(trainer, self._stop)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once if asked to."""
        self._listen(trainer, self._stop)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once if asked to."""
        self._listen(trainer, self._stop)

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

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave signals as they were, before Lightning does so: its own handlers would otherwise stay."""
        self._restore()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave signals as they were."""
        if trainer.state.fn == "validate":
            self._restore()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave signals as they were."""
        self._restore()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave signals as they were."""
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave signals as they were."""
        self._restore()

    def _listen(self, trainer: pl.Trainer, handler: Any) -> None:
        """Hear what asks a run to end, but for what a scheduler sends and Lightning answers."""
        if threading.current_thread() is not threading.main_thread():
            return
        others = requeueing_signals(trainer)
        for number in SIGNALS:
            if number not in self._before and number not in others:
                self._before[number] = signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        raise StoppedError(number)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._restore()  # the next one is not waited for
        self._asked = number
        again = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        rank_zero_info(f"\nStopping after this update ({again} again stops at once, without a checkpoint).")

    def _stops(self, trainer: pl.Trainer) -> bool:
        """Whether any rank was asked; ranks agree on it, so that all write the checkpoint together."""
        if trainer.world_size > 1:
            asked = torch.tensor(self._asked, device=trainer.strategy.root_device)
            self._asked = int(trainer.strategy.reduce(asked, reduce_op="max"))
        return self._asked != 0

    def _end(self, trainer: pl.Trainer, path: Path) -> None:
        if path.exists():
            rank_zero_info(
                f"Stopped after {trainer.global_step:,} updates; the state is kept in {path}. To go on:\n"
                f"  {self.resume or 'the same command with'} --ckpt_path {path}"
            )
        raise StoppedError(self._asked)

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
