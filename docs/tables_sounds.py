"""Tables of spoken words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple

from tables_common import Runs, Table, means, rows, spread, spread_if_any
from tables_images import minutes_of, with_twins


class Heard(NamedTuple):
    """A test: its name, a run that stands for all, what every seed gave, and what every seed of the twin gave."""

    test: str
    first: dict[str, Any]
    each: Runs
    twins: Runs


SPEECH = Table(
    {
        "recipe": lambda heard: f"`{heard.first['recipe']}`",
        "test": lambda heard: heard.test,
        "tier": lambda heard: heard.first["tier"],
        "test accuracy, %": lambda heard: spread(heard.each, "test"),
        "by block": lambda heard: means(zip(*(one["test_by_block"] for one in heard.each), strict=True)),
        "validation accuracy, %": lambda heard: spread_if_any(heard.each, "validation"),
        "twin, test, %": lambda heard: spread_if_any(heard.twins, "twin_test"),
        "CPU minutes, FF / twin": lambda heard: minutes_of(heard.each, heard.twins) if heard.test[0] != "m" else "",
    }
)
SPOTTING = Table(
    {
        "recipe": lambda runs: f"`{runs[0]['recipe']}`",
        "tier": lambda runs: runs[0]["tier"],
        "found, %": lambda runs: spread(by_seed(runs), "detected"),
        "false alarms a minute": lambda runs: spread(by_seed(runs), "false_alarms"),
        "frames right, %, by block": lambda runs: means(
            zip(*(one["accuracy_by_block"] for one in by_seed(runs)), strict=True)
        ),
        "twin: found, %": lambda runs: spread_if_any(by_seed(runs), "twin_detected"),
        "twin: false alarms a minute": lambda runs: spread_if_any(by_seed(runs), "twin_false_alarms"),
        "CPU minutes, FF / twin": lambda runs: minutes_of(by_seed(runs), by_seed(runs)),
    }
)


def by_seed(runs: Runs) -> Runs:
    """What each seed gave."""
    return [one for run in runs for one in run["by_seed"]]


def heard_in(name: str) -> Iterator[tuple[Heard, Runs]]:
    """The official test, every speaker that was left out, and the mean over those."""
    found = [
        (Heard(test_of(runs[0]), runs[0], each, twins), [*runs, *twin_runs(name, runs[0])])
        for runs, each, twins, _ in with_twins(name)
    ]
    yield from found
    left_out = [one for one in found if one[0].first["left_out"]]
    key = lambda one: (one[0].first["recipe"], one[0].first["tier"])  # noqa: E731
    for _, group in groupby(sorted(left_out, key=key), key):
        parts = [one[0] for one in group]
        each, twins = over_speakers([part.each for part in parts]), over_speakers([part.twins for part in parts])
        yield Heard(f"mean of {len(parts)} left out", parts[0].first, each, twins), []


def test_of(run: dict[str, Any]) -> str:
    """What a network was tested with."""
    return f"`{run['left_out']}` left out" if run["left_out"] else "official"


def twin_runs(name: str, ours: dict[str, Any]) -> Runs:
    """Runs of the twin alone, on the same test."""
    everything = [run for group in rows(name) for run in group]
    return [run for run in everything if run["test_accuracy"] is None and test_of(run) == test_of(ours)]


def over_speakers(parts: list[Runs]) -> Runs:
    """The mean over speakers of every seed that all of them have, by measure."""
    by_speaker = [{one["seed"]: one for one in part} for part in parts]
    found = []
    for seed in sorted(set.intersection(*map(set, by_speaker))):
        ones = [part[seed] for part in by_speaker]
        mean = {
            key: fmean(one[key] for one in ones) for key in ("test", "twin_test") if all(key in one for one in ones)
        }
        if all("test_by_block" in one for one in ones):
            mean["test_by_block"] = [
                fmean(block) for block in zip(*(one["test_by_block"] for one in ones), strict=True)
            ]
        found.append(mean | {"seed": seed})
    return found


def speech(name: str) -> str:
    """Spoken digits."""
    return SPEECH.written(heard_in(name))


def spotting(name: str) -> str:
    """Digits that are found in running recordings."""
    return SPOTTING.written((runs, runs) for runs in rows(name))
