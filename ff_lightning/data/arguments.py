"""Checks of arguments that the data modules share."""

import codecs
import os
from collections.abc import Mapping
from typing import Any

from ff_lightning.errors import InputError, whole


def check_whole(owner: object, name: str, value: Any, *, least: int) -> None:
    """Check that an argument is a whole number.

    Args:
        owner: Whose argument it is, for the message.
        name: Name of the argument.
        value: What was passed.
        least: The smallest number allowed.

    Raises:
        InputError: It is not, or is too small.
    """
    whole(name, value, least=least, owner=owner)


def check_source(owner: object, source: Any, *, instead: str) -> str:
    """A path, a name or an id, as text.

    Args:
        owner: Whose argument it is, for the message.
        source: What was passed.
        instead: What to do with data that are in memory, a sentence.

    Raises:
        InputError: It is no such thing.
    """
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if not isinstance(source, str) or not source.strip():
        given = repr(source) if source is None or isinstance(source, str) else type(source).__name__
        raise InputError(
            f"Passed `{type(owner).__name__}(source={given})`. `source` must be a path or a name. {instead}"
        )
    return source


def refuse_unused(source: str, why: str, arguments: Mapping[str, str | None]) -> None:
    """Refuse arguments that have no effect on a source.

    Args:
        source: What was asked for.
        why: What it is, without a point at the end.
        arguments: By name; `None` where nothing was passed.

    Raises:
        InputError: One was passed.
    """
    for name, value in arguments.items():
        if value is not None:
            none = "utf-8" if name == "encoding" else "null"
            raise InputError(
                f"Passed `{name}={value!r}` with `source={source!r}`. {why}: leave it out, or add `--data.{name} "
                f"{none}` where a recipe says it."
            )


def is_utf8(encoding: str) -> bool:
    """Whether an encoding that Python knows is UTF-8, under any of its names."""
    return codecs.lookup(encoding).name == "utf-8"


def check_encoding(encoding: Any) -> None:
    """Check that an argument is an encoding of texts.

    Raises:
        InputError: Python knows none of that name.
    """
    try:
        "".encode(encoding)
    except (LookupError, ValueError, TypeError) as error:
        raise InputError(
            f"Passed `encoding={encoding!r}`. It must be one that Python knows, such as 'utf-8', 'latin-1' or 'cp1252'."
        ) from error


def check_validation(owner: object, value: int | float, *, rows: str, name: str = "validation") -> None:
    """Check that an argument is a share or a whole number of rows.

    Args:
        owner: Whose argument it is, for the message.
        value: What was passed.
        rows: What is counted, in the plural.
        name: Of the argument.

    Raises:
        InputError: It is neither.
    """
    if not isinstance(value, float):
        check_whole(owner, name, value, least=0)
    elif not 0 <= value < 1:
        raise InputError(
            f"Passed `{type(owner).__name__}({name}={value})`. `{name}` must be a share, at least 0 and below "
            f"1, or a whole number of {rows}."
        )


def count_of(asked: int | float, total: int) -> int:
    """Rows that a share, a float, or a number asks for."""
    return round(total * asked) if isinstance(asked, float) else asked


def check_counts(passed: str, counts: Mapping[str, int], total: int, *, rows: str) -> None:
    """Check that every part that is cut from the training rows has some, and that some are left.

    Args:
        passed: What was passed, as code, for the message.
        counts: By part, "validation" or "test", the rows that this asks for.
        total: Rows that there are.
        rows: What is counted, in the plural.

    Raises:
        InputError: One of the parts, or what is left, would be empty.
    """
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    left = total - sum(counts.values())
    if counts[least] > 0 and left > 0:
        return
    parts = {"training": max(0, left)} | {part: min(count, total) for part, count in counts.items()}
    said = [f"{count} for {part}" for part, count in parts.items()]
    if left <= 0:
        remedy = f"a share, such as `--data.{most} 0.1`" if total >= 10 else f"`--data.{most} 0` for none"
    else:
        remedy = f"a number, such as `--data.{least} 1`, or 0 for none" if left > 1 else f"`--data.{least} 0` for none"
    raise InputError(
        f"Passed `{passed}`. Of {total} {rows} this leaves {', '.join(said[:-1])} and {said[-1]}. Pass {remedy}."
    )
