"""What a local step costs: operations, and bytes that are kept for its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ff_lightning.engine.compilation import STEP


@dataclass
class Cost:
    """Of one block, on one batch.

    Attributes:
        operations: floating-point operations of the forward pass, goodness and loss, as torch counts them: those of
            matrix products, convolutions and attention.
        kept_bytes: of tensors that are kept for the backward pass, beside parameters.
    """

    operations: int = 0
    kept_bytes: int = 0


@contextmanager
def counted(blocks: Sequence[nn.Module]) -> Iterator[list[Cost]]:
    """Count what the local steps of blocks cost, as long as this lasts. What they compute is the same.

    Args:
        blocks: with a method ``local_step``; of others nothing is counted.

    Yields:
        The cost of every block; of one that is visited several times, all visits together.
    """
    costs = [Cost() for _ in blocks]
    earlier = {block: vars(block).get(STEP) for block in blocks if hasattr(block, STEP)}
    for block, cost in zip(blocks, costs, strict=True):
        if block in earlier:
            setattr(block, STEP, _counting(getattr(block, STEP), cost, {p.data_ptr() for p in block.parameters()}))
    try:
        yield costs
    finally:
        for block, step in earlier.items():
            vars(block).pop(STEP, None)  # the end of a training leaves none
            if step is not None:
                setattr(block, STEP, step)


def _counting(step: Callable[..., Any], cost: Cost, parameters: set[int]) -> Callable[..., Any]:
    def counting(*args: Any, **kwargs: Any) -> Any:
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
            found = step(*args, **kwargs)
        cost.operations += counter.get_total_flops()
        cost.kept_bytes += sum(kept.values()) if torch.is_grad_enabled() else 0
        return found

    return counting
