r"""What showing and keeping a run costs: all default callbacks and the logger, against the same training without any.

    python recipes/benchmarks/overhead.py --network mlp|gpt [--steps 40] [--epochs 8]

`mlp` is `mnist_mlp.yaml` at 784-2000x4 on random images, `gpt` is `pydoc_gpt.yaml`, each at its own precision. There is
one training, which takes turns with itself: in every other step it has what the command line gives every run (progress
bar, goodness monitor, learning rates, CSV files, last and best checkpoint, tables, pictures and record), and in those
between it has nothing, and its module logs nothing. (Two processes of the very same training differ by a hundredth in
how fast they compute, as much as is to be measured.) A step ends where the next one begins, so everything is in some
step: a validation and the checkpoints in the last one of an epoch, pictures and tables in that of the training. The
progress bar draws in a thread of its own, whose time is taken out of all steps, and counted apart: `drawing` is its
share of the time. Every end of an epoch is taken for the best so far. A second training, of one step and with nothing,
tells what comes before the first step.

The extra time of ordinary steps, of logged ones and of those at an end are added up as often as the recipe has them,
and divided by all steps of the training without anything (without its validations).

The last line is JSON: overhead (CPU time of the process), wall_overhead, drawing, step_ms without anything, and the
extra milliseconds of each kind of step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger
from recipe import SILENT, load, provenance
from torch.utils.data import DataLoader, TensorDataset

from ff_lightning.callbacks import BestCheckpoint, TrainingProgress
from ff_lightning.cli.train import default_callbacks

KINDS = ("step", "logged", "epoch")
PIXELS, IMAGES = 784, 55_000
NEVER = 10**9


@dataclass(frozen=True)
class Plan:
    """What is trained: the arguments, and how often a step is logged."""

    network: str
    steps: int
    epochs: int
    threads: int
    log_every: int = 10  # in the recipe 50: more logged steps

    def shows(self, step: int) -> bool:
        """Whether a step, counted from 0, has the callbacks.

        Neighbours take turns, and so do logged steps and the ends of epochs; the very last step has them.
        """
        return (self._turn(step) - self._turn(self.steps * self.epochs - 1)) % 2 == 0

    def _turn(self, step: int) -> int:
        return step + step // self.log_every + step // self.steps

    def kind(self, step: int) -> str | None:
        """What happens in a step; those of the first half of the first epoch warm up."""
        if step + 1 == self.steps * self.epochs:
            return "training"
        if (step + 1) % self.steps == 0:
            return "epoch"
        if step < self.steps // 2:
            return None
        return "logged" if (step + 1) % self.log_every == 0 else "step"


class Bar(TrainingProgress):
    """The progress bar, which hears of nothing while it is silent."""

    silent = False

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Look at the batch, or not."""
        if not self.silent:
            super().on_train_batch_end(*args, **kwargs)


class Turns(pl.Callback):
    """Gives a training its callbacks and takes them away again, and reads the clocks where a step begins.

    Args:
        plan: which steps have them.
        best: the checkpoint that is to be written at every end, as if each were the best so far.
    """

    def __init__(self, plan: Plan, best: BestCheckpoint | None) -> None:
        self.plan, self.best = plan, best
        self.seconds: list[tuple[float, float]] = []
        self._drawn: dict[threading.Thread, float] = {}
        self._before = self.clocks()

    @property
    def drawing(self) -> float:
        """Seconds that were spent on drawing the bar."""
        return sum(self._drawn.values())

    def clocks(self) -> tuple[float, float]:
        """CPU time without that of the thread that draws, and wall time."""
        return time.process_time() - self.drawing, time.perf_counter()

    def read(self) -> None:
        """The end of a step, or of what precedes them all."""
        now = self.clocks()
        self.seconds.append((now[0] - self._before[0], now[1] - self._before[1]))
        self._before = now

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remember what to take away."""
        self._bars = [one for one in trainer.callbacks if isinstance(one, Bar)]
        self._all, self._loggers, self._every = list(trainer.callbacks), trainer.loggers, trainer.log_every_n_steps

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """The other half's turn; this hook is the first of a step."""
        self._time_drawing()
        self.read()
        shows = self.plan.shows(len(self.seconds) - 1)
        # In place, for Lightning is going through the list. The bar's thread looks the bar up in it.
        trainer.callbacks[:] = self._all if shows else [self, *self._bars]
        for bar in self._bars:
            bar.silent = not shows
        trainer.loggers = self._loggers if shows else []
        trainer.log_every_n_steps = self._every if shows else NEVER
        if self.best is not None:
            self.best.best_k_models.clear()

    def _time_drawing(self) -> None:
        for bar in self._bars:
            thread = bar.progress.live._refresh_thread if bar.progress is not None else None
            if thread is not None and thread.is_alive():
                self._drawn[thread] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def build(plan: Plan) -> tuple[Any, Any, Any]:
    """The recipe's model and its data: as in the recipe, but for validation, which is short."""
    if plan.network == "gpt":
        built = load(["pydoc_gpt"], [])
        return built, built.model, {"datamodule": built.datamodule}
    built = load(["mnist_mlp"], ["--model.network.widths=[2000,2000,2000,2000]"])
    images = torch.rand(plan.steps * 250, PIXELS)
    data = TensorDataset(images, torch.randint(10, (len(images),)))
    loaders = {
        "train_dataloaders": DataLoader(data, batch_size=250),
        "val_dataloaders": DataLoader(data, batch_size=50),
    }
    return built, built.model, loaders


def train(plan: Plan, bare: bool, folder: str) -> tuple[Turns, int]:
    """Train with everything in every other step, or one step with nothing.

    Returns:
        The clocks, and how many epochs the recipe has.
    """
    built, model, data = build(plan)
    flags = SILENT | {
        "default_root_dir": folder,
        "max_epochs": 1 if bare else plan.epochs,
        "precision": built.config.trainer.precision,
        "limit_train_batches": 1 if bare else plan.steps,
        "limit_val_batches": 1,
        "log_every_n_steps": plan.log_every,
    }
    callbacks: list[pl.Callback] = []
    best = None
    if not bare:
        unset = ("callbacks", "logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary")
        best = BestCheckpoint(**built.config.best.as_dict())
        callbacks = [*default_callbacks(Namespace(dict.fromkeys(unset))), best]
        callbacks = [Bar() if isinstance(one, TrainingProgress) else one for one in callbacks]
        flags |= {"enable_progress_bar": True, "enable_checkpointing": True}
        flags["logger"] = CSVLogger(folder, name="", version="")
    turns = Turns(plan, best)
    trainer = pl.Trainer(callbacks=[turns, *callbacks], **flags)
    trainer.fit(model, **data)
    turns.read()
    return turns, built.config.trainer.max_epochs


def extra(plan: Plan, seconds: list[float], start: float, steps: int, epochs: int) -> tuple[float, dict[str, float]]:
    """Share of a training that its callbacks cost, the extra seconds of every kind of step, and those of a bare one.

    Args:
        plan: which steps have them.
        seconds: what precedes all steps, and every step.
        start: what precedes all steps without callbacks.
        steps: of an epoch of the recipe.
        epochs: of the recipe.
    """
    found: dict[tuple[str | None, bool], list[float]] = {}
    for step, taken in enumerate(seconds[1:]):
        found.setdefault((plan.kind(step), plan.shows(step)), []).append(taken)
    # Medians: a busy neighbour of the machine makes a few steps slow.
    costs = {kind: statistics.median(found[kind, True]) - statistics.median(found[kind, False]) for kind in KINDS}
    costs["training"] = seconds[-1] - statistics.median(found["epoch", False])
    costs["start"] = seconds[0] - start
    costs["bare"] = statistics.median(found["step", False])
    epoch = (steps - 1 - steps / 50) * costs["step"] + steps / 50 * costs["logged"] + costs["epoch"]
    total = epochs * epoch + costs["start"] + costs["training"] - costs["epoch"]
    return total / (epochs * steps * costs["bare"]), costs


def main() -> None:
    plan = arguments()
    os.environ["FORCE_COLOR"] = "1"
    torch.set_num_threads(plan.threads)
    shown, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115  the bar draws as on a terminal, for nobody
    with tempfile.TemporaryDirectory() as folder:
        bare, _ = train(plan, bare=True, folder=folder)
        turns, epochs = train(plan, bare=False, folder=folder)
    sys.stdout = shown
    steps = IMAGES // 250 if plan.network == "mlp" else 300
    (cpu, costs), (wall, _) = (
        extra(plan, [one[i] for one in turns.seconds], bare.seconds[0][i], steps, epochs) for i in (0, 1)
    )
    drawing = turns.drawing / sum(one[1] for one in turns.seconds)  # a second
    summary = {
        "overhead": round(cpu + drawing, 4),
        "wall_overhead": round(wall + drawing, 4),
        "drawing": round(drawing, 4),
        "step_ms": round(1e3 * costs.pop("bare"), 2),
        **{f"{name}_extra_ms": round(1e3 * seconds, 2) for name, seconds in costs.items()},
        "recipe_steps": steps,
        "recipe_epochs": epochs,
    }
    print(json.dumps(summary | asdict(plan) | provenance()))


def arguments() -> Plan:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["mlp", "gpt"], default="mlp")
    parser.add_argument("--steps", type=int, default=40, help="of an epoch here")
    parser.add_argument("--epochs", type=int, default=8, help="here")
    parser.add_argument("--threads", type=int, default=1)
    return Plan(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
