"""What all tables of results share: stored runs, grouped, and where they come from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
Runs = list[dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """A table of results: what each row says, and where it comes from, folded behind it.

    Attributes:
        columns: heading, and what makes the cell from what a row is given.
    """

    columns: dict[str, Callable[[Any], object]]

    def written(self, given: Iterable[tuple[Any, Runs] | tuple[Any, Runs, Runs]]) -> str:
        """The table in Markdown.

        Args:
            given: for every row, what the columns are given, the runs that it comes from, and those of the twin that
                were made by themselves, if any.
        """
        lines: list[list[str]] = [[*self.columns, ""]]
        seen: Runs = []
        for value, runs, *twins in given:
            lines.append([*(str(cell(value)) for cell in self.columns.values()), fold(runs, *twins)])
            seen += runs
        width = len(self.columns) + any(line[-1] for line in lines)  # no column of folds where there is none
        written = [f"| {' | '.join(line[:width])} |" for line in lines]
        return "\n".join([written[0], "|---" * width + "|", *written[1:], "", caution(seen)]).rstrip()


def fold(runs: Runs, twins: Sequence[dict[str, Any]] = ()) -> str:
    """Command, seeds, commits, machine, days and notes of a row, to be opened, and those of the twin."""
    if not runs:
        return ""
    beside = f"<br>Twin, {made(list(twins))}" if twins else ""
    return f"<details><summary>how</summary><code>{command_of(runs)}</code>; {made(runs)}{beside}</details>"


def command_of(runs: Runs) -> str:
    """The common command of some runs, fit for a cell of a table."""
    return escape(training_command(runs[0]["command"])).replace("|", "&#124;")


def made(runs: Runs) -> str:
    """With what seeds, where and when runs under one command were made, and what qualifies them."""
    hardware, commits, dates = facts(runs)
    seeds = seeds_of(runs)
    said = [f"seeds {seeds}" * (seeds != "None"), f"commit {commits}", hardware, dates]
    notes = dict.fromkeys(run["note"] for run in runs if run.get("note"))
    few = "fewer than three seeds, a first look" if seeds != "None" and seeds.count(",") < 2 else ""
    return ". ".join(["; ".join(filter(None, [*said, few])), *(escape(note.rstrip(".")) for note in notes)])


def training_command(command: str) -> str:
    """A command without seeds, which have a column, and without what changes no training: pictures, other parts."""
    return re.sub(r" --seed(?: \d+)+| --sheet \S+| --parts(?: (?:ff|twin|linear|memory))+", "", command)


def rows(name: str) -> list[list[dict[str, Any]]]:
    """The runs stored in one file, grouped by the command without its seed, in the order of first appearance."""
    file = DOCS / "results" / f"{name}.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return list(by_command(map(json.loads, lines)).values())


def by_command(runs: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Runs that differ in nothing but their seed together."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(training_command(run["command"]), []).append(run)
    return groups


def spread(runs: list[dict[str, Any]], key: str, digits: int = 2) -> str:
    """Mean of a value over runs, with lowest and highest if there are several."""
    values = [run[key] for run in runs]
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def spread_if_any(runs: list[dict[str, Any]], key: str, digits: int = 2) -> str:
    """The same over the runs that have the value; empty if none has."""
    found = [run for run in runs if run.get(key) is not None]
    return spread(found, key, digits) if found else ""


def means(columns: Iterable[Sequence[float]]) -> str:
    """Mean of every column, such as a block over seeds."""
    return " ".join(f"{sum(column) / len(column):.2f}" for column in columns)


def seeds_of(runs: list[dict[str, Any]]) -> str:
    """The seeds of runs that have one each, or several."""
    return ", ".join(sorted({str(seed) for run in runs for seed in run.get("seeds", [run.get("seed")])}))


def cpu_hours(runs: Iterable[dict[str, Any]]) -> float:
    """CPU hours of the trainings behind runs, those that several runs share once."""
    minutes, arms = 0.0, set()
    for run in runs:
        for one in run.get("by_seed") or []:
            minutes += sum(one.get(f"{who}cpu_minutes") or 0 for who in ("", "twin_"))
        seconds = run.get("cpu_seconds")
        arms |= set(seconds.items()) if isinstance(seconds, dict) else set()
        minutes += sum(trial.get("cpu_seconds") or 0 for trial in run.get("trials") or []) / 60
    return minutes / 60 + sum(seconds or 0 for _, seconds in arms) / 3600


def origin(name: str) -> str:
    """Where and when the runs of a file were made."""
    runs = [run for group in rows(name) for run in group]
    hardware, commits, dates = facts(runs)
    notes = dict.fromkeys(run["note"] for run in runs if "note" in run)
    said = [f"Measured on {hardware}, one thread, {dates}; commit {commits}.", caution(runs), *notes]
    return " ".join(filter(None, said))


def facts(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Hardware, commits and days of runs, each without repetition."""
    yield from (", ".join(sorted({run[key] for run in runs})) for key in ("hardware", "commit", "date"))


def caution(runs: list[dict[str, Any]]) -> str:
    """What has to be said where a run has seen our copy of CIFAR-10; else nothing."""
    jpeg = any("cifar10_jpeg" in (*run["command"].split(), run.get("data")) for run in runs)
    return "CIFAR-10 was read from a copy in JPEG, which is not comparable with published results." if jpeg else ""
