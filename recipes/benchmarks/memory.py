r"""Memory of a training step against depth: Forward-Forward, backprop, and backprop with activation checkpointing.

    python recipes/benchmarks/memory.py --network gpt --depths 4 16 64

Modes, on the same layers, batch, precision and optimizer (AdamW):

- `backprop`: one loss on top, one backward pass, one step.
- `checkpointed`: the same with activation checkpointing, in segments of as many layers as need the least memory.
- `checkpointed, step in backward`: every parameter is stepped as soon as it has its gradient, which is then freed;
  the best that backprop can do, again at its best length of segments.
- `ff fused`, `ff streamed`: `FFLightningModule` in a real Trainer. Its MLP carries positives and negatives, twice as
  many rows as backprop has; its GPT scores every token after every block.

`saved_mib`: the most that autograd keeps for backward passes at one time. `peak_mib`: the allocator's peak above
parameters and optimizer state, gradients and temporaries included. `total_mib`: the peak with them. Each comes from
one step on warm optimizers; the numbers do not depend on how busy the machine is. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from meter import MIB, allocated_peak, persistent_bytes, saved_peak
from recipe import SILENT, be_quiet, provenance
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import ff_lightning as ff
from ff_lightning.language import GPT
from ff_lightning.networks import MLP

PIXELS, CLASSES, VOCABULARY = 784, 10, 96
SEGMENTS = (1, 2, 4, 8, 16)
WARM_UP = 2
"""Steps before the first one measured: AdamW makes its state in the first."""
ADAMW = partial(AdamW, lr=1e-4)


@dataclass
class Chain:
    """A network as backprop sees it: what comes before the layers, the layers, and the loss on top."""

    module: nn.Module
    bottom: Callable[[Any], Tensor]
    layers: Sequence[Callable[[Tensor], Tensor]]
    loss: Callable[[Tensor, Any], Tensor]


def mlp_chain(args: argparse.Namespace, depth: int) -> Chain:
    network = MLP(PIXELS, [args.width] * depth)
    top = nn.Linear(args.width, CLASSES)
    layers = [nn.Sequential(block.layer, block.norm) for block in network]
    return Chain(
        nn.ModuleList([network, top]),
        lambda batch: batch[0],
        layers,
        lambda h, batch: F.cross_entropy(top(h), batch[1]),
    )


def gpt_chain(args: argparse.Namespace, depth: int) -> Chain:
    stack = gpt(args, depth).as_one_block()
    (block,) = stack.token_blocks()
    assert block.layer.embedding is not None
    return Chain(
        stack,
        lambda batch: block.layer.embedding(batch[:, :-1]),
        list(block.layer),
        lambda h, batch: block.loss(block.predict(h, stack.prior, None), batch[:, 1:], None, stack.prior).loss,
    )


def gpt(args: argparse.Namespace, depth: int) -> GPT:
    return GPT(VOCABULARY, width=args.width, layers=depth, heads=max(1, args.width // 32), context=args.context)


def run_chain(chain: Chain, batch: Any, segment: int | None) -> Tensor:
    """The loss, with every ``segment`` layers recomputed in the backward pass; ``None`` for no checkpointing."""

    def through(layers: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x)
        return x

    x = chain.bottom(batch)
    if segment is None:
        return chain.loss(through(chain.layers, x), batch)
    for start in range(0, len(chain.layers), segment):
        x = checkpoint(through, chain.layers[start : start + segment], x, use_reentrant=False)
    return chain.loss(x, batch)


class Backprop:
    """Training steps in plain torch, with nothing around them.

    Args:
        chain: what is trained.
        in_backward: step every parameter as soon as its gradient is there.
    """

    def __init__(self, chain: Chain, *, in_backward: bool) -> None:
        self.chain, self.in_backward = chain, in_backward
        parameters = list(chain.module.parameters())
        self.optimizers: list[Optimizer] = [ADAMW([p]) for p in parameters] if in_backward else [ADAMW(parameters)]
        if in_backward:
            for parameter, optimizer in zip(parameters, self.optimizers, strict=True):
                parameter.register_post_accumulate_grad_hook(partial(self._step_one, optimizer))

    @staticmethod
    def _step_one(optimizer: Optimizer, _: Tensor) -> None:
        optimizer.step()
        optimizer.zero_grad()

    def step(self, batch: Any, segment: int | None) -> None:
        run_chain(self.chain, batch, segment).backward()
        if not self.in_backward:
            self.optimizers[0].step()
            self.optimizers[0].zero_grad()


def backprop_rows(args: argparse.Namespace, depth: int) -> Iterator[dict[str, Any]]:
    """Measure the three modes of backprop; checkpointing at its best length of segments."""
    batch = next(iter(batches(args)))
    for mode, segments, in_backward in (
        ("backprop", [None], False),
        ("checkpointed", SEGMENTS, False),
        ("checkpointed, step in backward", SEGMENTS, True),
    ):
        torch.manual_seed(0)
        chain = {"mlp": mlp_chain, "gpt": gpt_chain}[args.network](args, depth)
        run = Backprop(chain, in_backward=in_backward)
        run.step(batch, 1 if in_backward else None)
        rows = []
        for segment in [s for s in segments if s is None or s <= depth]:
            with allocated_peak() as peak:
                run.step(batch, segment)
            with saved_peak([*chain.module.parameters(), *chain.module.buffers()]) as saved:
                run.step(batch, segment)
            always = persistent_bytes(chain.module, run.optimizers)
            rows.append(row(mode, depth, saved.bytes, peak.bytes, always) | ({"segment": segment} if segment else {}))
        yield min(rows, key=lambda one: one["peak_mib"])


class Meter(pl.Callback):
    """Measures two training steps of a Trainer: the peak in one, what is saved in the next."""

    def __init__(self) -> None:
        self.peak, self.saved, self.always = 0, 0, 0

    def on_train_batch_start(self, _: pl.Trainer, module: pl.LightningModule, __: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP:
            self.context = allocated_peak()
        elif batch_idx == WARM_UP + 1:
            self.context = saved_peak([*module.parameters(), *module.buffers()])
        else:
            return
        self.reading = self.context.__enter__()

    def on_train_batch_end(self, run: pl.Trainer, module: pl.LightningModule, *rest: Any) -> None:
        batch_idx = rest[-1]
        if batch_idx < WARM_UP:
            return
        self.context.__exit__(None, None, None)
        if batch_idx == WARM_UP:
            self.peak = self.reading.bytes
        else:
            self.saved = self.reading.bytes
        self.always = persistent_bytes(module, run.optimizers)


def ff_row(args: argparse.Namespace, depth: int, update: str = "streamed") -> dict[str, Any]:
    """Measure Forward-Forward, as a user trains it."""
    torch.manual_seed(0)
    module: ff.FFLightningModule
    if args.network == "mlp":
        module = ff.FFClassifier(MLP(PIXELS, [args.width] * depth), optimizer=ADAMW, update=update)
    else:
        module = ff.FFLanguageModel(gpt(args, depth), optimizer=ADAMW, update=update)
    meter = Meter()
    run = pl.Trainer(max_steps=WARM_UP + 2, precision=args.precision, callbacks=[meter], **SILENT)
    run.fit(module, batches(args))
    return row(f"ff {update}", depth, meter.saved, meter.peak, meter.always)


def batches(args: argparse.Namespace) -> DataLoader[Any]:
    """Random batches of the right shapes: how much memory a step takes does not depend on what is in them."""
    torch.manual_seed(0)
    rows = args.batch * (WARM_UP + 2)
    if args.network == "mlp":
        data = TensorDataset(torch.rand(rows, PIXELS), torch.randint(CLASSES, (rows,)))
        return DataLoader(data, batch_size=args.batch)
    tokens = TensorDataset(torch.randint(VOCABULARY, (rows, args.context + 1)))
    return DataLoader(tokens, batch_size=args.batch, collate_fn=lambda some: torch.stack([one for (one,) in some]))


def row(mode: str, depth: int, saved: int, peak: int, always: int) -> dict[str, Any]:
    sizes = {"saved_mib": saved, "peak_mib": peak, "total_mib": peak + always}
    found = {"mode": mode, "depth": depth} | {name: round(size / MIB, 2) for name, size in sizes.items()}
    print(found, file=sys.stderr, flush=True)
    return found


def ratios(rows: list[dict[str, Any]], depths: list[int]) -> dict[str, float]:
    """Streamed memory at the largest depth over that at the smallest, and over what backprop needs there."""
    peak = {(one["mode"], one["depth"]): one["peak_mib"] for one in rows}
    total = {(one["mode"], one["depth"]): one["total_mib"] for one in rows}
    low, high = min(depths), max(depths)
    best = "checkpointed, step in backward"
    found = {
        "streamed_flatness": peak["ff streamed", high] / peak["ff streamed", low],
        "streamed_over_checkpointed": peak["ff streamed", high] / peak["checkpointed", high],
        "streamed_over_step_in_backward": peak["ff streamed", high] / peak[best, high],
        "total_over_checkpointed": total["ff streamed", high] / total["checkpointed", high],
        "total_over_step_in_backward": total["ff streamed", high] / total[best, high],
    }
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    args = arguments()
    be_quiet()
    torch.set_num_threads(args.threads)
    rows = []
    for depth in args.depths:
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16-mixed"):
            rows += backprop_rows(args, depth)
        rows += [ff_row(args, depth, update) for update in ("fused", "streamed")]
    settings = {"network": args.network, "width": args.width, "batch": args.batch, "precision": args.precision}
    if args.network == "gpt":
        settings["context"] = args.context
    print(json.dumps({"rows": rows} | ratios(rows, args.depths) | settings | provenance()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["mlp", "gpt"], default="gpt")
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--width", type=int, help="512 for mlp, 128 for gpt by default")
    parser.add_argument("--batch", type=int, help="samples; 512 for mlp, 16 for gpt by default")
    parser.add_argument("--context", type=int, default=64, help="tokens a sample, gpt only")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.width = args.width or {"mlp": 512, "gpt": 128}[args.network]
    args.batch = args.batch or {"mlp": 512, "gpt": 16}[args.network]
    return args


if __name__ == "__main__":
    main()
