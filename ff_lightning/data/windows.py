"""Windows of consecutive tokens: at random places for training, side by side for evaluation."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ff_lightning.data.order import OrderedLoader, ResumableLoader, seeded
from ff_lightning.data.packing import Tokens
from ff_lightning.errors import InputError


class OrderedWindows(OrderedLoader[Tensor]):
    """Windows side by side, each seen once and by exactly one rank, for evaluation.

    Window i is `tokens[i * T : (i + 1) * T + 1]`, so that every token but the first is predicted once. What is left at
    the end, fewer than T tokens, is not predicted.

    Args:
        tokens: (N,) whole numbers.
        context: T, number of tokens that predict.
        batch_size: Largest number of windows in a batch of one rank.
        rank: Which share to give, 0 to world_size - 1.
        world_size: Number of shares.

    Shape:
        Batches are (B, T + 1) int64.

    Raises:
        InputError: There are fewer tokens than a window has, or fewer windows than ranks.
    """

    rows = "windows"

    def __init__(
        self,
        tokens: Tokens,
        *,
        context: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check_length(tokens, context)
        super().__init__((len(tokens) - 1) // context, batch_size=batch_size, rank=rank, world_size=world_size)
        self.tokens = tokens
        self.context = context

    def _take(self, rows: slice) -> Tensor:
        return _cut(self.tokens, np.arange(rows.start, rows.stop) * self.context, self.context)


class RandomWindows(ResumableLoader[Tensor]):
    """Windows at random places for training, the same for any number of ranks.

    Every place is equally likely at any time, so an epoch is merely a number of batches. The places of batch i of all
    ranks together depend on (seed, epoch, i) alone, and rank r takes the r-th share of them.

    Every iteration is the next epoch, except that the first one after `load_state_dict` finishes the epoch that was
    interrupted.

    Args:
        tokens: (N,) whole numbers.
        context: T, number of tokens that predict.
        batch_size: Number of windows in a batch of one rank.
        batches_per_epoch: Number of batches in an epoch; None for as many as it takes to predict N tokens, at least 1.
        seed: Seed of the places.
        limit_batches: Where the trainer ends an epoch, as in its `limit_train_batches`: a share of the batches (a
            float) or their number (an int).
        rank: Which share to give, 0 to world_size - 1.
        world_size: Number of shares.

    Shape:
        Batches are (B, T + 1) int64.

    Raises:
        InputError: There are fewer tokens than a window has, or fewer places for it than ranks.
    """

    rows = "places"

    def __init__(
        self,
        tokens: Tokens,
        *,
        context: int,
        batch_size: int,
        batches_per_epoch: int | None = None,
        seed: int = 0,
        limit_batches: int | float = 1.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check_length(tokens, context)
        super().__init__(
            len(tokens) - context,
            batch_size=batch_size,
            seed=seed,
            limit_batches=limit_batches,
            rank=rank,
            world_size=world_size,
        )
        self.tokens = tokens
        self.context = context
        self.batches_per_epoch = batches_per_epoch or max(1, len(tokens) // (self.global_batch * context))

    def __len__(self) -> int:
        """Count the batches of a whole epoch, the same on every rank."""
        return self.batches_per_epoch

    def _plan(self) -> dict[str, int]:
        return super()._plan() | {"context": self.context, "batches an epoch": len(self)}

    def _rest(self, epoch: int, first: int) -> Iterator[Tensor]:
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for batch in range(first, len(self)):
            places = torch.randint(self.size, (self.global_batch,), generator=seeded(self.seed, epoch, batch))
            yield _cut(self.tokens, places[mine].numpy(), self.context)


def _cut(tokens: Tokens, starts: NDArray[np.int64], context: int) -> Tensor:
    """Return the windows that start there, (B, T + 1) int64."""
    return torch.from_numpy(tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64))


def _check_length(tokens: Tokens, context: int) -> None:
    if len(tokens) < context + 1:
        raise InputError(
            f"A text of {len(tokens)} tokens is shorter than a window of `context={context}` tokens and the one that "
            "follows them. Pass a smaller `context` or more text, or a larger `validation` if that is the part meant."
        )
