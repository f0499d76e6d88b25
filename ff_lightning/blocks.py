"""Blocks and the stack of blocks: the only place that detaches.

A *block* is layers trained by one local loss. Autograd runs inside it and never across: what a block passes on
is normalised and detached. A *stack* yields the local losses of its blocks one after the other and leaves to
the caller what becomes of each (:mod:`ff_lightning.engine.updates` turns them into updates).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ff_lightning.distributed import is_sharded
from ff_lightning.errors import InputError
from ff_lightning.goodness import Goodness
from ff_lightning.losses import ContrastiveLoss
from ff_lightning.normalization import PeerNormalisation, UnitRMS
from ff_lightning.stages import Stage

if TYPE_CHECKING:
    from ff_lightning.class_blocks import ClassBlock


@dataclass(frozen=True)
class Labelled:
    """Images with candidate labels, so that the first block can compute what does not depend on the label once.

    Attributes:
        image: ``(B, …)``, floating; ``(S * B, …)`` activities where a block above the first is told the labels.
        labels: ``(S, B)`` int64: ``S`` labels for every image.
        shared: what :meth:`BlockStack.share` made of the image, if it is to serve several passes of that stack.
    """

    image: Tensor
    labels: Tensor
    shared: Any = None

    @property
    def streams(self) -> int:
        """How many labels each image carries."""
        return self.labels.shape[0]


@dataclass(frozen=True)
class Signal:
    """What travels between blocks: detached tensors, so a stack can be cut anywhere.

    Attributes:
        h: ``(S * B, …)``, the ``S`` streams one after the other, or :class:`Labelled` before a block that is told the
            labels. With two streams the first is positive and the second negative.
        streams: ``S``.
        labels: ``(B,)`` int64, the true classes, for blocks that give every class a goodness; ``None`` for others.
        draw: gives the source of randomness of a block, by its index.
        update: how many updates were done before this one.
    """

    h: Tensor | Labelled
    streams: int = 2
    labels: Tensor | None = None
    draw: Callable[[int], torch.Generator | None] = lambda index: None
    update: int = 0

    @classmethod
    def pair(cls, x_pos: Tensor, x_neg: Tensor) -> Signal:
        """Join positives ``(B, …)`` and negatives ``(B, …)`` into one signal of two streams."""
        if x_pos.shape != x_neg.shape:
            raise InputError(
                f"Passed `x_pos` of shape {tuple(x_pos.shape)} and `x_neg` of shape {tuple(x_neg.shape)}. "
                "Positives and negatives must have the same shape."
            )
        return cls(torch.cat([x_pos, x_neg]))


@dataclass(frozen=True)
class LocalStep:
    """One local loss, ready for its backward pass.

    Attributes:
        block: index of the module that this loss trains.
        loss: scalar; its graph reaches the parameters of that module and no other, unless there is ``below``.
        g_pos: ``(B, …)`` goodness of positives, detached; ``None`` where there is no contrast.
        g_neg: ``(B, …)`` goodness of negatives, detached.
        below: the step of another module that ``loss`` trains too; its own loss is a part of ``loss`` (tier T3).
        passed: ``(2 * B, …)`` what a block passes on to the next one, detached; ``None`` where nobody may read it.
    """

    block: int
    loss: Tensor
    g_pos: Tensor | None = None
    g_neg: Tensor | None = None
    below: LocalStep | None = None
    passed: Tensor | None = None

    @property
    def blocks(self) -> tuple[int, ...]:
        """Indices of all modules that this loss trains, from the input upwards."""
        return (self.block,) if self.below is None else (*self.below.blocks, self.block)


class Block(nn.Module):
    """Layer, goodness and contrastive local loss (tier T1).

    Args:
        layer: maps what the block receives to its activities, ``(N, …)`` to ``(N, …)``; the layer of a first
            block may take :class:`Labelled`.
        goodness: judges the activities.
        loss: contrasts the goodness of both streams.
        norm: applied to the activities that are passed on, and to nothing else; :class:`UnitRMS` by default. It
            has no parameters, since no loss would train them.
        peer: optional peer normalisation of the activities of positives.
    """

    def __init__(
        self,
        layer: nn.Module,
        goodness: Goodness,
        loss: ContrastiveLoss,
        *,
        norm: nn.Module | None = None,
        peer: PeerNormalisation | None = None,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.goodness = goodness
        self.loss = loss
        self.norm = passing_norm(norm)
        self.peer = peer

    @property
    def threshold(self) -> Tensor | None:
        """θ of the block's loss, or ``None`` for a pairwise loss."""
        return self.loss.threshold

    def forward(self, x: Tensor | Labelled) -> Tensor:
        """Activities of the block, ``(N, …)``, not normalised."""
        h: Tensor = self.layer(x)
        return h

    def local_step(self, index: int, signal: Signal) -> tuple[LocalStep, Signal]:
        """Forward pass and local loss of this block.

        Args:
            index: the block's place in its stack.
            signal: two streams, positive then negative.

        Returns:
            The local loss, and the detached signal for the next block.
        """
        h = self(signal.h)
        return self.contrast(index, h), replace(signal, h=self.pass_on(signal.h, h.detach()))

    def contrast(self, index: int, h: Tensor) -> LocalStep:
        """Local loss of activities ``(2 * B, …)``, those of positives first."""
        g_pos, g_neg = self.goodness(h).chunk(2)
        loss = self.loss(g_pos, g_neg)
        if self.peer is not None:
            loss = loss + self.peer(h[: h.shape[0] // 2])
        return LocalStep(index, loss, g_pos.detach(), g_neg.detach())

    def pass_on(self, x: Tensor | Labelled, h: Tensor) -> Tensor:
        """What the next block receives, from what this one received and its activities."""
        del x
        passed: Tensor = self.norm(h)
        return passed


class BlockStack(nn.Module):
    """Blocks one above the other, with the gradient stopped between them.

    Args:
        blocks: from the input upwards. No parameter may belong to two blocks.

    Attributes:
        stage: which of the blocks this process computes in training.

    Raises:
        InputError: no block, or a parameter shared between blocks (the update of one would move the other).
    """

    repeats_blocks = False
    """Whether :meth:`local_losses` yields a block more than once a batch."""

    def __init__(self, blocks: Sequence[Block | ClassBlock]) -> None:
        super().__init__()
        if not blocks:
            raise InputError("Passed `blocks=[]`. A stack needs at least one block.")
        refuse_shared_parameters(blocks)
        self.blocks = nn.ModuleList(blocks)
        self.stage = Stage(range(len(blocks)), len(blocks))

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block | ClassBlock]:
        return iter(self.blocks)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Block | ClassBlock:
        return self.blocks[index]  # type: ignore[return-value]

    def share(self, image: Tensor) -> Any:
        """What the first layer computes from the image alone, whatever the label; ``None`` if it has no such part.

        Its graph belongs to the first block. A sharded block is whole within its own forward pass only, so there it
        is ``None``, too.
        """
        share = None if is_sharded(self[0]) else getattr(self[0].layer, "share", None)
        return None if share is None else share(image)

    def forward(self, x: Tensor | Labelled) -> Tensor:
        """What the last block passes on, ``(N, …)``, with the gradient of the whole chain (for a twin)."""
        for block in self:
            x = block.pass_on(x, block(x))
        assert isinstance(x, Tensor)
        return x

    def local_losses(self, signal: Signal) -> Iterator[LocalStep]:
        """Yield the local loss of every block that this process computes, from the input upwards.

        Each block's activities are computed with the weights it had before its own update. When the next loss
        is asked for, nothing of the block below is kept but its detached signal.

        Args:
            signal: input of the first block.
        """
        signal = self.stage.receive(signal)
        for index in self.stage.blocks:
            step, signal = self[index].local_step(index, signal)
            self.stage.send(index, signal)
            yield replace(step, passed=signal.h if isinstance(signal.h, Tensor) else None)
            del step

    @torch.no_grad()
    def activities(self, x: Tensor | Labelled) -> Iterator[Tensor]:
        """Yield the activities of every block, ``(N, …)``, not normalised, without gradient.

        Nothing is computed for a block before it is asked for.
        """
        for index, block in enumerate(self):
            self.stage.require(index, training=self.training)
            h: Tensor = block(x)
            yield h
            x = block.pass_on(x, h)

    @torch.no_grad()
    def goodness(self, x: Tensor | Labelled, *, blocks: int | None = None) -> Tensor:
        """Goodness that every block gives its input.

        Args:
            x: ``(N, …)``, or :class:`Labelled` with ``S`` labels for each of ``B`` images, ``N = S * B``.
            blocks: only this many of the lowest blocks; all by default.

        Returns:
            ``(L, N)``, or ``(L, N, C)`` for blocks with one goodness a class; at least float32.
        """
        answers = zip(islice(self, blocks), self.activities(x), strict=False)
        return torch.stack([block.goodness(h) for block, h in answers])

    def impression(self, x: Labelled, blocks: int) -> Tensor:
        """What the model thinks of labels at little cost, ``(S * B,)``: goodness summed over the lowest ``blocks``."""
        return self.goodness(x, blocks=blocks).sum(0)


def passing_norm(norm: nn.Module | None) -> nn.Module:
    """The norm between a block and the next, :class:`UnitRMS` by default.

    Raises:
        InputError: it has parameters, which belong to no block's loss.
    """
    if norm is not None and any(True for _ in norm.parameters()):
        raise InputError(
            f"Passed `norm={type(norm).__name__}` with parameters. It acts between blocks, where no loss trains it: "
            "use a norm without parameters, or put it into the layer."
        )
    return UnitRMS() if norm is None else norm


def refuse_shared_parameters(modules: Sequence[nn.Module]) -> None:
    """Check that no parameter belongs to two of the modules.

    Raises:
        InputError: names both places.
    """
    owner: dict[int, str] = {}
    for index, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            place = f"block {index}, `{name}`"
            if id(parameter) in owner:
                raise InputError(
                    f"The parameter at {place} is also the one at {owner[id(parameter)]}. Blocks must not share "
                    "parameters: the update of one would move the other."
                )
        owner.update({id(p): f"block {index}, `{n}`" for n, p in module.named_parameters()})
