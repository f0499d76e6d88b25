"""What lower blocks are read by, fitted to resting layers before these learn from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ff_lightning.engine.batches import seeded_generator
from ff_lightning.engine.casting import tokens_of
from ff_lightning.errors import InputError, positive
from ff_lightning.finetuning.causal import CausalBlock, CausalLM
from ff_lightning.finetuning.goals import Goal
from ff_lightning.normalization import evaluating
from ff_lightning.optim import CosineDecay
from ff_lightning.signals import BlockContext


def fit_goals(network: CausalLM, batches: Sequence[Tensor], *, lr: float = 2e-3, seed: int = 0) -> list[list[float]]:
    """Train what the goals of lower blocks have to learn themselves, while all layers rest.

    A new readout predicts badly, and layers that learn from it are pulled wherever it errs. AdamW at a rate that falls
    along a cosine takes one step a batch and block. Nothing drops out, as in evaluation mode.

    Args:
        network: with goals (``below=…``); its layers do not change.
        batches: ``(B, T + 1)`` int64 tokens each, at least one; a list, or a loader that knows how many it has.
        lr: learning rate at the beginning.
        seed: of negatives.

    Returns:
        For every lower block its losses, by step.

    Raises:
        InputError: the network has no goals, or there is no batch; a batch is too long, or has other tokens.
    """
    positive("lr", lr)
    if not isinstance(network, CausalLM):
        raise InputError(f"Passed `fit_goals(network)` as a `{type(network).__name__}`. It must be a `CausalLM`.")
    lower = [block for block in network if isinstance(block, CausalBlock) and block.goal is not None]
    count = _count(batches)
    if not lower or not count:
        raise InputError(
            f"Passed `fit_goals` a network with {len(lower)} goals and {count} batches. It needs both: pass "
            "`CausalLM(below=…)`."
        )
    goals = [block.goal for block in lower if block.goal is not None]
    optimizers = [torch.optim.AdamW(goal.parameters(), lr=lr, weight_decay=0.0) for goal in goals]
    decays = [CosineDecay(optimizer, warmup=0.1, total_updates=count) for optimizer in optimizers]
    context = BlockContext(seeded_generator(seed, network.prior.device))
    losses: list[list[float]] = [[] for _ in goals]
    with evaluating(network):
        for batch in batches:
            windows = tokens_of(batch).to(network.prior.device)
            network.check_windows(windows)
            x, targets = windows[:, :-1], windows[:, 1:]
            for index, block in enumerate(lower):
                x, loss = _fit_one(block, goals[index], x, targets, context)
                losses[index].append(loss)
                optimizers[index].step()
                optimizers[index].zero_grad()
                torch.clear_autocast_cache()  # of weights as they were: all steps may be within one autocast
                decays[index].step()
    return losses


def _count(batches: Sequence[Tensor]) -> int:
    try:
        return len(batches)
    except TypeError as error:
        raise InputError(
            f"Passed `fit_goals(batches)` as a `{type(batches).__name__}`, which does not say how many batches it has. "
            "Pass a list of them, such as `list(itertools.islice(batches, 100))`."
        ) from error


def _fit_one(block: CausalBlock, goal: Goal, x: Tensor, targets: Tensor, context: BlockContext) -> tuple[Tensor, float]:
    """Gradients of one goal on one batch; what its block passes on, and the loss."""
    with torch.no_grad():
        h, received = block(x), block.layer.embed(x)
    with torch.enable_grad():
        loss = goal(h, received, targets, context).loss
        loss.backward()
    return h, loss.item()
