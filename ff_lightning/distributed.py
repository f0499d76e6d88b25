"""The collectives that the mathematics needs: a mean over ranks, the rows of all of them, and sharded tensors whole."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

Function = TypeVar("Function", bound=Callable[..., Any])
_one_copy = False


@contextmanager
def one_copy() -> Iterator[None]:
    """Ranks within share one copy of the network and read the same data: there is nothing to average."""
    global _one_copy  # not a context variable, which compiled code cannot read
    before, _one_copy = _one_copy, True
    try:
        yield
    finally:
        _one_copy = before


def eager(function: Function) -> Function:
    """Keep a function out of compiled code: code that was compiled calls it as plain Python.

    Two kinds of functions need it. Those with a ``torch.Generator``, which ``torch.compile`` cannot handle. And those
    with a collective that writes its result into a tensor: inside compiled code that result is lost (torch 2.13).

    Args:
        function: to keep out.
    """
    kept: Function = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return kept


def num_ranks() -> int:
    """How many data-parallel ranks there are: 1 in a single process."""
    return 1 if _one_copy or not (dist.is_available() and dist.is_initialized()) else dist.get_world_size()


@cache
def leave_group_at_exit() -> None:
    """Have the process group destroyed before the interpreter goes; called again, it does nothing.

    Else threads of gloo may outlive the interpreter and abort a process whose training succeeded (pytorch#190489).
    Lightning does so for NCCL only. After an exception other ranks may never answer, so nothing is waited for then.
    """

    def leave() -> None:
        if dist.is_available() and dist.is_initialized() and getattr(sys, "last_value", None) is None:
            dist.destroy_process_group()

    atexit.register(leave)


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of ``value`` over all ranks, or ``value`` itself in a single process.

    Args:
        value: any shape; equal on all ranks. Needs no gradient.

    Returns:
        A tensor of the same shape, equal on all ranks.
    """
    if num_ranks() == 1:
        return value
    return _sum_over_ranks(value.detach()) / dist.get_world_size()


@eager
def _sum_over_ranks(value: Tensor) -> Tensor:
    total = value.clone()
    dist.all_reduce(total)
    return total


@eager
def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks one after the other, or ``rows`` itself in a single process.

    Args:
        rows: ``(N, …)``; ``N`` may differ between ranks, what follows may not.

    Returns:
        ``(N of all ranks added up, …)``, equal on all ranks.
    """
    if num_ranks() == 1:
        return rows
    # The collective takes tensors of one shape: with others gloo raises, and NCCL hangs or mixes up what it gives.
    lengths = torch.cat(_gather(torch.tensor([len(rows)], device=rows.device))).tolist()
    filled = rows.new_zeros(max(lengths), *rows.shape[1:])
    filled[: len(rows)] = rows
    return torch.cat([part[:length] for part, length in zip(_gather(filled), lengths, strict=True)])


def _gather(value: Tensor) -> list[Tensor]:
    """The same tensor of every rank, contiguous and of one shape on all of them."""
    parts = [torch.empty_like(value) for _ in range(num_ranks())]
    dist.all_gather(parts, value)
    return parts


def is_sharded(module: nn.Module) -> bool:
    """Whether the parameters of a module are spread over the ranks, and only whole while it is computed."""
    return isinstance(module, FSDPModule)


def gathered(value: Tensor) -> Tensor:
    """A tensor that is spread over the ranks gathered, any other as it is; all ranks must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def take_from_first_rank(module: nn.Module) -> None:
    """Give all ranks the parameters and buffers that the first one has; all of them must call it.

    Args:
        module: the same on all ranks, but for its values.
    """
    for value in (*module.parameters(), *module.buffers()):
        dist.broadcast(value.detach(), src=0)
