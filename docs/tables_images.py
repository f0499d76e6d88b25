"""Tables of image models."""

from __future__ import annotations

from typing import Any

from tables_common import means, origin, rows, seeds_of, spread, spread_if_any, training_command


def errors(name: str) -> str:
    """Table of test errors."""
    lines = [
        "| recipe | tier | test error, % | validation error, % | epochs | CPU minutes | seeds | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for runs in rows(name):
        first = runs[0]
        minutes = f"{sum(run['train_cpu_seconds'] for run in runs) / len(runs) / 60:.1f}"
        command = training_command(first["command"])
        lines.append(
            f"| `{first['recipe']}` | {first['tier']} | {spread(runs, 'test_error')} | "
            f"{spread(runs, 'validation_error')} | {first['epochs']} | {minutes} | {seeds_of(runs)} | `{command}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def changes(name: str) -> str:
    """Table of validation errors after changing one thing."""
    lines = ["| command | validation error, % | by block | CPU seconds |", "|---|---|---|---|"]
    for (run,) in rows(name):
        blocks = ", ".join(str(error) for error in run["validation_error_by_block"])
        lines.append(f"| `{run['command']}` | {run['validation_error']} | {blocks} | {run['train_cpu_seconds']} |")
    return "\n".join([*lines, "", origin(name)])


def by_seed(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each seed gave."""
    return [one for run in runs for one in run["by_seed"]]


def minutes_of(runs: list[dict[str, Any]]) -> str:
    """CPU minutes of Forward-Forward, and of the twin where it was trained."""
    return " / ".join(filter(None, (spread_if_any(runs, key, 1) for key in ("cpu_minutes", "twin_cpu_minutes"))))


def class_goodness(name: str) -> str:
    """Table of networks whose blocks give every class a goodness."""
    lines = [
        "| recipe | tier | test accuracy, % | by block | validation accuracy, % | readout | twin, test, % | "
        "CPU minutes, FF / twin | seeds | command |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for runs in rows(name):
        first, each = runs[0], by_seed(runs)
        columns = zip(*(one["test_by_block"] for one in each), strict=True)
        chosen = [{"validation": one["validation"][one["readout"]]} for one in each]
        readouts = ", ".join(dict.fromkeys(f"`{one['readout']}`" for one in each))
        twin = spread_if_any(each, "twin_test")
        lines.append(
            f"| `{first['recipe']}` | {first['tier']} | {spread(each, 'test')} | {means(columns)} | "
            f"{spread(chosen, 'validation')} | {readouts} | {twin} | {minutes_of(each)} | {seeds_of(runs)} | "
            f"`{training_command(first['command'])}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def losses(name: str) -> str:
    """Table of validation accuracies of one network under several local losses, one run each."""
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
    """Table of networks whose benchmark trains several seeds in one run, with errors in percent."""
    lines = [
        "| recipe | tier | test error, % | by block | validation error, % | twin, test, % | CPU minutes, FF / twin | "
        "seeds | command |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for runs in rows(name):
        first, each = runs[0], by_seed(runs)
        columns = [[one[key] for one in each] for key in sorted(each[0]) if key.startswith("test/block")]
        twin = spread_if_any(each, "twin_test")
        lines.append(
            f"| `{first['recipe']}` | {first['tier']} | {spread(each, 'test')} | {means(columns)} | "
            f"{spread(each, 'val')} | {twin} | {minutes_of(each)} | {seeds_of(runs)} | "
            f"`{training_command(first['command'])}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def self_contrast(name: str) -> str:
    """Table of networks that learn without labels, with a linear softmax on what they make of an image."""
    lines = [
        "| recipe | tier | test accuracy, % | validation accuracy, % | twin, test, % | CPU minutes, FF / twin | "
        "seeds | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for runs in rows(name):
        first = runs[0]
        lines.append(
            f"| `{first['recipe']}` | {first['tier']} | {spread(runs, 'test_accuracy')} | "
            f"{spread(runs, 'validation_accuracy')} | {spread_if_any(runs, 'twin')} | {minutes_of(runs)} | "
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
