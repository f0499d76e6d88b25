"""Training steps of blocks through ``torch.compile``: the block, its goodness, its loss and the norm in one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ff_lightning.normalization import RunningMean

STEP = "local_step"
FORWARD = "forward"


def compile_steps(modules: Sequence[nn.Module], *, backend: str = "inductor") -> None:
    """Compile what training computes of every local module, in place; names in checkpoints stay.

    Blocks of equal shape share a graph. A block is compiled as a whole, from what it receives to its loss and what it
    passes on; of a readout, which has no such step, the forward pass.

    Args:
        modules: the blocks, and a readout if it learns.
        backend: of ``torch.compile``.
    """
    # Beyond the limit, whose default is 8, further shapes would run uncompiled, and torch would only warn.
    limit = 4 * len(modules)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, limit)
    for module in modules:
        if hasattr(module, STEP):
            step = getattr(module, STEP)
            setattr(module, STEP, _settled_first(module, step, torch.compile(step, backend=backend)))
        else:
            setattr(module, FORWARD, torch.compile(getattr(module, FORWARD), backend=backend))


def _settled_first(module: nn.Module, step: Callable[..., Any], compiled: Callable[..., Any]) -> Callable[..., Any]:
    """The step as it is until running values are set, which the first batch does only once; then the compiled one."""
    means = [part for part in module.modules() if isinstance(part, RunningMean)]

    def either(*args: Any, **kwargs: Any) -> Any:
        return (compiled if all(part.started for part in means) else step)(*args, **kwargs)

    return either


def leave_steps(modules: Sequence[nn.Module]) -> None:
    """Give modules back as they were before their steps were compiled or timed, so that they can be copied and pickled.

    Args:
        modules: what :func:`compile_steps` got.
    """
    for module in modules:
        vars(module).pop(STEP, None)
        vars(module).pop(FORWARD, None)
