"""Names that callbacks wait for: a misspelt one is named at the first validation, not after an epoch, or never."""

from __future__ import annotations

import difflib
import inspect

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from ff_lightning.callbacks.checkpoints import BestCheckpoint
from ff_lightning.errors import InputError

USUAL = inspect.signature(BestCheckpoint).parameters["monitor"].default
"""What the best checkpoint is chosen by unless told; a task that does not log it has none."""


class MonitorCheck(pl.Callback):
    """Looks at a validation whether what other callbacks monitor is logged.

    The validation before the training logs what every later one does, so names that begin with ``val/`` are known by
    then; others when a step of the training has been logged.
    """

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look, in a training.

        Raises:
            InputError: a name is not logged; says which are like it.
        """
        if trainer.state.fn != "fit":
            return
        logged = list(trainer.callback_metrics)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            name = _monitored(callback)
            if name is None or name in logged or not (name.startswith("val") or any(map(_of_training, logged))):
                continue
            near = difflib.get_close_matches(name.replace("_", "/"), logged, n=3, cutoff=0.4)
            shown = near or [one for one in logged if one.startswith("val/")]
            raise InputError(
                f"Passed `monitor={name}` to `{type(callback).__name__}`. Nothing of that name is logged; "
                f"{'there is' if shown else 'nothing of a validation is, either'} {' and '.join(shown)}".rstrip()
                + "."
            )


def _of_training(name: str) -> bool:
    return name.startswith("train/")


def _monitored(callback: pl.Callback) -> str | None:
    """Name that a callback waits for; ``None`` if none, or if it does not mind."""
    if not isinstance(callback, EarlyStopping | ModelCheckpoint):
        return None
    if isinstance(callback, BestCheckpoint) and callback.monitor == USUAL:
        return None
    return callback.monitor
