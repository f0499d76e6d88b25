"""How far a training step is from the limit of the machine: the matrix products that its algorithm needs.

    python recipes/benchmarks/roofline.py --network mlp|conv|gpt [--precision 32-true] [--steps 30]

The step is that of a recipe: `mnist_mlp`, `cifar_conv` with `with/class_softmax`, or `shakespeare_gpt`, as a Trainer
runs it, with its data and its optimizer. The bound is the time of the matrix products alone, each as fast as this
machine does it: in turns with the steps, every shape that occurs is timed by itself. It counts the products of the
algorithm as it was at commit 38735b5 (Muon's five iterations of three products with them), so that a product that is
saved counts as a gain. Products of the readouts and of labels, each below a hundredth, are left out.

All times are CPU time of this process, medians over steps. The last line is JSON: `step_ms`, `bound_ms`,
`step_over_bound`, `gemm_gflops` (the fastest product), `matmul_share` (products and convolutions that ran, over the
step) and `profile`, the share of the step by kind.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from recipe import MIXED, load, provenance
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

RECIPES = {"mlp": ["mnist_mlp"], "conv": ["cifar_conv", "with/class_softmax"], "gpt": ["shakespeare_gpt"]}
WARM_UP = 5
PROFILED = 6
EVERY = 3
"""Steps between two rounds in which the products are timed."""

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "addmv", "mv", "dot"),
    "convolutions": ("mkldnn_convolution", "convolution_backward", "convolution"),
    "normalisation": (
        *("native_batch_norm", "native_batch_norm_backward", "native_layer_norm", "native_layer_norm_backward"),
        *("linalg_vector_norm", "_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data"),
    ),
    "pooling": ("max_pool2d_with_indices", "max_pool2d_with_indices_backward"),
    "copies": ("copy_", "cat", "fill_", "zero_", "index", "index_select", "constant_pad_nd", "gather"),
    "random numbers": ("bernoulli_", "uniform_", "normal_", "random_", "rand", "randint"),
    "optimizer": ("_fused_adam_", "lerp_", "lerp", "addcdiv_"),
}
"""Kinds of operation by name; any other operation of torch is element-wise or a sum."""

OTHER = "element-wise and sums"
REST = "Python, Lightning, counting"


@dataclass(frozen=True)
class Product:
    """Some products of one shape.

    Attributes:
        times: a step.
        flop: of one.
        run: does one.
    """

    times: int
    flop: float
    run: Callable[[], Tensor]


def gemm(times: int, rows: int, inner: int, columns: int, dtype: torch.dtype) -> Product:
    a, b = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    return Product(times, 2 * rows * inner * columns, lambda: a @ b)


def linear(
    rows: int, fan_in: int, fan_out: int, dtype: torch.dtype, *, to_input: bool, times: int = 1
) -> list[Product]:
    """A linear map: forward, the gradient of its weight, and of its input unless a block begins there."""
    found = [gemm(times, rows, fan_in, fan_out, dtype), gemm(times, fan_out, rows, fan_in, dtype)]
    return [*found, gemm(times, rows, fan_out, fan_in, dtype)] if to_input else found


def muon(rows: int, columns: int, dtype: torch.dtype, *, times: int = 1) -> list[Product]:
    """Five iterations: the Gram matrix, its square, and the product with the matrix."""
    short, long = sorted((rows, columns))
    sizes = ((short, long, short), (short, short, short), (short, short, long))
    return [gemm(5 * times, *size, dtype) for size in sizes]


def convolution(x: Tensor, filters: Tensor, dtype: torch.dtype) -> list[Product]:
    """A convolution with padding, forward and the gradient of its filters; its block begins there."""
    x, filters = (t.to(dtype, memory_format=torch.channels_last) for t in (x, filters))
    pad = filters.shape[-1] // 2
    y = F.conv2d(x, filters, padding=pad)
    flop = 2 * y.numel() * filters[0].numel()

    def back() -> Tensor:
        masks, ones = [False, True, False], [1, 1]
        arguments = (y, x, filters, None, ones, [pad, pad], ones, False, [0, 0], 1, masks)
        return torch.ops.aten.convolution_backward(*arguments)[1]

    return [Product(1, flop, lambda: F.conv2d(x, filters, padding=pad)), Product(1, flop, back)]


def products_of_mlp(network: Any, batch: int, dtype: torch.dtype) -> list[Product]:
    """The image part of the first block serves both streams."""
    first, *others = (block.layer for block in network)
    found = linear(batch, first.image.in_features, first.image.out_features, dtype, to_input=False)
    for layer in others:
        found += linear(2 * batch, layer.linear.in_features, layer.linear.out_features, dtype, to_input=False)
    return found


def products_of_conv(network: Any, batch: int, dtype: torch.dtype, shape: tuple[int, ...]) -> list[Product]:
    found = []
    x = torch.randn(batch, *shape)
    for block in network:
        for layer in block.layer.modules():
            if hasattr(layer, "conv"):
                found += convolution(x, layer.conv.weight.detach(), dtype)
                found += muon(*layer.conv.weight.flatten(1).shape, dtype)
                x = torch.randn(batch, layer.conv.out_channels, *x.shape[2:])
                x = F.max_pool2d(x, 2) if layer.pool else x
    return found


def products_of_gpt(network: Any, batch: int, dtype: torch.dtype) -> list[Product]:
    """A layer has four linear maps and the two products of attention, six with their gradients."""
    context = network.context
    found: list[Product] = []
    for block in network:
        for layer in block.layer:
            qkv, out = layer.attention.qkv, layer.attention.out
            for part in (qkv, out, layer.up, layer.down):
                found += linear(batch * context, part.in_features, part.out_features, dtype, to_input=True)
                found += muon(part.out_features, part.in_features, dtype)
            heads, size = layer.attention.heads, out.in_features // layer.attention.heads
            found += attention(batch * heads, context, size, dtype)
    return found


def attention(count: int, context: int, size: int, dtype: torch.dtype) -> list[Product]:
    q, weights = torch.randn(count, context, size).to(dtype), torch.randn(count, context, context).to(dtype)
    flop = 2 * count * context * context * size
    return [Product(2, flop, lambda: q @ q.mT), Product(4, flop, lambda: weights @ q)]


class Operations(TorchDispatchMode):
    """CPU time of every operation of torch, by name; torch's profiler counts time of others on the core, too."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started = time.process_time()
        found = func(*args, **(kwargs or {}))
        self.seconds[func.overloadpacket.__name__].append(time.process_time() - started)
        return found


class Watch(pl.Callback):
    """CPU time of every step, and in turns with them of every product; the last steps are profiled."""

    def __init__(self, products: list[Product], steps: int) -> None:
        self.products, self.steps = products, steps
        self.seconds: list[float] = []
        self.rounds: list[list[float]] = []
        self.operations = Operations()
        self.watched = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.steps:
            self.operations.__enter__()
        self.started = time.process_time()

    def on_train_batch_end(self, *args: Any) -> None:
        batch_idx = args[-1]
        passed = time.process_time() - self.started
        if batch_idx < self.steps:
            self.seconds.append(passed)
            if batch_idx >= WARM_UP and batch_idx % EVERY == 0:
                self.rounds.append([self.time(product.run) for product in self.products])
            return
        self.watched += passed
        if batch_idx == self.steps + PROFILED - 1:
            self.operations.__exit__(None, None, None)

    @staticmethod
    def time(run: Callable[[], Tensor]) -> float:
        run()
        started = time.process_time()
        run()
        return time.process_time() - started


def cost_of_watching() -> float:
    """CPU seconds that watching adds to an operation, outside of what is counted for it."""

    def run() -> float:
        x, started = torch.zeros(1), time.process_time()
        for _ in range(3000):
            x.add_(1)
        return time.process_time() - started

    alone = min(run() for _ in range(3))
    with Operations():
        watched = run()
    return max(0.0, (watched - alone) / 3000)


def shares(seconds_of: dict[str, list[float]], total: float) -> dict[str, float]:
    """Share by kind of operation of the steps that were watched; what no operation of torch took is the rest.

    What the counting costs is taken off the rest as far as it can be measured by itself.

    Args:
        seconds_of: every operation, by name.
        total: of the steps, what the watching took included.
    """
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    found: dict[str, float] = defaultdict(float)
    for name, seconds in seconds_of.items():
        found[kind_of.get(name, OTHER)] += sum(seconds)
    step = max(total - cost_of_watching() * sum(map(len, seconds_of.values())), sum(found.values()))
    found[REST] = step - sum(found.values())
    return {kind: round(seconds / step, 3) for kind, seconds in sorted(found.items(), key=lambda item: -item[1])}


def main() -> None:
    args, changes = arguments()
    torch.set_num_threads(args.threads)
    total = args.steps + PROFILED
    flags = {"max_steps": total, "max_epochs": -1, "limit_val_batches": 0, "precision": args.precision}
    words = [word for name, value in flags.items() for word in (f"--trainer.{name}", str(value))]
    run = load(RECIPES[args.network], [*words, *changes], accelerator="cpu")
    dtype = torch.bfloat16 if "bf16" in str(run.trainer.precision) else torch.float32
    network, batch = run.model.network, run.datamodule.batch_size
    if args.network == "mlp":
        products = products_of_mlp(network, batch, dtype)
    elif args.network == "conv":
        products = products_of_conv(network, batch, dtype, (3, 32, 32))
    else:
        products = products_of_gpt(network, batch, dtype)
    watch = Watch(products, args.steps)
    run.trainer.callbacks.append(watch)  # type: ignore[attr-defined]
    run.trainer.fit(run.model, run.datamodule)
    print(json.dumps(result(args, watch, products) | provenance()))


def result(args: argparse.Namespace, watch: Watch, products: list[Product]) -> dict[str, Any]:
    step = statistics.median(watch.seconds[WARM_UP:])
    times = [statistics.median(column) for column in zip(*watch.rounds, strict=True)]
    bound = sum(product.times * seconds for product, seconds in zip(products, times, strict=True))
    kinds = shares(watch.operations.seconds, watch.watched)
    return {
        "network": args.network,
        "precision": args.precision,
        "step_ms": round(1e3 * step, 2),
        "bound_ms": round(1e3 * bound, 2),
        "step_over_bound": round(step / bound, 3),
        "gflop": round(sum(product.times * product.flop for product in products) / 1e9, 2),
        "gemm_gflops": round(max(p.flop / s for p, s in zip(products, times, strict=True)) / 1e9, 1),
        "matmul_share": round(sum(kinds.get(kind, 0.0) for kind in ("matrix products", "convolutions")), 3),
        "profile": kinds,
        "steps": args.steps,
        "threads": args.threads,
    }


def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=sorted(RECIPES), required=True)
    parser.add_argument("--precision", default=MIXED)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
