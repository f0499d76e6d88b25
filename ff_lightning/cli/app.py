"""The command line: ``ff-lightning``, a table of commands.

Those with a recipe are Lightning's own, with the defaults that every recipe would repeat: what a run keeps and shows,
where it keeps it, and errors of one line; see :mod:`ff_lightning.cli.train`. A run lives in a folder named after its
recipe: ``--config recipes/mnist_mlp.yaml --config recipes/with/twin.yaml`` makes ``runs/mnist_mlp-twin`` with
``last.ckpt``, ``best.ckpt``, ``metrics.csv``, ``config.yaml`` and ``pictures/``; ``--trainer.default_root_dir`` names
another.

A command without a recipe is one function and one line of :data:`WITHOUT_RECIPE`: its parser, help and description come
from its signature and docstring. It loads PyTorch and Lightning when it runs, so that ``--help`` need not.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import get_origin, get_type_hints

import ff_lightning
from ff_lightning.cli.catalogue import listing, recipes
from ff_lightning.cli.export import export
from ff_lightning.cli.generate import generate
from ff_lightning.cli.messages import only_what_matters
from ff_lightning.cli.numbers import whole_numbers_first
from ff_lightning.cli.parser import Parser, explain, lost_rank
from ff_lightning.cli.predict import predict_folder, predict_table
from ff_lightning.cli.probe import probe
from ff_lightning.cli.report import report
from ff_lightning.cli.transformers import export_transformers
from ff_lightning.errors import InputError

WITH_RECIPE = {
    "fit": "Train the network of a recipe.",
    "validate": "Evaluate a checkpoint on validation data.",
    "test": "Evaluate a checkpoint on test data.",
    "predict": "Write predictions for validation data, --folder for pictures or recordings, --table for rows.",
}
"""Commands that are methods of the Trainer, and what they are for."""

WITHOUT_RECIPE: dict[str, Callable[..., None]] = {
    "generate": generate,
    "predict --folder": predict_folder,
    "predict --table": predict_table,
    "probe": probe,
    "export": export,
    "export --transformers": export_transformers,
    "report": report,
    "recipes": recipes,
}
"""Commands that need a checkpoint, or the folder of a run, and no recipe. A new one is a function and a line here."""

LIGHT = ("recipes",)
"""Commands that compute nothing, and answer at once."""

DESCRIPTION = "Train networks block by block, for example: ff-lightning fit --config recipes/digits_mlp.yaml"


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: what to run, such as ``["fit", "--config", "recipes/digits_mlp.yaml"]``; the process's own
            arguments by default.

    Returns:
        Exit status: 0, or 2 if something that was passed is wrong, which is then said in one line, or 1 if another
        process of the training is gone, or 128 and the number of the signal that ended it: 130 after Ctrl-C, 143 after
        SIGTERM.
    """
    for name in ("stdout", "stderr"):  # Python has none where the caller has closed it
        if getattr(sys, name) is None or getattr(sys, name).closed:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for the rest of the process
    with only_what_matters():
        try:
            run(sys.argv[1:] if args is None else list(args))
            sys.stdout.flush()  # here it is seen that nobody reads it
        except KeyboardInterrupt as stop:
            return status_of(stop)
        except SystemExit as end:  # Lightning's way to end after a signal, which forgets which
            if isinstance(end.__context__, BrokenPipeError):  # Rich's way
                return unheard()
            if not isinstance(end.__context__, KeyboardInterrupt):
                raise
            return status_of(end.__context__)
        except BrokenPipeError:
            return unheard()
        except Exception as error:
            message, lost = explain(error), lost_rank(error)
            if message is None and lost is None:
                raise
            line = (message or lost or "").encode("utf-8", "backslashreplace").decode()
            sys.stderr.write(f"ff-lightning: error: {line}\n")
            return 2 if message else 1
    return 0


def unheard() -> int:
    """Say that nobody reads what is written to stdout, and write no more to it; the exit status."""
    sys.stderr.write("ff-lightning: error: Nobody reads stdout any more. What was written before is untouched.\n")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in Python's buffer goes there at the exit
    return 2


def status_of(stop: KeyboardInterrupt) -> int:
    """Exit status of a run that was asked to end, as a shell knows it: 128 and the number of the signal."""
    return 128 + int(getattr(stop, "number", signal.SIGINT))


def run(words: list[str]) -> None:
    """Run a command, or say what commands there are."""
    name = command_of(words)
    if odd := [word for word in words if not is_utf8(word)]:
        raise InputError(f"Passed {odd[0]!r}, which is no UTF-8. Rename the file or folder.")
    if name in WITHOUT_RECIPE:
        whole_numbers_first()
        arguments = parser_of(name).parse_args(words[1:])
        if name not in LIGHT:
            _prepare()
        WITHOUT_RECIPE[name](**vars(arguments))  # groups of options stay together
    elif name in WITH_RECIPE and len(words) == 1:
        sys.stderr.write(listing())
        raise InputError(f"`ff-lightning {name}` needs a recipe, or `--model` and `--data`.")
    elif name in WITH_RECIPE or (name.startswith("-") and name not in ("-h", "--help", "--version")):
        _prepare()
        from ff_lightning.cli.train import train_or_evaluate

        train_or_evaluate(words)
    else:
        overview().parse_args(words)  # which ends with help, the version, or an error


def is_utf8(word: str) -> bool:
    """Whether a word can be written down; names of files may be any bytes, which Python keeps in its own way."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def command_of(words: Sequence[str]) -> str:
    """The command that words begin with; nothing if there are none."""
    name = " ".join(words[:1])
    options = {word.split("=")[0] for word in words}
    pairs = [known.split() for known in WITHOUT_RECIPE if " " in known]
    named = [f"{name} {option}" for command, option in pairs if command == name and option in options]
    return named[0] if named else name


def overview() -> Parser:
    """Parser that knows the commands, and nothing of their arguments."""
    parser = Parser(prog="ff-lightning", description=DESCRIPTION, version=ff_lightning.__version__)
    commands = parser.add_subcommands(required=True)
    described = WITH_RECIPE | {name: first_line(run) for name, run in WITHOUT_RECIPE.items() if " " not in name}
    for name, text in described.items():
        commands.add_subcommand(name, Parser(), help=text)
    return parser


def parser_of(name: str) -> Parser:
    """Parser of a command without a recipe; a list is what stands behind its name, without an option."""
    run = WITHOUT_RECIPE[name]
    parser = Parser(prog=f"ff-lightning {name.split()[0]}", description=first_line(run))
    lists = [key for key, hint in get_type_hints(run).items() if get_origin(hint) is list]
    for key in lists:
        parser.add_argument(key, nargs="+", type=str)
    parser.add_function_arguments(run, skip=set(lists))
    return parser


def first_line(function: Callable[..., None]) -> str:
    """What a function does, as its docstring begins."""
    return (function.__doc__ or "").splitlines()[0]


def _prepare() -> None:
    """Set up the process for training; only now is PyTorch loaded."""
    from ff_lightning.processor import prepare_cpu

    prepare_cpu()
