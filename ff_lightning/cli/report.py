"""``ff-lightning report``: a page about runs."""

from __future__ import annotations

import sys

from ff_lightning.cli.parser import Parser
from ff_lightning.report import write_report


def report_parser() -> Parser:
    """Parser of the arguments of :func:`report`."""
    parser = Parser(prog="ff-lightning report", description="Write one HTML page about runs, with nothing outside it.")
    parser.add_argument("run_dirs", nargs="+", type=str, help="Folders of runs, such as runs/digits_mlp.")
    parser.add_argument("--output", type=str | None, help="File; report.html in the first folder by default.")
    return parser


def report(run_dirs: list[str], output: str | None = None) -> None:
    """Write the page, and say where it is.

    Args:
        run_dirs: folders of runs.
        output: file; ``report.html`` in the first folder by default.
    """
    sys.stdout.write(f"Wrote {write_report(run_dirs, output)}\n")
