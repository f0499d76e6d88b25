"""Digits found in running recordings by `fsdd_spotting`, with the twin beside it.

    python recipes/benchmarks/spotting.py --data path/to/fsdd [--seed 0 1 2] [--tier T2] [--parts ff twin]

The digits of the official test are strung together with noise under and between them. A tenth of the training digits,
strung together in the same way, sets the threshold at which there is one false alarm a minute. The twin is the same
network as one block with a softmax, trained by backprop throughout. Further arguments change the recipe, of both alike.
The last line is JSON: `detected` is the share of the test digits that are found, in percent, and `false_alarms` what
that costs a minute; `accuracy` is that of the frames that have a label.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import mean
from typing import Any

import torch
from recipe import load, provenance

TIERS = {"T1": [], "T2": ["with/class_softmax"]}


def trained(args: argparse.Namespace, recipes: list[str], seed: int) -> dict[str, Any]:
    """Train what the recipes describe, let validation set the threshold, and test."""
    run = load(
        recipes, ["--seed_everything", str(seed), "--data.source", args.data, *args.changes], limit_val_batches=0
    )
    started = time.process_time()
    run.trainer.fit(run.model, run.datamodule)
    found: dict[str, Any] = {"cpu_minutes": round((time.process_time() - started) / 60, 2)}
    run.trainer.limit_val_batches = 1.0
    (validation,) = run.trainer.validate(run.model, run.datamodule, verbose=False)
    (test,) = run.trainer.test(run.model, run.datamodule, verbose=False)
    for stage, values in (("validation_", validation), ("", test)):
        named = {name.split("/", 1)[1]: value for name, value in values.items()}
        found |= {
            f"{stage}detected": round(100 * named["detected"], 2),
            f"{stage}false_alarms": round(named["false_alarms"], 2),
            f"{stage}accuracy_by_block": [round(100 * named[key], 2) for key in sorted(named) if "block" in key],
        }
    return found | {"accuracy": found["accuracy_by_block"][-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fsdd")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--tier", choices=list(TIERS), default="T1")
    parser.add_argument("--parts", nargs="+", choices=["ff", "twin"], default=["ff", "twin"])
    parser.add_argument("--threads", type=int, default=1)
    args, args.changes = parser.parse_known_args()
    torch.set_num_threads(args.threads)
    overlays = {"ff": TIERS[args.tier], "twin": ["with/spotting_twin"]}

    by_seed = []
    for seed in args.seed:
        found: dict[str, Any] = {"seed": seed}
        for part in args.parts:
            prefix = "" if part == "ff" else "twin_"
            measured = trained(args, ["fsdd_spotting", *overlays[part]], seed)
            found |= {prefix + name: value for name, value in measured.items()}
        by_seed.append(found)
        print(json.dumps(found), flush=True)

    names = [name for name, value in by_seed[0].items() if isinstance(value, float)]
    result: dict[str, Any] = {name: round(mean(one[name] for one in by_seed), 2) for name in names}
    result |= {
        "tier": args.tier,
        "seeds": args.seed,
        "recipe": " + ".join(["fsdd_spotting", *TIERS[args.tier]]),
        "by_seed": by_seed,
    }
    print(json.dumps(result | provenance()))


if __name__ == "__main__":
    main()
