"""What the benchmarks of Hinton's networks (2212.13345) share: a recipe and its twin, trained and tested."""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from continued import fit, once
from lightning.pytorch.cli import LightningCLI
from recipe import load, name_of_images, provenance, tier_of

TRIAL_BATCHES = 40

Measures = dict[str, Any]
"""Errors in percent by name, such as ``test`` and ``test/block_0``, what a training cost, and the tier."""


def build(args: argparse.Namespace, recipes: list[str], seed: int, *overrides: str, **trainer: Any) -> LightningCLI:
    """What the recipes describe, with the arguments of the command line."""
    return load(
        recipes, ["--seed_everything", str(seed), "--data.source", args.data, *args.changes, *overrides], **trainer
    )


def epochs_within(args: argparse.Namespace, recipes: list[str], seed: int) -> int:
    """Epochs that fit into ``--seconds`` of CPU time, judged by a short trial on a network of its own."""
    trial = build(args, recipes, seed, f"--trainer.max_steps={TRIAL_BATCHES}", limit_val_batches=0)
    started = time.process_time()
    trial.trainer.fit(trial.model, trial.datamodule)
    set_up = time.process_time() - started
    trial.trainer.fit_loop.epoch_loop.max_steps = 2 * TRIAL_BATCHES
    started = time.process_time()
    trial.trainer.fit(trial.model, trial.datamodule)
    per_batch = (time.process_time() - started) / TRIAL_BATCHES
    batches = len(trial.datamodule.train_dataloader())
    return max(1, int((args.seconds - set_up) / (per_batch * batches)))


def trained(args: argparse.Namespace, recipes: list[str], seed: int) -> Measures:
    """Train what the recipes describe, and test it."""
    overrides = [f"--trainer.max_epochs={epochs_within(args, recipes, seed)}"] if args.seconds else []
    run = build(args, recipes, seed, *overrides)
    return once(args, run, partial(judge, args, run))


def judge(args: argparse.Namespace, run: LightningCLI, place: Path | None) -> Measures:
    """Train what is built, and test it."""
    epochs = run.trainer.check_val_every_n_epoch = run.trainer.max_epochs
    spent = fit(run, place)
    measured = dict(run.trainer.callback_metrics)
    if not args.validation_only:
        run.trainer.test(run.model, run.datamodule, verbose=False)
        measured |= run.trainer.callback_metrics
    errors = {
        name.replace("/accuracy", ""): round(100 * (1 - float(accuracy)), 2)
        for name, accuracy in measured.items()
        if "accuracy" in name
    }
    images = len(run.datamodule.train_dataloader().images.labels) * epochs
    return {
        "cpu_minutes": round(spent.cpu_seconds / 60, 1),
        "cpu_seconds": round(spent.cpu_seconds),
        "epochs": epochs,
        "samples_per_second": round(images / spent.seconds),
        "tier": tier_of(run.model),
        **errors,
    }


def arguments(recipe: str, about: str | None, data: str, variants: dict[str, str]) -> argparse.Namespace:
    """Read the command line; what it leaves over, the ``changes``, goes to the recipe."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=data)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=["ff", "twin"], default=["ff", "twin"])
    parser.add_argument("--seconds", type=float, help="CPU seconds of each training; the recipe's epochs by default")
    parser.add_argument("--validation-only", action="store_true", help="do not look at the test set")
    parser.add_argument("--folder", type=Path, help="keep checkpoints and results here, and go on from them")
    parser.add_argument("--recipe", default=recipe, help="below recipes/, without ending")
    for name, other in variants.items():
        parser.add_argument(f"--{name}", dest="recipe", action="store_const", const=other, help=f"the recipe {other}")
    args, args.changes = parser.parse_known_args()
    if args.seconds and args.folder:
        parser.error(
            f"--seconds {args.seconds:g} with --folder {args.folder}: a stopped training goes on to the epochs it was "
            "begun for, and those of --seconds come of a trial; pass --trainer.max_epochs instead, or leave one out."
        )
    return args


def benchmark(recipe: str, about: str | None, data: str, **variants: str) -> None:
    """Read the command line, train the seeds one after the other, and print JSON.

    Args:
        recipe: its name.
        about: what the script says of itself.
        data: where the images are, by default.
        **variants: other recipes, each under the name of the flag that takes it instead.
    """
    args = arguments(recipe, about, data, variants)
    torch.set_num_threads(args.threads)

    by_seed, tier = [], None
    for seed in args.seed:
        found: Measures = {"seed": seed}
        if "ff" in args.parts:
            found |= trained(args, [args.recipe], seed)
            tier = found.pop("tier")
        if "twin" in args.parts:
            found |= {f"twin_{name}": value for name, value in trained(args, [args.recipe, "with/twin"], seed).items()}
            found.pop("twin_tier")
        by_seed.append(found)
        print(json.dumps(found), flush=True)

    def average(name: str) -> float | None:
        return round(mean(one[name] for one in by_seed), 2) if name in by_seed[0] else None

    result = {
        "test_error": average("test"),
        "validation_error": average("val"),
        "twin": average("twin_test"),
        "twin_validation_error": average("twin_val"),
        "tier": tier or tier_of(build(args, [args.recipe], args.seed[0]).model),
        "cpu_minutes": average("cpu_minutes"),
        "twin_cpu_minutes": average("twin_cpu_minutes"),
        "train_cpu_seconds": average("cpu_seconds"),
        "epochs": average("epochs"),
        "samples_per_second": average("samples_per_second"),
        "seed": args.seed[0],
        "seeds": args.seed,
        "recipe": args.recipe,
        "data": name_of_images(args.data),
        "by_seed": by_seed,
    }
    print(json.dumps(result | provenance()))
