"""`TextDataModule`: windows of the tokens of a text, for models that predict the next token."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ff_lightning.data.arguments import check_counts, check_source, check_validation, check_whole
from ff_lightning.data.corpora import TextOptions, fingerprint, read_documents, splits_of
from ff_lightning.data.order import rank_of
from ff_lightning.data.packing import Packed, TokenFiles, cut_documents, pack
from ff_lightning.data.subwords import byte_pairs_asked, open_tokenizer, train_byte_pairs
from ff_lightning.data.tokenizers import CharacterTokenizer, Tokenizer
from ff_lightning.data.windows import OrderedWindows, RandomWindows
from ff_lightning.errors import InputError, check_seeds

WRITTEN = "Write texts that are in memory to a file, such as 'train.txt', and pass its path."


class TextDataModule(LightningDataModule):
    """Windows of tokens from Python's own documentation, a file, a folder, a table or the hub.

    A split called `validation`, `valid`, `val` or `dev` is used for validation. Without one, validation is the last
    part of the training text, cut between two characters as nanoGPT does. The test split, if there is one, is read by
    `test` only, so `predict` gets the validation windows. Documents are packed one after the
    other, with the tokenizer's end-of-text token or, if it has none, with `separator` between them.

    Args:
        source: "pydoc" (the language reference that comes with Python, nothing is downloaded); "tinyshakespeare" or
            "gutenberg" from the folder that the environment variable `FF_LIGHTNING_DATA` names; a text file, or a table
            (.jsonl, .json, .csv, .tsv, .parquet) whose rows are documents, also compressed (.gz, .xz); a folder of such
            files; or the id of a set on the hub. Files and folders called after a split (`val.txt`, `test/`) are it.
        tokenizer: None or "characters" for one token for each character that occurs in the text, also where only
            validation has it; "bpe:4096" for a byte-pair encoding of so many tokens, trained on the training text;
            "bytes"; an encoding of `tiktoken` such as "gpt2"; a file `tokenizer.json` or a folder with one; the id of a
            model on the hub; or a tokenizer.
        context: T, number of tokens that predict.
        batch_size: Training windows in a batch of one device.
        eval_batch_size: Largest number of windows in a batch of one device elsewhere.
        validation: Share (a float) or number (an int) of characters for validation, where there is no split of that
            name; 0 for no validation.
        batches_per_epoch: Training batches in an epoch; None for as many as it takes to predict the number of tokens
            that there are.
        seed: Seed of the places of training windows.
        text_column: Name of the text column of a table; None for `text`, or the only one.
        pattern: Which files of a folder are read, such as `"*.md"`; None for .txt files, or tables if there are none.
        encoding: Of text files and tables, as Python names it, such as "latin-1".
        separator: What stands between documents if the tokenizer has no end-of-text token.
        max_characters: Read no more of the text than that. Sets on the hub and Parquet files are then streamed, so that
            no more is downloaded either. None for all.
        cache_dir: Folder for files of tokens, for large texts: the text is read and turned into tokens once, later and
            in other processes the tokens are mapped into memory. None to keep them in memory.

    Attributes:
        unigram: How often each token occurs in the training text, (V,) float64, some of them 0; after `setup`.

    Shape:
        Batches are (B, T + 1) int64: tokens 0 to T - 1 predict tokens 1 to T.

    Raises:
        InputError: A number is out of range.

    Example:
        >>> data = TextDataModule("pydoc", context=32, batch_size=8)
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader())).shape
        torch.Size([8, 33])
    """

    unigram: Tensor

    def __init__(
        self,
        source: str = "pydoc",
        *,
        tokenizer: Tokenizer | str | None = None,
        context: int = 64,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        validation: int | float = 0.1,
        batches_per_epoch: int | None = None,
        seed: int = 0,
        text_column: str | None = None,
        pattern: str | None = None,
        encoding: str = "utf-8",
        separator: str = "\n\n",
        max_characters: int | None = None,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        source = check_source(self, source, instead=WRITTEN)
        check_whole(self, "context", context, least=1)
        check_whole(self, "batch_size", batch_size, least=1)
        check_whole(self, "eval_batch_size", eval_batch_size, least=1)
        check_validation(self, validation, rows="characters")
        for name, value in {"batches_per_epoch": batches_per_epoch, "max_characters": max_characters}.items():
            if value is not None:
                check_whole(self, name, value, least=1)
        check_seeds(self, seed=seed)
        self.save_hyperparameters(ignore=["tokenizer"])  # it is in the state, as plain values
        self.source = source
        self.context = context
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.validation = validation
        self.batches_per_epoch = batches_per_epoch
        self.seed = seed
        self.options = TextOptions(text_column, pattern, encoding)
        self.separator = separator
        self.max_characters = max_characters
        self.cache_dir = cache_dir
        # What is trained on the text, or made of its characters, is known when the text is read.
        self._from_text = tokenizer if isinstance(tokenizer, str) and byte_pairs_asked(tokenizer) else "characters"
        named = tokenizer in (None, "characters") or tokenizer == self._from_text
        self._passed = None if named else open_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
        self._tokenizer: Tokenizer | None = self._passed
        self._parts: tuple[list[str], list[str]] | None = None
        self._splits: dict[str, Packed] = {}

    @property
    def tokenizer(self) -> Tokenizer:
        """What was passed, or a token for each character of the text."""
        if self._tokenizer is None and self.cache_dir is not None:
            files = TokenFiles(self.cache_dir, self._key("train")).read()
            self._tokenizer = files and Tokenizer.from_dict(files[1])
        if self._tokenizer is None:
            training, validation = self._read()
            size = byte_pairs_asked(self._from_text)
            between = self.separator if max(len(training), len(validation)) > 1 else ""
            self._tokenizer = (
                CharacterTokenizer("".join(sorted(set(between).union(*training, *validation))))
                if size is None
                else train_byte_pairs(training, size)
            )
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of tokens, V."""
        return self.tokenizer.vocab_size

    def tokens(self, split: str) -> Tensor:
        """Return a copy of all tokens of a split in their order; after `setup`.

        Args:
            split: "train", "validation" or "test".

        Returns:
            (N,) int64.
        """
        return torch.from_numpy(self._splits[split].tokens.astype(np.int64))

    def characters_per_token(self, split: str = "validation") -> float:
        """Return what a token stands for on average, to turn nats a token into nats a character.

        Args:
            split: "train", "validation" or "test".
        """
        return self._splits[split].characters / len(self._splits[split].tokens)

    def bytes_per_token(self, split: str = "validation") -> float:
        """Return what a token stands for on average, to turn nats a token into nats a byte of UTF-8.

        Args:
            split: "train", "validation" or "test".
        """
        return self._splits[split].bytes / len(self._splits[split].tokens)

    def prepare_data(self) -> None:
        """Download what is on the hub, in one process a machine."""
        if self.cache_dir is None:
            self._read()  # the others read it in `setup`
        else:
            self._load("train")  # the others map the files

    def setup(self, stage: str | None = None) -> None:
        """Turn the text of a stage into tokens.

        Args:
            stage: "fit", "validate", "predict" or "test"; None for all.

        Raises:
            InputError: The source has no text, too little, or characters that the tokenizer does not know.
        """
        if stage != "test" and "train" not in self._splits:
            self._load("train")
        if stage in ("test", None) and "test" not in self._splits:
            self._load("test")

    def train_dataloader(self) -> RandomWindows | OrderedWindows:
        """Give windows at random places; the same ones in every epoch with the trainer's `overfit_batches`."""
        trainer = self.trainer
        rank, world_size = rank_of(trainer)
        if trainer is not None and trainer.overfit_batches:  # type: ignore[attr-defined]
            return self._in_order("train", self.batch_size)
        return RandomWindows(
            self._splits["train"].tokens,
            context=self.context,
            batch_size=self.batch_size,
            batches_per_epoch=self.batches_per_epoch,
            seed=self.seed,
            limit_batches=1.0 if trainer is None else trainer.limit_train_batches,
            rank=rank,
            world_size=world_size,
        )

    def val_dataloader(self) -> OrderedWindows | list[OrderedWindows]:
        """Give the validation windows in order; no loader if there is no validation."""
        return self._in_order("validation", self.eval_batch_size) if "validation" in self._splits else []

    def test_dataloader(self) -> OrderedWindows:
        """Give the test windows in order."""
        return self._in_order("test", self.eval_batch_size)

    def predict_dataloader(self) -> OrderedWindows | list[OrderedWindows]:
        """Give the validation windows in order; no loader if there is no validation."""
        return self.val_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """Return the tokenizer as plain values, so that a checkpoint carries it."""
        return {"tokenizer": self.tokenizer.to_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint was trained with the same tokens.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            InputError: It was not.
        """
        if not self.tokenizer.gives_the_tokens_of(state_dict["tokenizer"]):
            raise InputError(
                f"The checkpoint was trained with another vocabulary than that of {self.source!r} as it is read now, "
                f"with {self.vocab_size} tokens. Pass the same `source` and `tokenizer`."
            )

    def _read(self) -> tuple[list[str], list[str]]:
        """Documents for training and for validation."""
        if self._parts is None:
            documents, asked = self._documents("train"), self.validation
            if asked and "validation" in splits_of(
                self.source, self.options, streaming=self.max_characters is not None
            ):
                self._parts = documents, self._documents("validation")
                rank_zero_info(f"The validation text is that of {self.source!r}; `validation={asked}` is unused.")
            else:
                self._parts = self._cut(documents)
        return self._parts

    def _documents(self, split: str) -> list[str]:
        return read_documents(self.source, split=split, options=self.options, max_characters=self.max_characters)

    def _cut(self, documents: list[str]) -> tuple[list[str], list[str]]:
        """Keep the end of the training text for validation."""
        asked, total = self.validation, sum(map(len, documents))
        count = total - int(total * (1 - asked)) if isinstance(asked, float) else asked  # as nanoGPT rounds
        if asked:
            check_counts(f"TextDataModule(validation={asked})", {"validation": count}, total, rows="characters")
        return cut_documents(documents, total - count)

    def _load(self, split: str) -> None:
        """Get the tokens of "train", with those of validation, or of "test"."""
        if self.cache_dir is None:
            splits = self._pack(split)
        else:
            files = TokenFiles(self.cache_dir, self._key(split))
            if files.read() is None:
                files.write(self._pack(split), self.tokenizer)
            splits, tokenizer = files.read() or ({}, {})
            self._tokenizer = self._tokenizer or Tokenizer.from_dict(tokenizer)
        self._splits |= splits
        if split == "train":
            self._parts = None  # from here on there are tokens
            counts = np.bincount(splits["train"].tokens, minlength=self.vocab_size)
            self.unigram = torch.from_numpy(counts).double()

    def _key(self, split: str) -> dict[str, Any]:
        """Return what the tokens of a split depend on."""
        tokenizer = self.tokenizer if split == "test" else self._passed
        return {
            "text": fingerprint(self.source, streaming=self.max_characters is not None),
            "characters": self.max_characters,
            "split": split,
            "options": [self.options.text_column, self.options.pattern, self.options.encoding],
            "separator": self.separator,
            "tokenizer": self._from_text if tokenizer is None else tokenizer.to_dict(),
            "validation": [type(self.validation).__name__, self.validation],
        }

    def _pack(self, split: str) -> dict[str, Packed]:
        if split == "test":
            return {"test": pack(self._documents("test"), self.tokenizer, separator=self.separator)}
        parts = dict(zip(("train", "validation"), self._read(), strict=True))
        return {name: pack(part, self.tokenizer, separator=self.separator) for name, part in parts.items() if part}

    def _in_order(self, split: str, batch_size: int) -> OrderedWindows:
        rank, world_size = rank_of(self.trainer)
        return OrderedWindows(
            self._splits[split].tokens,
            context=self.context,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
        )
