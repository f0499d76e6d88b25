"""One precision for a training: all its ranks, and what follows a stop, compute in the same types.

Which half precision is worth it differs between machines (:mod:`ff_lightning.processor`). Where it was chosen for a
machine and not by the user, the first rank chooses for all, and a training that is resumed keeps what it began with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

from ff_lightning.engine.lightning import replace_precision
from ff_lightning.processor import ask, multiplies_bfloat16

MUON = "bfloat16"
"""Entry of a parameter group of :class:`~ff_lightning.optim.MuonAdamW` that says what it computes in."""


def follow_first_rank(trainer: pl.Trainer) -> None:
    """Give every rank the precision of the first one; before the strategy sets up the network."""
    strategy, own = trainer.strategy, str(trainer.precision)
    if trainer.world_size == 1:
        return
    first = strategy.broadcast(own)
    if strategy.reduce_boolean_decision(first == own):
        return
    plugin = strategy.broadcast(trainer.precision_plugin)
    if first != own:
        replace_precision(trainer, plugin)
    rank_zero_info(f"Computing in {first} on all ranks, as on the first one; others would have chosen otherwise.")


def settle_muon(trainer: pl.Trainer, optimizers: Sequence[Optimizer]) -> None:
    """Let Muon compute in the same type on every rank, the choice of the first one; a checkpoint may change it."""
    groups = [group for group in muon_groups(optimizers) if group[MUON] is None]
    device = trainer.strategy.root_device.type
    bfloat16 = trainer.strategy.broadcast(multiplies_bfloat16(device)) if trainer.world_size > 1 else None
    for group in groups:
        group[MUON] = multiplies_bfloat16(device) if bfloat16 is None else bfloat16


def muon_groups(optimizers: Sequence[Optimizer]) -> list[dict[str, Any]]:
    """The parameter groups that Muon updates."""
    return [group for optimizer in optimizers for group in optimizer.param_groups if MUON in group]


def tell_what_differs(trainer: pl.Trainer, kept: str | None, optimizers: Sequence[Optimizer]) -> None:
    """Say where a training that goes on computes otherwise than before the stop, or than this machine would choose.

    Args:
        trainer: that goes on.
        kept: precision of the checkpoint; ``None`` if it does not say.
        optimizers: with the state of the checkpoint.
    """
    own, found = str(trainer.precision), ask(trainer.strategy.root_device.type)
    if kept not in (None, own):
        rank_zero_info(f"Computing in {own} from here on, as the Trainer was told; before the stop it was {kept}.")
    for bfloat16 in {group[MUON] for group in muon_groups(optimizers)} - {found.pays, None}:
        kind, other = ("bfloat16", "float32") if bfloat16 else ("float32", "bfloat16")
        rank_zero_info(f"Muon goes on in {kind}, as before the stop; this machine would choose {other}: {found.why}.")
