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

IMAGE_PART = "image_part"
"""Of a first layer: what it makes of an image alone, see :class:`~ff_lightning.stacks.Opened`."""


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
    earlier: list[tuple[nn.Module, str, Any]] = []
    for block, cost in zip(blocks, costs, strict=True):
        kept_anyway, inside = {parameter.data_ptr() for parameter in block.parameters()}, Inside()
        for owner, name in _steps_of(block):
            earlier.append((owner, name, vars(owner).get(name)))
            setattr(owner, name, _counting(getattr(owner, name), cost, kept_anyway, inside))
    try:
        yield costs
    finally:
        for owner, name, step in earlier:
            vars(owner).pop(name, None)  # the end of a training leaves none
            if step is not None:
                setattr(owner, name, step)


def _steps_of(block: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Where a block computes: in its local step, and what no label changes before it, where negatives are drawn."""
    if hasattr(block, STEP):
        yield block, STEP
        layer: nn.Module | None = getattr(block, "layer", None)
        if layer is not None and hasattr(layer, IMAGE_PART):
            yield layer, IMAGE_PART


@dataclass
class Inside:
    """Whether a block is counted already, so that what is called within is not counted twice."""

    counting: bool = False


def _counting(step: Callable[..., Any], cost: Cost, parameters: set[int], inside: Inside) -> Callable[..., Any]:
    def counting(*args: Any, **kwargs: Any) -> Any:
        if inside.counting:
            return step(*args, **kwargs)
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        inside.counting = True
        try:
            with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
                found = step(*args, **kwargs)
        finally:
            inside.counting = False
        cost.operations += counter.get_total_flops()
        cost.kept_bytes += sum(kept.values()) if torch.is_grad_enabled() else 0
        return found

    return counting
