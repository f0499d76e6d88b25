"""Accuracy against cost of an early exit, for the classifier of a recipe.

    python recipes/benchmarks/early_exit.py --recipe digits_mlp
    python recipes/benchmarks/early_exit.py --recipe mnist_mlp --data path/to/mnist [--ckpt_path path/to/last.ckpt]

Arguments of the recipe change it, such as `--trainer.max_epochs 5`. Margins are found on the validation images, for
several tolerances; the test images are classified with each, and with the readouts that ask every block. Cost is the
average share of the floating-point operations of all blocks, of the number of blocks, and the CPU seconds. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from recipe import load, provenance
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ff_lightning.engine.checkpoints import check_checkpoint, check_fit
from ff_lightning.readouts import GoodnessReadout
from ff_lightning.readouts.early_exit import EarlyExit

TOLERANCES = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
REPEATS = 5


def operations(model: Any, x: Tensor) -> list[int]:
    """Operations up to every block, for one image with all labels."""
    counts = []
    for index in range(len(model.network)):
        margins = [float("inf")] * index + [0.0] * (len(model.network) - 1 - index)
        with FlopCounterMode(display=False) as counter:
            EarlyExit(margins).answer(model.network, x[:1], model.num_classes)
        counts.append(counter.get_total_flops())
    return counts


def measured(model: Any, batches: list[tuple[Tensor, Tensor]], costs: list[int]) -> dict[str, float]:
    seconds, right, spent, asked, images = [], 0, 0, 0, 0
    with torch.inference_mode():
        for repeat in range(REPEATS):
            started = time.process_time()
            answers = [model.answer(x) for x, _ in batches]
            seconds.append(time.process_time() - started)
            if repeat:
                continue
            for answer, (_, y) in zip(answers, batches, strict=True):
                right += int((answer.scores.argmax(1) == y).sum())
                spent += sum(costs[block] for block in answer.block.tolist())
                asked += int((answer.block + 1).sum())
                images += len(y)
    return {
        "accuracy": round(100 * right / images, 2),
        "flops_share": round(spent / images / costs[-1], 4),
        "blocks_share": round(asked / images / len(costs), 4),
        "seconds": round(min(seconds), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits_mlp", choices=["digits_mlp", "mnist_mlp", "mnist_mlp_jitter"])
    parser.add_argument("--data", help="a folder; the recipe's own source by default")
    parser.add_argument("--ckpt_path", help="weights; by default the recipe is trained first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args, changes = parser.parse_known_args()
    torch.set_num_threads(args.threads)

    data = ["--data.source", args.data] if args.data else []
    run = load([args.recipe], ["--seed_everything", str(args.seed), *data, *changes])
    if args.ckpt_path:
        weights = check_checkpoint(args.ckpt_path)["state_dict"]
        check_fit(run.model, weights, args.ckpt_path)
        run.model.load_state_dict(weights)
    else:
        run.trainer.check_val_every_n_epoch = run.trainer.max_epochs
        run.trainer.fit(run.model, run.datamodule)
    model = run.model.cpu().eval()
    run.datamodule.setup()
    validation, test = list(run.datamodule.val_dataloader()), list(run.datamodule.test_dataloader())

    costs = operations(model, test[0][0])
    model.readout = GoodnessReadout()
    curve = [{"readout": "every block", "tolerance": None} | measured(model, test, costs)]
    for tolerance in TOLERANCES:
        margins = [round(margin, 5) for margin in model.exit_early(validation, tolerance=tolerance).margins]
        point = {"readout": "early exit", "tolerance": tolerance, "margins": margins}
        curve.append(point | measured(model, test, costs))
    result = {
        "recipe": args.recipe,
        "tier": "T1",
        "seed": args.seed,
        "epochs": None if args.ckpt_path else run.trainer.max_epochs,
        "flops_by_block": costs,
        "curve": curve,
    }
    for point in curve:
        print(json.dumps(point))
    print(json.dumps(result | provenance()))


if __name__ == "__main__":
    main()
