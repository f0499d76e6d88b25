"""Writes the tables of results from stored JSON: nobody types a number.

    python docs/tables.py          rewrites the tables in README.md and in the documentation

Every line of `docs/results/*.jsonl` is the last line of a benchmark's output. Lines that differ in nothing but the
seed are one row: mean, lowest and highest.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
START = "<!-- results: written by `python docs/tables.py`, from docs/results/*.jsonl -->"
END = "<!-- end of results -->"


def rows(name: str) -> list[list[dict[str, Any]]]:
    """The runs stored in one file, grouped by the command without its seed, in the order of first appearance."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in (DOCS / "results" / f"{name}.jsonl").read_text().splitlines():
        run = json.loads(line)
        groups.setdefault(re.sub(r" --seed \d+", "", run["command"]), []).append(run)
    return list(groups.values())


def spread(runs: list[dict[str, Any]], key: str, digits: int = 2) -> str:
    """Mean of a value over runs, with lowest and highest if there are several."""
    values = [run[key] for run in runs]
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def errors(name: str) -> str:
    """Table of test errors."""
    lines = [
        "| recipe | tier | test error, % | validation error, % | epochs | CPU minutes | seeds | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for runs in rows(name):
        first = runs[0]
        minutes = f"{sum(run['train_cpu_seconds'] for run in runs) / len(runs) / 60:.1f}"
        seeds = ", ".join(str(run["seed"]) for run in runs)
        command = re.sub(r" --seed \d+", "", first["command"])
        lines.append(
            f"| `{first['recipe']}` | {first['tier']} | {spread(runs, 'test_error')} | "
            f"{spread(runs, 'validation_error')} | {first['epochs']} | {minutes} | {seeds} | `{command}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def step_times(name: str) -> str:
    """Table of step times."""
    lines = [
        "| network, batch, precision, negatives | FF, ms | backprop, ms | ratio | matmul share of FF | command |",
        "|---|---|---|---|---|---|",
    ]
    for (run,) in rows(name):
        network = f"784-{'-'.join(map(str, run['widths']))}, {run['batch']}, {run['precision']}, {run['negatives']}"
        lines.append(
            f"| {network} | {run['ff_ms']} | {run['backprop_ms']} | {run['ratio']} | {run['matmul_share']} | "
            f"`{run['command']}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def changes(name: str) -> str:
    """Table of validation errors after changing one thing."""
    lines = ["| command | validation error, % | by block | CPU seconds |", "|---|---|---|---|"]
    for (run,) in rows(name):
        blocks = ", ".join(str(error) for error in run["validation_error_by_block"])
        lines.append(f"| `{run['command']}` | {run['validation_error']} | {blocks} | {run['train_cpu_seconds']} |")
    return "\n".join([*lines, "", origin(name)])


def origin(name: str) -> str:
    """Where and when the runs of a file were made."""
    runs = [run for group in rows(name) for run in group]
    facts = [sorted({run[key] for run in runs}) for key in ("hardware", "commit", "date")]
    hardware, commits, dates = (", ".join(values) for values in facts)
    return f"Measured on {hardware}, one thread, {dates}; commit {commits}."


def replace(path: Path, body: str) -> bool:
    """Put ``body`` between the markers of a page; tell whether that changed it."""
    old = path.read_text()
    before, rest = old.split(START, 1)
    new = f"{before}{START}\n\n{body}\n\n{END}{rest.split(END, 1)[1]}"
    path.write_text(new)
    return new != old


def main() -> int:
    """Rewrite the tables; exit status 1 if that changed something."""
    short, long = errors("mnist_mlp"), step_times("step_time")
    changed = [
        replace(DOCS.parent / "README.md", short),
        replace(DOCS / "explanation" / "what_failed.md", changes("ablations")),
        replace(DOCS / "results.md", f"## Images\n\n{short}\n\n## Time of a step\n\n{long}"),
    ]
    return int(any(changed))


if __name__ == "__main__":
    sys.exit(main())
