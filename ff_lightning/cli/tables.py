"""Cells of tables that others open: what a file or a class is called must not become a formula."""

from __future__ import annotations

from collections.abc import Iterable

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet takes for a formula."""


def as_text(cells: Iterable[object]) -> list[str]:
    """Cells of a CSV table, with a quotation mark before those that a spreadsheet would compute; numbers stay.

    >>> as_text(["=1+1", "-0.5", "a"])
    ["'=1+1", '-0.5', 'a']
    """
    return [f"'{cell}" if str(cell).startswith(FORMULA) and not _is_number(cell) else str(cell) for cell in cells]


def _is_number(cell: object) -> bool:
    try:
        float(str(cell))
    except ValueError:
        return False
    return True
