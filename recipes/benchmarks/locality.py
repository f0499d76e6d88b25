"""How far local learning is from backprop: cosines of gradients and effective ranks, by block, in one short training.

    python recipes/benchmarks/locality.py --recipe mnist_mlp --trainer.max_epochs 2 [--seed 0] [--looks 4]

`--recipe` names any recipe whose network is a chain of blocks, and `--with` overlays of it. Looks are spread evenly
over the training (:class:`ff_lightning.callbacks.LocalityMonitor`). Further arguments change the recipe. Nothing is
validated or tested. The last line is JSON: what every look found, by number of updates.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from recipe import load, provenance, tier_of

from ff_lightning.callbacks import LocalityMonitor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits_conv", help="below recipes/, without ending")
    parser.add_argument("--with", dest="overlays", nargs="+", default=[], help="such as class_softmax")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--looks", type=int, default=4, help="how often gradients are compared")
    parser.add_argument("--threads", type=int, default=1)
    args, changes = parser.parse_known_args()
    torch.set_num_threads(args.threads)

    recipes = [args.recipe, *(f"with/{name}" for name in args.overlays)]
    run = load(recipes, ["--seed_everything", str(args.seed), *changes], limit_val_batches=0)
    run.datamodule.prepare_data()
    run.datamodule.setup("fit")
    batches = len(run.datamodule.train_dataloader())
    limit = run.trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))
    watch = LocalityMonitor(max(1, batches * run.trainer.max_epochs // args.looks))
    run.trainer.callbacks.append(watch)
    started = time.process_time()
    run.trainer.fit(run.model, run.datamodule)
    result = {
        "network": " + ".join(recipes),
        "tier": tier_of(run.model),
        "found": {update: [vars(block) for block in blocks] for update, blocks in watch.found.items()},
        "updates": run.trainer.global_step,
        "cpu_seconds": round(time.process_time() - started),
        "seed": args.seed,
    }
    print(json.dumps(result | provenance()))


if __name__ == "__main__":
    main()
