"""Tables of image models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tables_common import means, origin, rows, seeds_of, spread, spread_if_any, training_command


def changes(name: str) -> str:
    """Table of validation errors after changing one thing."""
    lines = ["| command | validation error, % | by block | CPU seconds |", "|---|---|---|---|"]
    for (run,) in rows(name):
        (one,) = run["by_seed"]
        blocks = ", ".join(str(one[block]) for block in sorted(one) if block.startswith("val/block"))
        lines.append(f"| `{run['command']}` | {one['val']} | {blocks} | {one['cpu_seconds']} |")
    return "\n".join([*lines, "", origin(name)])


def by_seed(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each seed gave."""
    return [one for run in runs for one in run["by_seed"]]


def with_twins(name: str) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]]:
    """Runs of Forward-Forward under one command, what each of their seeds gave, and what each seed of the twin gave.

    A twin may have been trained by a run of its own, and networks that differ in their tier have the same one.
    """
    twins: dict[str, list[dict[str, Any]]] = {}
    for runs in rows(name):
        twins.setdefault(without_tier(runs), []).extend(one for one in by_seed(runs) if "twin_test" in one)
    for runs in rows(name):
        ours = [run for run in runs if "test" in run["by_seed"][0]]
        if ours:
            yield ours, by_seed(ours), twins[without_tier(runs)]


def without_tier(runs: list[dict[str, Any]]) -> str:
    """The common command of some runs, as the twin sees it."""
    return re.sub(r" --tier \S+| --with(?: \w+)+", "", training_command(runs[0]["command"]))


def minutes_of(ours: list[dict[str, Any]], twins: list[dict[str, Any]]) -> str:
    """CPU minutes of Forward-Forward, and of the twin where it was trained."""
    parts = spread(ours, "cpu_minutes", 1), spread_if_any(twins, "twin_cpu_minutes", 1)
    return " / ".join(filter(None, parts))


def class_goodness(name: str) -> str:
    """Table of networks whose blocks give every class a goodness."""
    lines = [
        "| recipe | tier | test accuracy, % | by block | validation accuracy, % | readout | twin, test, % | "
        "CPU minutes, FF / twin | seeds | command |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for runs, each, twins in with_twins(name):
        first = runs[0]
        columns = zip(*(one["test_by_block"] for one in each), strict=True)
        chosen = [{"validation": one["validation"][one["readout"]]} for one in each]
        readouts = ", ".join(dict.fromkeys(f"`{one['readout']}`" for one in each))
        lines.append(
            f"| `{first['recipe']}` | {first['tier']} | {spread(each, 'test')} | {means(columns)} | "
            f"{spread(chosen, 'validation')} | {readouts} | {spread_if_any(twins, 'twin_test')} | "
            f"{minutes_of(each, twins)} | {seeds_of(runs)} | "
            f"`{training_command(first['command'])}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def trials(name: str) -> str:
    """Table of validation accuracies of every block of a network after changing one thing, one run each."""
    lines = ["| tier | by block, % | CPU minutes | command |", "|---|---|---|---|"]
    for (run,) in rows(name):
        blocks = " ".join(f"{accuracy:.2f}" for accuracy in run["by_seed"][0]["validation_by_block"])
        lines.append(f"| {run['tier']} | {blocks} | {run['cpu_minutes']} | `{run['command']}` |")
    return "\n".join([*lines, "", origin(name)])


def early_exits(name: str) -> str:
    """Table of accuracy against cost, one for each trained classifier."""
    parts = []
    for (run,) in rows(name):
        lines = [
            "| answer | test accuracy, % | operations, share | blocks asked, share | CPU seconds |",
            "|---|---|---|---|---|",
        ]
        for point in run["curve"]:
            allowed = f", {100 * point['tolerance']:g} points allowed" if point["tolerance"] is not None else ""
            lines.append(
                f"| {point['readout']}{allowed} | {point['accuracy']} | {point['flops_share']:.3f} | "
                f"{point['blocks_share']:.3f} | {point['seconds']:.2f} |"
            )
        parts += ["\n".join(lines), f"`{run['command']}`"]
    return "\n\n".join([*parts, origin(name)])


def experiments(name: str) -> str:
    """Table of networks whose benchmark trains several seeds in one run, with errors in percent.

    Of networks without labels, a block's error is that of a linear softmax on it and those below.
    """
    lines = [
        "| recipe | tier | test error, % | by block | validation error, % | twin, test, % | CPU minutes, FF / twin | "
        "seeds | command |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for runs, each, twins in with_twins(name):
        first = runs[0]
        depths = sorted({key for one in each for key in one if key.startswith("test/block")})
        columns = [[one[key] for one in each if key in one] for key in depths]
        lines.append(
            f"| `{first['recipe']}` | {first['tier']} | {spread(each, 'test')} | {means(columns)} | "
            f"{spread(each, 'val')} | {spread_if_any(twins, 'twin_test')} | {minutes_of(each, twins)} | "
            f"{seeds_of(runs)} | `{training_command(first['command'])}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def self_contrast_runs(name: str) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Runs of SCFF under one command, and those of the twin, which has rate and epochs of its own."""
    everything = [run for runs in rows(name) for run in runs]
    for runs in rows(name):
        ours = [run for run in runs if run["test_accuracy"] is not None]
        twins = [run for run in everything if run["twin"] is not None and run["recipe"] == runs[0]["recipe"]]
        if ours:
            yield ours, twins


def self_contrast(name: str) -> str:
    """Table of networks that learn without labels, with a linear softmax on what they make of an image."""
    lines = [
        "| recipe | tier | test accuracy, % | by number of blocks | validation accuracy, % | twin, test, % | "
        "CPU minutes, FF / twin | seeds | command |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for runs, twins in self_contrast_runs(name):
        first = runs[0]
        columns = zip(*(run["test_by_block"] for run in runs if run.get("test_by_block")), strict=True)
        lines.append(
            f"| `{first['recipe']}` | {first['tier']} | {spread(runs, 'test_accuracy')} | {means(columns)} | "
            f"{spread(runs, 'validation_accuracy')} | {spread_if_any(twins, 'twin')} | {minutes_of(runs, twins)} | "
            f"{seeds_of(runs)} | `{training_command(first['command'])}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def peers(name: str) -> str:
    """Table of `mnist_mlp` beside the settings of public repositories, all with the same CPU time."""
    lines = [
        "| setting | samples a CPU second | validation error after this time, % |",
        "|---|---|---|",
    ]
    notes = []
    for (run,) in rows(name):
        for who in ("", "loewex_", "loewex_preloaded_", "mpezeshki_"):
            error = run.get(f"{who}validation_error", "")
            label = who.strip("_").replace("_", ", ") or "`mnist_mlp`"
            lines.append(f"| {label} | {run[f'{who}samples_per_second']} | {error} |")
        notes.append(
            f"{run['cpu_seconds']} CPU seconds each, {run['epochs']} epochs of ours. 100 epochs of loewex would take "
            f"{run['loewex_cpu_seconds_of_100_epochs']} CPU seconds at this speed. `{run['command']}`"
        )
    return "\n".join([*lines, "", *notes, "", origin(name)])


def repositories(name: str) -> str:
    """Tables of recipes beside the repositories themselves, all with the same CPU time."""
    parts = []
    for (run,) in rows(name):
        recipe = run.get("recipe", "mnist_mlp")
        images = recipe == "mnist_mlp"
        lines = [
            f"| repository | {'samples' if images else 'tokens'} a CPU second | "
            f"{'validation error, % (images)' if images else 'nats a character, validation'} | peak memory, MB |",
            "|---|---|---|---|",
        ]
        ours = [{"repository": f"`{recipe}`", "commit": run["commit"]} | row for row in run["ours"]]
        for row in [*ours, *run["peers"]]:
            who = f"{row['repository']} {row['commit']}"
            if "failed" in row:
                lines.append(f"| {who} | could not be run: {row['failed']} | | |")
                continue
            error = f"{row['validation_error']} ({row['validation_images']})" if images else row["validation_nats"]
            lines.append(f"| {who} | {row['samples_per_second']:g} | {error} | {row.get('peak_mb', '')} |")
        of_loewex = f"; {run['speedup']} times the samples of loeweX, whose network is the same" if images else ""
        others = " The others' networks are smaller (dah33, mpezeshki) or larger." if images else ""
        torch = f"torch {run['ours'][0]['torch']}{of_loewex}.{others} {run.get('note', '')}"
        notes = (
            f"One run, with one seed. {run['ours'][0]['cpu_seconds']} CPU seconds each at most, ours in "
            f"`{run['ours'][0]['precision']}`, {torch} `{run['command']}`"
        )
        parts += ["\n".join(lines), " ".join(notes.split())]
    return "\n\n".join([*parts, origin(name)])


def beside(name: str) -> str:
    """Short table of what public Forward-Forward code does in the CPU time of ours."""
    lines = ["| code | samples a CPU second | validation error after equal CPU time, % |", "|---|---|---|"]
    for run in [run for (run,) in rows(name) if run.get("recipe", "mnist_mlp") == "mnist_mlp"]:
        ours = {"repository": "ff_lightning, `mnist_mlp`"} | run["ours"][0]
        for row in [ours, *(row for row in run["peers"] if "failed" not in row)]:
            lines.append(f"| {row['repository']} | {row['samples_per_second']:,.0f} | {row['validation_error']} |")
    return "\n".join([*lines, "", "One seed, each as its repository sets it up; [all of it](docs/results.md)."])
