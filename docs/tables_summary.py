"""The table of the README: the main results, each beside the twin."""

from __future__ import annotations

from tables_common import origin, rows, seeds_of, spread, without_seed
from tables_images import by_seed
from tables_language import beside_twins, by_setting


def summary() -> str:
    """One line a result: Forward-Forward, the same network by backprop, and the command."""
    lines = [
        "| what | tier | Forward-Forward | same network, backprop | seeds | command |",
        "|---|---|---|---|---|---|",
    ]
    images = rows("mnist_mlp")
    twins = {runs[0]["recipe"]: spread(runs, "test_error") for runs in images}
    for runs in images:
        first = runs[0]
        if first["tier"] != "backprop":
            lines.append(
                f"| `{first['recipe']}`, test error, % | {first['tier']} | {spread(runs, 'test_error')} | "
                f"{twins.get(first['recipe'] + ' + with/twin', '')} | {seeds_of(runs)} | "
                f"`{without_seed(first['command'])}` |"
            )
    for runs in rows("class_goodness"):
        first, (each, seeds) = runs[0], by_seed(runs)
        found = [one for one in each if "twin_test" in one]
        lines.append(
            f"| `{first['recipe']}`, test accuracy, % | {first['tier']} | {spread(each, 'test')} | "
            f"{spread(found, 'twin_test') if found else ''} | {seeds} | `{without_seed(first['command'])}` |"
        )
    for command, runs in beside_twins("language").items():
        first = runs[0]
        if first["layers_per_block"] == 2 and len(runs) == 3:
            what = f"GPT, {first['layers']} layers, {first['arm']}, tiny Shakespeare, nats a character"
            lines.append(
                f"| {what} | {first['tier']} | "
                f"{spread(runs, 'ff', 4)} | {spread(runs, 'twin', 4)} | {seeds_of(runs)} | `{command}` |"
            )
    for runs in by_setting("language_scale"):
        if "--tokens" in runs[0]["command"]:
            continue  # the text says where these stand
        twin = next(f"{run['backprop']:.4f}" for run in runs if "backprop" in run)
        for run in runs:
            what = f"GPT, {run['layers']} layers, {run['arm']}, 25 novels, nats a character"
            lines.append(
                f"| {what} | {run['tier']} | {run['ff']:.4f} | {twin} | {run['seed']} | "
                f"`{without_seed(run['command'])}` |"
            )
    files = ("mnist_mlp", "class_goodness", "language", "language_scale")
    return "\n\n".join(["\n".join(lines), *dict.fromkeys(map(origin, files))])
