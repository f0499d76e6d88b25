"""The update engine: how one block's loss becomes an update under any strategy and precision.

It consumes the local losses that a task yields: backward of the yielded loss, that block's update, and only then
the next loss is asked for. Why it is built this way stands in the documentation, *The update engine*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ff_lightning.distributed import gathered
from ff_lightning.engine.lightning import before_optimizer_step, count_update
from ff_lightning.engine.profiling import BACKWARD, UPDATE, row
from ff_lightning.engine.sharding import ShardedSync, shard_like
from ff_lightning.engine.sync import Parameters, gradient_sync
from ff_lightning.errors import InputError
from ff_lightning.normalization import settle, with_running_values
from ff_lightning.signals import LocalStep, StepContext
from ff_lightning.stages import Stage

Gradients = list[list[list[Tensor | None]]]
"""Of every rank, block and parameter."""


def merged(parts: Gradients) -> list[list[Tensor | None]]:
    """Gradients of one network whose blocks each have theirs in one of the parts, and ``None`` in the others."""
    return [
        [next((gradient for gradient in found if gradient is not None), None) for found in zip(*block, strict=True)]
        for block in zip(*parts, strict=True)
    ]


class Staged(Protocol):
    """A network of which some blocks may be trained by other processes."""

    stage: Stage


@dataclass(frozen=True)
class Plan:
    """How the blocks of a training are updated.

    Attributes:
        fused: one backward pass of the summed losses, instead of one a block.
        clip_norm: largest gradient norm of a block; ``None`` for no clipping.
        repeats_blocks: whether a block may be updated more than once a batch.
        in_turn: whether a block must have had its update before the next loss is computed.
    """

    fused: bool = False
    clip_norm: float | None = None
    repeats_blocks: bool = False
    in_turn: bool = False


class BlockUpdates:
    """Turns local losses into updates: backward, average over ranks, clip, step, free.

    Args:
        trainer: runs the training.
        network: what is trained; its stage says which of the blocks are trained here.
        parameters: the parameters of every local module, in the order of ``LocalStep.block``.
        optimizers: one a local module, in the same order.
        backward: of a loss, such as ``LightningModule.manual_backward``.
        plan: how they are updated.

    Raises:
        InputError: a strategy or a precision that cannot update the blocks in this way.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        network: Staged,
        parameters: Sequence[Parameters],
        optimizers: Sequence[Optimizer],
        backward: Callable[[Tensor], None],
        plan: Plan,
    ) -> None:
        self.trainer = trainer
        self.network = network
        self.optimizers = optimizers
        self.backward = backward
        self.plan = plan
        if plan.repeats_blocks and getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise InputError(
                "Passed `precision='16-mixed'` to a task that repeats blocks within a batch. A gradient scaler takes "
                "one step of each optimizer a batch; use 'bf16-mixed'."
            )
        self.parameters = parameters
        self.running = with_running_values(trainer.lightning_module)
        self.sync = gradient_sync(self.trainer.strategy)
        self.rereads = plan.repeats_blocks or plan.in_turn
        self.overlaps = self.sync.overlaps and not self.rereads
        self.pending: int | None = None
        self.touched: set[int] = set()
        self.accumulating = False

    def run(self, losses: Iterable[LocalStep], context: StepContext, *, divisor: int, update: bool) -> None:
        """Consume the local losses of one batch.

        Args:
            losses: the generator of :meth:`~ff_lightning.FFLightningModule.local_losses`.
            context: says which local modules learn now.
            divisor: batches that share one update; every loss is divided by it.
            update: whether this batch ends in an update; otherwise gradients accumulate.
        """
        if self.plan.fused:
            self._fused_backward([step for step in losses if context.learns(*step.blocks)], divisor, update)
        else:
            self._streamed_backward(losses, context, divisor, update)
        settle(*self.running)
        if update:
            self._finish()
            elsewhere = self.network.stage.elsewhere  # their learning rates are kept in step here
            self.touched.update(index for index in elsewhere if context.learns(index))
            self._end_update()
        self.accumulating = not update

    def gradients(self) -> Gradients | None:
        """Gradients that wait for the rest of their update, of every rank; ``None`` between updates.

        Every rank must call it, since each has gradients of its own until they are averaged. Those of sharded blocks
        are averaged already; there is one mean of them.
        """
        if not self.accumulating:
            return None
        own = [[None if p.grad is None else gathered(p.grad).cpu() for p in block] for block in self.parameters]
        stage = self.network.stage
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

    def profiled(self, index: int, what: str) -> AbstractContextManager[None]:
        """A row of a block in the profile of the Trainer; nothing without a profiler."""
        profile: AbstractContextManager[None] = self.trainer.profiler.profile(row(index, what))  # type: ignore[attr-defined]
        return profile

    def _streamed_backward(self, losses: Iterable[LocalStep], context: StepContext, divisor: int, update: bool) -> None:
        for step in losses:
            self._finish()
            if context.learns(*step.blocks):
                with self.sync.backward(), self.profiled(step.blocks[0], BACKWARD):
                    self.backward(step.loss / divisor)
                for index in step.blocks if update else ():
                    self._finish()
                    self._launch(index)
            del step  # its graph must not outlive it: the next loss is computed before the name is bound again

    def _fused_backward(self, steps: list[LocalStep], divisor: int, update: bool) -> None:
        if not steps:
            return
        with self.sync.backward():
            self.backward(torch.stack([step.loss for step in steps]).sum() / divisor)
        for index in sorted({index for step in steps for index in step.blocks}) if update else ():
            self._finish()
            self._launch(index)

    def _launch(self, index: int) -> None:
        self.sync.launch([parameter for parameter in self.parameters[index] if parameter.requires_grad])
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
        optimizer = self.optimizers[index]
        clip = partial(self._clip, index)
        scaler: torch.amp.GradScaler | None = getattr(self.trainer.precision_plugin, "scaler", None)
        with self.profiled(index, UPDATE):
            if scaler is None:
                self.trainer.strategy.optimizer_step(optimizer, closure=clip)
            else:
                self._scaled_step(scaler, optimizer, clip)
            optimizer.zero_grad(set_to_none=True)
        if self.rereads:
            torch.clear_autocast_cache()  # it holds half-precision copies of the weights before this update

    def _clip(self, index: int) -> None:
        if self.plan.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters[index], self.plan.clip_norm)

    def _scaled_step(self, scaler: torch.amp.GradScaler, optimizer: Optimizer, clip: partial[None]) -> None:
        """One block's step under a gradient scaler; the scaler itself moves once, in :meth:`_end_update`.

        Lightning's plugin would move the scale after every block, in the middle of a batch.
        """
        scaler.unscale_(optimizer)
        clip()
        before_optimizer_step(self.trainer, optimizer)
        scaler.step(optimizer)

    def _end_update(self) -> None:
        """What happens once an update: the scaler, the schedulers, and Lightning's count of steps."""
        scaler: torch.amp.GradScaler | None = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and self.touched:
            scaler.update()
        schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        for index in self.touched if schedulers else ():
            _step(schedulers[index], index)
        self.touched.clear()
        # The step of one Lightning optimizer is what `global_step` counts. All blocks were stepped through the
        # strategy, which does not count, so that the count is right whatever blocks took part.
        count_update(self.trainer)


def _step(scheduler: LRScheduler, index: int) -> None:
    try:
        scheduler.step()
    except ValueError as error:  # as `OneCycleLR` raises, which knows its last update
        raise InputError(
            f"The `lr_scheduler` of local module {index} cannot go on ({type(scheduler).__name__}: {error}). It is "
            "stepped once an update: give it as many steps as the training has updates, or use `HoldThenDecay`, which "
            "follows the training."
        ) from error
