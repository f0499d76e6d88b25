r"""Throughput of two ranks with one thread each over one rank with one thread, at the same global batch.

    python recipes/benchmarks/parallel.py --strategy ddp|layer_parallel

Eight equal blocks are trained by real Trainers, in processes that talk over gloo: `ddp` gives each rank half of every
batch, `layer_parallel` half of the blocks. `ddp` sends the gradients of all weights once a batch, whatever its size, so
its batch is the larger one by default; see `--batch 512` for one that is too small for it. One rank and two take turns,
and the result is the median over the rounds. `speedup` is of real blocks, and needs two idle cores; in `sleep_speedup`
the blocks sleep instead of computing, for as long as their rows take (a third of it in the forward pass), while
parameters, messages and loops stay what they are, so it is nearly immune to a busy machine. `collectives_per_step`,
`messages_per_step` and `bytes_per_step` are what is handed to torch.distributed in a step: collectives by rank 0,
messages between two ranks by all.

`idle` is the share of time that the ranks lose, 1 - sleep_speedup / ranks. Beside it stands the bubble of a pipeline
of as many stages trained by backprop, computed: with m micro-batches a step, (stages - 1) / (m + stages - 1) of the
time, for GPipe (Huang et al. 2019, section 2.3) as for 1F1B without interleaving (Narayanan et al. 2021, section
2.2.1), which saves memory, not time. Layer-parallel training passes each batch on as one, like m = 1.
Progress goes to stderr; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from recipe import SILENT, be_quiet, provenance
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader, TensorDataset

import ff_lightning as ff
from ff_lightning.blocks import ContrastiveBlock
from ff_lightning.goodness import MeanOfSquares
from ff_lightning.losses import SymBa
from ff_lightning.networks import MLP
from ff_lightning.stacks import BlockStack
from ff_lightning.strategies import LayerParallelStrategy

RANKS = 2
WARM_UP = 5
MICRO_BATCHES = (1, 4, 16)
COLLECTIVES = ("all_reduce", "broadcast", "all_gather", "all_gather_object", "broadcast_object_list", "barrier")


class Flipped(ff.FFLightningModule):
    """Images against the same images back to front: negatives that cost next to nothing."""

    def pairs(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch[0], batch[0].flip(1)


class Sleep(torch.autograd.Function):
    """Hands its input on, after the time that a layer would take."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, seconds: float) -> Tensor:
        ctx.save_for_backward(weight, bias)
        ctx.seconds = seconds * len(x)
        time.sleep(ctx.seconds / 3)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        time.sleep(ctx.seconds * 2 / 3)
        weight, bias = ctx.saved_tensors
        return None, torch.zeros_like(weight), torch.zeros_like(bias), None


class SleepingLayer(nn.Module):
    """The parameters of a dense layer, and its time for every row, but none of its work."""

    def __init__(self, width: int, seconds: float) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        return Sleep.apply(x, self.linear.weight, self.linear.bias, self.seconds)


class Watch(pl.Callback):
    """Notes when every step ends, and counts what is handed to torch.distributed after the warm-up."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.counts = {"collectives": 0, "messages": 0, "collective_bytes": 0, "message_bytes": 0}
        self.originals: dict[str, Callable[..., Any]] = {}

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())  # one clock for all processes of a machine
        if len(self.ends) == WARM_UP:
            for name in (*COLLECTIVES, "isend"):
                self.originals[name] = getattr(dist, name)
                setattr(dist, name, partial(self.counted, name))

    def counted(self, name: str, *args: Any, **kwargs: Any) -> Any:
        kind = "message" if name == "isend" else "collective"
        self.counts[f"{kind}s"] += 1
        self.counts[f"{kind}_bytes"] += args[0].nbytes if args and isinstance(args[0], Tensor) else 0
        return self.originals[name](*args, **kwargs)

    def stop(self) -> None:
        for name, original in self.originals.items():
            setattr(dist, name, original)
        self.originals = {}


class StopCounting(pl.Callback):
    """Ends the count before the training is wound up."""

    def __init__(self, watch: Watch, steps: int) -> None:
        self.watch, self.steps = watch, steps

    def on_train_batch_end(self, run: pl.Trainer, *_: Any) -> None:
        if run.global_step == self.steps:
            self.watch.stop()


def network(args: argparse.Namespace, *, sleeps: bool) -> BlockStack:
    if not sleeps:
        return MLP(args.width, [args.width] * args.blocks, num_classes=None)
    seconds = args.sleep / (2 * args.batch)  # a row of either stream
    layers = [SleepingLayer(args.width, seconds) for _ in range(args.blocks)]
    return BlockStack([ContrastiveBlock(layer, MeanOfSquares(), SymBa()) for layer in layers])


def train(args: argparse.Namespace) -> None:
    """Train both networks on this rank, and store when each step ended and what was sent."""
    be_quiet()
    torch.set_num_threads(1)
    ranks = int(os.environ["WORLD_SIZE"])
    run: pl.Trainer | None = None
    told = {}
    for kind in ("real", "sleep"):
        torch.manual_seed(0)
        watch = Watch()
        layer_parallel = LayerParallelStrategy(cuts=[args.blocks // RANKS])
        parallel = {"ddp": "ddp", "layer_parallel": layer_parallel}[args.strategy]
        steps = args.steps if kind == "real" else args.sleep_steps
        run = pl.Trainer(
            **SILENT | {"accelerator": "cpu", "devices": ranks},
            strategy=parallel if ranks > 1 else "auto",
            max_steps=steps,
            log_every_n_steps=steps + 1,
            callbacks=[watch, StopCounting(watch, steps)],
            use_distributed_sampler=False,
        )
        share = ranks if args.strategy == "ddp" else 1
        images = torch.rand(args.batch // share * steps, args.width)
        run.fit(
            Flipped(network(args, sleeps=kind == "sleep")),
            DataLoader(TensorDataset(images), batch_size=args.batch // share),
        )
        told[kind] = {"ends": watch.ends, "counts": watch.counts}
    assert run is not None
    (args.folder / f"{ranks} ranks, {run.global_rank}.json").write_text(json.dumps(told))


def launch(args: argparse.Namespace, folder: Path, ranks: int) -> list[dict[str, Any]]:
    """Run a training in processes of its own; returns what every rank stored."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder)],
            env=os.environ | shared | ({"LOCAL_RANK": str(rank), "NODE_RANK": "0"} if ranks > 1 else {}),
        )
        for rank in range(ranks)
    ]
    try:
        if any(process.wait(timeout=1800) for process in processes):
            raise SystemExit(f"A rank ended with {[process.poll() for process in processes]}.")
    finally:
        for process in processes:
            process.kill()
    return stored(folder, ranks)


def stored(folder: Path, ranks: int) -> list[dict[str, Any]]:
    """What every rank of a training has stored."""
    return [json.loads((folder / f"{ranks} ranks, {rank}.json").read_text()) for rank in range(ranks)]


def step_seconds(told: list[dict[str, Any]], kind: str) -> float:
    """Seconds a step after the warm-up, by the rank that ends last."""
    ends = [max(times) for times in zip(*(rank[kind]["ends"] for rank in told), strict=True)]
    return (ends[-1] - ends[WARM_UP - 1]) / (len(ends) - WARM_UP)


def traffic(told: list[dict[str, Any]], steps: int) -> dict[str, float]:
    """What is sent in a step of the real network."""
    counts = [rank["real"]["counts"] for rank in told]
    messages, message_bytes = (sum(count[name] for count in counts) for name in ("messages", "message_bytes"))
    totals = {
        "collectives_per_step": counts[0]["collectives"],
        "messages_per_step": messages,
        "bytes_per_step": counts[0]["collective_bytes"] + message_bytes,
    }
    return {name: round(total / (steps - WARM_UP), 2) for name, total in totals.items()}


def bubbles(stages: int) -> dict[str, dict[str, float]]:
    """Share of time that a pipeline trained by backprop loses, for numbers of micro-batches."""
    share = {str(m): round((stages - 1) / (m + stages - 1), 3) for m in MICRO_BATCHES}
    return {"gpipe_bubble": share, "one_f_one_b_bubble": share}


def main() -> None:
    args = arguments()
    if args.folder is not None:
        train(args)
        return
    kinds = ("real", "sleep")
    rounds: list[dict[str, list[float]]] = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            one, two = (launch(args, Path(folder), ranks) for ranks in (1, RANKS))
        rounds.append({kind: [step_seconds(one, kind), step_seconds(two, kind)] for kind in kinds})
        print(rounds[-1], file=sys.stderr, flush=True)
    ratios = {kind: statistics.median(times[kind][0] / times[kind][1] for times in rounds) for kind in kinds}
    one_ms, two_ms = (round(1e3 * statistics.median(times["real"][n] for times in rounds), 1) for n in (0, 1))
    result = {
        "strategy": args.strategy,
        "speedup": round(ratios["real"], 3),
        "sleep_speedup": round(ratios["sleep"], 3),
        "idle": round(1 - ratios["sleep"] / RANKS, 3),
        **traffic(two, args.steps),
        "one_rank_ms": one_ms,
        "two_ranks_ms": two_ms,
        **bubbles(RANKS),
        "bubble_formula": "(stages - 1) / (micro-batches + stages - 1)",
    }
    sizes = {name: getattr(args, name) for name in ("blocks", "width", "batch", "steps", "rounds")}
    print(json.dumps(result | sizes | provenance()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", choices=["ddp", "layer_parallel"], default="layer_parallel")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch", type=int, help="over all ranks; by default 4096 for ddp, 512 for layer_parallel")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--sleep", type=float, default=0.24, help="seconds that a sleeping block takes for a batch")
    parser.add_argument("--sleep-steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of a run: set for the processes started
    args = parser.parse_args()
    args.batch = args.batch or {"ddp": 4096, "layer_parallel": 512}[args.strategy]
    return args


if __name__ == "__main__":
    main()
