"""The update engine: how one block's loss becomes an update under any strategy and precision.

It consumes the local losses that a task yields: backward of the yielded loss, that block's update, and only then
the next loss is asked for. Why it is built this way stands in the documentation, *The update engine*.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Protocol

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
from torch.optim import Optimizer

from ff_lightning.distributed import average_batch_statistics, whole
from ff_lightning.engine.sharding import ShardedSync, shard_like
from ff_lightning.errors import InputError
from ff_lightning.signals import LocalStep
from ff_lightning.strategies import LayerParallelStrategy

if TYPE_CHECKING:
    from ff_lightning.module import FFLightningModule

Parameters = Sequence[nn.Parameter]
Gradients = list[list[list[Tensor | None]]]
"""Of every rank, block and parameter."""


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
    if isinstance(strategy, (SingleDeviceStrategy, LayerParallelStrategy)):
        return NoSync()
    if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy)):  # the latter calls itself a kind of DDP
        raise InputError(
            f"Passed `strategy={type(strategy).__name__}`. It expects one backward pass through the whole model, and "
            "blocks are trained one by one; use `ModelParallelStrategy(data_parallel_size=…, tensor_parallel_size=1)`, "
            "which shards every block."
        )
    if isinstance(strategy, DDPStrategy):
        if strategy._ddp_kwargs.get("static_graph"):
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


def merged(parts: Gradients) -> list[list[Tensor | None]]:
    """Gradients of one network whose blocks each have theirs in one of the parts, and ``None`` in the others."""
    return [
        [next((gradient for gradient in found if gradient is not None), None) for found in zip(*block, strict=True)]
        for block in zip(*parts, strict=True)
    ]


class BlockUpdates:
    """Turns local losses into updates: backward, average over ranks, clip, step, free.

    Args:
        module: attached to a running Trainer.
        parameters: the parameters of every local module, in the order of ``LocalStep.block``.

    Raises:
        InputError: a strategy or a precision that cannot update the blocks of this module.
    """

    def __init__(self, module: FFLightningModule, parameters: Sequence[Parameters]) -> None:
        self.module = module
        self.trainer = module.trainer
        if module.repeats_blocks and getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise InputError(
                "Passed `precision='16-mixed'` to a task that repeats blocks within a batch. A gradient scaler takes "
                "one step of each optimizer a batch; use 'bf16-mixed'."
            )
        self.parameters = parameters
        self.sync = gradient_sync(self.trainer.strategy)
        self.overlaps = self.sync.overlaps and not module.repeats_blocks
        self.pending: int | None = None
        self.touched: set[int] = set()
        self.accumulating = False

    def run(self, losses: Iterable[LocalStep], *, divisor: int, update: bool, learning: Sequence[bool]) -> None:
        """Consume the local losses of one batch.

        Args:
            losses: the generator of :meth:`~ff_lightning.FFLightningModule.local_losses`.
            divisor: batches that share one update; every loss is divided by it.
            update: whether this batch ends in an update; otherwise gradients accumulate.
            learning: for every local module, whether it learns now.
        """
        if self.module.update == "fused":
            self._fused_backward([step for step in losses if learns(step, learning)], divisor, update)
        else:
            self._streamed_backward(losses, divisor, update, learning)
        if not isinstance(self.sync, NoSync):
            average_batch_statistics(self.module.network)
        if update:
            self._finish()
            elsewhere = self.module.network.stage.elsewhere  # their learning rates are kept in step here
            self.touched.update(index for index in elsewhere if learning[index])
            self._end_update()
        self.accumulating = not update

    def gradients(self) -> Gradients | None:
        """Gradients that wait for the rest of their update, of every rank; ``None`` between updates.

        Every rank must call it, since each has gradients of its own until they are averaged. Those of sharded blocks
        are averaged already; there is one mean of them.
        """
        if not self.accumulating:
            return None
        own = [[None if p.grad is None else whole(p.grad).cpu() for p in block] for block in self.parameters]
        stage = self.module.network.stage
        if stage.elsewhere:
            return [merged(stage.gather(own))]
        everyone: Gradients = [own]
        if dist.is_initialized() and dist.get_world_size() > 1 and not isinstance(self.sync, ShardedSync):
            everyone = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(everyone, own)
        return everyone

    def restore(self, gradients: Gradients) -> None:
        """Take back what :meth:`gradients` gave; on another number of ranks, every rank takes the mean."""
        share = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        own = len(gradients) == share["num_replicas"] and not isinstance(self.sync, ShardedSync)
        mine = gradients[share["rank"] : share["rank"] + 1] if own else gradients
        for block, *blocks in zip(self.parameters, *mine, strict=True):
            for parameter, *found in zip(block, *blocks, strict=True):
                there = [gradient for gradient in found if gradient is not None]
                if there:
                    mean = there[0] if len(there) == 1 == len(mine) else torch.stack(there).sum(0) / len(mine)
                    parameter.grad = shard_like(mean, parameter)
        self.accumulating = True

    def _streamed_backward(
        self, losses: Iterable[LocalStep], divisor: int, update: bool, learning: Sequence[bool]
    ) -> None:
        for step in losses:
            self._finish()
            if learns(step, learning):
                with self.sync.backward():
                    self.module.manual_backward(step.loss / divisor)
                for index in step.blocks if update else ():
                    self._finish()
                    self._launch(index)
            del step  # its graph must not outlive it: the next loss is computed before the name is bound again

    def _fused_backward(self, steps: list[LocalStep], divisor: int, update: bool) -> None:
        if not steps:
            return
        with self.sync.backward():
            self.module.manual_backward(torch.stack([step.loss for step in steps]).sum() / divisor)
        for index in sorted({index for step in steps for index in step.blocks}) if update else ():
            self._finish()
            self._launch(index)

    def _launch(self, index: int) -> None:
        self.sync.launch(self.parameters[index])
        self.pending = index
        self.touched.add(index)
        if not self.overlaps:
            self._finish()

    def _finish(self) -> None:
        """Step the optimizer of the block whose gradients are on their way, and free them."""
        if self.pending is None:
            return
        index, self.pending = self.pending, None
        self.sync.wait()
        optimizer = self.module.block_optimizers[index]
        clip = partial(self._clip, index)
        scaler: torch.amp.GradScaler | None = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is None:
            self.trainer.strategy.optimizer_step(optimizer, closure=clip)
        else:
            self._scaled_step(scaler, optimizer, clip)
        optimizer.zero_grad(set_to_none=True)
        if self.module.repeats_blocks:
            torch.clear_autocast_cache()  # it holds half-precision copies of the weights before this update

    def _clip(self, index: int) -> None:
        if self.module.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters[index], self.module.clip_norm)

    def _scaled_step(self, scaler: torch.amp.GradScaler, optimizer: Optimizer, clip: partial[None]) -> None:
        """One block's step under a gradient scaler; the scaler itself moves once, in :meth:`_end_update`.

        Lightning's plugin would move the scale after every block, in the middle of a batch.
        """
        scaler.unscale_(optimizer)
        clip()
        self.trainer.precision_plugin._after_closure(self.module, optimizer)
        scaler.step(optimizer)

    def _end_update(self) -> None:
        """What happens once an update: the scaler, the schedulers, and Lightning's count of steps."""
        scaler: torch.amp.GradScaler | None = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and self.touched:
            scaler.update()
        schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        for index in self.touched if schedulers else ():
            schedulers[index].step()
        self.touched.clear()
        # The step of one Lightning optimizer is what `global_step` counts. All blocks were stepped through the
        # strategy, which does not count, so that the count is right whatever blocks took part.
        counter = self.trainer.strategy._lightning_optimizers[-1]
        counter._on_before_step()
        counter._on_after_step()


def learns(step: LocalStep, learning: Sequence[bool]) -> bool:
    """Whether all modules that a loss trains learn now."""
    return all(learning[index] for index in step.blocks)
