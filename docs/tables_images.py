"""Tables of image models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from statistics import fmean
from typing import Any, NamedTuple

from tables_common import Runs, Table, means, origin, rows, spread, spread_if_any, training_command

CHANGES = Table(
    {
        "changed": lambda run: changed(run["command"]),
        "validation error, %": lambda run: run["by_seed"][0]["val"],
        "by block": lambda run: ", ".join(
            str(run["by_seed"][0][block]) for block in sorted(run["by_seed"][0]) if block.startswith("val/block")
        ),
        "CPU seconds": lambda run: run["by_seed"][0]["cpu_seconds"],
    }
)


def changed(command: str) -> str:
    """What a command changes of its recipe, as code; nothing where it is the recipe as it is."""
    words = re.findall(r"--(?:model|data|trainer)\.(\S+) (\S+)", command)
    shown = [
        (name.rpartition("network.")[2], value.rpartition(".")[2] if "ff_lightning" in value else value)
        for name, value in words
    ]
    return ", ".join(
        f"`{name} {value}`" for name, value in shown if name not in ("check_val_every_n_epoch", "limit", "validation")
    )


def changes(name: str) -> str:
    """Validation errors after changing one thing."""
    return CHANGES.written((run, [run]) for (run,) in rows(name))


def by_seed(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each seed gave."""
    return [one for run in runs for one in run["by_seed"]]


class Trained(NamedTuple):
    """Runs under one command, what each seed gave, what each seed of the twin gave, and the runs of the twin."""

    runs: Runs
    each: Runs
    twins: Runs
    of_twin: Runs


def with_twins(name: str) -> Iterator[Trained]:
    """Runs of Forward-Forward under one command, and those of the twin.

    A twin may have been trained by a run of its own. Networks that differ in their tier have the same one. So have
    those that differ in their optimizer, since each is tuned: the twin that is best on validation images is taken.
    """
    twins: dict[str, dict[str, Runs]] = {}
    for runs in rows(name):
        if any("twin_test" in one for one in by_seed(runs)):
            twins.setdefault(of_network(runs), {}).setdefault(without_tier(runs), []).extend(runs)
    for runs in rows(name):
        ours = [run for run in runs if "test" in run["by_seed"][0]]
        if ours:
            best = max(twins.get(of_network(runs), {}).values(), key=twin_reached, default=[])
            yield Trained(ours, by_seed(ours), [one for one in by_seed(best) if "twin_test" in one], best)


def twin_reached(runs: Runs) -> float:
    """What a twin reached on validation images, mean over seeds; more is better."""
    each = [one for one in by_seed(runs) if "twin_test" in one]
    return fmean(one.get("twin_validation", -one.get("twin_val", 0.0)) for one in each)


def without_tier(runs: Runs) -> str:
    """The common command of some runs, as the twin sees it."""
    unseen = r" --tier \S+| --with(?: \w+)+| --model\.network\.lookahead\S* \S+"
    return re.sub(unseen, "", training_command(runs[0]["command"]))


def of_network(runs: Runs) -> str:
    """The same without the optimizer."""
    return re.sub(r" --model\.(?:optimizer|clip_norm)\S* \S+", "", without_tier(runs))


def alone(row: Trained) -> Runs:
    """Runs in which the twin of a network was trained by itself."""
    return [run for run in row.of_twin if "test" not in run["by_seed"][0]]


def twin_of(row: Trained) -> str:
    """What the twin reached, and what it was told that the network was not."""
    own = changed(row.runs[0]["command"]).split(", ")
    apart = [one for run in row.of_twin[:1] for one in changed(run["command"]).split(", ") if one not in own]
    return ", ".join(filter(None, [spread_if_any(row.twins, "twin_test"), *apart]))


def behind(row: Trained, *, accuracies: bool) -> str:
    """Points that a network is behind its twin in the test; below 0, ahead. Values are accuracies, or errors."""
    if not row.twins:
        return ""
    more = fmean(one["test"] for one in row.each) - fmean(one["twin_test"] for one in row.twins)
    return f"{(-more if accuracies else more) + 0.0:.2f}"


def minutes_of(ours: list[dict[str, Any]], twins: list[dict[str, Any]]) -> str:
    """CPU minutes of Forward-Forward, and of the twin where it was trained."""
    parts = spread(ours, "cpu_minutes", 1), spread_if_any(twins, "twin_cpu_minutes", 1)
    return " / ".join(filter(None, parts))


CLASS_GOODNESS = Table(
    {
        "recipe": lambda row: f"`{row.runs[0]['recipe']}`",
        "tier": lambda row: row.runs[0]["tier"],
        "changed": lambda row: changed(row.runs[0]["command"]),
        "test accuracy, %": lambda row: spread(row.each, "test"),
        "by block": lambda row: means(zip(*(one["test_by_block"] for one in row.each), strict=True)),
        "validation accuracy, %": lambda row: spread(
            [{"chosen": one["validation"][one["readout"]]} for one in row.each], "chosen"
        ),
        "readout": lambda row: ", ".join(dict.fromkeys(f"`{one['readout']}`" for one in row.each)),
        "twin, test, %": twin_of,
        "behind it, points": lambda row: behind(row, accuracies=True),
        "CPU minutes, FF / twin": lambda row: minutes_of(row.each, row.twins),
    }
)
TRIALS = Table(
    {
        "changed": lambda run: changed(run["command"]),
        "tier": lambda run: run["tier"],
        "by block, %": lambda run: " ".join(f"{one:.2f}" for one in run["by_seed"][0]["validation_by_block"]),
        "CPU minutes": lambda run: run["cpu_minutes"],
    }
)
EXPERIMENTS = Table(
    {
        "recipe": lambda row: f"`{row.runs[0]['recipe']}`",
        "tier": lambda row: row.runs[0]["tier"],
        "changed": lambda row: changed(row.runs[0]["command"]),
        "test error, %": lambda row: spread(row.each, "test"),
        "by block": lambda row: means(error_by_block(row.each)),
        "validation error, %": lambda row: spread(row.each, "val"),
        "twin, test, %": twin_of,
        "behind it, points": lambda row: behind(row, accuracies=False),
        "CPU minutes, FF / twin": lambda row: minutes_of(row.each, row.twins),
    }
)
SELF_CONTRAST = Table(
    {
        "recipe": lambda row: f"`{row.runs[0]['recipe']}`",
        "tier": lambda row: row.runs[0]["tier"],
        "changed": lambda row: changed(row.runs[0]["command"]),
        "test accuracy, %": lambda row: spread(row.runs, "test_accuracy"),
        "by number of blocks": lambda row: means(
            zip(*(run["test_by_block"] for run in row.runs if run.get("test_by_block")), strict=True)
        ),
        "validation accuracy, %": lambda row: spread(row.runs, "validation_accuracy"),
        "twin, test, %": lambda row: spread_if_any(row.twins, "twin"),
        "CPU minutes, FF / twin": lambda row: minutes_of(row.runs, row.twins),
    }
)
EARLY_EXIT = Table(
    {
        "answer": lambda point: (
            point["readout"]
            + (f", {100 * point['tolerance']:g} points allowed" if point["tolerance"] is not None else "")
        ),
        "test accuracy, %": lambda point: point["accuracy"],
        "operations, share": lambda point: f"{point['flops_share']:.3f}",
        "blocks asked, share": lambda point: f"{point['blocks_share']:.3f}",
        "CPU seconds": lambda point: f"{point['seconds']:.2f}",
    }
)


def error_by_block(each: Runs) -> Iterator[list[float]]:
    """Errors of every block; of networks without labels, of a linear softmax on it and those below."""
    for key in sorted({key for one in each for key in one if key.startswith("test/block")}):
        yield [one[key] for one in each if key in one]


def class_goodness(name: str) -> str:
    """Networks whose blocks give every class a goodness."""
    return CLASS_GOODNESS.written((row, row.runs, alone(row)) for row in with_twins(name))


def trials(name: str) -> str:
    """Validation accuracies of every block of a network after changing one thing, one run each."""
    return TRIALS.written((run, [run]) for (run,) in rows(name))


def early_exits(name: str) -> str:
    """Accuracy against cost, of one trained classifier."""
    return "\n\n".join(EARLY_EXIT.written((point, [run]) for point in run["curve"]) for (run,) in rows(name))


def experiments(name: str) -> str:
    """Networks whose benchmark trains several seeds in one run, with errors in percent."""
    return EXPERIMENTS.written((row, row.runs, alone(row)) for row in with_twins(name))


def self_contrast_runs(name: str) -> Iterator[tuple[Runs, Runs]]:
    """Runs of SCFF under one command, and those of the twin, which has rate and epochs of its own."""
    everything = [run for runs in rows(name) for run in runs]
    for runs in rows(name):
        ours = [run for run in runs if run["test_accuracy"] is not None]
        twins = [run for run in everything if run["twin"] is not None and run["recipe"] == runs[0]["recipe"]]
        if ours:
            yield ours, twins


def self_contrast(name: str) -> str:
    """Networks that learn without labels, with a linear softmax on what they make of an image."""
    return SELF_CONTRAST.written(
        (Trained(runs, [], twins, twins), runs, twins) for runs, twins in self_contrast_runs(name)
    )


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
        torch = f"torch {run['ours'][0]['torch']}{of_loewex}."
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
        mean = {"samples_per_second": run["samples_per_second"]}  # ours stands first and last in turns
        ours = {"repository": "ff_lightning, `mnist_mlp`"} | run["ours"][0] | mean
        for row in [ours, *(row for row in run["peers"] if "failed" not in row)]:
            lines.append(f"| {row['repository']} | {row['samples_per_second']:,.0f} | {row['validation_error']} |")
    return "\n".join([*lines, "", "One seed, each as its repository sets it up; [all of it](docs/results.md)."])


def at_end(run: dict[str, Any], key: str, digits: int) -> str:
    """A value of every block at the last look of a training; nothing where a network has none."""
    values = [block[key] for block in [*run["found"].values()][-1]]
    return "" if None in values else " ".join(f"{value:.{digits}f}" for value in values)


LOCALITY = Table(
    {
        "network": lambda run: f"`{run['network']}`",
        "tier": lambda run: run["tier"],
        "updates": lambda run: run["updates"],
        "cosine with backprop, by block": lambda run: at_end(run, "cosine", 2),
        "effective rank of activities": lambda run: at_end(run, "rank_activities", 0),
        "of the gradient of the own loss": lambda run: at_end(run, "rank_gradients", 0),
        "of that of backprop": lambda run: at_end(run, "rank_backprop", 0),
    }
)


def localities(name: str) -> str:
    """How far blocks are from backprop at the end of short trainings."""
    return LOCALITY.written((runs[-1], runs) for runs in rows(name))
