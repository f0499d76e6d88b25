"""Checks of arguments that the data modules share."""

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


def check_count(passed: str, part: str, count: int, total: int, *, rows: str) -> None:
    """Check that a part that is cut from the training rows has some, and leaves some.

    Args:
        passed: What was passed, as code, for the message.
        part: "validation" or "test".
        count: Rows that this asks for.
        total: Rows that there are.
        rows: What is counted, in the plural.

    Raises:
        InputError: One of both would be empty.
    """
    if not 0 < count < total:
        raise InputError(
            f"Passed `{passed}`. Of {total} {rows} this leaves {max(0, total - count)} for training and "
            f"{min(count, total)} for {part}. Pass a share, such as `--data.{part} 0.1`."
        )
