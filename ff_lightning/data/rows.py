"""Rows of local tables: CSV, JSON lines, JSON and Parquet, compressed or not, read as they are asked for."""

import csv
import gzip
import json
import lzma
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from ff_lightning.data.arguments import check_encoding, is_utf8
from ff_lightning.data.files import ends_with
from ff_lightning.errors import InputError

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""How the names of tables end; all but Parquet also with ``.gz`` or ``.xz`` behind."""

is_table = ends_with(*ENDINGS)
"""Whether a file is a table, by its name."""


def open_text(path: Path, encoding: str = "utf-8") -> TextIO:
    """Open a text, which may be compressed by gzip or xz.

    Args:
        path: the file.
        encoding: as Python names it; a byte order mark at the beginning of UTF-8 is no part of the text.
    """
    name = "utf-8-sig" if is_utf8(encoding) else encoding
    packed: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
    return cast(TextIO, packed.get(path.suffix.lower(), open)(path, "rt", encoding=name))


def read_rows(path: Path, *, columns: Sequence[str] | None = None, encoding: str = "utf-8") -> Iterator[dict[str, Any]]:
    """Read the rows of a table one after the other.

    Args:
        path: the file; its ending says what it is.
        columns: of a Parquet file, those to read; ``None`` for all.
        encoding: of its text.

    Raises:
        InputError: the file cannot be read, or is no table; its name and what was wrong are said.
    """
    check_encoding(encoding)
    try:
        yield from _rows(path, columns, encoding)
    except (OSError, EOFError, ValueError, lzma.LZMAError, csv.Error) as error:  # pyarrow's are ValueErrors
        if isinstance(error, InputError):
            raise
        reason = str(error).split("\n", 1)[0]
        hint = " Name its encoding with `encoding`." if isinstance(error, UnicodeDecodeError) else ""
        raise InputError(f"Cannot read the table {str(path)!r}: {reason}.{hint}") from error


def _refuse_encoding(path: Path, encoding: str) -> None:
    """Parquet files say themselves how their text is written."""
    if not is_utf8(encoding):
        raise InputError(
            f"Passed `encoding={encoding!r}` for {str(path)!r}. Text of a Parquet file is always UTF-8: leave it out."
        )


def columns_of(path: Path, *, encoding: str = "utf-8") -> dict[str, bool]:
    """Names of the columns of a table, and whether they hold text, as far as its first hundred rows say.

    Raises:
        InputError: the file cannot be read, or is no table.
    """
    if path.suffix.lower() == ".parquet":
        _refuse_encoding(path, encoding)
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            schema = pq.read_schema(path)
        except (OSError, ValueError) as error:
            raise InputError(f"Cannot read the table {str(path)!r}: {error}.") from error
        return {field.name: pa.types.is_string(field.type) or pa.types.is_large_string(field.type) for field in schema}
    found: dict[str, bool] = {}
    for _, row in zip(range(100), read_rows(path, encoding=encoding), strict=False):
        for name, value in row.items():
            found[name] = found.get(name, False) or isinstance(value, str)
    return found


def _rows(path: Path, columns: Sequence[str] | None, encoding: str) -> Iterator[dict[str, Any]]:
    if path.suffix.lower() == ".parquet":
        _refuse_encoding(path, encoding)
        import pyarrow.parquet as pq

        parquet = pq.ParquetFile(path)
        _refuse_twice(parquet.schema_arrow.names)
        for batch in parquet.iter_batches(1000, columns=None if columns is None else list(columns)):
            yield from batch.to_pylist()
        return
    with open_text(path, encoding) as file:
        if ends_with(".csv", ".tsv")(path):
            yield from _csv(path, file)
        elif ends_with(".json")(path):
            yield from _json(path, file.read())
        else:
            yield from _lines(path, file)


def _csv(path: Path, file: TextIO) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)
    rows = csv.DictReader(file, delimiter="\t" if ends_with(".tsv")(path) else ",", strict=True)
    _refuse_twice(rows.fieldnames or [])
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise InputError(
                f"Cannot read the table {str(path)!r}: row {number} has more or fewer values than a heading."
            )
        yield row


def _lines(path: Path, lines: Iterator[str] | TextIO) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except ValueError as error:
            raise InputError(f"Cannot read the table {str(path)!r}: line {number} is no JSON: {error}.") from error
        if not isinstance(row, dict):
            raise InputError(f"Cannot read the table {str(path)!r}: line {number} is no JSON object {{…}}.")
        yield row


def _json(path: Path, text: str) -> Iterator[dict[str, Any]]:
    """Read a list of rows, an object with one such list in it, or lines of JSON under another name."""
    try:
        content = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise
        yield from _lines(path, iter(text.splitlines()))
        return
    lists = [value for value in content.values() if _is_table(value)] if isinstance(content, dict) else [content]
    if len(lists) != 1 or not _is_table(lists[0]):
        raise InputError(f"Cannot read the table {str(path)!r}: it must hold one list of JSON objects [{{…}}, …].")
    yield from lists[0]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object with every name once."""
    _refuse_twice([name for name, _ in pairs])
    return dict(pairs)


def _refuse_twice(names: Sequence[str]) -> None:
    """Refuse two columns of one name, of which a row would keep the last."""
    if len(set(names)) < len(names):
        name, count = Counter(names).most_common(1)[0]
        raise ValueError(f"{count} columns are called {name!r}; give each a name of its own")


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)
