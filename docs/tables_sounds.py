"""Tables of spoken words."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Any

from tables_common import means, origin, rows, seeds_of, spread, spread_if_any, training_command
from tables_images import minutes_of, with_twins


def speech(name: str) -> str:
    """Table of spoken digits: the official test, every speaker left out, and the mean of those."""
    lines = [
        "| recipe | test | tier | test accuracy, % | by block | validation accuracy, % | twin, test, % | "
        "CPU minutes, FF / twin | seeds | command |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    left_out: dict[tuple[str, str], list[tuple[list[float], float | None]]] = defaultdict(list)
    for runs, each, twins in with_twins(name):
        first = runs[0]
        columns = list(zip(*(one["test_by_block"] for one in each), strict=True))
        what = f"`{first['left_out']}` left out" if first["left_out"] else "official"
        lines.append(
            f"| `{first['recipe']}` | {what} | {first['tier']} | {spread(each, 'test')} | {means(columns)} | "
            f"{spread_if_any(each, 'validation')} | {spread_if_any(twins, 'twin_test')} | {minutes_of(each, twins)} | "
            f"{seeds_of(runs)} | `{training_command(first['command'])}` |"
        )
        if first["left_out"]:
            ours = [fmean(one["test"] for one in each), *map(fmean, columns)]
            twin = fmean(one["twin_test"] for one in twins) if twins else None
            left_out[first["recipe"], first["tier"]].append((ours, twin))
    return "\n".join([*lines, *map(mean_line, left_out.items()), "", origin(name)])


def mean_line(found: tuple[tuple[str, str], list[tuple[list[float], float | None]]]) -> str:
    """The line of the mean over all speakers that were left out, of the network and of its blocks."""
    (recipe, tier), pairs = found
    twins = [twin for _, twin in pairs if twin is not None]
    twin = f"{fmean(twins):.2f}" if len(twins) == len(pairs) else ""
    ours, *blocks = means(zip(*(ours for ours, _ in pairs), strict=True)).split()
    return f"| `{recipe}` | mean of {len(pairs)} left out | {tier} | {ours} | {' '.join(blocks)} | | {twin} | | | |"


def spotting(name: str) -> str:
    """Table of digits that are found in running recordings."""
    lines = [
        "| recipe | tier | found, % | false alarms a minute | frames right, %, by block | twin: found, % | "
        "false alarms a minute | CPU minutes, FF / twin | seeds | command |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for runs in rows(name):
        first = runs[0]
        each: list[dict[str, Any]] = [one for run in runs for one in run["by_seed"]]
        columns = zip(*(one["accuracy_by_block"] for one in each), strict=True)
        lines.append(
            f"| `{first['recipe']}` | {first['tier']} | {spread(each, 'detected')} | {spread(each, 'false_alarms')} | "
            f"{means(columns)} | {spread_if_any(each, 'twin_detected')} | {spread_if_any(each, 'twin_false_alarms')} | "
            f"{minutes_of(each, each)} | {seeds_of(runs)} | `{training_command(first['command'])}` |"
        )
    return "\n".join([*lines, "", origin(name)])
