"""What the command line says when something that was passed is wrong: one line that names it."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator
from typing import NoReturn

from jsonargparse import ArgumentError, ArgumentParser

from ff_lightning.errors import InputError

NOISE = (
    "Does not validate against any of the Union",
    "Subtypes:",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Expected a path but",
    "Given value",
)
"""How the lines of jsonargparse's nested messages begin that only repeat what was passed."""

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
        hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
        return message[: match.end()] + hint + message[match.end() :]


def shorten(message: str) -> str:
    r"""Make one line of jsonargparse's nested message: where, and what is wrong there.

    Args:
        message: many lines, with a whole configuration in them.

    Returns:
        One line.

    >>> shorten("Parser key \"data\":\n  Problem with given class_path 'A':\n    Option 'b' is not accepted")
    "`data` (A): Option 'b' is not accepted"
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
    place = " ".join([f"`{'.'.join(where)}`"] * bool(where) + [f"({owner})"] * bool(owner))
    return ": ".join(part for part in (place, "; ".join(leaves) or message) if part)


def explain(error: BaseException) -> str | None:
    """One line for an error that the user can mend, ``None`` for any other.

    jsonargparse wraps what a class raises when it is built, so the causes are searched too.
    """
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")  # which raised nothing if it is not loaded
    mended = (InputError,) if lightning is None else (InputError, lightning.MisconfigurationException)
    if isinstance(error, (ValueError, *mended)):
        for cause in _causes(error):
            if isinstance(cause, mended):
                return " ".join(str(cause).split())
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
