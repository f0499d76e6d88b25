"""Lookahead: a block answers for what the next one makes of its activities, and no gradient crosses a border.

Weights travel down, and nothing else does: neither a gradient nor an activity of the block above.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ff_lightning.blocks import Block
from ff_lightning.distributed import is_sharded
from ff_lightning.errors import InputError, positive, whole
from ff_lightning.normalization import frozen_statistics
from ff_lightning.parts import Part
from ff_lightning.signals import BlockContext, Signal, StepContext

DRAWS = 1 << 16
"""First stream of randomness of the copies: their negatives are not those that the blocks themselves draw."""


class Lookahead(Part, nn.Module):
    """Adds to the loss of a block that of constant copies of the next ones, on the block's own live activities.

    The loss of block ``l`` is ``own + weight * loss of a copy of block l + 1``, whose gradient goes through the copy
    into the parameters of block ``l`` alone. Block ``l + 1`` learns from detached activities as ever. With a
    ``horizon`` of 2, a copy of block ``l + 2`` reads what the first copy passes on, and its loss is added, too. The
    activities of ``1 + horizon`` blocks are alive at a time, however deep the network. A block answers for the next
    ones as long as they learn, and as far as there are any; the last block has its own loss.

    With ``weight=1, refresh=1, horizon=1`` this is a step in which the losses of both blocks reach the parameters of
    block ``l``, and none below. Late weights and chains of such steps are new; for convolutions MAN (Su et al. 2024,
    arXiv 2407.05623) is its kin, whose head is an averaged copy of the next block's first layer.

    A copy reads the running values of the block it copies and moves none, and draws negatives of its own.

    Args:
        weight: of every copy's loss; positive.
        refresh: updates that pass before weights are copied anew. With 1 the blocks themselves are used, their
            parameters held constant. With more there is a copy of every block but the first, which is saved in
            checkpoints.
        horizon: blocks ahead that a block answers for. What a block is told comes from that far, so name it where it
            is not 1; time of a step grows with it.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, weight: float = 1.0, *, refresh: int = 1, horizon: int = 1) -> None:
        super().__init__()
        self.weight = positive("weight", weight)
        self.refresh = whole("refresh", refresh, least=1, owner=self)
        self.horizon = whole("horizon", horizon, least=1, owner=self)
        self.copies = nn.ModuleList()

    def attach(self, blocks: Sequence[Block]) -> None:
        """Make room for copies of a chain's blocks; the first one needs none."""
        if self.refresh > 1:
            self.copies = nn.ModuleList(Constants(block) for block in blocks[1:])

    def renews(self, update: int) -> bool:
        """Whether weights are copied at this update."""
        return update % self.refresh == 0

    def kept(self, block: int) -> Iterable[Tensor]:
        """The copy that a block answers for, if there is one."""
        return self.copies[block].buffers() if block < len(self.copies) else ()

    def forward(self, blocks: Sequence[Block], first: int, signal: Signal, context: StepContext) -> Tensor:
        """Weighted loss of constant copies of blocks, a scalar; its gradient goes into the signal alone.

        Args:
            blocks: the next one, and those above it that are within the horizon.
            first: index of the first of them.
            signal: what it receives, with the graph of the block below.
            context: what is known of the step.

        Raises:
            InputError: a block is spread over processes.
        """
        losses = []
        for ahead, block in enumerate(blocks):
            loss, signal = self._step(block, first + ahead, signal, context.at(DRAWS * (ahead + 1) + first + ahead))
            losses.append(loss)
        return self.weight * torch.stack(losses).sum()

    def _step(self, block: Block, index: int, signal: Signal, context: BlockContext) -> tuple[Tensor, Signal]:
        """Loss of a constant copy of a block, and what it passes on, with its graph."""
        if is_sharded(block):
            raise InputError(
                "Passed a network with `lookahead` to `ModelParallelStrategy`. A block needs all weights of the next "
                "one: use `strategy='ddp'`, or leave `lookahead` out."
            )
        constants = {f"block.{name}": value for name, value in self._weights(block, index, context.update).items()}
        with frozen_statistics(block):
            found: tuple[Tensor, Signal] = functional_call(_StepOf(block), constants, (signal, context))
        return found

    def _weights(self, block: Block, index: int, update: int) -> dict[str, Tensor]:
        if self.refresh == 1:
            return {name: parameter.detach() for name, parameter in block.named_parameters()}
        copied = self.copies[index - 1]
        assert isinstance(copied, Constants)
        if self.renews(update):
            copied.take(block)
        return copied.weights()


class Constants(nn.Module):
    """Values of a block's parameters at some time, as buffers: no optimizer and no gradient finds them.

    Args:
        block: whose values they are.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.take(block)

    def weights(self) -> dict[str, Tensor]:
        """The values, by the name of the parameter."""
        return {name.replace("/", "."): value for name, value in self.named_buffers()}

    def take(self, block: Block) -> None:
        """Copy the values of today, into new tensors: the graph of a block below may still hold the old ones."""
        for name, parameter in block.named_parameters():
            self.register_buffer(name.replace(".", "/"), parameter.detach().clone())  # a buffer's name has no dot


class _StepOf(nn.Module):
    """The one door of a block as a forward pass, which :func:`torch.func.functional_call` can call."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, signal: Signal, context: BlockContext) -> tuple[Tensor, Signal]:
        contrast, passed = self.block.local_step(signal, context, cut=False)
        return contrast.loss, passed
