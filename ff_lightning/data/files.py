"""Files below a folder: which are read, which split they belong to, and what is left out."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from ff_lightning.errors import InputError

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""The splits, and how their files and folders may be called, in any case."""

SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
SHARD = re.compile(r"[-._]?\d+([-._]of[-._]\d+)?$")
"""How the name of a part of a split ends, such as ``-00000-of-00002``."""
CUTS = re.compile(r"[-._]")
NAMED = 5
"""How many files that are left out a message names."""


class Found(NamedTuple):
    """Files below a folder.

    Attributes:
        files: those that are not hidden, sorted by path.
        hidden: number of hidden files and folders, which are left out.
    """

    files: list[Path]
    hidden: int


class Splits(NamedTuple):
    """Files by their splits.

    Attributes:
        files: of each split that there is.
        unnamed: those that are called after no split, where others are called after the training.
    """

    files: dict[str, list[Path]]
    unnamed: list[Path]


def is_hidden(path: Path) -> bool:
    """Whether a name is one that systems and notebooks write for themselves, such as ``.ipynb_checkpoints``."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def existing_folder(folder: str | Path) -> Path:
    """The path of a folder.

    Raises:
        InputError: there is none.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        told = "It is a file: name the folder around it." if path.exists() else "There is no such folder."
        raise InputError(f"Passed `folder={path}`. {told}")
    return path


def find_files(folder: Path) -> Found:
    """List all files below a folder, behind links to folders too; a link to a folder around it ends there."""
    files: list[Path] = []
    hidden = 0

    def visit(place: Path, around: frozenset[str]) -> None:
        nonlocal hidden
        here = os.path.realpath(place)
        if here in around:
            return
        for path in sorted(place.iterdir()):
            if is_hidden(path):
                hidden += 1
            elif path.is_dir():
                visit(path, around | {here})
            elif path.is_file():
                files.append(path)

    visit(folder, frozenset())
    return Found(sorted(files), hidden)


def natural(name: str) -> tuple[list[Any], str]:
    """Key to sort names by, with numbers in their order: "2" before "10".

    Names that differ in case alone, or in zeros before a number, have an order, too.

    >>> sorted({"b", "10", "a", "2", "A", "02"}, key=natural)
    ['02', '2', '10', 'A', 'a', 'b']
    """
    return [Decimal(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name)], name


def split_of(name: str) -> str | None:
    """The split that a folder or file is called after, without its ending; ``None`` for any other name.

    >>> split_of("Val"), split_of("train-00000-of-00002.parquet"), split_of("latest.txt")
    ('validation', 'train', None)
    """
    stem = name.lower().split(".")[0]
    return SPLIT_OF.get(stem) or SPLIT_OF.get(SHARD.sub("", stem))


def by_split(files: Iterable[Path], root: Path, *, all_of_them: bool = False) -> Splits:
    """Sort files by the splits that they or the folders around them are called after.

    What is called after no split is for training, unless another file is called after the training: it may have been
    held out then.

    A name such as ``wiki.valid.tokens`` counts only beside a ``wiki.train.tokens``: a program may have a file
    ``parser.test.js`` that is no test split.

    Args:
        files: below ``root``.
        root: the folder that was given; its own name says nothing.
        all_of_them: whether every file was asked for, so that none is left out.
    """
    relative = [file.relative_to(root) for file in files]
    families = {family for path in relative for family, split in _families(path) if split == "train"}
    named: dict[Path, str | None] = {}
    for path in relative:
        said = [split_of(part) for part in path.parts]
        said += [split for family, split in _families(path) if family in families]
        named[root / path] = next(filter(None, said), None)
    leave = "train" in named.values() and not all_of_them
    splits: dict[str, list[Path]] = {}
    for file, split in named.items():
        if split or not leave:
            splits.setdefault(split or "train", []).append(file)
    return Splits(splits, [file for file, split in named.items() if leave and split is None])


def _families(path: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Names with one word that is a split taken out, and that split."""
    words = CUTS.split(path.name.lower())
    for index, word in enumerate(words if len(words) > 1 else []):
        if word in SPLIT_OF:
            yield (str(path.parent), *words[:index], "*", *words[index + 1 :]), SPLIT_OF[word]


def split_names() -> str:
    """How splits may be called, in messages."""
    return "; ".join(", ".join(names) for names in SPLITS.values())


def left_out(
    hidden: int, others: Sequence[Path] = (), *, unnamed: Sequence[Path] = (), what: str = "other files"
) -> str:
    """A sentence that says what was not read; empty if all was.

    Args:
        hidden: number of hidden files and folders.
        others: files that were not read.
        unnamed: files that were not read since they are called after no split, and others are.
        what: what the others are.

    >>> left_out(1, [Path("a.txt"), Path("b.txt"), Path("LICENSE")])
    'Left out: 3 other files (2 .txt, 1 LICENSE); 1 hidden.'
    """
    parts = [f"{len(others)} {what} ({endings(others)})"] if others else []
    if unnamed:
        names = ", ".join([path.name for path in unnamed[:NAMED]] + ["…"] * (len(unnamed) > NAMED))
        parts.append(f"{len(unnamed)} called after no split, beside those called train ({names})")
    parts += [f"{hidden} hidden"] if hidden else []
    return f"Left out: {'; '.join(parts)}." if parts else ""


def endings(files: Iterable[Path]) -> str:
    """How often which ending occurs, the five most frequent."""
    counts = Counter(file.suffix.lower() or file.name for file in files)
    some = [f"{count} {ending}" for ending, count in counts.most_common(5)]
    return ", ".join(some + (["…"] if len(counts) > 5 else []))


def ends_with(*suffixes: str) -> Callable[[Path], bool]:
    """A check of the ending of a name, in any case; a compressed file counts as what is in it."""
    wanted = tuple(ending for suffix in suffixes for ending in (suffix, f"{suffix}.gz", f"{suffix}.xz"))
    return lambda path: path.name.lower().endswith(wanted)
