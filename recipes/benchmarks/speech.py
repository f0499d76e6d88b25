"""Test accuracy of `fsdd_conv` or `fsdd_scff` on spoken digits, with the twin beside it.

    python recipes/benchmarks/speech.py --data path/to/fsdd [--seed 0 1 2] [--leave-out lucas] [--tier T2] [--parts ff]

`--data` is a folder with Parquet files of the Free Spoken Digit Dataset, or its name below the folder that
`FF_LIGHTNING_DATA` names. Without `--leave-out` the test is the official one, recordings 0 to 4 of every speaker and
digit; a tenth of the others validates. With it, the test are all recordings of a speaker whom the training never hears,
and all recordings of the others are trained on: nothing is chosen by them. `--leave-out SPEAKER --validate OTHER` keeps
the test closed, and says how well a second speaker is understood who is left out as well.

`--recipe fsdd_scff` learns without labels, and reads by a linear softmax; it has no other tier.

Tier T1 contrasts the true word with words of each block's own prediction, T2 compares all words at once. Further
arguments change the recipe, of FF and twin alike: `--trainer.max_epochs 5`. The last line is JSON; accuracies are in
percent, `cpu_minutes` those of training FF, a seed.
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
    """Train what the recipes describe; accuracies by name, and minutes of CPU time."""
    words = ["--seed_everything", str(seed), "--data.source", args.data]
    if args.leave_out:
        words += ["--data.group_column", "speaker", "--data.test", args.leave_out]
        words += ["--data.validation", args.validate or "0"]
    run = load(recipes, [*words, *args.changes], limit_val_batches=0)
    started = time.process_time()
    run.trainer.fit(run.model, run.datamodule)
    minutes = round((time.process_time() - started) / 60, 2)
    run.trainer.limit_val_batches = 1.0
    measured = {"cpu_minutes": minutes}
    if args.validate or not args.leave_out:
        measured |= accuracies(run.trainer.validate(run.model, run.datamodule, verbose=False))
    if not args.validate:
        measured |= accuracies(run.trainer.test(run.model, run.datamodule, verbose=False))
    return measured


def accuracies(measured: list[Any]) -> dict[str, Any]:
    """Those of the network, and of its blocks from the lowest on, in percent."""
    found = {name: round(100 * value, 2) for name, value in measured[0].items() if "accuracy" in name}
    stage = next(iter(found)).split("/")[0]
    by_block = [found[name] for name in sorted(found) if "block" in name]
    named = {"val": "validation", "test": "test"}[stage]
    return {named: found[f"{stage}/accuracy"]} | ({f"{named}_by_block": by_block} if by_block else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fsdd")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--leave-out", metavar="SPEAKER", help="train on the other speakers, test on this one")
    parser.add_argument("--validate", metavar="OTHER", help="with --leave-out: another speaker to measure instead")
    parser.add_argument("--tier", choices=list(TIERS), default="T1")
    parser.add_argument("--recipe", choices=["fsdd_conv", "fsdd_scff"], default="fsdd_conv")
    parser.add_argument("--parts", nargs="+", choices=["ff", "twin"], default=["ff", "twin"])
    parser.add_argument("--threads", type=int, default=1)
    args, args.changes = parser.parse_known_args()
    if args.validate and not args.leave_out:
        parser.error("--validate OTHER needs --leave-out SPEAKER: it is a second speaker who is left out")
    if args.recipe == "fsdd_scff" and args.tier != "T1":
        parser.error("--recipe fsdd_scff is of tier T1")
    torch.set_num_threads(args.threads)
    overlays = {"ff": TIERS[args.tier], "twin": ["with/twin"]}

    by_seed = []
    for seed in args.seed:
        found: dict[str, Any] = {"seed": seed}
        for part in args.parts:
            prefix = "" if part == "ff" else "twin_"
            measured = trained(args, [args.recipe, *overlays[part]], seed)
            found |= {prefix + name: value for name, value in measured.items()}
        by_seed.append(found)
        print(json.dumps(found), flush=True)

    def average(name: str) -> float | None:
        return round(mean(one[name] for one in by_seed), 2) if name in by_seed[0] else None

    result = {
        "test_accuracy": average("test"),
        "twin": average("twin_test"),
        "validation_accuracy": average("validation"),
        "tier": args.tier,
        "cpu_minutes": average("cpu_minutes"),
        "twin_cpu_minutes": average("twin_cpu_minutes"),
        "seeds": args.seed,
        "left_out": args.leave_out,
        "recipe": " + ".join([args.recipe, *TIERS[args.tier]]),
        "by_seed": by_seed,
    }
    print(json.dumps(result | provenance()))


if __name__ == "__main__":
    main()
