"""Measures the loss of every block on validation data, for a schedule that lets blocks rest by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.candidates import SampledContrast
from ff_lightning.errors import InputError
from ff_lightning.schedules import RestOnPlateau
from ff_lightning.signals import LocalStep
from ff_lightning.stacks import Network


class Trained(Protocol):
    """What is asked of the module that is trained."""

    network: Network

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """Local losses of a batch."""

    def local_modules(self) -> Sequence[nn.Module]:
        """What they train."""


class PlateauWatch(pl.Callback):
    """Tells a :class:`~ff_lightning.schedules.RestOnPlateau` the loss of every block at every validation.

    Args:
        schedule: of the module that is trained; its state is this callback's.
    """

    def __init__(self, schedule: RestOnPlateau) -> None:
        self.schedule = schedule
        self._sums: dict[int, Tensor] = {}
        self._batches = 0

    def state_dict(self) -> dict[str, Any]:
        """That of the schedule."""
        return self.schedule.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give the schedule back its own."""
        self.schedule.load_state_dict(state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that all blocks are here, and that there is validation data.

        Raises:
            InputError: other processes train some of the blocks, or there is none.
        """
        if trained(pl_module).network.stage.elsewhere:
            raise InputError(
                "Passed `schedule=RestOnPlateau` with `LayerParallelStrategy`. Every process must know the loss of all "
                "blocks: use `strategy='ddp'`, or `Periods`."
            )
        if not trainer.enable_validation:
            raise InputError(
                "Passed `schedule=RestOnPlateau` to a training without validation. Give validation data, or use "
                "`Periods`."
            )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to measure."""
        self._sums, self._batches = {}, 0

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add up the losses of a batch, of blocks that still learn."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        module = trained(pl_module)
        with trainer.precision_plugin.forward_context():
            for step in module.local_losses(batch):
                for index, loss in own_losses(step, module.local_modules()):
                    self._sums[index] = self._sums.get(index, torch.zeros_like(loss)) + loss
        self._batches += 1

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the schedule, before a checkpoint is written; end the training if no block learns any more."""
        if not self._batches:
            return
        before = self._resting(pl_module)
        means = {index: total / self._batches for index, total in self._sums.items() if index not in before}
        self.schedule.observe(
            {index: float(trainer.strategy.reduce(mean, reduce_op="mean")) for index, mean in sorted(means.items())}
        )
        after = self._resting(pl_module)
        if new := sorted(after - before):
            rank_zero_info(f"Block {', '.join(map(str, new))} rests from update {trainer.global_step:,} on.")
        if len(after) == len(trained(pl_module).local_modules()):
            trainer.should_stop = True

    def _resting(self, pl_module: pl.LightningModule) -> set[int]:
        return {index for index in range(len(trained(pl_module).local_modules())) if self.schedule.rests(index)}


def trained(module: pl.LightningModule) -> Trained:
    """The module as what it is: the callback is added by one with blocks alone."""
    return cast("Trained", module)


def own_losses(step: LocalStep, modules: Sequence[nn.Module]) -> list[tuple[int, Tensor]]:
    """What a local loss says of each block that it trains: its own loss, or what stands for it.

    Args:
        step: of one block, or of a pair.
        modules: what ``step.block`` counts.
    """
    below = [] if step.below is None else own_losses(step.below, modules)
    loss = step.loss.detach() if step.below is None else step.loss.detach() - step.below.loss.detach()
    drawn = isinstance(getattr(modules[step.block], "loss", None), SampledContrast)
    if drawn and step.g_pos is not None and step.g_neg is not None:
        loss = F.softplus((step.g_neg - step.g_pos).float()).mean()
    return [*below, (step.block, loss)]
