"""Predictive Forward-Forward: test error, error of reconstructions, and how many samples a judge recognises. Tier T1.

    python recipes/benchmarks/predictive.py --data mnist|fashion_mnist [--seed 0] [--twin]

Arguments of the recipe change one thing at a time; with `--validation-only` the test set stays closed:

    python recipes/benchmarks/predictive.py --data mnist --validation-only --trainer.max_epochs 2 --data.limit 5000

`reconstruction_error` is the squared error of an image summed over its pixels, predicted from the lowest layer
(`…_from_top`: from the top layer down), `mean_image_error` what the mean training image would have. The judge is the FF
classifier of `mnist_mlp` or `fashion_mlp`, trained on real images for
`--judge` epochs; it sees `--samples` samples of each class. With `--twin` the pass upwards is trained by backprop
instead, which generates nothing. `--sheet FILE` keeps reconstructions and samples as a picture. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from recipe import load, provenance
from torch import Tensor

from ff_lightning.callbacks.drawings import draw_generated
from ff_lightning.cli.recipes import RecipeCLI
from ff_lightning.tasks.predictive import FFPredictive

RECIPES = {"mnist": ("predictive_mnist", "mnist_mlp"), "fashion_mnist": ("predictive_fashion", "fashion_mlp")}


def recipes(args: argparse.Namespace) -> list[str]:
    return [RECIPES[args.data][0]] + ["with/twin"] * args.twin


def trained(args: argparse.Namespace, names: list[str], overrides: list[str]) -> RecipeCLI:
    run = load(names, ["--seed_everything", str(args.seed), *overrides])
    run.trainer.check_val_every_n_epoch = run.trainer.max_epochs
    run.trainer.fit(run.model, run.datamodule)
    return run


def percent_wrong(measured: dict[str, float], name: str) -> float | None:
    return round(100 * (1 - measured[name]), 2) if name in measured else None


def mean_image_error(run: RecipeCLI) -> float:
    """Squared error of the mean training image on validation images, a floor for reconstructions."""
    mean = torch.cat([x for x, _ in run.datamodule.train_dataloader()]).mean(0)
    errors = [(x - mean).square().flatten(1).sum(1) for x, _ in run.datamodule.val_dataloader()]
    return round(float(torch.cat(errors).mean()), 2)


@torch.no_grad()
def recognised(args: argparse.Namespace, model: FFPredictive) -> dict[str, Any]:
    """Share of samples that a classifier of real images gives the class they were drawn for."""
    judge = trained(args, [RECIPES[args.data][1]], ["--trainer.max_epochs", str(args.judge)])
    judge.model.eval()
    labels = torch.arange(model.num_classes).repeat(args.samples)
    images = model.sample(labels).view(len(labels), 1, 28, 28)
    found = torch.cat([judge.model(some) for some in images.split(1000)]).argmax(1)
    return {
        "recognised_samples": round(float((found == labels).float().mean()), 4),
        "recognised_by_class": [round(float((found[labels == c] == c).float().mean()), 3) for c in labels.unique()],
        "judge_validation_error": percent_wrong(
            {name: float(value) for name, value in judge.trainer.callback_metrics.items()}, "val/accuracy"
        ),
    }


@torch.no_grad()
def sheet(model: FFPredictive, images: Tensor) -> Any:
    labels = torch.arange(model.num_classes).repeat_interleave(len(images))
    samples = model.sample(labels).view(model.num_classes, len(images), *images.shape[1:])
    rows = torch.cat([torch.stack([images, model.reconstruct(images)]), samples]).float()
    return draw_generated(rows, [str(c) for c in range(model.num_classes)])


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    started = time.process_time()
    run = trained(args, recipes(args), args.changes)
    cpu_minutes = (time.process_time() - started) / 60
    measured = {name: float(value) for name, value in run.trainer.callback_metrics.items()}
    if not args.validation_only:
        run.trainer.test(run.model, run.datamodule, verbose=False)
        measured |= {name: float(value) for name, value in run.trainer.callback_metrics.items()}
    stage = "val" if args.validation_only else "test"
    result: dict[str, Any] = {
        "test_error": percent_wrong(measured, "test/accuracy"),
        "validation_error": percent_wrong(measured, "val/accuracy"),
        "validation_error_of_head": percent_wrong(measured, "val/head_accuracy"),
        "reconstruction_error": measured.get(f"{stage}/reconstruction_error"),
        "reconstruction_error_from_top": measured.get(f"{stage}/reconstruction_error_from_top"),
        "mean_image_error": mean_image_error(run),
        "data": args.data,
        "twin": args.twin,
        "tier": "backprop" if args.twin else "T1",
        "cpu_minutes": round(cpu_minutes, 2),
        "epochs": run.trainer.max_epochs,
        "seed": args.seed,
        "recipe": " + ".join(recipes(args)),
    }
    if isinstance(run.model, FFPredictive):
        run.model.eval()
        if args.sheet:
            sheet(run.model, next(iter(run.datamodule.val_dataloader()))[0][:10]).savefig(args.sheet)
        result |= recognised(args, run.model)
    print(json.dumps(result | provenance()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(RECIPES), default="mnist")
    parser.add_argument("--twin", action="store_true", help="train the pass upwards by backprop instead")
    parser.add_argument("--samples", type=int, default=100, help="of each class, for the judge")
    parser.add_argument("--judge", type=int, default=5, help="epochs of training of the judge")
    parser.add_argument("--sheet", help="file of a picture of reconstructions and samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--validation-only", action="store_true", help="do not look at the test set")
    args, args.changes = parser.parse_known_args()
    return args


if __name__ == "__main__":
    main()
