"""A word such as ``1`` is a whole number wherever an argument may be a whole number or another."""

from __future__ import annotations

import functools
import inspect
import operator
import typing
from collections.abc import Callable


def whole_numbers_first(*functions: Callable[..., object]) -> None:
    """Let a parser try whole numbers first.

    ``typing`` keeps the unions that it has made and gives one of them for an equal union of another order. A library
    that says ``Optional[float | int]`` and is imported first so decides what ``Optional[int | float]`` is, here and in
    Lightning's Trainer, and a parser tries the types in their order: ``--trainer.limit_train_batches 1``, one batch,
    would be read as 1.0, all of them.

    Args:
        *functions: whose annotations are put in order, beside those that are still to be made.
    """
    for forget in typing._cleanups:  # type: ignore[attr-defined]
        forget()
    for function in functions:
        annotations = inspect.unwrap(function).__annotations__
        for name, hint in annotations.items():
            kinds = typing.get_args(hint)
            if {int, float} <= set(kinds):
                ordered = sorted(kinds, key=lambda kind: kind is float)  # the others stay as they are
                annotations[name] = functools.reduce(operator.or_, ordered)
