"""Trainer flags and callbacks that cannot work where every block has a loss and an optimizer of its own."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.optim import Optimizer

from ff_lightning.engine.lightning import is_compiled, saving_interval
from ff_lightning.errors import InputError


def refuse_flags(module: pl.LightningModule) -> None:
    """Name the argument of ours that does what a flag of Lightning's or torch's cannot.

    Args:
        module: attached to a Trainer.

    Raises:
        InputError: the Trainer accumulates, clips, looks for a learning rate or saves by the clock, or the module is
            compiled as a whole.
    """
    trainer = module.trainer
    if is_compiled(module):
        raise InputError(
            "Passed a module compiled by `torch.compile`. Blocks are compiled one by one: pass "
            "`compile_blocks=True` to the module instead."
        )
    if trainer.accumulate_grad_batches != 1:
        raise InputError(
            f"Passed `Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches})`. Blocks accumulate "
            "their own gradients: pass `accumulate_batches` to the module."
        )
    if trainer.gradient_clip_val:
        raise InputError(
            f"Passed `Trainer(gradient_clip_val={trainer.gradient_clip_val})`. Blocks clip their own "
            "gradients: pass `clip_norm` to the module."
        )
    if any(isinstance(callback, LearningRateFinder) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise InputError(
            "Passed a `LearningRateFinder`, or called `Tuner.lr_find`. It looks for the learning rate of one "
            "optimizer and one loss, and every block has its own: compare short runs with different `optimizer`s."
        )
    for saver in trainer.checkpoint_callbacks:
        if isinstance(saver, ModelCheckpoint) and (interval := saving_interval(saver)) is not None:
            raise InputError(
                f"Passed `{type(saver).__name__}(train_time_interval={interval})`. Lightning saves by the clock under "
                "automatic optimization alone, so nothing would be saved: pass `every_n_train_steps` or "
                "`every_n_epochs`."
            )


def refuse_built(**factories: Any) -> None:
    """Refuse an optimizer, or a schedule, that was built already: every block gets one of its own.

    Args:
        **factories: by the names of the arguments.

    Raises:
        InputError: one cannot be called.
    """
    example = {"optimizer": "torch.optim.Adam, lr=1e-3", "lr_scheduler": "StepLR, step_size=9"}
    for name, make in factories.items():
        if make is not None and not callable(make):
            raise InputError(
                f"Passed `{name}={type(make).__name__}(…)`. Every block gets one of its own: pass what builds it, such "
                f"as `functools.partial({example[name]})`."
            )


def refuse_optimizer(optimizer: Any) -> None:
    """Refuse what a block cannot be trained by.

    Raises:
        InputError: it is no optimizer, or it computes the loss again in a step, as `LBFGS` does.
    """
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"Passed an `optimizer` that builds a {type(optimizer).__name__}. It must build an optimizer.")
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise InputError(
            f"Passed `optimizer={type(optimizer).__name__}`. It computes the loss of a batch several times a step, and "
            "a block computes it once: use another, such as Adam."
        )


def keep_to_own(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    """Let an optimizer take in later parameters of its own block alone.

    `BaseFinetuning` adds what it frees to every optimizer that there is.

    Args:
        optimizer: of a block.
        parameters: of that block.
    """
    own, add = {id(parameter) for parameter in parameters}, optimizer.add_param_group

    def add_own(group: dict[str, Any]) -> None:
        found = [parameter for parameter in group["params"] if id(parameter) in own]
        if found:
            add(group | {"params": found})

    optimizer.add_param_group = add_own  # type: ignore[method-assign, assignment]


def refuse_own_reader(trainer: pl.Trainer) -> None:
    """Let no strategy read checkpoints by itself, which may run what they hold.

    Args:
        trainer: about to run; it gets a refusal in the place of the strategy's own reader.
    """
    strategy = trainer.strategy
    if type(strategy).load_checkpoint is Strategy.load_checkpoint:  # which asks our `CheckpointIO`
        return

    def refuse(checkpoint_path: Any, *_: Any, **__: Any) -> Any:
        raise InputError(
            f"Passed `ckpt_path={checkpoint_path}` with `{type(strategy).__name__}`, which reads checkpoints itself "
            "and may run what they hold. Use one device, `ddp` or `ModelParallelStrategy`."
        )

    strategy.load_checkpoint = refuse  # type: ignore[method-assign]
