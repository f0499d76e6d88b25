"""`StringsDataModule`: strings of equal length over few symbols, as in Hinton's experiment with Aesop's Fables."""

import re
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from ff_lightning.data.arguments import check_source, check_whole
from ff_lightning.data.corpora import read_documents
from ff_lightning.data.order import OrderedLoader, PermutedLoader, rank_of
from ff_lightning.data.tokenizers import CharacterTokenizer
from ff_lightning.errors import InputError, check_seeds

SYMBOLS = "abcdefghijklmnopqrstuvwxyz ,;."
"""The 30 symbols of Hinton's experiment."""


class StringsDataModule(LightningDataModule):
    """The first characters of a text, cut into strings that are learned, and the next ones, which are held out.

    The text is put into lower case, runs of white space become one blank, and other characters than `symbols` are left
    out. Of a file of Project Gutenberg, what stands before and after the book is left out, too.

    Args:
        source: As for `TextDataModule`; "aesop" from the folder that FF_LIGHTNING_DATA names.
        symbols: The characters that are kept; their place is their token.
        length: Characters in a string.
        strings: Strings to learn.
        held_out: Strings for validation, the ones that follow.
        batch_size: Strings in a training batch of one device.
        seed: Seed of the order of the strings.

    Attributes:
        unigram: How often each symbol occurs in the strings to learn, (V,) float64; after `setup`.

    Shape:
        Batches are (B, length) int64: every character but the first is predicted.

    Raises:
        InputError: A number is out of range, or the text is too short.
    """

    unigram: Tensor

    def __init__(
        self,
        source: str = "aesop",
        *,
        symbols: str = SYMBOLS,
        length: int = 100,
        strings: int = 248,
        held_out: int = 248,
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        source = check_source(self, source, instead="Write a text that is in memory to a file, and pass its path.")
        check_whole(self, "length", length, least=2)
        for name, value in {"strings": strings, "held_out": held_out, "batch_size": batch_size}.items():
            check_whole(self, name, value, least=1)
        check_seeds(self, seed=seed)
        self.save_hyperparameters()
        self.source = source
        self.length = length
        self.strings = strings
        self.held_out = held_out
        self.batch_size = batch_size
        self.seed = seed
        self.tokenizer = CharacterTokenizer(symbols)
        self._rows: Tensor | None = None

    @property
    def vocab_size(self) -> int:
        """Number of symbols, V."""
        return self.tokenizer.vocab_size

    @property
    def context(self) -> int:
        """Characters of a string that are read, all but the last."""
        return self.length - 1

    def rows(self, split: str) -> Tensor:
        """Return the strings of a split as tokens, (N, length) int64; after `setup`.

        Args:
            split: "train" or "validation".
        """
        assert self._rows is not None
        return self._rows[: self.strings] if split == "train" else self._rows[self.strings :]

    def setup(self, stage: str | None = None) -> None:
        """Read and cut the text.

        Raises:
            InputError: It is too short.
        """
        del stage
        if self._rows is not None:
            return
        text = cleaned("\n".join(read_documents(self.source)), self.tokenizer.characters)
        wanted = (self.strings + self.held_out) * self.length
        if len(text) < wanted:
            raise InputError(
                f"The text of {self.source!r} has {len(text)} characters of the symbols. `strings={self.strings}` and "
                f"`held_out={self.held_out}` of `length={self.length}` need {wanted}."
            )
        self._rows = self.tokenizer.encode(text[:wanted]).view(-1, self.length)
        self.unigram = torch.bincount(self.rows("train").flatten(), minlength=self.vocab_size).double()

    def train_dataloader(self) -> "OrderedRows | ShuffledRows":
        """Give the strings in a new order in every epoch; in one order with the trainer's `overfit_batches`."""
        trainer = self.trainer
        if trainer is not None and trainer.overfit_batches:  # type: ignore[attr-defined]
            return self._in_order("train")
        rank, world_size = rank_of(trainer)
        return ShuffledRows(
            self.rows("train"),
            batch_size=self.batch_size,
            seed=self.seed,
            limit_batches=1.0 if trainer is None else trainer.limit_train_batches,
            rank=rank,
            world_size=world_size,
        )

    def val_dataloader(self) -> "OrderedRows":
        """Give the strings that were held out."""
        return self._in_order("validation")

    def predict_dataloader(self) -> "OrderedRows":
        """Give the strings that were held out."""
        return self.val_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """Return the tokenizer as plain values, so that a checkpoint carries it."""
        return {"tokenizer": self.tokenizer.to_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint was trained with the same symbols.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            InputError: It was not.
        """
        if state_dict["tokenizer"] != self.tokenizer.to_dict():
            raise InputError("The checkpoint was trained with other symbols. Pass the same `symbols`.")

    def _in_order(self, split: str) -> "OrderedRows":
        rank, world_size = rank_of(self.trainer)
        return OrderedRows(self.rows(split), batch_size=self.batch_size, rank=rank, world_size=world_size)


class OrderedRows(OrderedLoader[Tensor]):
    """Rows of tokens (N, T + 1) in their order, each seen once and by exactly one rank, for evaluation.

    Args:
        tokens: The rows.
        batch_size: Largest number of rows in a batch of one rank.
        rank: Which share to give, 0 to world_size - 1.
        world_size: Number of shares.
    """

    rows = "strings"

    def __init__(self, tokens: Tensor, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(len(tokens), batch_size=batch_size, rank=rank, world_size=world_size)
        self.tokens = tokens

    def _take(self, rows: slice) -> Tensor:
        return self.tokens[rows]


class ShuffledRows(PermutedLoader[Tensor]):
    """Rows of tokens (N, T + 1) in a new order in every epoch, the same for any number of ranks.

    The last batch is split evenly, too, which drops at most W - 1 rows of an epoch.

    Args:
        tokens: The rows.
        batch_size: Number of rows in a batch of one rank.
        seed: Seed of the order.
        limit_batches: Where the trainer ends an epoch, as in its `limit_train_batches`.
        rank: Which share to give, 0 to world_size - 1.
        world_size: W, number of shares.
    """

    rows = "strings"

    def __init__(
        self,
        tokens: Tensor,
        *,
        batch_size: int,
        seed: int = 0,
        limit_batches: int | float = 1.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            len(tokens),
            batch_size=batch_size,
            seed=seed,
            limit_batches=limit_batches,
            rank=rank,
            world_size=world_size,
        )
        self.tokens = tokens

    def _take(self, everyone: Tensor, mine: slice, epoch: int, batch: int) -> Tensor:
        return self.tokens[everyone[mine]]


def cleaned(text: str, symbols: str) -> str:
    r"""Return the book in a text, in lower case and of these symbols only.

    Args:
        text: Any text; marks of Project Gutenberg around the book may be indented.
        symbols: What is kept; runs of white space become one blank.

    Example:
        >>> cleaned("The FOX\n  and the Grapes!", SYMBOLS)
        'the fox and the grapes'
    """
    book = re.split(r"^\s*\*\*\* ?START[^\n]*$", text, maxsplit=1, flags=re.MULTILINE)[-1]
    book = re.split(r"^\s*\*\*\* ?END[^\n]*$", book, maxsplit=1, flags=re.MULTILINE)[0]
    blanks = re.sub(r"\s+", " ", book.lower())
    kept = "".join(character for character in blanks if character in symbols)
    return re.sub(" +", " ", kept).strip()
