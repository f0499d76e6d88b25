r"""What showing and keeping a run costs: all default callbacks and the logger, against the same training without any.

    python recipes/benchmarks/overhead.py --network mlp|gpt [--steps 40] [--rounds 3]

`mlp` is `mnist_mlp.yaml` at 784-2000x4 on random images, `gpt` is `pydoc_gpt.yaml`, each at its own precision. One run
has what the command line gives every run: progress bar, goodness monitor, learning rates, CSV files, last and best
checkpoint, tables, pictures and record. The other has nothing, and its module logs nothing. Each trains in a process of
its own, and they take turns step by step. A step ends where the next one begins, so everything is in some step: a
validation and the checkpoints in the last one of an epoch, pictures and tables in that of the training. The extra time
of ordinary steps (every now and then, the bar is drawn in one), of logged ones and of those at an end is the mean over
pairs of neighbours; they are added up as often as the recipe has them, and divided by all steps of the training without
anything (without its validations). Two processes of the very same training differ by up to a hundredth in how fast
they compute, so all of it is done in several rounds, each with processes of its own.

The last line is JSON: overhead (CPU time of the processes, mean of the rounds) and overhead_by_round, wall_overhead,
step_ms without anything, and the extra milliseconds of each kind of step.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Semaphore
from typing import Any

import lightning.pytorch as pl
import torch
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger
from recipe import SILENT, load, provenance
from torch.utils.data import DataLoader, TensorDataset

from ff_lightning.callbacks import BestCheckpoint
from ff_lightning.cli import default_callbacks

PIXELS, IMAGES = 784, 55_000
PATIENCE = 600  # seconds; longer than any step
KINDS = ("step", "logged", "epoch", "training")


@dataclass(frozen=True)
class Plan:
    """What is trained: the arguments, and how long the recipe itself trains."""

    network: str
    steps: int
    epochs: int
    threads: int
    rounds: int = 3
    log_every: int = 10  # in the recipe 50: more pairs of logged steps


class Clock(pl.Callback):
    """Takes turns with the other process, and reads the clocks where a turn begins and ends."""

    def __init__(self, mine: Semaphore, theirs: Semaphore) -> None:
        self.mine, self.theirs = mine, theirs
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def begin(self) -> None:
        if not self.mine.acquire(timeout=PATIENCE):
            raise TimeoutError("The other training has stopped.")
        self.started = time.process_time(), time.perf_counter()

    def end(self) -> None:
        # The thread of the progress bar may still work in the other's turn, in this process's time.
        self.wall.append(time.perf_counter() - self.started[1])
        self.theirs.release()

    def on_train_batch_start(self, *_: Any) -> None:
        self.end()
        begun = self.started[0]
        self.begin()
        self.cpu.append(self.started[0] - begun)


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


def train(plan: Plan, shows: bool, mine: Semaphore, theirs: Semaphore, result: Any) -> None:
    """One of the two trainings; sends its seconds by step, CPU and wall."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  the progress bar draws as on a terminal, for nobody
    torch.set_num_threads(plan.threads)
    built, model, data = build(plan)
    clock = Clock(mine, theirs)
    with tempfile.TemporaryDirectory() as folder:
        flags = SILENT | {
            "default_root_dir": folder,
            "max_epochs": plan.epochs,
            "precision": built.config.trainer.precision,
            "limit_train_batches": plan.steps,
            "limit_val_batches": 1,
            "log_every_n_steps": plan.log_every if shows else 10**9,
        }
        callbacks: list[pl.Callback] = [clock]
        if shows:
            unset = ("callbacks", "logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary")
            anything = Namespace(dict.fromkeys(unset))
            callbacks += [*default_callbacks(anything), BestCheckpoint(**built.config.best.as_dict())]
            flags |= {"enable_progress_bar": True, "enable_checkpointing": True}
            flags["logger"] = CSVLogger(folder, name="", version="")
        trainer = pl.Trainer(callbacks=callbacks, **flags)
        clock.begin()
        trainer.fit(model, **data)
        clock.end()
        time.sleep(0.1)  # for the last picture of the progress bar
        clock.cpu.append(time.process_time() - clock.started[0])
    result.put((shows, clock.cpu, clock.wall, built.config.trainer.max_epochs))


def kind(plan: Plan, step: int) -> str | None:
    """What happens in a step, counted from 0; those of the first half of the first epoch warm up."""
    if step + 1 == plan.steps * plan.epochs:
        return "training"
    if (step + 1) % plan.steps == 0:
        return "epoch"
    if step < plan.steps // 2:
        return None
    return "logged" if (step + 1) % plan.log_every == 0 else "step"


def extra(plan: Plan, shown: list[float], bare: list[float], steps: int, epochs: int) -> tuple[float, dict[str, float]]:
    """Overhead, and the extra seconds of every kind of step; the first entry of a list is what precedes all steps."""
    pairs: dict[str, list[float]] = {name: [] for name in KINDS}
    for step, (ours, theirs) in enumerate(zip(shown[1:], bare[1:], strict=True)):
        if (name := kind(plan, step)) is not None:
            pairs[name].append(ours - theirs)
    costs = {name: statistics.fmean(differences) for name, differences in pairs.items()}
    costs["start"] = shown[0] - bare[0]
    ordinary = statistics.median(bare[1:])
    epoch = (steps - 1 - steps / 50) * costs["step"] + steps / 50 * costs["logged"] + costs["epoch"]
    total = epochs * epoch + costs["start"] + costs["training"] - costs["epoch"]
    return total / (epochs * steps * ordinary), costs


def measure(plan: Plan) -> dict[str, Any]:
    """One round: both trainings, taking turns; what they differ by."""
    context = multiprocessing.get_context("spawn")
    turns, result = [context.Semaphore(1), context.Semaphore(0)], context.Queue()
    runs = [
        context.Process(target=train, args=(plan, shows, turns[who], turns[1 - who], result))
        for who, shows in enumerate((False, True))
    ]
    for run in runs:
        run.start()
    got = {shows: rest for shows, *rest in (result.get(timeout=2 * PATIENCE) for _ in runs)}
    for run in runs:
        run.join()
    steps, epochs = IMAGES // 250 if plan.network == "mlp" else 300, got[True][2]
    overheads, costs = zip(*(extra(plan, got[True][i], got[False][i], steps, epochs) for i in (0, 1)), strict=True)
    return {
        "overhead": round(overheads[0], 4),
        "wall_overhead": round(overheads[1], 4),
        "step_ms": round(1e3 * statistics.median(got[False][0][1:]), 2),
        **{f"{name}_extra_ms": round(1e3 * seconds, 2) for name, seconds in costs[0].items()},
        "recipe_steps": steps,
        "recipe_epochs": epochs,
    }


def main() -> None:
    plan = arguments()
    os.environ["FORCE_COLOR"] = "1"
    rounds = []
    for _ in range(plan.rounds):
        rounds.append(measure(plan))
        print(json.dumps(rounds[-1]), flush=True)
    summary = {name: round(statistics.fmean(one[name] for one in rounds), 4) for name in rounds[0]}
    summary["overhead_by_round"] = [one["overhead"] for one in rounds]
    print(json.dumps(summary | asdict(plan) | provenance()))


def arguments() -> Plan:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["mlp", "gpt"], default="mlp")
    parser.add_argument("--steps", type=int, default=40, help="of an epoch here")
    parser.add_argument("--epochs", type=int, default=4, help="here, of which the last one has the end of the training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    return Plan(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
