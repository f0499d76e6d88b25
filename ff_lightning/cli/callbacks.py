"""The callbacks of a run: those that every run has, beside those that a recipe or the command brings."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar

from ff_lightning.callbacks import (
    BestCheckpoint,
    BlockPictures,
    BlockSummary,
    BlockTable,
    ClassificationPictures,
    ClassTable,
    GeneratedPictures,
    GoodnessMonitor,
    KeepOnInterrupt,
    LanguageTable,
    LastCheckpoint,
    MonitorCheck,
    RunRecord,
    SoundPictures,
    TrainingProgress,
)
from ff_lightning.errors import InputError


def own_callbacks(trainer: Namespace) -> list[pl.Callback]:
    """The callbacks that a recipe or the command brings.

    Args:
        trainer: the Trainer's arguments, built.
    """
    given = trainer.callbacks or []
    return list(given) if isinstance(given, list) else [given]


def refuse_clashing(own: Sequence[pl.Callback], usual: Sequence[pl.Callback] = ()) -> None:
    """Refuse callbacks that a training has already, or that a checkpoint could not tell apart.

    Args:
        own: those that a recipe or the command brings.
        usual: those that every run has, but for the best checkpoint.

    Raises:
        InputError: names the callback, and what to do.
    """
    for one in own:
        if isinstance(one, BestCheckpoint):
            raise InputError(
                f"Passed `trainer.callbacks` with a `{type(one).__name__}`. Every training has a `BestCheckpoint`: "
                "leave it out, and say what is best by `--best.monitor` and `--best.mode`."
            )
    keys: set[str] = set()
    for one in [*usual, *own]:
        if type(one).state_dict is pl.Callback.state_dict:  # a checkpoint keeps nothing of it
            continue
        if one.state_key in keys:
            raise InputError(
                f"Passed `trainer.callbacks` with a second `{type(one).__name__}`. A checkpoint keeps the state of one "
                f"alone under the name {one.state_key!r}: leave one out."
            )
        keys.add(one.state_key)


def default_callbacks(trainer: Namespace, command: str = "") -> list[pl.Callback]:
    """What every run shows and keeps.

    Args:
        trainer: the Trainer's arguments; what they switch off or bring themselves is left out.
        command: that started the run.
    """
    own = own_callbacks(trainer)
    callbacks: list[pl.Callback] = []
    if trainer.enable_progress_bar is not False and not any(isinstance(callback, ProgressBar) for callback in own):
        callbacks.append(TrainingProgress())
    # After the bar, which must be gone when they print.
    callbacks += [
        RunRecord(command),
        MonitorCheck(),
        *([BlockSummary()] if trainer.enable_model_summary is None else []),
        BlockTable(),
        ClassTable(),
        LanguageTable(),
        ClassificationPictures(),
        BlockPictures(),
        GeneratedPictures(),
        SoundPictures(),
    ]
    if trainer.logger is not False:
        callbacks += [LearningRateMonitor("step"), GoodnessMonitor()]
    if trainer.enable_checkpointing is not False:
        callbacks += [LastCheckpoint(), KeepOnInterrupt(command)]
    brought = {type(callback) for callback in own}
    return [callback for callback in callbacks if type(callback) not in brought]
