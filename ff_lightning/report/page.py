"""The page: what is said of each run, and how runs compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, TemplateError

from ff_lightning.engine.outputs import output_file, write_output
from ff_lightning.errors import InputError
from ff_lightning.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, Named, colour, draw, run_charts
from ff_lightning.report.run import Run, read_run
from ff_lightning.report.words import clock

BESIDE = {
    "train/loss": "Sum of the local losses, training",
    "val/loss": "Nats a token, validation",
    "val/accuracy": "Share of right predictions, validation",
}
"""What else is compared, where all runs logged it."""

STAGES = {
    "test": "Test",
    "classes": "Classes",
    "validate": "Validation",
    "fit": "End of training",
    "samples": "Samples",
}
"""Tables of a record, in the order in which they are shown."""

JUDGED_BY = {
    "val/r2": "explained variance, validation",
    "val/auroc": "area under ROC, validation",
    "val/exact": "share with all labels right, validation",
    "val/accuracy": "validation accuracy",
}
"""What a run of another task than language is judged by, the first of these that was logged, and what it is."""


@dataclass(frozen=True)
class Headline:
    """The value that a run is judged by.

    Attributes:
        name: as it is logged.
        text: what it is.
        best: the best one of the training.
        last: the one at its end.
    """

    name: str
    text: str
    best: str
    last: str


@dataclass(frozen=True)
class Comparison:
    """Runs in which the same was measured.

    Attributes:
        charts: the value they are judged by, and what else all of them logged of the whole network; a line a run.
        columns: of a table of what is known of them.
        rows: of this table, a run each.
    """

    charts: list[Chart]
    columns: list[str]
    rows: list[list[str]]


def write_report(run_dirs: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about runs: no script, nothing loaded from elsewhere.

    Args:
        run_dirs: folders of runs; several are shown one after the other, and compared where the same was measured.
        output: file; ``report.html`` in the first folder by default.

    Returns:
        The file.

    Raises:
        InputError: a folder is no run folder, or ``output`` is no HTML file.
    """
    path = output_file(Path(run_dirs[0]) / "report.html" if output is None else output, ".html")
    runs = [read_run(Path(folder)) for folder in run_dirs]
    try:
        page = render(runs)
    # A record that is JSON can still hold anything at any place.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, TemplateError) as error:
        raise InputError(
            f"Passed `run_dirs={' '.join(map(str, run_dirs))}`. A `run.json` there does not hold what a run records: "
            f"{error}."
        ) from error
    write_output(path, page.encode("utf-8", "backslashreplace"))  # names of files may be no UTF-8
    return path


def render(runs: Sequence[Run]) -> str:
    """The page as text. Whatever the folders hold is escaped."""
    environment = Environment(
        loader=PackageLoader("ff_lightning.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [
        {
            "run": run,
            "headline": headline(run),
            "tiles": tiles(run),
            "tables": _tables(run),
            # What is among the curves is not shown a second time.
            "pictures": [picture for picture in run.pictures if picture.name != "losses"],
            "charts": run_charts(run.curves),
        }
        for run in runs
    ]
    frame = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
    return environment.get_template("page.html").render(
        sections=sections, comparisons=comparisons(runs), frame=frame, title=" · ".join(run.name for run in runs)
    )


def headline(run: Run) -> Headline | None:
    """What a run is judged by: the first of what was logged, ``None`` if nothing was that says how good it is."""
    if "val/bits" in run.curves:
        values = [value for _, value in run.curves.get("val/loss", [])]
        return Headline("val/loss", "nats a token, validation", f"{min(values):.4f}", f"{values[-1]:.4f}")
    for name, text in JUDGED_BY.items():
        values = [value for _, value in run.curves.get(name, []) if math.isfinite(value)]
        if values and name == "val/accuracy":
            return Headline(name, text, f"{100 * max(values):.2f} %", f"{100 * values[-1]:.2f} %")
        if values:
            return Headline(name, text, f"{max(values):.4f}", f"{values[-1]:.4f}")
    return None


def tiles(run: Run) -> list[tuple[str, str]]:
    """Short facts: a value, and what it is."""
    about: dict[str, Any] = run.record.get("run", {})
    found: list[tuple[str, str]] = []
    if (head := headline(run)) is not None:
        found.append((head.last, head.text))
        if head.best != head.last:
            found.append((head.best, "best of the training"))
    test = run.record.get("tables", {}).get("test")
    for column, text in (("nats", "nats a token, test"), ("accuracy", "test accuracy")) if test else ():
        if column in test["columns"] and test["rows"]:
            found.append((test["rows"][-1][test["columns"].index(column)], text))
            break
    if "updates" in about:
        found += [(f"{about['updates']:,}", "updates"), (clock(about["seconds"]), "training time")]
    if "parameters" in about:
        found.append((amount(about["parameters"]), "parameters"))
        found.append((str(about["local_modules"]), "local losses"))
    return found


def amount(number: int) -> str:
    """A large number, short.

    >>> amount(538500), amount(1_250_000), amount(12)
    ('538 k', '1.25 M', '12')
    """
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)


def comparisons(runs: Sequence[Run]) -> list[Comparison]:
    """What several runs have in common: the value they are judged by."""
    found = []
    judged = [(run, head) for run in runs if (head := headline(run)) is not None]
    for name in dict.fromkeys(head.name for _, head in judged):
        group = [(run, head) for run, head in judged if head.name == name]
        if len(group) > 1:
            facts = [(run.name, {text: value for value, text in tiles(run)}) for run, _ in group]
            columns = list(dict.fromkeys(text for _, known in facts for text in known))
            rows = [[name, *(known.get(column, "") for column in columns)] for name, known in facts]
            notes = {name: group[0][1].text} | {quantity: text for quantity, text in BESIDE.items() if quantity != name}
            shared = [quantity for quantity in notes if all(run.curves.get(quantity) for run, _ in group)]
            charts = [
                draw(quantity, notes[quantity], _laid_over([run for run, _ in group], quantity)) for quantity in shared
            ]
            found.append(Comparison(charts, ["", *columns], rows))
    return found


def _laid_over(runs: Sequence[Run], quantity: str) -> list[Named]:
    """A curve a run, of the whole network."""
    return [Named(run.name, colour(index, len(runs)), run.curves[quantity]) for index, run in enumerate(runs)]


def _tables(run: Run) -> list[dict[str, Any]]:
    """Tables of the record, with the length of a bar for rows of nats."""
    kept = run.record.get("tables", {})
    tables = []
    for stage in STAGES:
        table = kept.get(stage)
        if table is None or (stage == "fit" and "validate" in kept):  # which says the same, and more
            continue
        bars: list[float | None] = [None] * len(table["rows"])
        if "nats" in table["columns"]:
            values = [float(row[table["columns"].index("nats")]) for row in table["rows"]]
            bars = [value / max(values) for value in values]
        tables.append({**table, "stage": STAGES[stage], "bars": bars})
    return tables
