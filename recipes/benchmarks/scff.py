"""Test accuracy of self-contrastive FF (SCFF, arXiv 2409.11593) under a linear softmax, tier T1.

    python recipes/benchmarks/scff.py --data path/to/cifar10 [--seed 0] [--parts ff twin]
    python recipes/benchmarks/scff.py --recipe mnist_scff --data path/to/mnist

Arguments of the recipe change one thing at a time, the twin's, too, where they are of the data, the Trainer or the
network; with `--validation-only` the test set stays closed:

    python recipes/benchmarks/scff.py --validation-only --model.readout.dropout 0.0

`--data` is a folder with train.parquet and test.parquet in the hub's layout, or the hub id itself. The test set is
looked at once, at the end. The twin is the same network trained by backprop, with labels, on single images, at one rate
for all layers and for `--twin-epochs`. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from recipe import load, name_of_images, provenance

SOURCES = {"cifar_scff": "uoft-cs/cifar10", "mnist_scff": "ylecun/mnist"}
"""Recipes, and where their images are by default."""
SHARED = ("--data", "--trainer", "--model.network")
"""How arguments begin that mean the same of the twin."""


def measured(args: argparse.Namespace, recipes: list[str], overrides: list[str]) -> tuple[dict[str, float], float]:
    """Accuracies after a training, in percent, and its CPU minutes."""
    run = load(recipes, ["--seed_everything", str(args.seed), "--data.source", args.data, *overrides])
    run.trainer.check_val_every_n_epoch = run.trainer.max_epochs
    started = time.process_time()
    run.trainer.fit(run.model, run.datamodule)
    minutes = (time.process_time() - started) / 60
    found = {name: float(value) for name, value in run.trainer.callback_metrics.items() if "accuracy" in name}
    if not args.validation_only:
        run.trainer.test(run.model, run.datamodule, verbose=False)
        found |= {name: float(value) for name, value in run.trainer.callback_metrics.items() if "accuracy" in name}
    return {name: round(100 * value, 2) for name, value in found.items()}, round(minutes, 1)


def of_twin(changes: list[str]) -> list[str]:
    """Changes of data, Trainer and network, each with its value: what is left of them without blocks and readout.

    >>> of_twin(["--data.limit", "100", "--model.readout.dropout=0", "--trainer.precision=bf16-mixed"])
    ['--data.limit', '100', '--trainer.precision=bf16-mixed']
    """
    kept, takes = [], False
    for word in changes:
        takes = word.startswith(SHARED) if word.startswith("--") else takes
        kept += [word] * takes
    return kept


def by_block(found: dict[str, float], stage: str) -> list[float]:
    """Accuracies of a linear softmax on the lowest block, on the lowest two, and so on."""
    return [found[name] for name in sorted(found) if name.startswith(f"{stage}/accuracy/block_")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="cifar_scff", choices=list(SOURCES))
    parser.add_argument("--data", help="a folder; the recipe's own source by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=["ff", "twin"], default=["ff", "twin"])
    parser.add_argument("--twin-epochs", type=int, default=4)
    parser.add_argument("--twin-lr", type=float, default=1e-3)
    parser.add_argument("--validation-only", action="store_true", help="do not look at the test set")
    args, changes = parser.parse_known_args()
    args.data = args.data or SOURCES[args.recipe]
    torch.set_num_threads(args.threads)

    found, minutes, twin, twin_minutes = {}, None, {}, None
    if "ff" in args.parts:
        found, minutes = measured(args, [args.recipe], changes)
    if "twin" in args.parts:
        length = [f"--trainer.max_epochs={args.twin_epochs}", f"--model.optimizer.lr={args.twin_lr}"]
        twin, twin_minutes = measured(args, [args.recipe, "with/twin"], [*of_twin(changes), *length])
    result = {
        "test_accuracy": found.get("test/accuracy"),
        "validation_accuracy": found.get("val/accuracy"),
        "validation_by_block": by_block(found, "val"),
        "test_by_block": by_block(found, "test"),
        "twin": twin.get("test/accuracy"),
        "twin_validation_accuracy": twin.get("val/accuracy"),
        "tier": "T1",
        "cpu_minutes": minutes,
        "twin_cpu_minutes": twin_minutes,
        "seeds": [args.seed],
        "recipe": args.recipe,
        "data": name_of_images(args.data),
    }
    print(json.dumps(result | provenance()))


if __name__ == "__main__":
    main()
