"""Blocks that give every class a goodness, and updates that span two of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from ff_lightning.blocks import BlockStack, Labelled, LocalStep, Signal, passing_norm
from ff_lightning.errors import InputError
from ff_lightning.goodness import Goodness
from ff_lightning.losses import ClassLoss


class ClassBlock(nn.Module):
    """Layer, goodness of every class, and a local loss that compares them: no negative stream.

    Args:
        layer: maps what the block receives to its activities.
        goodness: one value a class, ``(B, C)``; see :class:`~ff_lightning.goodness.ChannelGroups`,
            :class:`~ff_lightning.goodness.WeightedEnergy`.
        loss: of all classes at once (tier T2), or of the true class against negatives that the block draws from its
            own prediction (T1); see :class:`~ff_lightning.class_losses.OwnContrast`.
        norm: applied to the activities that are passed on.
    """

    threshold: None = None

    def __init__(self, layer: nn.Module, goodness: Goodness, loss: ClassLoss, *, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.goodness = goodness
        self.loss = loss
        self.norm = passing_norm(norm)

    def forward(self, x: Tensor) -> Tensor:
        """Activities of the block, ``(B, …)``, not normalised."""
        h: Tensor = self.layer(x)
        return h

    def local_step(self, index: int, signal: Signal) -> tuple[LocalStep, Signal]:
        """Forward pass and local loss of this block; ``signal.labels`` holds the true classes."""
        true_classes(signal)
        h = self(signal.h)
        return self.judge(index, h, signal), replace(signal, h=self.pass_on(signal.h, h.detach()))

    def judge(self, index: int, h: Tensor, signal: Signal) -> LocalStep:
        """Local loss of the activities ``h``; what is logged contrasts the true class with the best wrong one."""
        labels, g = true_classes(signal), self.goodness(h)
        loss = self.loss(g, labels, signal.draw(index))
        true = nn.functional.one_hot(labels, g.shape[1]).bool()
        g = g.detach()
        return LocalStep(index, loss, g[true], g.masked_fill(true, -torch.inf).amax(1))

    def pass_on(self, x: Tensor | Labelled, h: Tensor) -> Tensor:
        """What the next block receives, from what this one received and its activities."""
        del x
        passed: Tensor = self.norm(h)
        return passed


def true_classes(signal: Signal) -> Tensor:
    """The labels of a signal, ``(B,)``.

    Raises:
        InputError: there are none.
    """
    if signal.labels is None:
        raise InputError("Passed a signal without `labels`. A `ClassBlock` needs the true classes, shape (B,).")
    return signal.labels


def gives_classes(stack: BlockStack) -> bool:
    """Whether every block of a stack gives every class a goodness, so that images carry no label."""
    return all(isinstance(block, ClassBlock) for block in stack)


def overlapping_losses(stack: BlockStack, signal: Signal) -> Iterator[LocalStep]:
    """Yield local losses that each train two neighbouring blocks: overlapping local updates, tier T3.

    On even updates the pairs are (0, 1), (2, 3), …, on odd ones (1, 2), (3, 4), …; a block without a partner is
    trained alone. The loss of a pair is the sum of both, and the gradient of the upper one reaches the lower block
    (Trifecta, Dooms et al. 2023, arXiv 2311.18130, section 3.3).

    Args:
        stack: of :class:`ClassBlock`.
        signal: input of the first block; ``signal.update`` decides the pairs.

    Yields:
        One step a pair, whose ``below`` is the step of its lower block.
    """
    starts = sorted({0, *range(signal.update % 2, len(stack), 2)})
    for start, stop in pairwise([*starts, len(stack)]):
        step, signal = _window(stack, start, stop, signal)
        yield step
        del step


def _window(stack: BlockStack, start: int, stop: int, signal: Signal) -> tuple[LocalStep, Signal]:
    step: LocalStep | None = None
    for index in range(start, stop):
        block = stack[index]
        if not isinstance(block, ClassBlock) or not isinstance(signal.h, Tensor):
            raise InputError(
                f"Block {index} is a `{type(block).__name__}`. Updates that span blocks need `ClassBlock`s, which give "
                "every class a goodness."
            )
        h = block(signal.h)
        judged = block.judge(index, h, signal)
        step = judged if step is None else replace(judged, loss=judged.loss + step.loss, below=step)
        signal = replace(signal, h=block.pass_on(signal.h, h))
    assert step is not None
    assert isinstance(signal.h, Tensor)
    return step, replace(signal, h=signal.h.detach())
