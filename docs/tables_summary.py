"""The table of the README: the main results, each beside the twin."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

from tables_common import by_command, origin, rows, seeds_of, spread, spread_if_any, training_command
from tables_images import self_contrast_runs, with_twins
from tables_language import beside_twins, by_setting

HEAD = [
    "| what | tier | Forward-Forward | same network, backprop | seeds | command |",
    "|---|---|---|---|---|---|",
]


def line(what: str, tier: str, ff: str, twin: str, seeds: str, command: str) -> str:
    """A line of the table."""
    return f"| {what} | {tier} | {ff} | {twin} | {seeds} | `{command}` |"


def labels_in_the_input() -> Iterator[str]:
    """MLPs; a twin is a row of its own, which says so after its name."""
    images = rows("mnist_mlp")
    twins = {(runs[0]["recipe"], runs[0]["epochs"]): spread(runs, "test_error") for runs in images}
    for runs in images:
        first = runs[0]
        if first["tier"] != "backprop":
            what = f"`{first['recipe']}`, test error, %"
            twin = twins.get((first["recipe"] + " + with/twin", first["epochs"]), "")
            command = training_command(first["command"])
            yield line(what, first["tier"], spread(runs, "test_error"), twin, seeds_of(runs), command)


def goodness_of_every_class() -> Iterator[str]:
    """Convolutional networks."""
    for runs, each, twins in with_twins("class_goodness"):
        first = runs[0]
        what, twin = f"`{first['recipe']}`, test accuracy, %", spread_if_any(twins, "twin_test")
        yield line(what, first["tier"], spread(each, "test"), twin, seeds_of(runs), training_command(first["command"]))


def self_contrast() -> Iterator[str]:
    """Convolutional networks that learn without labels, and a linear softmax on top that learns with them."""
    for runs, twins in self_contrast_runs("scff"):
        first = runs[0]
        what, twin = f"`{first['recipe']}`, no labels below the readout, test accuracy, %", spread_if_any(twins, "twin")
        command = training_command(first["command"])
        yield line(what, first["tier"], spread(runs, "test_accuracy"), twin, seeds_of(runs), command)


def hintons_experiments() -> Iterator[str]:
    """Local fields, learning without labels, recurrence."""
    for runs, each, twins in with_twins("hinton"):
        first = runs[0]
        what, twin = f"`{first['recipe']}`, test error, %", spread_if_any(twins, "twin_test")
        yield line(what, first["tier"], spread(each, "test"), twin, seeds_of(runs), training_command(first["command"]))


def other_systems() -> Iterator[str]:
    """Predictive circuits and spiking networks; more than one seed of each."""
    for name in ("predictive", "spiking"):
        for runs in rows(name):
            first = runs[0]
            if len(runs) > 1 and "test_error" in first:
                what, twin = f"{name}, {first['data']}, test error, %", spread_if_any(runs, "twin_test_error")
                command = training_command(first["command"])
                yield line(what, first["tier"], spread(runs, "test_error"), twin, seeds_of(runs), command)


def language_models() -> Iterator[str]:
    """GPTs on characters."""
    for command, runs in beside_twins("language").items():
        first = runs[0]
        if first["layers_per_block"] == 2 and len(runs) == 3:
            what = f"GPT, {first['layers']} layers, {first['arm']}, tiny Shakespeare, nats a character"
            yield line(what, first["tier"], spread(runs, "ff", 4), spread(runs, "twin", 4), seeds_of(runs), command)
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
            command = training_command(first["command"])
            yield line(what, first["tier"], spread(seeds, key, 4), twin, seeds_of(seeds), command)


def best_of(settings: list[list[dict[str, Any]]], key: str) -> list[dict[str, Any]]:
    """The seeds of the setting that has the lowest mean of a value."""
    return min((seeds for seeds in settings if key in seeds[0]), key=lambda seeds: fmean(run[key] for run in seeds))


def summary() -> str:
    """One line a result: Forward-Forward, the same network by backprop, and the command."""
    images = (labels_in_the_input, hintons_experiments, goodness_of_every_class, self_contrast)
    parts = (*images, other_systems, language_models)
    files = ("mnist_mlp", "hinton", "class_goodness", "scff", "predictive", "spiking", "language", "language_scale")
    lines = [*HEAD, *(row for part in parts for row in part())]
    return "\n\n".join(["\n".join(lines), *dict.fromkeys(map(origin, files))])
