"""What is done to every batch before a task sees it: a look for NaN, and a seed for what layers draw."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ff_lightning.errors import InputError


def seed_default_generator(seed: int, device: torch.device) -> None:
    """Seed the generators that layers draw from: the host's and that of ``device``.

    ``torch.manual_seed`` seeds every kind of accelerator there could be, and notes where it was called from for
    each: a millisecond, and a list that grows.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def seeded_generator(seed: int, device: torch.device) -> torch.Generator:
    """A source of randomness of its own.

    Raises:
        InputError: the seed is no whole number, or beyond what torch takes.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not -(2**63) <= seed < 2**64:
        raise InputError(f"Passed `seed={seed!r}`. `seed` must be a whole number from -2**63 to 2**64 - 1.")
    return torch.Generator(device=device).manual_seed(int(seed))


def refuse_non_finite(batch: Any, name: str) -> None:
    """Check the floating tensors of a batch, before a block learns from them.

    Args:
        batch: a tensor, or any nesting of tuples, lists and dicts of tensors.
        name: what to call the batch.

    Raises:
        InputError: a value is NaN or infinite.
    """
    tensors = [x for x in tree_leaves(batch) if isinstance(x, Tensor) and x.is_floating_point()]
    # One look at the sum: it is finite if every value is, short of an overflow, and costs a single pass.
    if any(not bool(torch.isfinite(x.sum())) and not bool(torch.isfinite(x).all()) for x in tensors):
        raise InputError(f"{name} holds NaN or infinite values.")


def is_on_host(batch: Any) -> bool:
    """Whether all tensors of a batch, nested in any way, are on the CPU."""
    return all(x.device.type == "cpu" for x in tree_leaves(batch) if isinstance(x, Tensor))


def pinned(batch: Any) -> Any:
    """The same batch in memory that a CUDA device copies from by itself; as it is where there is none."""
    if not torch.cuda.is_available():
        return batch
    return tree_map_only(Tensor, lambda x: x.pin_memory() if x.layout == torch.strided else x, batch)
