"""The table of the README: the main results, each beside the twin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Any

from tables_common import by_command, caution, facts, rows, seeds_of, spread, spread_if_any, training_command
from tables_images import self_contrast_runs, with_twins
from tables_language import beside_twins, by_setting

HEAD = [
    "| what | tier | Forward-Forward | same network, backprop | seeds | measured | command |",
    "|---|---|---|---|---|---|---|",
]


@dataclass(frozen=True)
class Result:
    """A line of the table, and what chooses among several of the same recipe.

    Attributes:
        what: recipe and measure.
        key: under which each of ``ours`` has the measured value, and ``digits`` behind the point.
        twin: what backprop reaches, or nothing.
        runs: whose command, commits and seeds stand in the table.
        validation: on validation images, higher is better.
        command: where it is not that of the runs.
    """

    what: str
    ours: list[dict[str, Any]]
    key: str
    twin: str
    runs: list[dict[str, Any]]
    validation: float = 0.0
    digits: int = 2
    command: str = ""

    def line(self) -> str:
        """As it stands in the table."""
        first = self.runs[0]
        cells = (self.what, first["tier"], spread(self.ours, self.key, self.digits), self.twin, seeds_of(self.runs))
        command = self.command or training_command(first["command"])
        return f"| {' | '.join(cells)} | {where(self.runs)} | `{command}` |"


def where(runs: list[dict[str, Any]]) -> str:
    """Commits, processor and days of runs, in short."""
    hardware, commits, dates = facts(runs)
    return f"{commits}; {hardware.replace('(R)', '').replace(' Processor', '')}; {dates}"


def best_supported(results: Iterable[Result]) -> Iterator[Result]:
    """Of runs of one recipe and tier that differ in length, the one with most seeds, then the best on validation."""
    kept: dict[tuple[str, str], Result] = {}
    for result in results:
        name = result.what, result.runs[0]["tier"]
        kept[name] = max(kept.get(name, result), result, key=lambda one: (len(one.ours), one.validation))
    yield from kept.values()


def goodness_of_every_class() -> Iterator[Result]:
    """Convolutional networks."""
    for runs, each, twins in with_twins("class_goodness"):
        what, twin = f"`{runs[0]['recipe']}`, test accuracy, %", spread_if_any(twins, "twin_test")
        validation = fmean(one["validation"][one["readout"]] for one in each)
        yield Result(what, each, "test", twin, runs, validation)


def self_contrast() -> Iterator[Result]:
    """Convolutional networks that learn without labels, and a linear softmax on top that learns with them."""
    for runs, twins in self_contrast_runs("scff"):
        what = f"`{runs[0]['recipe']}`, no labels below the readout, test accuracy, %"
        validation = fmean(run["validation_accuracy"] for run in runs)
        yield Result(what, runs, "test_accuracy", spread_if_any(twins, "twin"), runs, validation)


def hintons_experiments() -> Iterator[Result]:
    """MLPs, local fields, learning without labels, recurrence."""
    for runs, each, twins in chain(with_twins("mnist_mlp"), with_twins("hinton")):
        what, twin = f"`{runs[0]['recipe']}`, test error, %", spread_if_any(twins, "twin_test")
        yield Result(what, each, "test", twin, runs, -fmean(one["val"] for one in each))


def spoken_words() -> Iterator[Result]:
    """Spoken digits: the official test, and all speakers that were left out, one after the other."""
    found = list(with_twins("speech"))
    for runs, each, twins in found:
        if not runs[0]["left_out"]:
            what = f"`{runs[0]['recipe']}`, test accuracy, %"
            yield Result(what, each, "test", spread_if_any(twins, "twin_test"), runs)
    for recipe in dict.fromkeys((runs[0]["recipe"], runs[0]["tier"]) for runs, _, _ in found if runs[0]["left_out"]):
        parts = [
            part for part in found if part[0][0]["left_out"] and (part[0][0]["recipe"], part[0][0]["tier"]) == recipe
        ]
        runs, each, twins = ([one for part in parts for one in part[place]] for place in range(3))
        what = f"`{recipe[0]}`, speakers never heard in training, test accuracy, %, mean over {len(parts)}"
        command = "python recipes/benchmarks/speech.py --leave-out SPEAKER"
        whole = twins if len(twins) == len(each) else []  # of some speakers alone, a mean would not compare
        yield Result(what, each, "test", spread_if_any(whole, "twin_test"), runs, command=command)


def other_systems() -> Iterator[Result]:
    """Predictive circuits and spiking networks; more than one seed of each."""
    for name in ("predictive", "spiking"):
        for runs in rows(name):
            first = runs[0]
            if len(runs) > 1 and "test_error" in first:
                what, twin = f"{name}, {first['data']}, test error, %", spread_if_any(runs, "twin_test_error")
                yield Result(what, runs, "test_error", twin, runs)


def language_models() -> Iterator[Result]:
    """GPTs on characters."""
    for command, runs in beside_twins("language").items():
        first = runs[0]
        if first["layers_per_block"] == 2 and len(runs) == 3:
            what = f"GPT, {first['layers']} layers, {first['arm']}, tiny Shakespeare, nats a character"
            yield Result(what, runs, "ff", spread(runs, "twin", 4), runs, digits=4, command=command)
    for runs in by_setting("language_scale"):
        settings = list(by_command(runs).values())
        twin = spread(best_of(settings, "backprop"), "backprop", 4)
        ours = [seeds for seeds in settings if "ff" in seeds[0]]
        key, text = "ff", "25 novels, nats a character"
        if "--tokens" in runs[0]["command"]:  # the best of the tries, which predicts with all its blocks
            key, text = "ff_average", "mean of the blocks, 25 novels, nats a byte-pair token"
            ours = [best_of(ours, key)]
        for seeds in ours:
            first = seeds[0]
            what = f"GPT, {first['layers']} layers, {first['arm']}, {text}"
            yield Result(what, seeds, key, twin, seeds, digits=4)


def best_of(settings: list[list[dict[str, Any]]], key: str) -> list[dict[str, Any]]:
    """The seeds of the setting that has the lowest mean of a value."""
    return min((seeds for seeds in settings if key in seeds[0]), key=lambda seeds: fmean(run[key] for run in seeds))


def summary() -> str:
    """One line a result: Forward-Forward, the same network by backprop, where it was measured, and the command."""
    images = (hintons_experiments, goodness_of_every_class, self_contrast)
    results = [result for part in images for result in best_supported(part())]
    results.sort(key=lambda result: [name in result.what for name in ("cifar", "fashion", "mnist")])
    results += [*spoken_words(), *other_systems(), *language_models()]
    table = "\n".join([*HEAD, *(result.line() for result in results)])
    return f"{table}\n\n{caution([run for result in results for run in result.runs])}".rstrip()
