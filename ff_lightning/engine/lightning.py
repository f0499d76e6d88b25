"""Every private name of Lightning that is used, each behind a function; no other file touches one.

A private name may be renamed in any release. A read of it would then fail somewhere inside a training, and an
assignment would not fail at all: it would make a new attribute that nobody looks at. So each function here looks
whether the name exists, and says by name if it does not. Where Lightning or torch has a public way, that is used
instead. Private methods of Lightning that a class of ours overrides stay with the class; they, and private names of
other packages, are listed in ``tests/engine/test_lightning.py``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.optim import Optimizer

from ff_lightning.errors import InputError

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI


def known(owner: object, name: str) -> Any:
    """The value of a private attribute of an object of Lightning's.

    Args:
        owner: has the attribute.
        name: of the attribute.

    Raises:
        InputError: there is no such attribute; names it, and the version of Lightning.
    """
    try:
        return getattr(owner, name)
    except AttributeError as error:
        raise InputError(
            f"Lightning {version('lightning')} has no `{type(owner).__name__}.{name}`, a private name that is "
            "needed here. Install an earlier version of `lightning`, or a later one of `ff-lightning`."
        ) from error


def replace(owner: object, name: str, value: Any) -> None:
    """Assign to a private attribute of an object of Lightning's; it must exist.

    Args:
        owner: has the attribute.
        name: of the attribute.
        value: what it becomes.

    Raises:
        InputError: there is no such attribute, so that nobody would read what is assigned.
    """
    known(owner, name)
    setattr(owner, name, value)


def undo_replace(owner: object, name: str) -> None:
    """Let an object have its class's own method again; where nothing was replaced, nothing changes."""
    vars(owner).pop(name, None)


# Modules ---------------------------------------------------------------------------------------------------------


def trainer_of(module: pl.LightningModule) -> pl.Trainer | None:
    """The Trainer that a module is attached to, or ``None``; ``module.trainer`` raises where there is none.

    A module that Lightning Fabric runs has no Trainer either.
    """
    try:
        trainer = module.trainer
    except RuntimeError:
        return None
    return trainer if isinstance(trainer, pl.Trainer) else None


def is_compiled(module: pl.LightningModule) -> bool:
    """Whether ``torch.compile`` was called on a whole module."""
    return known(module, "_compiler_ctx") is not None


def class_and_arguments(saved: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Take apart the hyperparameters of a checkpoint that the command line wrote.

    Args:
        saved: ``hyper_parameters`` of the checkpoint.

    Returns:
        Dotted path of the class that was trained, ``None`` if the command line did not write it; and the arguments.
    """
    arguments = dict(saved)
    arguments.pop("_instantiator", None)
    return arguments.pop("_class_path", None), arguments


# Steps -----------------------------------------------------------------------------------------------------------


def batches_trained(trainer: pl.Trainer) -> int:
    """Batches of a training so far, without the present one: Lightning decides by this number when it logs."""
    return int(known(trainer.fit_loop.epoch_loop, "_batches_that_stepped"))


def saving_interval(saver: ModelCheckpoint) -> timedelta | None:
    """The time after which a callback saves again; ``None`` if it counts updates or epochs."""
    interval: timedelta | None = known(saver, "_train_time_interval")
    return interval


def before_optimizer_step(trainer: pl.Trainer, optimizer: Optimizer) -> None:
    """Call the hooks ``on_before_optimizer_step``, as Lightning does between a backward pass and a step.

    Args:
        trainer: of a training.
        optimizer: that is about to step.
    """
    known(trainer.precision_plugin, "_after_closure")(trainer.lightning_module, optimizer)


def count_update(trainer: pl.Trainer) -> None:
    """Add 1 to ``trainer.global_step``, as the step of an optimizer does under manual optimization."""
    progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    progress.increment_ready()
    with trainer.profiler.profile("optimizer_step"):  # type: ignore[attr-defined]
        pass
    progress.increment_completed()


# Strategies ------------------------------------------------------------------------------------------------------


def ddp_options(strategy: DDPStrategy) -> Mapping[str, Any]:
    """What a strategy passes on to torch's ``DistributedDataParallel``, such as ``static_graph``."""
    options: Mapping[str, Any] = known(strategy, "_ddp_kwargs")
    return options


def writes_folders(strategy: ModelParallelStrategy) -> bool:
    """Whether the checkpoints of a strategy are folders, to which every rank adds its part."""
    return bool(known(strategy, "_save_distributed_checkpoint"))


def replace_precision(trainer: pl.Trainer, plugin: Precision) -> None:
    """Let a Trainer compute in another precision, before its strategy sets up the network.

    Args:
        trainer: of a training that has not begun.
        plugin: of the precision.
    """
    replace(trainer.strategy, "_precision_plugin", plugin)


def replace_sigterm(trainer: pl.Trainer, on_signal: Callable[..., None], before_batch: Callable[[], None]) -> None:
    """Replace what Lightning does about SIGTERM, until :func:`restore_sigterm`.

    Lightning notes the signal when it comes. Before every batch, all ranks ask each other whether it came to one.

    Args:
        trainer: of a training that has not begun.
        on_signal: called with the number and the frame of the signal when it comes.
        before_batch: called before every batch, in the place of the question.
    """
    replace(known(trainer, "_signal_connector"), "_sigterm_notifier_fn", on_signal)
    replace(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor", before_batch)


def restore_sigterm(trainer: pl.Trainer) -> None:
    """Undo :func:`replace_sigterm`; without one, nothing changes."""
    undo_replace(known(trainer, "_signal_connector"), "_sigterm_notifier_fn")
    undo_replace(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor")


def requeueing_signals(trainer: pl.Trainer) -> set[int]:
    """The signals that Lightning answers itself under SLURM: it keeps the state, and the job is queued again."""
    environment = known(known(trainer, "_accelerator_connector"), "cluster_environment")
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return set()
    return {int(environment.requeue_signal or signal.SIGUSR1), signal.SIGTERM}


# Command line ----------------------------------------------------------------------------------------------------


def subcommand_parser(cli: LightningCLI, subcommand: str | None) -> LightningArgumentParser:
    """The parser of ``fit`` or another subcommand; the only parser there is, if ``subcommand`` is ``None``."""
    parser: LightningArgumentParser = known(cli, "_parser")(subcommand)
    return parser
