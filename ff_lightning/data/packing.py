"""Documents packed into one row of tokens, in memory or in files that are mapped into memory."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from ff_lightning.data.tokenizers import Tokenizer
from ff_lightning.engine.integrity import digest, digest_of_file, replace_file
from ff_lightning.errors import InputError

Tokens = NDArray[np.uint16] | NDArray[np.int32]
"""(N,) tokens of a text, in the smaller of the types that holds them; may be mapped from a file."""


@dataclass(frozen=True)
class Packed:
    """The tokens of a split, and what they stand for.

    Attributes:
        tokens: (N,).
        characters: Length of the text without what stands between documents.
        bytes: Length of its UTF-8.
    """

    tokens: Tokens
    characters: int
    bytes: int


def cut_documents(documents: Sequence[str], first: int) -> tuple[list[str], list[str]]:
    """Cut documents into those before a character and those after it.

    Args:
        documents: All of them, in order.
        first: How many characters come first; the document that they end in is cut in two.

    Returns:
        The two parts, without empty documents.

    Example:
        >>> cut_documents(["abc", "def"], 4)
        (['abc', 'd'], ['ef'])
    """
    before, after, left = [], [], first
    for document in documents:
        before.append(document[: max(left, 0)])
        after.append(document[max(left, 0) :])
        left -= len(document)
    return [part for part in before if part], [part for part in after if part]


def pack(documents: Sequence[str], tokenizer: Tokenizer, *, separator: str) -> Packed:
    """Put the tokens of documents one after the other.

    Args:
        documents: At least one.
        tokenizer: Makes the tokens. Its end-of-text token stands between documents.
        separator: What stands there if it has none.

    Raises:
        InputError: The tokenizer does not know a character.
    """
    if not documents:
        raise InputError("Passed no documents to `pack`. There must be at least one.")
    kind = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    pieces = [tokenizer.encode(document).numpy().astype(kind) for document in documents]
    lacking = 0 if tokenizer.unknown is None else sum(int((piece == tokenizer.unknown).sum()) for piece in pieces)
    if lacking:
        rank_zero_info(f"{lacking} of {sum(map(len, pieces))} tokens are of text that the vocabulary lacks.")
    if len(pieces) > 1:
        end = tokenizer.end_of_text
        between = (tokenizer.encode(separator) if end is None else torch.tensor([end])).numpy().astype(kind)
        pieces = [part for piece in pieces for part in (between, piece)][1:]
    return Packed(
        np.concatenate(pieces),
        characters=sum(map(len, documents)),
        bytes=sum(len(document.encode(errors="replace")) for document in documents),
    )


class TokenFiles:
    """Packed splits in a folder of their own, written at once or not at all.

    Several processes may write the same: the first to finish is kept. What is read is mapped into memory, which the
    processes of a machine then share.

    Args:
        folder: Where all token files are.
        key: What the tokens depend on; plain values.
    """

    def __init__(self, folder: str | Path, key: Mapping[str, Any]) -> None:
        digest = blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=12).hexdigest()
        self.place = Path(folder).expanduser() / digest

    def read(self) -> tuple[dict[str, Packed], dict[str, str]] | None:
        """Return the splits and the state of their tokenizer, or None if they have not been written."""
        if not self.place.is_dir():
            return None
        if (about := self._checked()) is None:
            rank_zero_info(f"The tokens in {self.place} are damaged, and are made anew.")
            shutil.rmtree(self.place, ignore_errors=True)
            return None
        splits = {
            split: Packed(np.memmap(self.place / f"{split}.bin", dtype=about["kind"], mode="r"), *lengths)
            for split, lengths in about["splits"].items()
        }
        return splits, about["tokenizer"]

    def _checked(self) -> dict[str, Any] | None:
        """What belongs to the tokens, if they are those that were written."""
        try:
            about: dict[str, Any] = json.loads((self.place / "about.json").read_text(encoding="utf-8"))
            sums = about.pop("checksums")
            files = {name: _checksum(self.place / f"{name}.bin") for name in about["splits"]}
            whole = sums == {**files, "about": digest(about)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return about if whole else None

    def write(self, splits: Mapping[str, Packed], tokenizer: Tokenizer) -> None:
        """Keep splits.

        Args:
            splits: All of them; none is empty.
            tokenizer: What they were made with.
        """
        self.place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=self.place.parent))
        try:
            for split, packed in splits.items():
                packed.tokens.tofile(unfinished / f"{split}.bin")
            about = {
                "kind": next(iter(splits.values())).tokens.dtype.name,
                "splits": {split: [packed.characters, packed.bytes] for split, packed in splits.items()},
                "tokenizer": tokenizer.to_dict(),
            }
            sums = {split: _checksum(unfinished / f"{split}.bin") for split in splits} | {"about": digest(about)}
            replace_file(unfinished / "about.json", json.dumps(about | {"checksums": sums}).encode())
            if not self.place.exists():
                unfinished.rename(self.place)
        except OSError:
            if not self.place.exists():  # another process may have been faster
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _checksum(path: Path) -> str:
    """Checksum of a file; of one that has not changed since it was asked for, that of before."""
    state = path.stat()
    return _checksum_of(path, state.st_size, state.st_mtime_ns)


@cache
def _checksum_of(path: Path, size: int, changed: int) -> str:
    del size, changed  # they only tell one state of the file from another
    return digest_of_file(path)
