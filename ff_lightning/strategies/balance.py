"""How a stack is cut, so that its parts take about equally long."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from functools import cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ff_lightning.errors import InputError
from ff_lightning.normalization import RunningMean

if TYPE_CHECKING:
    from ff_lightning.module import FFLightningModule

ROUNDS = 3


def balanced_cuts(costs: Sequence[float], ranks: int) -> list[int]:
    """Cut a stack into neighbouring groups of blocks, so that the dearest group is as cheap as can be.

    Args:
        costs: of every block.
        ranks: number of groups, not more than there are blocks.

    Returns:
        The first block of every group but the lowest.

    >>> balanced_cuts([3, 1, 1, 1], 2)
    [1]
    """
    sums = [0.0, *accumulate(costs)]

    @cache
    def best(stop: int, groups: int) -> tuple[float, tuple[int, ...]]:
        """The dearest of so many groups of the blocks below ``stop``, and where they are cut."""
        if groups == 1:
            return sums[stop], ()
        lower = {cut: best(cut, groups - 1) for cut in range(groups - 1, stop)}
        return min((max(dearest, sums[stop] - sums[cut]), (*cuts, cut)) for cut, (dearest, cuts) in lower.items())

    return list(best(len(costs), ranks)[1])


def check_cuts(cuts: Sequence[int] | None, depth: int, ranks: int) -> None:
    """Check that every rank can get some blocks.

    Args:
        cuts: the first block of every rank but the first, or ``None`` if that is still to be found.
        depth: number of blocks.
        ranks: number of ranks.

    Raises:
        InputError: there are too few blocks, or the cuts do not fit them.
    """
    if depth < ranks:
        raise InputError(
            f"Passed `LayerParallelStrategy` with {ranks} devices for {depth} blocks. Every device needs a block: use "
            "fewer `devices`, or `strategy='ddp'`."
        )
    ends = [0, *(range(1, ranks) if cuts is None else cuts), depth]
    if len(ends) != ranks + 1 or any(a >= b for a, b in pairwise(ends)):
        raise InputError(
            f"Passed `LayerParallelStrategy(cuts={cuts})` with {ranks} devices for {depth} blocks. `cuts` needs "
            f"{ranks - 1} rising numbers from 1 to {depth - 1}: the first block of every device but the first."
        )


def groups_of(cuts: Sequence[int], depth: int) -> list[range]:
    """The blocks of every group.

    >>> groups_of([1], 4)
    [range(0, 1), range(1, 4)]
    """
    return [range(*ends) for ends in pairwise([0, *cuts, depth])]


def block_seconds(module: FFLightningModule, batch: Any) -> list[float]:
    """Time the local step, its backward pass and the update of every block, and change nothing.

    Args:
        module: attached to a running Trainer, whose network is whole.
        batch: a training batch, on the device.

    Returns:
        Seconds of every block, the best of a few rounds. What a task does before the first block counts for it.
    """
    parameters = list(module.parameters())
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    gradients = [p.grad for p in parameters]
    devices = [] if module.device.type == "cpu" else [module.device]
    rounds = []
    with torch.random.fork_rng(devices, device_type=module.device.type if devices else "cuda"):
        for _ in range(ROUNDS):
            rounds.append(_round(module, batch))
    for buffer, kept in buffers:
        buffer.copy_(kept)
    for part in module.modules():
        if isinstance(part, RunningMean):
            part.forget()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return [min(times) for times in zip(*rounds, strict=True)]


def _round(module: FFLightningModule, batch: Any) -> list[float]:
    seconds = [0.0] * len(module.network)
    with module.trainer.precision_plugin.train_step_context():
        started = _now(module.device)
        for step in module.local_losses(batch):
            for parameter in module.network[step.block].parameters():
                parameter.grad = None
            module.manual_backward(step.loss)
            seconds[step.block] += _now(module.device) - started
            seconds[step.block] += _update_seconds(module, [*module.network[step.block].parameters()])
            started = _now(module.device)
    return seconds


def _update_seconds(module: FFLightningModule, parameters: Sequence[nn.Parameter]) -> float:
    """Time the second step of an optimizer on copies; the first one makes its state."""
    copies = []
    for parameter in parameters:
        if parameter.requires_grad:
            copies.append(copy.deepcopy(parameter))  # of its own class, which may tell an optimizer what it is
            copies[-1].grad = parameter.grad
    if not copies:
        return 0.0
    optimizer = module.make_optimizer(copies)
    optimizer.step()
    started = _now(module.device)
    optimizer.step()
    return _now(module.device) - started


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
    return time.perf_counter()
