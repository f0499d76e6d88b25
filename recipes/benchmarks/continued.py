"""What benchmarks of long trainings share: a training that is stopped goes on, and one that is done is not made again.

All of it is kept in the folder of `--folder`, below a name that changes with the recipe, its settings and the commit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningCLI
from recipe import provenance

SECONDS_BETWEEN = 120.0
"""Two checkpoints."""


class Spent(NamedTuple):
    """What a training took."""

    cpu_seconds: float
    seconds: float


class Keeper(pl.Callback):
    """Saves a training from time to time, with what it has taken so far, before its stops and since.

    (Lightning's `ModelCheckpoint(train_time_interval=…)` saves nothing under manual optimization.)

    Args:
        path: of the checkpoint; without one nothing is saved.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.before = Spent(0.0, 0.0)
        self.started = Spent(time.process_time(), time.perf_counter())
        self.saved = self.started.seconds

    def spent(self) -> Spent:
        now = time.process_time(), time.perf_counter()
        return Spent(*(was + is_now - start for was, is_now, start in zip(self.before, now, self.started, strict=True)))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.path is not None and time.perf_counter() - self.saved > SECONDS_BETWEEN:
            self.saved = time.perf_counter()
            trainer.save_checkpoint(self.path)

    def state_dict(self) -> dict[str, Any]:
        return self.spent()._asdict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = Spent(**state_dict)


def fit(run: LightningCLI, folder: Path | None) -> Spent:
    """Train what a recipe describes, on from the checkpoint in its folder if there is one.

    Args:
        run: the recipe, built.
        folder: that of this training, see :func:`folder_of`; without one nothing is kept.

    Returns:
        What the training took, before its stops and since.
    """
    last = None if folder is None else folder / "last.ckpt"
    begun = last if last is not None and last.exists() else None
    keeper = Keeper(last)
    run.trainer.callbacks.append(keeper)  # type: ignore[attr-defined]
    run.trainer.fit(run.model, run.datamodule, ckpt_path=begun, weights_only=None if begun is None else True)
    return keeper.spent()


def folder_of(run: LightningCLI, folder: Path | None) -> Path | None:
    """The folder of one training below that of ``--folder``: another one for other settings, and at another commit."""
    if folder is None:
        return None
    settings = run.parser.dump(run.config) + provenance()["commit"]
    return folder / hashlib.sha256(settings.encode()).hexdigest()[:12]


def once(args: argparse.Namespace, run: LightningCLI, judge: Callable[[Path | None], dict[str, Any]]) -> dict[str, Any]:
    """What ``judge`` finds, or what an earlier run with it has left in the folder.

    Args:
        args: of the command line, with ``folder`` and ``validation_only``.
        run: the recipe, built.
        judge: trains and judges, given the folder of this training for :func:`fit`; its findings are plain numbers and
            texts by name.
    """
    place = folder_of(run, args.folder)
    if place is None:
        return judge(None)
    done = place / ("validation.json" if args.validation_only else "test.json")
    if done.exists():
        kept: dict[str, Any] = json.loads(done.read_text())
        return kept
    found = judge(place)
    place.mkdir(parents=True, exist_ok=True)
    done.write_text(json.dumps(found))
    return found
