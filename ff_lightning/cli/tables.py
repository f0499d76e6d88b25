"""Tables that others open: whole or not at all, and what a file or a class is called must not become a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from ff_lightning.engine.outputs import write_output

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet takes for a formula."""


def as_text(cells: Iterable[object]) -> list[str]:
    r"""Cells of a CSV table, with a quotation mark before those that a spreadsheet would compute; numbers stay.

    Bytes of a file's name that are no UTF-8 are spelt out: ``\\xff``.

    >>> as_text(["=1+1", "-0.5", "a"])
    ["'=1+1", '-0.5', 'a']
    """
    texts = (str(cell).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for cell in cells)
    return [f"'{text}" if text.startswith(FORMULA) and not _is_number(text) else text for text in texts]


def write_csv(path: Path, lines: Iterable[Iterable[object]]) -> None:
    """Write a CSV table; its cells are those of :func:`as_text`.

    Args:
        path: see :func:`~ff_lightning.engine.outputs.write_output`.
        lines: the headings, then the others.
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows(map(as_text, lines))
    write_output(path, text.getvalue().encode())


def _is_number(cell: object) -> bool:
    try:
        float(str(cell))
    except ValueError:
        return False
    return True
