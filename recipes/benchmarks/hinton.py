"""What the benchmarks of Hinton's networks (2212.13345) share: a recipe and its twin, trained and tested."""

from __future__ import annotations

import argparse
import json
import time
from statistics import mean

import torch
from recipe import load, provenance


def trained(args: argparse.Namespace, recipes: list[str], seed: int) -> dict[str, float]:
    """Train what the recipes describe, and test it.

    Returns:
        Errors in percent by name, such as ``test`` and ``test/block_0``, and minutes of CPU time.
    """
    run = load(recipes, ["--seed_everything", str(seed), "--data.source", args.data, *args.changes])
    run.trainer.check_val_every_n_epoch = run.trainer.max_epochs
    started = time.process_time()
    run.trainer.fit(run.model, run.datamodule)
    minutes = (time.process_time() - started) / 60
    measured = dict(run.trainer.callback_metrics)
    if not args.validation_only:
        run.trainer.test(run.model, run.datamodule, verbose=False)
        measured |= run.trainer.callback_metrics
    errors = {
        name.replace("/accuracy", ""): round(100 * (1 - float(accuracy)), 2)
        for name, accuracy in measured.items()
        if "accuracy" in name
    }
    return {"cpu_minutes": round(minutes, 1), **errors}


def benchmark(recipe: str, about: str | None, data: str) -> None:
    """Read the command line, train the seeds one after the other, and print JSON.

    Args:
        recipe: its name.
        about: what the script says of itself.
        data: where the images are, by default.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=data)
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=["ff", "twin"], default=["ff", "twin"])
    parser.add_argument("--validation-only", action="store_true", help="do not look at the test set")
    args, args.changes = parser.parse_known_args()
    torch.set_num_threads(args.threads)

    by_seed = []
    for seed in args.seed:
        found: dict[str, object] = {"seed": seed}
        if "ff" in args.parts:
            found |= trained(args, [recipe], seed)
        if "twin" in args.parts:
            found |= {f"twin_{name}": value for name, value in trained(args, [recipe, "with/twin"], seed).items()}
        by_seed.append(found)
        print(json.dumps(found), flush=True)

    def average(name: str) -> float | None:
        return round(mean(one[name] for one in by_seed), 2) if name in by_seed[0] else None  # type: ignore[misc]

    result = {
        "test_error": average("test"),
        "validation_error": average("val"),
        "twin": average("twin_test"),
        "twin_validation_error": average("twin_val"),
        "tier": "T1",
        "cpu_minutes": average("cpu_minutes"),
        "twin_cpu_minutes": average("twin_cpu_minutes"),
        "seeds": args.seed,
        "recipe": recipe,
        "by_seed": by_seed,
    }
    print(json.dumps(result | provenance()))
