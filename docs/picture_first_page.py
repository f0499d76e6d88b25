"""Draws `pictures/first_page.png` from stored results: what no backprop between blocks buys, and what it costs.

python docs/picture_first_page.py
"""

from __future__ import annotations

import re
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from tables_common import DOCS, rows

OURS, THEIRS, BETWEEN = "#bc6c25", "#1b4965", "#61a5c2"
MODES = {"backprop": THEIRS, "checkpointed": BETWEEN, "ff streamed": OURS}
NAMES = {"backprop": "backprop", "checkpointed": "backprop, checkpointed", "ff streamed": "Forward-Forward"}


def memory(axes: Axes) -> None:
    """Peak memory of a step of a GPT, against its depth."""
    (run,) = [run for group in rows("memory") for run in group if run["network"] == "gpt"]
    for mode, colour in MODES.items():
        points = [(row["depth"], row["peak_mib"]) for row in run["rows"] if row["mode"] == mode]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=NAMES[mode])
    axes.set(
        xlabel="layers",
        ylabel="MiB above parameters and optimizer",
        title="A GPT of any depth, in the memory of one block",
    )
    axes.set_xticks(sorted({row["depth"] for row in run["rows"]}))


def learning(axes: Axes) -> None:
    """The same GPT and its twin while they learn characters of novels."""
    runs = [run for group in rows("language_scale") for run in group if "--tokens" not in run["command"]]
    ours = next(run for run in runs if run["arm"] == "logistic")
    twin = next(run for run in runs if "backprop" in run.get("curve", {}) and same_text(run) == same_text(ours))
    for name, curve, colour in (("backprop", twin["curve"]["backprop"], THEIRS), ("ff", ours["curve"]["ff"], OURS)):
        tokens, nats = zip(*curve, strict=True)
        label = "Forward-Forward, last block" if name == "ff" else "same network, backprop"
        axes.plot([count / 1e6 for count in tokens], nats, "o-", color=colour, label=label)
    axes.set(xlabel="million characters", ylabel="nats a character", title="It learns what its backprop twin learns")


def same_text(run: dict[str, Any]) -> list[str]:
    """What two runs must share to stand beside each other."""
    return re.findall(r"--(?:data|layers|width|context|batch|steps) \S+", run["command"])


def main() -> None:
    """Draw both."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    memory(left)
    learning(right)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(DOCS / "pictures" / "first_page.png", dpi=110)


if __name__ == "__main__":
    main()
