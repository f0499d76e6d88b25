"""Layer collaboration: every block is judged by the goodness of the whole network (Lorberbom et al., 2305.12393)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ff_lightning.blocks import ContrastiveBlock
from ff_lightning.errors import InputError
from ff_lightning.networks.mlp import MLP
from ff_lightning.normalization import frozen_statistics
from ff_lightning.signals import BlockContext, Contrast, LocalStep, Signal, StepContext


@dataclass(frozen=True, kw_only=True)
class TeamSignal(Signal):
    """What travels between blocks that collaborate.

    Attributes:
        total: ``(2 * B,)`` goodness of all blocks, summed, before any update of the step.
        own: ``(L', 2 * B)`` the same of each block from the next one on.
    """

    total: Tensor
    own: Tensor


class CollaborativeBlock(ContrastiveBlock):
    """A contrastive block to whose goodness that of all other blocks is added, as a constant."""

    def local_step(
        self, signal: Signal, context: BlockContext = BlockContext(), *, cut: bool = True
    ) -> tuple[Contrast, Signal]:
        """See :class:`~ff_lightning.blocks.Block`; ``signal`` is a :class:`TeamSignal`."""
        found, passed = super().local_step(signal, context, cut=cut)
        return found, _next(passed)

    def rest(self, signal: Signal) -> Signal:
        """See :class:`~ff_lightning.blocks.Block`."""
        return _next(super().rest(signal))

    def judge(self, h: Tensor, signal: Signal, context: BlockContext) -> Contrast:
        """Local loss of its own goodness and that of all others together."""
        del context
        assert isinstance(signal, TeamSignal)
        g = self.goodness(h) + (signal.total - signal.own[0])
        found = self.contrast(*g.chunk(2))
        return found if self.peer is None else found._replace(loss=found.loss + self.peer(h[: h.shape[0] // 2]))


class CollaborativeMLP(MLP):
    """:class:`MLP` whose blocks collaborate: the loss of each is that of the goodness of all (2305.12393, section 4).

    The goodness of the other blocks is a constant in it, so that no gradient crosses a border; but it comes from above,
    too, so a block needs more than what the one below passes on. It is computed by a forward pass of its own at the
    start of a step, with the weights of all blocks before their updates.

    Args:
        *args: see :class:`MLP`, as for the keywords.
        **kwargs: a loss of two streams, and a label in the input or none.

    Raises:
        InputError: see :class:`MLP`; or the loss is one over candidates.
    """

    contrastive = CollaborativeBlock

    def local_losses(self, signal: Signal, context: StepContext = StepContext()) -> Iterator[LocalStep]:
        """See :class:`~ff_lightning.stacks.BlockStack`."""
        if not isinstance(self[0], CollaborativeBlock):
            raise InputError(
                "Passed a loss over candidates to a `CollaborativeMLP`. Its blocks add up goodness of two streams: use "
                "`SymBa`, `ThresholdLoss` or the like."
            )
        if context.highest(len(self)) < 0:
            return
        with torch.no_grad(), frozen_statistics(self):
            own = self.goodness(signal.h)
        team = TeamSignal(signal.h, signal.labels, total=own.sum(0), own=own)
        yield from super().local_losses(team, context)


def _next(signal: Signal) -> Signal:
    assert isinstance(signal, TeamSignal)
    return replace(signal, own=signal.own[1:])
