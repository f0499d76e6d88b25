"""Where text comes from: the embedded language reference, a file, or anything that `datasets` can load.

All give documents: a file is one, and so is a row of a table.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ff_lightning.data.tables import load_tables, local_path
from ff_lightning.errors import InputError

LOCAL_COPIES = {
    "aesop": "aesop/aesop_children_19994_rebuilt.txt",
    "tinyshakespeare": "tinyshakespeare/input.txt",
    "gutenberg": "gutenberg/gutenberg_en_novels.txt",
}
"""Names of texts, and the files in `FF_LIGHTNING_DATA` that hold them."""


def read_documents(
    source: str, *, split: str = "train", text_column: str | None = None, max_characters: int | None = None
) -> list[str]:
    """Read all documents of a split that are not empty.

    Args:
        source: "pydoc", the language reference that comes with Python, as one document; "aesop", "tinyshakespeare" or
            "gutenberg" from `FF_LIGHTNING_DATA`; a text file; a folder with text files, of which those called `test`
            or in a folder `test` are the test split; a folder with Parquet files named after their splits; a Parquet
            file; or the id of a set on the hub.
        split: "train" or "test".
        text_column: Name of the text column of a table; None for `text`, or the only one.
        max_characters: Where to stop, within a document if need be. Rows of a table are then streamed: no more than
            that is read, or downloaded from the hub. None for all.

    Raises:
        InputError: There is no such text, split or column, or it is empty or not UTF-8.
    """
    found = (document for document in _documents(source, split, text_column, max_characters) if document)
    documents = list(found if max_characters is None else _first(found, max_characters))
    if not documents:
        raise InputError(f"Passed `source={source!r}`. The {split} text of it is empty: there must be a character.")
    return documents


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
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _first(documents: Iterable[str], left: int) -> Iterator[str]:
    """Give documents up to a number of characters."""
    for document in documents:
        yield document[:left]
        left -= len(document)
        if left <= 0:
            return


def _documents(source: str, split: str, text_column: str | None, max_characters: int | None) -> Iterable[str]:
    if source == "pydoc":
        return _only_train(source, split, _pydoc())
    path = _find(source)
    if path is not None and path.is_file() and path.suffix != ".parquet":
        return _only_train(source, split, _read(path))
    if path is not None and path.is_dir() and (files := sorted(path.rglob("*.txt"))):
        wanted = [file for file in files if _is_test(file.relative_to(path)) == (split == "test")]
        return [_read(file) for file in wanted]
    return _rows(source, split, text_column, streaming=max_characters is not None)


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


def _is_test(path: Path) -> bool:
    return "test" in path.with_suffix("").parts


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {str(path)!r} as UTF-8 text: {error}.") from error


def _rows(source: str, split: str, text_column: str | None, *, streaming: bool) -> Iterable[str]:
    tables: Mapping[str, Any] = load_tables(source, "text", LOCAL_COPIES, streaming=streaming)
    if split not in tables:
        raise InputError(f"{source!r} has no {split} split, only {', '.join(tables)}.")
    table = tables[split]._resolve_features() if streaming else tables[split]
    column = _column(source, table.features, text_column)
    if streaming:
        rows = (row[column] for row in table.select_columns([column]))
    else:
        rows = table.select_columns([column]).with_format("arrow")[:].column(0).to_pylist()
    return (row for row in rows if row is not None)


def _column(source: str, features: Mapping[str, Any], name: str | None) -> str:
    """Return the named text column, or `text`, or the only one."""
    columns = f"The columns of {source!r} are {', '.join(features)}"
    found = [column for column, kind in features.items() if getattr(kind, "dtype", "") in ("string", "large_string")]
    if name is not None:
        if name in found:
            return name
        raise InputError(f"Passed `text_column={name!r}`. {columns}; it must be one of text.")
    if "text" in found or len(found) == 1:
        return "text" if "text" in found else found[0]
    if found:
        raise InputError(f"{columns}. Name one of {', '.join(found)} with `text_column`.")
    raise InputError(f"{columns}. None is text.")
