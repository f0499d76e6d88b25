"""Which blocks of a stack this process computes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor

from ff_lightning.errors import InputError

AnySignal = TypeVar("AnySignal")
Value = TypeVar("Value")


class Stage:
    """The blocks that this process computes in training: all of a stack, unless a strategy shares it out.

    A strategy that does puts a subclass in the place of :attr:`BlockStack.stage <ff_lightning.stacks.BlockStack>`.

    Args:
        blocks: their indices, neighbours.
        depth: blocks of the whole stack.

    Attributes:
        highest: the highest block that learns now; nothing above it is computed.
    """

    def __init__(self, blocks: range, depth: int) -> None:
        self.blocks = blocks
        self.depth = depth
        self.highest = depth - 1

    @property
    def reads_input(self) -> bool:
        """Whether the first block is here, so that the input of the stack is needed."""
        return self.blocks.start == 0

    @property
    def elsewhere(self) -> frozenset[int]:
        """Blocks that other processes compute."""
        return frozenset(range(self.depth)) - frozenset(self.blocks)

    def require(self, block: int, *, training: bool) -> None:
        """Check that the weights of a block are up to date here.

        Args:
            block: index of the block.
            training: otherwise every process has those of all blocks.

        Raises:
            InputError: another process trains it.
        """
        if training and block not in self.blocks:
            raise InputError(
                f"Asked in training for what block {block} says, which another process trains: this one has blocks "
                f"{self.blocks.start} to {self.blocks.stop - 1}. Cut the stack elsewhere "
                "(`LayerParallelStrategy(cuts=…)`), or use `strategy='ddp'`."
            )

    def receive(self, signal: AnySignal) -> AnySignal:
        """What the first block here receives.

        Args:
            signal: what the first block of the stack receives.
        """
        return signal

    def send(self, block: int, signal: AnySignal) -> None:
        """Hand on what a block passes on, if the next one is computed elsewhere.

        Args:
            block: index of the block.
            signal: what the next one receives.
        """

    def borrow(self, block: int, weights: Iterable[Tensor]) -> None:
        """Make weights of the block above what they are there at this update, if it is trained elsewhere.

        Args:
            block: its index.
            weights: what this process has of them.
        """

    def gather(self, value: Value) -> list[Value]:
        """What all processes of the stack have, from the input upwards; each of them must ask."""
        return [value]
