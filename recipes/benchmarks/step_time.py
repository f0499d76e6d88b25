"""Time of a Forward-Forward step over a backprop step of the same network, batch and precision.

Two real Trainers run side by side in one process and take turns, one step each, so that both meet the same
machine; the result is the median over pairs of neighbouring steps.

    python recipes/benchmarks/step_time.py --network mlp --widths 2000 2000 2000 2000 --precision bf16-mixed
    python recipes/benchmarks/step_time.py --network conv
    python recipes/benchmarks/step_time.py --network gpt --layers 4 --layers-per-block 1

The last line is JSON. `mlp`: ratio (FF over backprop), ff_ms and backprop_ms (medians), matmul_share (matrix products
alone, over the FF step). `conv`, the network of `cifar_conv` with `with/class_softmax`: ratio, ff_ms and backprop_ms in
CPU time of this process. `gpt`: ratio, ff_ms and twin_ms in CPU time of this process, and the same in wall time; and
for each batch of texts, the tokens that both models generate in a CPU second, turn by turn from one token to a full
context, and their ratio.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningCLI
from recipe import MIXED, SILENT, load, provenance
from torch.utils.data import DataLoader, TensorDataset

from ff_lightning.candidates import LinearContrast
from ff_lightning.data.text import TextDataModule
from ff_lightning.language.gpt import GPT
from ff_lightning.optim import CosineDecay, MuonAdamW
from ff_lightning.processor import prepare_cpu
from ff_lightning.tasks.language import FFLanguageModel
from ff_lightning.tasks.language_modelling import LanguageModelling
from ff_lightning.tasks.twin import BackpropTwin

CLASSES = 10
PIXELS = 784
TEXTS = (1, 16)
ROUNDS = 16
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)


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
    """Times every training step of one Trainer, in its turn.

    A turn ends where the next step would begin: what Lightning does between steps falls into no other one's time.
    """

    def __init__(self, turns: Turns, who: int) -> None:
        self.turns, self.who = turns, who
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        if self.seconds:
            self.turns.pass_on(self.who)
        self.turns.wait_for(self.who)
        self.started = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.started[0])
        self.cpu_seconds.append(time.process_time() - self.started[1])

    def on_train_end(self, *_: Any) -> None:
        self.turns.leave(self.who)


def side_by_side(runs: list[tuple[pl.Trainer, pl.LightningModule, Any]]) -> None:
    """Train both, each in a thread of its own."""
    threads = [threading.Thread(target=trainer.fit, args=(model, data)) for trainer, model, data in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over pairs of neighbours."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


def keep_memory() -> None:
    """Let the allocator keep what is freed, where it can be told to (glibc).

    Otherwise a thread returns large pieces to the system and faults them in again, some thousand pages a step, more
    or fewer as the heaps of the two threads happen to lie: 5 to 10 % of a step, and not of the network's making.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for setting in (TRIM_THRESHOLD, MMAP_THRESHOLD):
            mallopt(setting, 2**30)


def milliseconds(times: list[float]) -> float:
    return round(1e3 * statistics.median(times), 2)


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


def mlp(args: argparse.Namespace, watches: list[Stopwatch]) -> dict[str, Any]:
    """The recipe and its twin on random images."""
    images = torch.rand(args.batch * args.steps, PIXELS)
    data = TensorDataset(images, torch.randint(CLASSES, (len(images),)))
    runs = [build(args, watches[0]), build(args, watches[1], "with/twin")]
    side_by_side([(run.trainer, run.model, DataLoader(data, batch_size=args.batch)) for run in runs])
    ff_times, backprop_times = (watch.seconds[args.warm_up :] for watch in watches)
    dtype = torch.bfloat16 if "bf16" in args.precision else torch.float32
    matmul = matmul_seconds(args.widths, args.batch, dtype, args.accelerator)
    return {
        "ratio": ratio(ff_times, backprop_times),
        "ff_ms": milliseconds(ff_times),
        "backprop_ms": milliseconds(backprop_times),
        "matmul_share": round(matmul / statistics.median(ff_times), 3),
        "widths": args.widths,
        "batch": args.batch,
        "negatives": args.negatives,
        "precision": args.precision,
        "threads": args.threads,
    }


def conv(args: argparse.Namespace, watches: list[Stopwatch]) -> dict[str, Any]:
    """The recipe of class softmaxes and its twin on random images."""
    images = torch.rand(args.batch * args.steps, 3, 32, 32)
    data = TensorDataset(images, torch.randint(CLASSES, (len(images),)))
    overrides = [f"--trainer.max_steps={args.steps}", f"--trainer.precision={args.precision}"]
    names = ["cifar_conv", "with/class_softmax"]
    runs = [
        load([*names, *overlays], overrides, callbacks=[watch], accelerator=args.accelerator)
        for watch, overlays in zip(watches, ([], ["with/twin"]), strict=True)
    ]
    side_by_side([(run.trainer, run.model, DataLoader(data, batch_size=args.batch)) for run in runs])
    ff_times, twin_times = (times_of(watch, args) for watch in watches)
    return {
        "network": "conv",
        "ratio": ratio(ff_times, twin_times),
        "ff_ms": milliseconds(ff_times),
        "backprop_ms": milliseconds(twin_times),
        "batch": args.batch,
        "precision": args.precision,
        "threads": args.threads,
    }


def times_of(watch: Stopwatch, args: argparse.Namespace) -> list[float]:
    """Seconds of the steps after the first few: of the process on a CPU, of the clock on a GPU."""
    return (watch.cpu_seconds if args.accelerator == "cpu" else watch.seconds)[args.warm_up :]


def gpt(args: argparse.Namespace, watches: list[Stopwatch]) -> dict[str, Any]:
    """A stack of blocks and its twin on a real text, then what they generate."""
    keep_memory()
    texts = [TextDataModule(args.text, context=args.context, batch_size=args.batch) for _ in watches]
    network = GPT(
        texts[0].vocab_size,
        width=args.width,
        layers=args.layers,
        layers_per_block=args.layers_per_block,
        heads=max(1, args.width // 32),
        context=args.context,
        loss=LinearContrast(args.negatives),
    )
    parts = {"optimizer": partial(MuonAdamW, lr=4e-3, muon_lr=0.02), "lr_scheduler": CosineDecay}
    models = [BackpropTwin(network, **parts), FFLanguageModel(network, **parts)][::-1]
    flags: dict[str, Any] = {"max_steps": args.steps, "precision": args.precision, "accelerator": args.accelerator}
    trainers = [pl.Trainer(callbacks=[watch], limit_val_batches=0, **SILENT | flags) for watch in watches]
    side_by_side(list(zip(trainers, models, texts, strict=True)))
    ff_cpu, twin_cpu = (times_of(watch, args) for watch in watches)
    ff_wall, twin_wall = (watch.seconds[args.warm_up :] for watch in watches)
    return {
        "network": "gpt",
        "ratio": ratio(ff_cpu, twin_cpu),
        "ff_ms": milliseconds(ff_cpu),
        "twin_ms": milliseconds(twin_cpu),
        "wall_ratio": ratio(ff_wall, twin_wall),
        "ff_wall_ms": milliseconds(ff_wall),
        "twin_wall_ms": milliseconds(twin_wall),
        "generation": [generation(models, count) for count in TEXTS],
        "text": Path(args.text).name,
        "vocab_size": network.vocab_size,
    } | {
        name: getattr(args, name)
        for name in ("layers", "layers_per_block", "width", "context", "batch", "negatives", "precision", "threads")
    }


def generation(models: list[LanguageModelling], texts: int) -> dict[str, Any]:
    """Tokens that each model generates in a CPU second with its cache, one context at a time."""
    context = models[0].network.context
    prompt = torch.randint(models[0].network.vocab_size, (texts, 1), device=models[0].device)
    times: list[list[float]] = [[], []]
    for seed in range(ROUNDS):
        for model, seconds in zip(models, times, strict=True):
            started = time.process_time()
            model.generate(prompt, context - 1, seed=seed)
            seconds.append(time.process_time() - started)
    ff, twin = (each[2:] for each in times)
    tokens = texts * (context - 1)
    return {
        "texts": texts,
        "ff_tokens_per_second": round(tokens / statistics.median(ff)),
        "twin_tokens_per_second": round(tokens / statistics.median(twin)),
        "generation_ratio": ratio(twin, ff),
    }


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    prepare_cpu()
    turns = Turns()
    watches = [Stopwatch(turns, 0), Stopwatch(turns, 1)]
    result = {"mlp": mlp, "conv": conv, "gpt": gpt}[args.network](args, watches)
    print(json.dumps(result | provenance()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["mlp", "conv", "gpt"], default="mlp", help="mlp: of mnist_mlp.yaml")
    parser.add_argument("--batch", type=int, help="250 images or 32 windows by default")
    parser.add_argument("--precision", default=MIXED)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--warm-up", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--accelerator", choices=["cpu", "cuda"], default="cpu")
    known, _ = parser.parse_known_args()
    if known.network == "mlp":
        parser.set_defaults(batch=250)
        parser.add_argument("--widths", type=int, nargs="+", default=[2000] * 4)
        parser.add_argument(
            "--negatives", choices=["recipe", "uniform"], default="recipe", help="the recipe asks the model"
        )
    elif known.network == "conv":
        parser.set_defaults(batch=250)
    else:
        parser.set_defaults(batch=32)
        parser.add_argument("--text", default="pydoc", help="any source of TextDataModule")
        parser.add_argument("--layers", type=int, default=4)
        parser.add_argument("--layers-per-block", type=int, default=1)
        parser.add_argument("--width", type=int, default=128)
        parser.add_argument("--context", type=int, default=64)
        parser.add_argument("--negatives", type=int, default=16, help="drawn for every position")
    return parser.parse_args()


if __name__ == "__main__":
    main()
