"""Loss curves in bfloat16 against float32: the digits classifier, and a small GPT on Python's language reference.

    python recipes/benchmarks/precision.py [--networks mlp gpt] [--seeds 0] [--updates 280]

Each is trained under `32-true`, `bf16-mixed` and `bf16-true` from the same weights, with the same batches. Progress
goes to stderr; the last line is JSON: for each run the summed local losses of every tenth update, and what the
validation says at the end (`val/accuracy`; `val/loss` in nats a character).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import lightning.pytorch as pl
from recipe import load, provenance

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")
EVERY = 10
RECIPES = {
    "mlp": ("digits_mlp", "val/accuracy", []),
    "gpt": (
        "pydoc_gpt",
        "val/loss",
        ["--model.network.width=64", "--model.network.layers=2", "--model.network.layers_per_block=1"],
    ),
}


class Curve(pl.Callback):
    """Keeps the training loss of every tenth update, the mean over those since the last."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.values: list[float] = []

    def on_train_batch_end(self, run: pl.Trainer, *_: Any) -> None:
        self.losses.append(float(run.callback_metrics["train/loss"]))
        if len(self.losses) == EVERY:
            self.values.append(round(sum(self.losses) / EVERY, 5))
            self.losses = []


def measure(network: str, precision: str, seed: int, updates: int) -> dict[str, Any]:
    recipe, metric, overrides = RECIPES[network]
    curve = Curve()
    # `seed_everything` comes from the command line of the recipe, before anything is built
    words = [*overrides, "--trainer.precision", precision, "--seed_everything", str(seed)]
    size = {"max_steps": updates, "max_epochs": -1, "log_every_n_steps": 1, "limit_val_batches": 10}
    words += [word for name, value in size.items() for word in (f"--trainer.{name}", str(value))]
    built = load([recipe], words)
    built.trainer.callbacks.append(curve)  # type: ignore[attr-defined]
    start = time.process_time()
    built.trainer.fit(built.model, built.datamodule)
    seconds = time.process_time() - start
    (values,) = built.trainer.validate(built.model, built.datamodule, verbose=False)
    row = {"network": network, "precision": precision, "seed": seed, "metric": metric, "final": values[metric]}
    print(f"{network} {precision} seed {seed}: {metric} {values[metric]:.4f}, {seconds:.0f} s", file=sys.stderr)
    return row | {"every": EVERY, "curve": curve.values, "cpu_seconds": round(seconds, 1)}


def main() -> None:
    args = arguments()
    rows = [
        measure(network, precision, seed, args.updates)
        for network in args.networks
        for seed in args.seeds
        for precision in PRECISIONS
    ]
    print(json.dumps({"updates": args.updates, "rows": rows} | provenance()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", choices=sorted(RECIPES), nargs="+", default=sorted(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--updates", type=int, default=280)
    return parser.parse_args()


if __name__ == "__main__":
    main()
