"""The collectives that the mathematics needs: a mean over data-parallel ranks, and the rows of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch import distributed as dist

_one_copy = ContextVar("_one_copy", default=False)


@contextmanager
def one_copy() -> Iterator[None]:
    """Ranks within share one copy of the network and read the same data: there is nothing to average."""
    token = _one_copy.set(True)
    try:
        yield
    finally:
        _one_copy.reset(token)


def num_ranks() -> int:
    """How many data-parallel ranks there are: 1 in a single process."""
    return 1 if _one_copy.get() or not (dist.is_available() and dist.is_initialized()) else dist.get_world_size()


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of ``value`` over all ranks, or ``value`` itself in a single process.

    Args:
        value: any shape; equal on all ranks. Needs no gradient.

    Returns:
        A tensor of the same shape, equal on all ranks.
    """
    if num_ranks() == 1:
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / dist.get_world_size()


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks one after the other, or ``rows`` itself in a single process.

    Args:
        rows: ``(N, …)``, as many on every rank.

    Returns:
        ``(ranks * N, …)``, equal on all ranks.
    """
    if num_ranks() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(num_ranks())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
