"""The stack of blocks: the only place that stops the gradient, and cuts a network over processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ff_lightning.blocks import Block, ClassBlock
from ff_lightning.distributed import is_sharded
from ff_lightning.errors import InputError
from ff_lightning.signals import Labelled, LocalStep, Signal
from ff_lightning.stages import Stage


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

    overlapping = False
    """Whether updates span pairs of neighbours in turn, so that a gradient crosses one border (tier T3)."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        if not blocks:
            raise InputError("Passed `blocks=[]`. A stack needs at least one block.")
        refuse_shared_parameters(blocks)
        self.blocks = nn.ModuleList(blocks)
        self.stage = Stage(range(len(blocks)), len(blocks))

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Block:
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

    @property
    def gives_classes(self) -> bool:
        """Whether every block gives every class a goodness, so that images carry no label."""
        return all(isinstance(block, ClassBlock) for block in self)

    def local_losses(self, signal: Signal) -> Iterator[LocalStep]:
        """Yield the local loss of every block that this process computes, from the input upwards.

        Each block's activities are computed with the weights it had before its own update. When the next loss
        is asked for, nothing of the block below is kept but its detached signal.

        Args:
            signal: input of the first block.
        """
        signal = self.stage.receive(signal)
        for blocks in self.spans(signal.update):
            step, signal = self._span(blocks, signal)
            self.stage.send(blocks[-1], signal)
            yield step
            del step

    def spans(self, update: int) -> Iterator[range]:
        """Blocks that one loss trains: each by itself, or overlapping pairs.

        On even updates the pairs are (0, 1), (2, 3), …, on odd ones (1, 2), (3, 4), …; a block without a partner is
        trained alone (Trifecta, Dooms et al. 2023, arXiv 2311.18130, section 3.3).
        """
        if not self.overlapping:
            yield from (range(index, index + 1) for index in self.stage.blocks)
            return
        starts = sorted({0, *range(update % 2, len(self), 2)})
        yield from (range(*ends) for ends in pairwise([*starts, len(self)]))

    def _span(self, blocks: range, signal: Signal) -> tuple[LocalStep, Signal]:
        step: LocalStep | None = None
        for index in blocks:
            last = index == blocks[-1]
            found, signal = self[index].local_step(signal, signal.draw(index), cut=last)
            loss = found.loss if step is None else found.loss + step.loss
            passed = signal.h if last and isinstance(signal.h, Tensor) else None
            step = LocalStep(index, loss, found.g_pos, found.g_neg, below=step, passed=passed)
        assert step is not None
        return step, signal

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
