"""Time of a Forward-Forward step over a backprop step of the same network, batch and precision.

Two real Trainers run side by side in one process and take turns, one step each, so that both meet the same
machine; the result is the median over pairs of neighbouring steps.

    python recipes/benchmarks/step_time.py --network mlp --widths 2000 2000 2000 2000 --precision bf16-mixed

The last line is JSON: ratio (FF over backprop), ff_ms and backprop_ms (medians), matmul_share (matrix products
alone, over the FF step).
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningCLI
from recipe import load, provenance
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 10
PIXELS = 784


class Turns:
    """Lets two threads run one step each, alternately."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.turn = 0
        self.left: set[int] = set()

    def wait_for(self, who: int) -> None:
        with self.condition:
            self.condition.wait_for(lambda: self.turn == who or 1 - who in self.left)

    def pass_on(self, who: int) -> None:
        with self.condition:
            self.turn = 1 - who
            self.condition.notify_all()

    def leave(self, who: int) -> None:
        with self.condition:
            self.left.add(who)
            self.condition.notify_all()


class Stopwatch(pl.Callback):
    """Times every training step of one Trainer, in its turn."""

    def __init__(self, turns: Turns, who: int) -> None:
        self.turns, self.who = turns, who
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.turns.wait_for(self.who)
        self.started = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)
        self.turns.pass_on(self.who)

    def on_train_end(self, *_: Any) -> None:
        self.turns.leave(self.who)


def matmul_seconds(widths: list[int], batch: int, dtype: torch.dtype, device: str) -> float:
    """Best time of the matrix products of one FF step, and nothing else."""
    products = []
    for index, (fan_in, fan_out) in enumerate(zip([PIXELS, *widths], widths, strict=False)):
        rows = batch if index == 0 else 2 * batch  # the image part of the first block serves both streams
        x = torch.randn(rows, fan_in, dtype=dtype, device=device)
        products.append((x, torch.randn(fan_out, fan_in, dtype=dtype, device=device)))
    times = []
    for _ in range(20):
        started = time.perf_counter()
        for x, weight in products:
            y = torch.nn.functional.linear(x, weight)
            y.T @ x
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


def build(args: argparse.Namespace, watch: Stopwatch, *overlays: str) -> LightningCLI:
    """The recipe's network, optimizer and precision, at the asked size."""
    overrides = [
        f"--trainer.max_steps={args.steps}",
        f"--trainer.precision={args.precision}",
        f"--model.network.init_args.widths={args.widths}",
    ]
    if args.negatives == "uniform" and not overlays:
        overrides += ["--model.negatives", "ff_lightning.negatives.UniformWrongLabel"]
    return load(["mnist_mlp", *overlays], overrides, callbacks=[watch], accelerator=args.accelerator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["mlp"], default="mlp", help="mlp: the network of mnist_mlp.yaml")
    parser.add_argument("--widths", type=int, nargs="+", default=[2000] * 4)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument(
        "--negatives", choices=["recipe", "uniform"], default="recipe", help="the recipe asks the model"
    )
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--warm-up", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--accelerator", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    turns = Turns()
    watches = [Stopwatch(turns, 0), Stopwatch(turns, 1)]
    runs = [build(args, watches[0]), build(args, watches[1], "with/twin")]
    images = torch.rand(args.batch * args.steps, PIXELS)
    data = TensorDataset(images, torch.randint(CLASSES, (len(images),)))
    threads = [
        threading.Thread(target=run.trainer.fit, args=(run.model, DataLoader(data, batch_size=args.batch)))
        for run in runs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    ff_times, backprop_times = (watch.seconds[args.warm_up :] for watch in watches)
    dtype = torch.bfloat16 if "bf16" in args.precision else torch.float32
    matmul = matmul_seconds(args.widths, args.batch, dtype, args.accelerator)
    result = {
        "ratio": round(statistics.median(a / b for a, b in zip(ff_times, backprop_times, strict=True)), 3),
        "ff_ms": round(1e3 * statistics.median(ff_times), 2),
        "backprop_ms": round(1e3 * statistics.median(backprop_times), 2),
        "matmul_share": round(matmul / statistics.median(ff_times), 3),
        "widths": args.widths,
        "batch": args.batch,
        "negatives": args.negatives,
        "precision": args.precision,
        "threads": args.threads,
    }
    print(json.dumps(result | provenance()))


if __name__ == "__main__":
    main()
