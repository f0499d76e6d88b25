"""Table of the tasks that people bring: numbers, several labels, anomalies, tables and texts."""

from __future__ import annotations

from typing import Any

from tables_common import origin, rows, seeds_of, spread, training_command

NAMED = {
    "regression": ("diabetes, R2", "ridge regression", 3),
    "labels": ("two digits in a picture, macro F1", "random forest", 3),
    "anomaly": ("digits 0 to 4 against 5 to 9, AUROC", "local outlier factor", 3),
    "wine": ("wine, accuracy, %", "logistic regression", 2),
    "breast_cancer": ("breast cancer, accuracy, %", "logistic regression", 2),
    "text": ("novelist of a passage, accuracy, %", "logistic regression on the same counts", 2),
}
"""What each task is, the classical method beside it, and how many digits are shown."""


def tasks(name: str) -> str:
    """Table of Forward-Forward, its twin and a classical method on each task."""
    lines = [
        "| task | tier | Forward-Forward, test | twin, test | classical, test | classical method | "
        "validation, FF / twin | CPU minutes, FF / twin | seeds | command |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for runs in rows(name):
        first = runs[0]
        each: list[dict[str, Any]] = [one for run in runs for one in run["by_seed"]]
        what, classical, digits = NAMED[first["task"]]
        lines.append(
            f"| {what} | {first['tier']} | {spread(each, 'test', digits)} | {spread(each, 'twin_test', digits)} | "
            f"{spread(each, 'classical_test', digits)} | {classical} | {spread(each, 'validation', digits)} / "
            f"{spread(each, 'twin_validation', digits)} | {spread(each, 'cpu_minutes')} / "
            f"{spread(each, 'twin_cpu_minutes')} | {seeds_of(runs)} | `{training_command(first['command'])}` |"
        )
    return "\n".join([*lines, "", origin(name)])
