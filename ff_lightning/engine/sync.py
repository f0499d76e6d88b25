"""How the gradients of one block become equal on all ranks, whatever the strategy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from torch import Tensor, nn
from torch import distributed as dist

from ff_lightning.engine.lightning import ddp_options
from ff_lightning.engine.sharding import ShardedSync
from ff_lightning.errors import InputError

Parameters = Sequence[nn.Parameter]


class GradientSync(Protocol):
    """How the gradients of one block become equal on all ranks."""

    overlaps: bool
    """Whether waiting for a block is better put off until the next loss is computed."""

    def backward(self) -> AbstractContextManager[None]:
        """Context in which a backward pass leaves gradients unsynchronised."""

    def launch(self, parameters: Parameters) -> None:
        """Start averaging the gradients of one block."""

    def wait(self) -> None:
        """Finish what the last ``launch`` started."""


class NoSync:
    """One process trains a block: nothing to average."""

    overlaps = False

    def backward(self) -> AbstractContextManager[None]:
        """No context needed."""
        return nullcontext()

    def launch(self, parameters: Parameters) -> None:
        """Do nothing."""

    def wait(self) -> None:
        """Do nothing."""


class ExplicitSync:
    """Average the gradients of one block over ranks, each byte once, for any stock ``DDPStrategy``.

    The reducer of ``DistributedDataParallel`` expects one backward pass a step for the whole model. So each
    block's backward pass runs with that reducer switched off, and the gradients of the block's declared
    parameters are averaged here: one asynchronous all-reduce for each dtype, with zeros where this rank has no
    gradient, so that ranks never disagree on what is sent.

    Args:
        strategy: the running strategy.
    """

    overlaps = True

    def __init__(self, strategy: DDPStrategy) -> None:
        self.strategy = strategy
        self.in_flight: list[tuple[Tensor, list[nn.Parameter], dist.Work]] = []

    def backward(self) -> AbstractContextManager[None]:
        """Switch the strategy's own reducer off."""
        return self.strategy.block_backward_sync()

    def launch(self, parameters: Parameters) -> None:
        """Start one all-reduce for each dtype among the parameters."""
        for dtype in sorted({p.dtype for p in parameters}, key=str):
            members = [p for p in parameters if p.dtype == dtype]
            bucket = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in members])
            work = dist.all_reduce(bucket, async_op=True)
            self.in_flight.append((bucket, members, work))

    def wait(self) -> None:
        """Wait, and hand the averaged gradients to the parameters as views of the bucket."""
        for bucket, members, work in self.in_flight:
            work.wait()
            bucket /= dist.get_world_size()
            pieces = torch.split(bucket, [p.numel() for p in members])
            for parameter, piece in zip(members, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)
        self.in_flight.clear()


def gradient_sync(strategy: Strategy) -> GradientSync:
    """Choose how gradients are synchronised under a Lightning strategy.

    Raises:
        InputError: the strategy cannot train blocks one by one; the message names what to use.
    """
    own = getattr(strategy, "block_sync", None)  # a strategy of ours says it itself
    if own is not None:
        found: GradientSync = own()
        return found
    if isinstance(strategy, SingleDeviceStrategy):
        return NoSync()
    if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy)):  # the latter calls itself a kind of DDP
        raise InputError(
            f"Passed `strategy={type(strategy).__name__}`. It expects one backward pass through the whole model, and "
            "blocks are trained one by one; use `ModelParallelStrategy(data_parallel_size=…, tensor_parallel_size=1)`, "
            "which shards every block."
        )
    if isinstance(strategy, DDPStrategy):
        if ddp_options(strategy).get("static_graph"):
            raise InputError(
                "Passed `DDPStrategy(static_graph=True)`. Blocks are trained one by one, so the graph changes at "
                "every backward pass; use `strategy='ddp'`."
            )
        return ExplicitSync(strategy)
    if isinstance(strategy, ModelParallelStrategy):
        return ShardedSync()
    raise InputError(
        f"Passed `strategy={type(strategy).__name__}`. Block-wise updates are proved for one device, for the DDP "
        "strategies and for `ModelParallelStrategy`; use `strategy='auto'` with `devices=1`, or `strategy='ddp'`."
    )
