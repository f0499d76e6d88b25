"""Training steps of blocks through ``torch.compile``: the block, its goodness, its loss and the norm in one graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

STEP = "local_step"
FORWARD = "forward"


def compile_steps(modules: Sequence[nn.Module]) -> None:
    """Compile what training computes of every local module, in place; names in checkpoints stay.

    Blocks of equal shape share a graph. Where nothing but the activities is the module's own business, as in a twin,
    its forward pass is compiled.

    Args:
        modules: the blocks, and a readout if it learns.
    """
    # Beyond the limit, whose default is 8, further shapes would run uncompiled, and torch would only warn.
    limit = 4 * len(modules)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, limit)
    for module in modules:
        name = STEP if hasattr(module, STEP) else FORWARD
        setattr(module, name, torch.compile(getattr(module, name)))


def undo_compile(modules: Sequence[nn.Module]) -> None:
    """Give modules back as they were, so that they can be copied and pickled.

    Args:
        modules: what :func:`compile_steps` got.
    """
    for module in modules:
        vars(module).pop(STEP, None)
        vars(module).pop(FORWARD, None)
