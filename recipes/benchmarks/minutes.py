"""CPU minutes that the training of a recipe takes on one core, with bfloat16 and without, from a few of its steps.

    python recipes/benchmarks/minutes.py mnist_mlp cifar_conv [--steps 9]

Prints a line of JSON for every recipe and precision: `step_ms`, the median of the steps after the second in CPU time of
this process, and `cpu_minutes`, that time as often as the recipe has steps. Validation and loading come on top, a tenth
or so. With it go the minutes in the headers of recipes. Recipes joined by `+` are one, such as
`cifar_conv+with/class_softmax`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import lightning.pytorch as pl
import torch
from recipe import load, provenance


class Steps(pl.Callback):
    """CPU seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.process_time() - self.started)


def minutes(recipe: str, precision: str, steps: int) -> dict[str, Any]:
    """What a recipe takes in one precision."""
    watch = Steps()
    run = load(recipe.split("+"), ["--trainer.precision", precision], callbacks=[watch], limit_val_batches=0)
    epochs, run.trainer.fit_loop.max_epochs = run.trainer.max_epochs, -1
    run.trainer.fit_loop.epoch_loop.max_steps = steps
    run.trainer.fit(run.model, run.datamodule)
    total = int(run.trainer.num_training_batches) * epochs
    step = statistics.median(watch.seconds[2:])
    found = {"step_ms": round(1e3 * step, 1), "steps": total, "cpu_minutes": round(step * total / 60, 1)}
    return {"recipe": recipe, "precision": precision} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--steps", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for recipe in args.recipes:
        for precision in ("bf16-mixed", "32-true"):
            print(json.dumps(minutes(recipe, precision, args.steps) | provenance()), flush=True)


if __name__ == "__main__":
    main()
