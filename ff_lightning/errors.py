"""The one exception for input that cannot work, and the check that most of it fails."""

import math


class InputError(ValueError):
    """What was passed cannot work; the message names the argument, what was given and what is allowed.

    The command line prints it as one line, without a traceback.
    """


class DivergedError(InputError):
    """A training whose losses are no longer finite: what was passed made it diverge."""


def whole(name: str, value: int, *, least: int, owner: object = None) -> int:
    """``value`` if it is a whole number, at least ``least``.

    Args:
        name: of the argument.
        value: what was passed.
        least: the smallest number allowed.
        owner: whose argument it is, if the message is to say it.

    Raises:
        InputError: names the argument, what was given, and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        passed = f"{name}={value!r}" if owner is None else f"{type(owner).__name__}({name}={value!r})"
        raise InputError(f"Passed `{passed}`. `{name}` must be a whole number, at least {least}.")
    return value


def positive(name: str, value: float) -> float:
    """``value`` if it is a positive finite number.

    Raises:
        InputError: names the argument and what was given.
    """
    if not (isinstance(value, int | float) and value > 0 and math.isfinite(value)):
        raise InputError(f"Passed `{name}={value}`. `{name}` must be a positive, finite number.")
    return float(value)
