"""What is said of Forward-Forward, measured beside its twin: width, depth, overfitting, spread over seeds.

    python recipes/benchmarks/claims.py --data mnist --parts width depth seeds

The network and the settings of `mnist_mlp`, and the same layers by backprop (`with/twin`), on `--images` training
images, 5,000 of which validate, for `--epochs` epochs. The test set is not read. Parts:

- `width`: three layers of 250 to 4,000 units. `depth`: 2 to 16 layers of 500.
- `seeds`: the recipe's three layers of 1,000 units from five seeds.

`--lr` replaces the rate of the recipe, of both.

Every training gives the error on the images that it was trained with, on the validation images, and CPU seconds. Each
is written to `--folder` as soon as it is done; what is there is not trained again. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from recipe import load, name_of_images, provenance

VALIDATION = 5000
PARTS: dict[str, list[tuple[int, int, int]]] = {
    "width": [(width, 3, 0) for width in (250, 500, 1000, 2000, 4000)],
    "depth": [(500, depth, 0) for depth in (2, 4, 8, 16)],
    "seeds": [(1000, 3, seed) for seed in range(5)],
}
"""Width, depth and seed of every training of a part."""


def trained(args: argparse.Namespace, width: int, depth: int, seed: int, twin: bool) -> dict[str, Any]:
    """Train one network, or take it from the folder."""
    what = {"width": width, "depth": depth, "seed": seed, "twin": twin, "images": args.images, "epochs": args.epochs}
    what |= {} if args.lr is None else {"lr": args.lr}
    place = args.folder / ("-".join(f"{name}{value}" for name, value in what.items()) + ".json")
    if place.exists():
        found: dict[str, Any] = json.loads(place.read_text())
        return found
    words = ["--seed_everything", str(seed), "--data.source", args.data, "--data.limit", str(args.images)]
    words += ["--data.validation", str(VALIDATION), "--trainer.max_epochs", str(args.epochs)]
    words += ["--model.network.widths", json.dumps([width] * depth)]
    words += [] if args.lr is None else ["--model.optimizer.lr", str(args.lr)]
    run = load(["mnist_mlp", *(["with/twin"] if twin else [])], words, limit_val_batches=0)
    started = time.process_time()
    run.trainer.fit(run.model, run.datamodule)
    seconds = time.process_time() - started
    run.trainer.limit_val_batches = 1.0
    errors = {}
    for name, loader in (("train", run.datamodule.train_dataloader()), ("validation", run.datamodule.val_dataloader())):
        run.trainer.validate(run.model, loader, verbose=False)
        errors[name] = round(100 * (1 - float(run.trainer.callback_metrics["val/accuracy"])), 2)
    found = what | errors | {"cpu_seconds": round(seconds, 1)}
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(found))
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--images", type=int, default=15_000, help="of the training set, validation images included")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, help="in the place of the recipe's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/claims"), help="for what is done")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = {
        part: [trained(args, *sizes, twin) for sizes in PARTS[part] for twin in (False, True)] for part in args.parts
    }
    print(json.dumps(found | {"tier": "T1", "data": name_of_images(args.data)} | provenance()))


if __name__ == "__main__":
    main()
