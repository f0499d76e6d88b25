"""Test accuracy of convolutional stacks, with the twin beside it.

    python recipes/benchmarks/conv.py --data path/to/cifar10_jpeg --tier T2 [--seed 0 1 2] [--parts ff twin]

Tiers: T1 contrasts the true class with classes of each block's own prediction, T2 compares all classes at once, T3 does
so in overlapping pairs of blocks. With `--recipe mnist_labelled_conv` the label is in the input and contrasted with a
wrong one, tier T1. `--with predsim` changes the local loss on top of the tier. `--data` is a folder with Parquet files
in the hub's layout, whose name decides the recipe, or
`mnist`, `fashion_mnist` or `cifar10_jpeg` below the folder that `FF_LIGHTNING_DATA` names, or scikit-learn's `digits`.
Further arguments change the recipe, of FF and twin alike: `--trainer.max_epochs 5`.

Validation images are cut from the training set and choose the readout; the test set is looked at once, at the end.
With `--validation-only` the test set stays closed. One network has one twin, whatever its tier: `--parts ff` leaves it
out, `--parts twin` trains nothing else. `--model.network.lookahead ff_lightning.networks.Lookahead` lets every block
answer for the next one. With `--folder runs/conv` the same command goes on after a stop. The last line is JSON;
`cpu_minutes` are those of training FF, a seed.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from statistics import mean

import torch
from continued import fit, once
from lightning.pytorch.cli import LightningCLI
from recipe import load, name_of_images, provenance
from torch import Tensor

from ff_lightning.readouts import ChosenBlocks, GoodnessReadout, LastBlock, MeanLogProbability, label_goodness

RECIPES = {
    "digits": "digits_conv",
    "mnist": "mnist_conv",
    "fashion_mnist": "fashion_conv",
    "cifar10_jpeg": "cifar_conv",
    "cifar10": "cifar_conv",
}
LABEL_IN_THE_INPUT = {"mnist_labelled_conv"}
TIERS = {"T1": ["with/own_contrast"], "T2": ["with/class_softmax"], "T3": ["with/class_softmax", "with/overlapping"]}
LOSSES = {"predsim": "with/predsim", "private_head": "with/private_head", "averaged_head": "with/averaged_head"}


def build(args: argparse.Namespace, recipes: list[str], seed: int) -> LightningCLI:
    """What the recipes describe, with the arguments of the command line."""
    fixed = ["--seed_everything", str(seed), "--data.source", args.data]
    return load(recipes, [*fixed, *args.changes], limit_val_batches=0)


def percent(scores: Tensor, labels: Tensor) -> float:
    return round(100 * (scores.argmax(-1) == labels).double().mean().item(), 2)


@torch.no_grad()
def validated(run: LightningCLI) -> tuple[Tensor, Tensor]:
    """What the model says of the validation images, in its precision: ``(L, N, C)`` or ``(N, C)``, and the labels."""
    said, labels = [], []
    model = run.model.eval()
    with run.trainer.precision_plugin.forward_context():
        for x, y in run.datamodule.val_dataloader():
            x = x.to(model.device)
            said.append((label_goodness(model.network, x, 10) if hasattr(model, "readout") else model(x)).float().cpu())
            labels.append(y)
    return torch.cat(said, -2), torch.cat(labels)


def best_readout(goodness: Tensor, labels: Tensor) -> tuple[GoodnessReadout, dict[str, float]]:
    """The readout that is most often right on validation images, and how often each is, in percent."""
    chosen = ChosenBlocks(len(goodness))
    chosen.observe(goodness, labels)
    chosen.choose()
    readouts: list[GoodnessReadout] = [LastBlock(), GoodnessReadout(), MeanLogProbability(), chosen]
    accuracy = {type(readout).__name__: percent(readout.combine(goodness), labels) for readout in readouts}
    return max(readouts, key=lambda readout: accuracy[type(readout).__name__]), accuracy


def tested(run: LightningCLI) -> dict[str, float]:
    """Accuracies on the test images in percent, by name."""
    (found,) = run.trainer.test(run.model, run.datamodule, verbose=False)
    return {name.removeprefix("test/"): round(100 * value, 2) for name, value in found.items() if "accuracy" in name}


def forward_forward(args: argparse.Namespace, seed: int) -> dict[str, object]:
    run = build(args, [args.recipe, *args.overlays], seed)
    return once(args, run, partial(judge_blocks, args, run))


def judge_blocks(args: argparse.Namespace, run: LightningCLI, place: Path | None) -> dict[str, object]:
    """Train the blocks, let validation choose the readout, and test it."""
    spent = fit(run, place)
    goodness, labels = validated(run)
    readout, validation = best_readout(goodness, labels)
    result: dict[str, object] = {
        "cpu_minutes": round(spent.cpu_seconds / 60, 2),
        "validation": validation,
        "validation_by_block": [percent(g, labels) for g in goodness],
        "readout": type(readout).__name__,
    }
    if isinstance(readout, ChosenBlocks):
        result["blocks_chosen"] = readout.chosen.tolist()
    if not args.validation_only:
        run.model.readout = readout.to(run.model.device)
        measured = tested(run)
        result["test"] = measured["accuracy"]
        result["test_by_block"] = [measured[f"accuracy/block_{index}"] for index in range(len(goodness))]
    return result


def backprop(args: argparse.Namespace, seed: int) -> dict[str, object]:
    run = build(args, [args.recipe, "with/twin"], seed)
    return once(args, run, partial(judge_twin, args, run))


def judge_twin(args: argparse.Namespace, run: LightningCLI, place: Path | None) -> dict[str, object]:
    """Train the twin, and test it."""
    spent = fit(run, place)
    result: dict[str, object] = {
        "twin_cpu_minutes": round(spent.cpu_seconds / 60, 2),
        "twin_validation": percent(*validated(run)),
    }
    if not args.validation_only:
        result["twin_test"] = tested(run)["accuracy"]
    return result


PARTS = {"ff": forward_forward, "twin": backprop}


def arguments() -> argparse.Namespace:
    """Read the command line; what it leaves over, the ``changes``, goes to the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="folder, or one of " + ", ".join(RECIPES))
    parser.add_argument("--tier", choices=list(TIERS), default="T1")
    parser.add_argument("--with", dest="parts_added", nargs="+", choices=list(LOSSES), default=[], help="other losses")
    parser.add_argument("--recipe", help="such as cifar_resnet; what fits the data by default")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--validation-only", action="store_true", help="do not look at the test set")
    parser.add_argument("--folder", type=Path, help="keep checkpoints and results here, and go on from them")
    args, args.changes = parser.parse_known_args()
    recipe = args.recipe = args.recipe or RECIPES.get(name_of_images(args.data))
    if recipe is None:
        known = ", ".join(RECIPES)
        parser.error(f"--data {args.data}: no recipe for images of that name. Give --recipe, or a folder named {known}")
    if recipe in LABEL_IN_THE_INPUT and args.tier != "T1":
        parser.error(f"--recipe {recipe} is of tier T1")
    if args.parts_added and args.tier == "T1" and args.parts_added != ["private_head"]:
        parser.error(f"--with {' '.join(args.parts_added)} compares all classes at once: --tier T2 or T3")
    added = [LOSSES[name] for name in args.parts_added]
    args.overlays = [] if recipe in LABEL_IN_THE_INPUT else [*TIERS[args.tier], *added]
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    looks_ahead = any("network.lookahead" in word for word in args.changes)
    by_seed = []
    for seed in args.seed:
        found: dict[str, object] = {"seed": seed}
        for part in args.parts:
            found |= PARTS[part](args, seed)
        by_seed.append(found)
        print(json.dumps(found), flush=True)

    def average(name: str) -> float | None:
        return round(mean(one[name] for one in by_seed), 2) if name in by_seed[0] else None  # type: ignore[misc]

    result = {
        "test_accuracy": average("test"),
        "twin": average("twin_test"),
        "tier": args.tier + (" with lookahead" if looks_ahead else ""),
        "cpu_minutes": average("cpu_minutes"),
        "twin_cpu_minutes": average("twin_cpu_minutes"),
        "seeds": args.seed,
        "recipe": " + ".join([args.recipe, *args.overlays]),
        "by_seed": by_seed,
    }
    print(json.dumps(result | provenance()))


if __name__ == "__main__":
    main()
