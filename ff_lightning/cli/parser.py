"""What the command line says when something that was passed is wrong: one line that names it."""

from __future__ import annotations

import difflib
import errno
import re
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

from jsonargparse import ArgumentError, ArgumentParser

from ff_lightning.errors import InputError, in_one_line

NOISE = (
    "Does not validate against any of the Union",
    "Subtypes:",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Expected a path but",
    "Given value",
)
"""How the lines of jsonargparse's nested messages begin that only repeat what was passed."""

NOT_OURS = {
    getattr(errno, name)
    for name in (
        "ENOSPC",
        "EDQUOT",
        "EROFS",
        "EACCES",
        "EPERM",
        "EIO",
        "EFBIG",
        "ENAMETOOLONG",
        "ENOTDIR",
        "EISDIR",
        "EPIPE",
    )
    if hasattr(errno, name)
}
"""What the system says where a disk is full, a folder may not be written, or a name cannot be."""

FEW = 10
"""So many options are named, where none is near to the one that was passed."""

LOST = re.compile(
    r"Connection (closed by peer|reset by peer|refused|was likely closed)|Broken pipe|Socket closed"
    r"|socket has timed out|[Tt]imed out( after)? wait\w*( \w+)?|wait timeout after \w+"
    r"|remote process exited|communicator was aborted|Timeout\(ms\)=\d+"
)
"""How gloo, NCCL and torch's store say that nobody answers."""

MISSING = re.compile(r"Requirement '|No module named|pip install|ModuleNotFoundError")
"""How Lightning and Python say that a package is not installed."""

UNKNOWN = re.compile(
    r"ption '([^']+)' is not accepted|does not accept option '([^']+)'|unrecognized arguments: --([^ =\n]+)[^\n]*"
    r"|invalid choice: '([^']+)'"
)
"""How jsonargparse says that a name is unknown."""


class Parser(ArgumentParser):
    """Parser whose errors are short, name the key, and suggest the nearest one there is."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong.

        Args:
            message: from jsonargparse.
            ex: what it caught.

        Raises:
            InputError: from the outermost parser.
            ArgumentError: from the parser of a nested class; the outer ones add where it is.
        """
        message = self._with_suggestion(message, ex)
        if not self.exit_on_error:
            raise ArgumentError(None, message) from ex
        raise InputError(shorten(message)) from ex

    def _with_suggestion(self, message: str, ex: Exception | None) -> str:
        match = UNKNOWN.search(message)
        if match is None or "did you mean" in message:
            return message
        wrong = next(filter(None, match.groups()))
        parser = getattr(ex, "subcommand_parser", None) or self
        commands = getattr(parser._subcommands_action, "_name_parser_map", {})
        known = [action.dest for each in (parser, *commands.values()) for action in each._actions] + list(commands)
        nearest = difflib.get_close_matches(wrong, known, n=1) or difflib.get_close_matches(
            wrong.split(".")[0], known, n=1
        )
        dashes = "--" * match[0].startswith("unrecognized")  # of a recipe's keys, jsonargparse says something else
        hint = f"; did you mean '{dashes}{nearest[0]}'?" if nearest else ""
        names = [name for name in known if name not in ("help", "config")]
        if not nearest and len(names) <= FEW:
            hint = f"; there is {', '.join(names)}" if names else "; it takes none"
        return message[: match.end()] + hint + message[match.end() :]


def shorten(message: str) -> str:
    r"""Make one line of jsonargparse's nested message: where, and what is wrong there.

    Args:
        message: many lines, with a whole configuration in them.

    Returns:
        One line.

    >>> shorten("Parser key \"data\":\n  Problem with given class_path 'A':\n    Option 'b' is not accepted")
    '`--data` (A): `--data.b` is not accepted'
    """
    where: list[str] = []
    owner, leaves = "", []
    for line in message.splitlines():
        text = re.sub(r"^\s*(- )?", "", line)
        if match := re.match(r'Parser key "([^"]+)":\s*', text):
            where.append(match[1])
            text = text[match.end() :]
        if match := re.match(r"Problem with given class_path '([^']+)':\s*", text):
            owner = match[1]
            text = text[match.end() :]
        text = re.sub(r"^Type .* expects a function or a callable class: ", "", text)
        text = re.sub(r"^Expected a dot import path string: (.*)", r"'\1' is not the dotted path of a class", text)
        text = re.sub(r"\.? Got value: Namespace\(.*", "", text)
        if text and not text.startswith(NOISE):
            leaves.append(text)
    option = "--" + ".".join(where)
    if where:  # what is nested is named as it is typed
        leaves = [re.sub(r"Option '([^']+)'", rf"`{option}.\1`", leaf) for leaf in leaves]
        leaves = [re.sub(r"did you mean '([^']+)'", rf"did you mean `{option}.\1`", leaf) for leaf in leaves]
    place = " ".join([f"`{option}`"] * bool(where) + [f"({owner})"] * bool(owner))
    return ": ".join(part for part in (place, "; ".join(leaves) or message) if part)


def explain(error: BaseException) -> str | None:
    """One line for an error that the user can mend, ``None`` for any other.

    jsonargparse wraps what a class raises when it is built, so the causes are searched too.
    """
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")  # which raised nothing if it is not loaded
    mended = (InputError,) if lightning is None else (InputError, lightning.MisconfigurationException)
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("ff_lightning"):
        return f"The package `{error.name}` is missing, and needed here. Install it."
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"A name is no UTF-8: {error.object[max(0, error.start - 40) : error.end + 40]!r}. Rename it."
    if isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on metric"):
        return str(error)
    if type(error) is ValueError and "`" in str(error) and raised_by(error, "lightning"):
        return in_one_line(error)
    if isinstance(error, (ValueError, OSError, *mended)):
        for cause in _causes(error):
            if isinstance(cause, mended):
                return in_one_line(cause)
            if isinstance(cause, OSError) and (cause.errno in NOT_OURS or (cause is error and cause.errno)):
                where = f" ({cause.filename})" if cause.filename else ""
                return f"{cause.strerror}{where}. What was written before is untouched."
    return None


def raised_by(error: BaseException, package: str) -> bool:
    """Whether a package's own code raised an error, as Lightning's does for arguments that it sees late."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__")).startswith(f"{package}.")


def missing_package(error: BaseException) -> str | None:
    """One line for a class that was not built since a package is missing, ``None`` for any other error."""
    text = next((str(cause) for cause in _causes(error) if "given class_path" in str(cause)), "")
    return shorten(text) if MISSING.search(text) else None


def lost_rank(error: BaseException) -> str | None:
    """One line for an error that says that another process of a training is gone or hangs, ``None`` for any other."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available():
        return None
    joined = distributed.is_initialized()
    for cause in _causes(error):
        found = LOST.search(in_one_line(cause)) if isinstance(cause, RuntimeError) else None
        if found is None or not (joined or isinstance(cause, distributed.DistError)):
            continue
        rank = f"Rank {distributed.get_rank()} of {distributed.get_world_size()}" if joined else "A rank"
        return (
            f"{rank} stops, since another process of the training is gone or hangs ({found[0]}); what that one said "
            "tells why. To go on: the same command with `--ckpt_path last`."
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
