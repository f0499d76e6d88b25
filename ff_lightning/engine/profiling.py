"""Rows of every block in Lightning's profilers: ``Trainer(profiler="simple")``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from torch import nn

from ff_lightning.engine.compilation import FORWARD, STEP

LOSS, BACKWARD, UPDATE = "forward and loss", "backward", "update"


def row(index: int, what: str) -> str:
    """Name of an action of a block in a profile.

    >>> row(2, BACKWARD)
    'block 2: backward'
    """
    return f"block {index}: {what}"


def profile_steps(modules: Sequence[nn.Module], profiler: Profiler) -> None:
    """Let a profiler time what every local module computes, in place; nothing changes without a profiler.

    Args:
        modules: the blocks, and a readout if it learns, which is counted on.
        profiler: of the Trainer.
    """
    if isinstance(profiler, PassThroughProfiler):
        return
    for index, module in enumerate(modules):
        name = STEP if hasattr(module, STEP) else FORWARD
        setattr(module, name, _timed(getattr(module, name), profiler, row(index, LOSS)))


def _timed(step: Callable[..., Any], profiler: Profiler, name: str) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        with profiler.profile(name):
            return step(*args, **kwargs)

    return timed
