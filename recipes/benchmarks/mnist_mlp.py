"""Test error of the MNIST recipes: supervised FF with labels in the input, tier T1.

    python recipes/benchmarks/mnist_mlp.py --data path/to/mnist [--jitter] [--seconds 1200] [--seed 0] [--twin]

Arguments of the recipe change one thing at a time; with `--validation-only` the test set stays closed:

    python recipes/benchmarks/mnist_mlp.py --validation-only --trainer.max_epochs 10 \
        --model.negatives ff_lightning.negatives.UniformWrongLabel

`--data` is a folder with train.parquet and test.parquet in the hub's layout, or the hub id itself. The recipe's
settings were chosen on validation images cut from the training set; the test set is looked at once, at the end.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from lightning.pytorch.cli import LightningCLI
from recipe import load, provenance

TRIAL_BATCHES = 40


def recipes(args: argparse.Namespace) -> list[str]:
    return ["mnist_mlp_jitter" if args.jitter else "mnist_mlp"] + ["with/twin"] * args.twin


def build(args: argparse.Namespace, *overrides: str, **trainer: Any) -> LightningCLI:
    fixed = ["--seed_everything", str(args.seed), "--data.source", args.data]
    return load(recipes(args), [*fixed, *args.changes, *overrides], **trainer)


def epochs_within(args: argparse.Namespace) -> int:
    """Epochs that fit into ``--seconds`` of CPU time, judged by a short trial on a network of its own."""
    trial = build(args, f"--trainer.max_steps={TRIAL_BATCHES}", limit_val_batches=0)
    started = time.process_time()
    trial.trainer.fit(trial.model, trial.datamodule)
    set_up = time.process_time() - started
    trial.trainer.fit_loop.epoch_loop.max_steps = 2 * TRIAL_BATCHES
    started = time.process_time()
    trial.trainer.fit(trial.model, trial.datamodule)
    per_batch = (time.process_time() - started) / TRIAL_BATCHES
    batches = len(trial.datamodule.train_dataloader())
    return max(1, int((args.seconds - set_up) / (per_batch * batches)))


def error(measured: dict[str, float], name: str) -> float | None:
    """Error in percent from an accuracy, ``None`` where it was not measured."""
    return round(100 * (1 - measured[name]), 2) if name in measured else None


def by_block(measured: dict[str, float], stage: str) -> list[float | None]:
    names = sorted(name for name in measured if name.startswith(f"{stage}/accuracy/"))
    return [error(measured, name) for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ylecun/mnist")
    parser.add_argument("--jitter", action="store_true", help="the recipe with shifted images")
    parser.add_argument("--twin", action="store_true", help="train the same network by backprop instead")
    parser.add_argument("--seconds", type=float, help="CPU seconds of training; the recipe's epochs by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--validation-only", action="store_true", help="do not look at the test set")
    args, args.changes = parser.parse_known_args()
    torch.set_num_threads(args.threads)

    overrides = [f"--trainer.max_epochs={epochs_within(args)}"] if args.seconds else []
    run = build(args, *overrides)
    run.trainer.check_val_every_n_epoch = run.trainer.max_epochs
    started, cpu_started = time.perf_counter(), time.process_time()
    run.trainer.fit(run.model, run.datamodule)
    cpu_seconds, seconds = time.process_time() - cpu_started, time.perf_counter() - started
    validation = {name: float(value) for name, value in run.trainer.callback_metrics.items() if "accuracy" in name}
    if not args.validation_only:
        run.trainer.test(run.model, run.datamodule, verbose=False)
    measured = {name: float(value) for name, value in run.trainer.callback_metrics.items()} | validation
    images = len(run.datamodule.train_dataloader().images.labels) * run.trainer.max_epochs
    result = {
        "test_error": error(measured, "test/accuracy"),
        "validation_error": error(measured, "val/accuracy"),
        "train_cpu_seconds": round(cpu_seconds),
        "train_seconds": round(seconds),
        "epochs": run.trainer.max_epochs,
        "samples_per_second": round(images / seconds),
        "seed": args.seed,
        "recipe": " + ".join(recipes(args)),
        "tier": "backprop" if args.twin else "T1",
        "validation_error_by_block": by_block(measured, "val"),
        "test_error_by_block": by_block(measured, "test"),
    }
    print(json.dumps(result | provenance()))


if __name__ == "__main__":
    main()
