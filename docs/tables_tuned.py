"""Table of what `tune.py` tried, of networks and of their twins."""

from __future__ import annotations

import re
from typing import Any

from tables_common import Runs, Table, rows


def names(run: dict[str, Any]) -> list[str]:
    """The arguments that were varied."""
    return [key for key in run["trials"][0] if key not in ("value", "values", "cpu_seconds")]


def setting(trial: dict[str, Any], keys: list[str]) -> str:
    """Values of the arguments, by their last name."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]} {trial[key]:g}" for key in keys)


def reached(trial: dict[str, Any]) -> str:
    """What a setting was judged by; one that diverged reached nothing."""
    return "diverged" if trial["value"] is None else f"{trial['value']:.5g}"


def trained(run: dict[str, Any]) -> str:
    """The recipe and its overlays, and the parts that the command names."""
    changes = re.findall(r" --model\.network\.loss\.init_args\.(\S+ \S+)", run["command"])
    return " + ".join([*run["recipe"], *changes])


def merged(runs: Runs) -> dict[str, Any]:
    """Grids of one network after each other, as one."""
    trials = [trial for run in runs for trial in run["trials"]]
    lowest = runs[0]["mode"] == "min"
    trials.sort(key=lambda trial: (trial["value"] is None, (trial["value"] or 0) * (1 if lowest else -1)))
    return runs[0] | {"trials": trials}


TUNED = Table(
    {
        "trained": trained,
        "judged by": lambda run: f"`{run['monitor']}`",
        "best": lambda run: setting(run["trials"][0], names(run)),
        "reached": lambda run: reached(run["trials"][0]),
        "others": lambda run: "; ".join(f"{setting(t, names(run))}: {reached(t)}" for t in run["trials"][1:]),
        "CPU seconds a setting": lambda run: f"{sum(t['cpu_seconds'] for t in run['trials']) / len(run['trials']):.0f}",
    }
)


def tuned(name: str) -> str:
    """Settings of networks and twins on one grid; grids that went further stand in the row of the first."""
    groups: dict[str, Runs] = {}
    for run in (run for runs in rows(name) for run in runs):
        groups.setdefault(re.sub(r" --grid \S+", "", run["command"]), []).append(run)
    return TUNED.written((merged(runs), runs) for runs in groups.values())
