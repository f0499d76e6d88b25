"""The one exception for input that cannot work, the checks that most of it fails, and a word on what has no use."""

import logging
import math
from collections.abc import Sequence
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

LEAST, MOST = 2.0**-126, 3.4028234663852886e38
"""The smallest and the largest positive number that float32 holds in full; beyond, there are 0 and infinity."""


LAST_SEED = 2**32 - 1
"""The largest seed that Lightning, NumPy and torch all take."""


LOG = logging.getLogger("lightning.pytorch.ff_lightning")
"""Shown as Lightning's own lines are, of which networks import nothing."""


class InputError(ValueError):
    """What was passed cannot work; the message names the argument, what was given and what is allowed.

    The command line prints it as one line, without a traceback.
    """


class DivergedError(InputError):
    """A training whose losses are no longer finite: what was passed made it diverge."""


def in_one_line(error: BaseException) -> str:
    """What an error says, without line breaks; the name of its class if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def tell_left_out(why: str, **arguments: object) -> None:
    """Say in the log which arguments a network has no use for.

    Args:
        why: what the network is, after a comma.
        **arguments: that were passed; ``None`` for those that were not.
    """
    said = [
        f"`{name}={value if isinstance(value, (bool, int, float)) else f'{type(value).__name__}(…)'}`"
        for name, value in arguments.items()
        if value is not None
    ]
    if said:
        LOG.info("Left out of the network, %s: %s.", why, " and ".join(said))


def whole(name: str, value: int, *, least: int, most: int | None = None, owner: object = None) -> int:
    """``value`` if it is a whole number, at least ``least`` and at most ``most``.

    Args:
        name: of the argument.
        value: what was passed.
        least: the smallest number allowed.
        most: the largest one; ``None`` for any.
        owner: whose argument it is, if the message is to say it.

    Raises:
        InputError: names the argument, what was given, and what is allowed.
    """
    if not is_whole(value, least=least) or (most is not None and value > most):
        allowed = f", at least {least}" if most is None else f" from {least} to {most}"
        raise InputError(f"Passed `{_passed(name, value, owner)}`. `{name}` must be a whole number{allowed}.")
    return int(value)


def check_seeds(owner: object = None, /, **seeds: int) -> None:
    """Check that all seeds are whole numbers that every source of randomness takes.

    Args:
        owner: whose arguments they are, if the message is to say it.
        **seeds: the arguments.

    Raises:
        InputError: names the first that is not.
    """
    for name, value in seeds.items():
        whole(name, value, least=0, most=LAST_SEED, owner=owner)


def check_sizes(owner: object = None, /, **sizes: int) -> None:
    """Check that all sizes of a network are whole numbers, at least 1.

    Args:
        owner: whose arguments they are, if the message is to say it.
        **sizes: the arguments.

    Raises:
        InputError: names the first that is not.
    """
    for name, value in sizes.items():
        whole(name, value, least=1, owner=owner)


def whole_numbers(name: str, values: Sequence[int], *, least: int, some: bool = True) -> list[int]:
    """``values`` as a list if they are whole numbers, each at least ``least``.

    Args:
        name: of the argument.
        values: what was passed.
        least: the smallest number allowed.
        some: whether there must be one at least.

    Raises:
        InputError: names the argument, what was given, and what is allowed.
    """
    listed = isinstance(values, Sequence) and not isinstance(values, (str, bytes))
    if not listed or not all(is_whole(value, least=least) for value in values) or (some and not values):
        given, many = " ".join(repr(values).split()), "one or more " * some
        raise InputError(f"Passed `{name}={given}`. `{name}` must be a list of {many}whole numbers, at least {least}.")
    return [int(value) for value in values]


def positive_numbers(name: str, values: Sequence[float], *, owner: object = None) -> list[float]:
    """``values`` as a list if each is a positive finite number that float32 can hold.

    Args:
        name: of the argument.
        values: what was passed: a list, or a tensor or an array of one dimension.
        owner: whose argument it is, if the message is to say it.

    Raises:
        InputError: names the argument, what was given, and what is allowed.
    """
    listed = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(listed, (list, tuple)) or not all(map(_is_positive, listed)):
        raise InputError(
            f"Passed `{_passed(name, values, owner)}`. `{name}` must be a list of positive, finite numbers."
        )
    return [float(one) for one in listed]


def is_whole(value: Any, *, least: int) -> bool:
    """Whether a value is a whole number, of Python or NumPy, at least ``least``; ``True`` is none."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, of Python or NumPy; neither text nor a tensor is one, nor ``True``.

    Nor a ``Fraction``, with which torch does not compute.
    """
    return isinstance(value, Real) and not isinstance(value, (bool, Fraction)) and math.isfinite(value)


def finite(name: str, value: float, *, least: float = -math.inf, owner: object = None) -> float:
    """``value`` if it is a finite number that float32 can hold, at least ``least``.

    Args:
        name: of the argument.
        value: what was passed.
        least: the smallest number allowed.
        owner: whose argument it is, if the message is to say it.

    Raises:
        InputError: names the argument and what was given.
    """
    if not is_number(value) or abs(value) > MOST or value < least:
        sign = "" if least == -math.inf else " and not negative" if least == 0 else f" and at least {least}"
        raise InputError(f"Passed `{_passed(name, value, owner)}`. `{name}` must be finite{sign}.")
    return float(value)


def share(name: str, value: float) -> float:
    """``value`` if it is a number in ``[0, 1)``.

    Raises:
        InputError: names the argument and what was given.
    """
    if not is_number(value) or not 0 <= value < 1:
        raise InputError(f"Passed `{name}={value!r}`. `{name}` must be in [0, 1).")
    return float(value)


def _passed(name: str, value: object, owner: object) -> str:
    given = f"{name}={' '.join(repr(value).split())}"
    return given if owner is None else f"{type(owner).__name__}({given})"


def positive(name: str, value: float) -> float:
    """``value`` if it is a positive finite number that float32 can hold.

    Raises:
        InputError: names the argument and what was given.
    """
    if not _is_positive(value):
        raise InputError(f"Passed `{name}={value!r}`. `{name}` must be a positive, finite number.")
    return float(value)


def _is_positive(value: Any) -> bool:
    return is_number(value) and LEAST <= value <= MOST
