"""Where text comes from: the embedded language reference, files, or anything that `datasets` can load.

All give documents: a file is one, and so is a row of a table.
"""

import lzma
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from ff_lightning.data.arguments import check_encoding, is_utf8, refuse_unused
from ff_lightning.data.files import SPLIT_OF, SPLITS, by_split, endings, ends_with, find_files, left_out
from ff_lightning.data.rows import ENDINGS, columns_of, is_table, open_text, read_rows
from ff_lightning.data.tables import load_tables, local_path
from ff_lightning.errors import InputError

LOCAL_COPIES = {
    "aesop": "aesop/aesop_children_19994_rebuilt.txt",
    "tinyshakespeare": "tinyshakespeare/input.txt",
    "gutenberg": "gutenberg/gutenberg_en_novels.txt",
}
"""Names of texts, and the files in `FF_LIGHTNING_DATA` that hold them."""

is_text = ends_with(".txt", ".text")
"""Whether a file of a folder is read as a text if nothing else is asked for."""


@dataclass(frozen=True)
class TextOptions:
    """How texts are read.

    Args:
        text_column: Name of the text column of a table; None for `text`, or the only one.
        pattern: Which files of a folder are read, such as `"*.md"` or `"src/*.py"`, in any case; None for texts (.txt),
            or tables if there are none.
        encoding: Of text files and tables, as Python names it.

    Raises:
        InputError: There is no such encoding.
    """

    text_column: str | None = None
    pattern: str | None = None
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        check_encoding(self.encoding)


def read_documents(
    source: str,
    *,
    split: str = "train",
    options: TextOptions | None = None,
    max_characters: int | None = None,
) -> list[str]:
    """Read all documents of a split that are not empty.

    Args:
        source: "pydoc", the language reference that comes with Python, as one document; "aesop", "tinyshakespeare" or
            "gutenberg" from `FF_LIGHTNING_DATA`; a text file or a table (.jsonl, .json, .csv, .tsv, .parquet), also
            compressed (.gz, .xz); a folder of them; or the id of a set on the hub. Files and folders called after a
            split (`val.txt`, `test/`) are that split.
        split: "train", "validation" or "test".
        options: How they are read.
        max_characters: Where to stop, within a document if need be. Tables are then streamed: no more than that is
            read, or downloaded from the hub. None for all.

    Raises:
        InputError: There is no such text, split or column, or it is empty or in another encoding.
    """
    documents_of = _documents(source, split, options or TextOptions(), streaming=max_characters is not None)
    found = (document for document in documents_of if document)
    documents = list(found if max_characters is None else _first(found, max_characters))
    if not documents:
        raise InputError(f"Passed `source={source!r}`. The {split} text of it is empty: there must be a character.")
    return documents


def splits_of(source: str, options: TextOptions | None = None, *, streaming: bool = False) -> list[str]:
    """The splits that a text has, of "train", "validation" and "test".

    Raises:
        InputError: There is no such text.
    """
    if source == "pydoc":
        return ["train"]
    path = _find(source)
    if path is None:
        tables = load_tables(source, "text", LOCAL_COPIES, streaming=streaming)
        found = {SPLIT_OF.get(name.lower()) for name in tables}
    else:
        found = set(_files(source, path, options or TextOptions()))
    return [split for split in SPLITS if split in found]


def fingerprint(source: str, *, streaming: bool = False) -> list[Any]:
    """Return plain values that change when a text does, without reading it.

    Args:
        source: As for `read_documents`.
        streaming: Download nothing of a set on the hub, which then counts as unchanged.

    Raises:
        InputError: There is no such text.
    """
    if source == "pydoc":
        return [source, sys.version]
    path = _find(source)
    if path is None and streaming:
        return [source]
    if path is None:
        tables = load_tables(source, "text", LOCAL_COPIES)
        return [[source, split, table._fingerprint] for split, table in tables.items()]
    files = find_files(path).files if path.is_dir() else [path]
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _first(documents: Iterable[str], left: int) -> Iterator[str]:
    """Give documents up to a number of characters."""
    for document in documents:
        yield document[:left]
        left -= len(document)
        if left <= 0:
            return


def _documents(source: str, split: str, options: TextOptions, *, streaming: bool) -> Iterable[str]:
    of_files = {"pattern": options.pattern, "encoding": None if is_utf8(options.encoding) else options.encoding}
    if source == "pydoc":
        refuse_unused(source, "It is one text", {"text_column": options.text_column, **of_files})
        return _only_train(source, split, _pydoc())
    path = _find(source)
    if path is None:
        refuse_unused(source, "It is a set on the hub", of_files)
        return _hub_rows(source, split, options.text_column, streaming=streaming)
    if path.is_file():
        refuse_unused(source, "It is one file", {"pattern": options.pattern})
    splits = _files(source, path, options, say=split == "train")
    if split not in splits and path.is_file():
        return _only_train(source, split, "")
    if split not in splits:
        raise InputError(
            f"{source!r} has no {split} split, only {', '.join(splits)}. Call a file or folder of it {split!r}."
        )
    return _read_all(source, splits[split], options)


def _find(source: str) -> Path | None:
    path = local_path(source, LOCAL_COPIES)
    if path is None and source in LOCAL_COPIES:
        raise InputError(
            f"Passed `source={source!r}`. The environment variable FF_LIGHTNING_DATA must name a folder with "
            f"{LOCAL_COPIES[source]} in it, or pass the path of a text file."
        )
    return path


def _only_train(source: str, split: str, text: str) -> list[str]:
    if split != "train":
        raise InputError(
            f"{source!r} is one text, it has no {split} split. Use its validation part, or a folder with a test split."
        )
    return [text]


def _pydoc() -> str:
    """Join the topics of `help()` in the order of their names."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name].strip("\n") for name in sorted(topics)) + "\n"


def _files(source: str, path: Path, options: TextOptions, *, say: bool = False) -> dict[str, list[Path]]:
    """The files to read, by split; what is left out can be said."""
    if path.is_file():
        return {"train": [path]}
    files, hidden = find_files(path)
    if options.pattern is not None:
        pattern = options.pattern.lower()
        names = {file: (file.name.lower(), str(file.relative_to(path)).lower()) for file in files}
        wanted = [file for file in files if any(fnmatch(name, pattern) for name in names[file])]
    else:
        wanted = [file for file in files if is_text(file)] or [file for file in files if is_table(file)]
    if not wanted:
        holds = f"It holds {endings(files)}" if files else "It is empty"
        asked = "" if options.pattern is None else f" with `pattern={options.pattern!r}`"
        raise InputError(
            f"Passed `source={source!r}`{asked}. The train text of it is empty: no file is read. {holds}. Read are "
            f".txt files, or else {', '.join(ENDINGS)}; `pattern`, such as '*.md', names others."
        )
    splits, unnamed = by_split(wanted, path, all_of_them=options.pattern is not None)
    others = left_out(hidden, [file for file in files if file not in set(wanted)], unnamed=unnamed)
    if say and (others or len(splits) > 1):
        counts = ", ".join(f"{len(some)} {name}" for name, some in splits.items())
        rank_zero_info(f"Read {source}: {counts} files.{' ' * bool(others)}{others}")
    return splits


def _read_all(source: str, files: list[Path], options: TextOptions) -> Iterator[str]:
    for file in files:
        if is_table(file):
            yield from _table_rows(source, file, options)
        elif options.text_column is not None:
            raise InputError(
                f"Passed `text_column={options.text_column!r}` for {str(file)!r}, which is read as plain text and has "
                f"no columns. Leave it out, or pass a table: {', '.join(ENDINGS)}."
            )
        else:
            yield _read(file, options.encoding)


def _read(path: Path, encoding: str) -> str:
    try:
        with open_text(path, encoding) as file:
            return file.read()
    except (OSError, EOFError, UnicodeError, lzma.LZMAError) as error:
        name = "UTF-8" if encoding == "utf-8" else encoding
        hint = " Name its encoding with `encoding`, such as 'latin-1'." if isinstance(error, UnicodeError) else ""
        raise InputError(f"Cannot read {str(path)!r} as {name} text: {error}.{hint}") from error


def _table_rows(source: str, file: Path, options: TextOptions) -> Iterator[str]:
    column = _column(source, columns_of(file, encoding=options.encoding), options.text_column)
    without = 0
    for number, row in enumerate(read_rows(file, columns=[column], encoding=options.encoding), 1):
        text = row.get(column)
        if text is None:
            without += 1
        elif isinstance(text, str):
            yield text
        else:
            raise InputError(f"Row {number} of {str(file)!r} has {text!r} in {column!r}, which is no text.")
    if without:
        rank_zero_info(f"Left out of {file}: {without} rows without a value in {column!r}.")


def _hub_rows(source: str, split: str, text_column: str | None, *, streaming: bool) -> Iterable[str]:
    tables: Mapping[str, Any] = load_tables(source, "text", LOCAL_COPIES, streaming=streaming)
    known = {SPLIT_OF.get(name.lower(), name): table for name, table in tables.items()}
    if split not in known:
        raise InputError(f"{source!r} has no {split} split, only {', '.join(known)}.")
    table = known[split]._resolve_features() if streaming else known[split]
    kinds = {name: getattr(kind, "dtype", "") in ("string", "large_string") for name, kind in table.features.items()}
    column = _column(source, kinds, text_column)
    if streaming:
        rows = (row[column] for row in table.select_columns([column]))
    else:
        rows = table.select_columns([column]).with_format("arrow")[:].column(0).to_pylist()
    return (row for row in rows if row is not None)


def _column(source: str, columns: Mapping[str, bool], name: str | None) -> str:
    """Return the named text column, or `text`, or the only one; columns say whether they hold text."""
    said = f"The columns of {source!r} are {', '.join(columns)}"
    found = [column for column, holds_text in columns.items() if holds_text]
    if name is not None:
        if name in found:
            return name
        raise InputError(f"Passed `text_column={name!r}`. {said}; it must be one of text.")
    if "text" in found or len(found) == 1:
        return "text" if "text" in found else found[0]
    if found:
        raise InputError(f"{said}. Name one of {', '.join(found)} with `text_column`.")
    raise InputError(f"{said}. None is text.")
