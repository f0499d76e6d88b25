"""Tables of networks with a time of their own: predictive circuits and spiking networks."""

from __future__ import annotations

from tables_common import means, origin, rows, seeds_of, spread, spread_if_any, training_command


def predictive(name: str) -> str:
    """Table of predictive Forward-Forward: what it classifies, reconstructs and makes up."""
    lines = [
        "| recipe | tier | test error, % | validation error, % | squared error of reconstructions, from the top, of "
        "the mean image | samples recognised, share | error of their judge, % | epochs | CPU minutes | seeds | "
        "command |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for runs in rows(name):
        first = runs[0]
        keys = "reconstruction_error", "reconstruction_error_from_top", "mean_image_error"
        pictures = ", ".join(spread_if_any(runs, key, 1) or "none" for key in keys)
        lines.append(
            f"| `{first['recipe']}` | {first['tier']} | {spread_if_any(runs, 'test_error')} | "
            f"{spread(runs, 'validation_error')} | {pictures} | {spread_if_any(runs, 'recognised_samples', 3)} | "
            f"{spread_if_any(runs, 'judge_validation_error')} | {first['epochs']} | {spread(runs, 'cpu_minutes', 1)} | "
            f"{seeds_of(runs)} | `{training_command(first['command'])}` |"
        )
    return "\n".join([*lines, "", origin(name)])


def spiking(name: str) -> str:
    """Table of spiking networks beside their twin and a linear readout."""
    lines = [
        "| data | tier | test error, % | by block | validation error, % | twin by surrogate gradients, test, % | "
        "linear readout, test, % | memory, 100 steps over 10 | epochs | CPU minutes, FF / twin | seeds | command |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for runs in rows(name):
        first = runs[0]
        columns = zip(*(run["test_error_by_block"] for run in runs if "test_error_by_block" in run), strict=True)
        each = [{key: run.get(f"{key}_seconds", 0) / 60 for key in ("train_cpu", "twin_train_cpu")} for run in runs]
        minutes = " / ".join(spread(each, key, 1) for key in each[0] if each[0][key])
        others = " | ".join(spread_if_any(runs, key) for key in ("validation_error", "twin_test_error", "linear_error"))
        lines.append(
            f"| {first['data']} | {first['tier']} | {spread_if_any(runs, 'test_error')} | {means(columns)} | "
            f"{others} | {spread_if_any(runs, 'memory_ratio', 3)} | {first['epochs']} | {minutes} | {seeds_of(runs)} | "
            f"`{training_command(first['command'])}` |"
        )
    return "\n".join([*lines, "", origin(name)])
