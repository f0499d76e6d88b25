"""``ff-lightning report``: a page about runs."""

from __future__ import annotations

import sys

from ff_lightning.report import write_report


def report(run_dirs: list[str], output: str | None = None) -> None:
    """Write the page, and say where it is.

    Args:
        run_dirs: folders of runs.
        output: file; ``report.html`` in the first folder by default.
    """
    sys.stdout.write(f"Wrote {write_report(run_dirs, output)}\n")
