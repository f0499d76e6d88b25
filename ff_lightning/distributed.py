"""The one collective that the mathematics needs: a mean over data-parallel ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of ``value`` over all ranks, or ``value`` itself in a single process.

    Args:
        value: any shape; equal on all ranks. Needs no gradient.

    Returns:
        A tensor of the same shape, equal on all ranks.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / dist.get_world_size()
