"""Blocks: layers trained by one local loss.

Autograd runs inside a block and never across: what it passes on is normalised and detached. In training a block is
entered through :meth:`Block.local_step` alone, whatever the network; that is what is compiled, sharded and timed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ff_lightning.candidates import CandidateLoss
from ff_lightning.errors import InputError
from ff_lightning.goodness import FollowingGoodness, Goodness, as_goodness
from ff_lightning.losses import ContrastiveLoss, SimilarityMatching
from ff_lightning.normalization import PeerNormalisation, UnitRMS, frozen_statistics
from ff_lightning.parts import Part
from ff_lightning.signals import BlockContext, Contrast, Signal


class Block(Part, nn.Module, ABC):
    """A layer with a local loss of its own.

    Args:
        layer: maps what the block receives to its activities, ``(N, …)`` to ``(N, …)``; the layer of a first block may
            take :class:`~ff_lightning.signals.Labelled`.
        norm: applied to the activities that are passed on, and to nothing else; :class:`UnitRMS` by default. It has no
            parameters, since no loss would train them.
    """

    goodness: Goodness

    def __init__(self, layer: nn.Module, *, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.norm = passing_norm(norm)

    @property
    def threshold(self) -> Tensor | None:
        """θ of the block's loss, or ``None`` for one that compares pairs."""
        return None

    def forward(self, x: Any) -> Any:
        """Activities of the block, ``(N, …)``, not normalised; of some blocks several tensors."""
        return self.layer(x)

    @abstractmethod
    def judge(self, h: Any, signal: Signal, context: BlockContext) -> Contrast:
        """Local loss of this block: what a new learning rule overrides.

        Args:
            h: the block's activities, with their graph.
            signal: what the block received.
            context: what the block is told of the step; negatives are drawn with its generator.
        """

    def local_step(
        self, signal: Signal, context: BlockContext = BlockContext(), *, cut: bool = True
    ) -> tuple[Contrast, Signal]:
        """Forward pass and local loss of this block: the one door by which a block is trained.

        Args:
            signal: what the block receives.
            context: what the block is told of the step.
            cut: stop the gradient behind the block.

        Returns:
            The local loss, and the signal for the next block.
        """
        h = self(signal.h)
        passed = self.pass_on(signal.h, h.detach() if cut else h)
        return self.judge(h, signal, context), replace(signal, h=passed)

    @torch.no_grad()
    def rest(self, signal: Signal) -> Signal:
        """Pass a signal on without learning: no graph, no loss, and no running value moves.

        Args:
            signal: what the block receives.

        Returns:
            The signal for the next block: what :meth:`local_step` hands on.
        """
        with frozen_statistics(self):
            return replace(signal, h=self.pass_on(signal.h, self(signal.h)))

    def follow(self, above: Block, update: int) -> None:
        """Let the goodness take in what the next block is like, if it reads that; before every step of this one.

        Args:
            above: the next block.
            update: how many updates were done before.
        """
        goodness = getattr(self, "goodness", None)
        if isinstance(goodness, FollowingGoodness):
            goodness.follow(above.layer, update)

    def pass_on(self, x: Any, h: Any) -> Any:
        """What the next block receives, from what this one received and its activities."""
        del x
        return self.norm(h)


class ContrastiveBlock(Block):
    """Layer, goodness and contrastive local loss (tier T1).

    Args:
        layer: see :class:`Block`.
        goodness: judges the activities, one number a sample or position; any module or function that does so will do.
        loss: contrasts the goodness of both streams.
        norm: see :class:`Block`.
        peer: optional peer normalisation of the activities of positives.
    """

    def __init__(
        self,
        layer: nn.Module,
        goodness: Goodness | Callable[[Tensor], Tensor],
        loss: ContrastiveLoss,
        *,
        norm: nn.Module | None = None,
        peer: PeerNormalisation | None = None,
    ) -> None:
        super().__init__(layer, norm=norm)
        self.goodness = as_goodness(goodness)
        self.loss = loss
        self.peer = peer

    @property
    def threshold(self) -> Tensor | None:
        """θ of the block's loss, or ``None`` for a pairwise loss."""
        return self.loss.threshold

    def judge(self, h: Any, signal: Signal, context: BlockContext) -> Contrast:
        """Local loss of activities ``(2 * B, …)``, those of positives first."""
        del signal, context
        found = self.contrast(*self.goodness(h).chunk(2))
        return found if self.peer is None else found._replace(loss=found.loss + self.peer(h[: h.shape[0] // 2]))

    def contrast(self, g_pos: Tensor, g_neg: Tensor) -> Contrast:
        """Local loss of the goodness of both streams."""
        return Contrast(self.loss(g_pos, g_neg), g_pos.detach(), g_neg.detach())


class ClassBlock(Block):
    """Layer, goodness of every class, and a local loss that compares them: no negative stream.

    Args:
        layer: see :class:`Block`.
        goodness: one value a class, ``(B, C)``; see :class:`~ff_lightning.goodness.WeightedEnergy`.
        loss: of all classes at once (tier T2), or of the true class against negatives that the block draws from its
            own prediction (T1); see :class:`~ff_lightning.candidates.LinearContrast`.
        norm: see :class:`Block`.
        matching: beside the loss, matches the activities of samples whose labels are alike (T2); ``None`` for nothing.
    """

    def __init__(
        self,
        layer: nn.Module,
        goodness: Goodness,
        loss: CandidateLoss,
        *,
        norm: nn.Module | None = None,
        matching: SimilarityMatching | None = None,
    ) -> None:
        super().__init__(layer, norm=norm)
        self.goodness = as_goodness(goodness)
        self.loss = loss
        self.matching = matching

    def local_step(
        self, signal: Signal, context: BlockContext = BlockContext(), *, cut: bool = True
    ) -> tuple[Contrast, Signal]:
        """See :class:`Block`; ``signal.labels`` holds the true classes."""
        if signal.labels is None:
            raise InputError("Passed a signal without `labels`. A `ClassBlock` needs the true classes, shape (B,).")
        return super().local_step(signal, context, cut=cut)

    def judge(self, h: Any, signal: Signal, context: BlockContext) -> Contrast:
        """Local loss of the activities ``h``; what is logged contrasts the true class with the best wrong one."""
        assert signal.labels is not None
        g = self.goodness(h)
        loss = self.loss(g, signal.labels, context.generator).loss
        if self.matching is not None:
            loss = self.matching.beside(loss, h, signal.labels)
        return Contrast(loss, *self.loss.compared(g.detach(), signal.labels))


def passing_norm(norm: nn.Module | None) -> nn.Module:
    """The norm between a block and the next, :class:`UnitRMS` by default.

    Raises:
        InputError: it is no module, or has parameters, which belong to no block's loss.
    """
    if norm is not None and not isinstance(norm, nn.Module):
        name = getattr(norm, "__name__", type(norm).__name__)
        raise InputError(f"Passed `norm={name}`. It must be a module, such as `ff_lightning.normalization.UnitRMS()`.")
    if norm is not None and any(True for _ in norm.parameters()):
        raise InputError(
            f"Passed `norm={type(norm).__name__}` with parameters. It acts between blocks, where no loss trains it: "
            "use a norm without parameters, or put it into the layer."
        )
    return UnitRMS() if norm is None else norm
