"""``ff-lightning report``: a page about runs."""

import sys


def report(run_dirs: list[str], output: str | None = None) -> None:
    """Write a page about one or several runs, and say where it is.

    Args:
        run_dirs: folders of runs.
        output: file; ``report.html`` in the first folder by default.
    """
    from ff_lightning.report import write_report

    sys.stdout.write(f"Wrote {write_report(run_dirs, output)}\n")
