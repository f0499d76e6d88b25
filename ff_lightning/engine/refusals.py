"""Trainer flags and callbacks that cannot work where every block has a loss and an optimizer of its own."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import LearningRateFinder

from ff_lightning.engine.lightning import is_compiled
from ff_lightning.errors import InputError


def refuse_flags(module: pl.LightningModule) -> None:
    """Name the argument of ours that does what a flag of Lightning's or torch's cannot.

    Args:
        module: attached to a Trainer.

    Raises:
        InputError: the Trainer accumulates, clips or looks for a learning rate, or the module is compiled as a whole.
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
