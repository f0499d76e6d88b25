"""Table of the tasks that people bring: numbers, several labels, anomalies, tables and texts."""

from __future__ import annotations

from tables_common import Runs, Table, rows, spread

NAMED = {
    "regression": ("diabetes, R2", "ridge regression", 3),
    "labels": ("two digits in a picture, macro F1", "random forest", 3),
    "anomaly": ("digits 0 to 4 against 5 to 9, AUROC", "local outlier factor", 3),
    "wine": ("wine, accuracy, %", "logistic regression", 2),
    "breast_cancer": ("breast cancer, accuracy, %", "logistic regression", 2),
    "text": ("novelist of a passage, accuracy, %", "logistic regression on the same counts", 2),
}
"""What each task is, the classical method beside it, and how many digits are shown."""


TASKS = Table(
    {
        "task": lambda runs: NAMED[runs[0]["task"]][0],
        "tier": lambda runs: runs[0]["tier"],
        "Forward-Forward, test": lambda runs: of_seeds(runs, "test"),
        "twin, test": lambda runs: of_seeds(runs, "twin_test"),
        "classical, test": lambda runs: of_seeds(runs, "classical_test"),
        "classical method": lambda runs: NAMED[runs[0]["task"]][1],
        "validation, FF / twin": lambda runs: f"{of_seeds(runs, 'validation')} / {of_seeds(runs, 'twin_validation')}",
        "CPU minutes, FF / twin": lambda runs: (
            f"{of_seeds(runs, 'cpu_minutes', 2)} / {of_seeds(runs, 'twin_cpu_minutes', 2)}"
        ),
    }
)


def of_seeds(runs: Runs, key: str, digits: int | None = None) -> str:
    """A value over the seeds of some runs."""
    each = [one for run in runs for one in run["by_seed"]]
    return spread(each, key, NAMED[runs[0]["task"]][2] if digits is None else digits)


def tasks(name: str) -> str:
    """Forward-Forward, its twin and a classical method on each task."""
    return TASKS.written((runs, runs) for runs in rows(name))
