"""Draws from `results/depth.jsonl`: loss by block of chains beside their twins, and the gap to these against tokens.

python docs/picture_depth.py

The pictures are `pictures/depth.png` and `pictures/depth_tokens.png`.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from tables_common import DOCS, Runs, rows
from tables_depth import parts_of, size_of, with_best_twin

COLOURS = ("#adb5bd", "#dda15e", "#61a5c2", "#2a6f97", "#1b4965", "#606c38", "#bc6c25")
ACROSS = 3
TWINS = {"twin": ("twin, no channels", ":"), "twin_same_parts": ("twin, same parts", "--")}


def setting(run: dict[str, Any]) -> tuple[Any, ...]:
    """What may stand in one picture: the same text, sizes and loss."""
    return bool(run["negatives"]), size_of(run)


def title(run: dict[str, Any]) -> str:
    """What a picture shows."""
    loss = f"{run['negatives']} own negatives (T1)" if run["negatives"] else "all tokens (T2)"
    return f"{loss}, {size_of(run)}"


def main() -> None:
    """Both pictures."""
    by_block()
    over_tokens()


def over_tokens() -> None:
    """Last block against the best twin of any arm and rate, on as many tokens; a line a network, its parts and tier."""
    found: dict[str, dict[float, list[float]]] = {}
    for run in (run for runs in with_best_twin("depth") for run in runs if "--tokens" not in run["command"]):
        if "--no-channels" not in run["command"]:
            size, _, _ = size_of(run).rpartition(";")
            of_network = found.setdefault(f"{run['tier'][:2]}, {parts_of(run)}; {size}", {})
            of_network.setdefault(run["tokens"] / 1e6, []).append(run["per_block"][-1] - run["best_twin"])
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    axes.set_prop_cycle(color=plt.colormaps["tab20"].colors[::2] + plt.colormaps["tab20"].colors[1::2])
    for name, gaps in sorted(found.items()):
        millions = sorted(gaps)
        means = [sum(gaps[one]) / len(gaps[one]) for one in millions]
        axes.plot(millions, means, marker="o" if name.startswith("T1") else "s", label=name)
    axes.axhline(0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("tokens of training, M")
    axes.set_ylabel("gap of the last block to the best twin,\nnats a token")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.savefig(DOCS / "pictures" / "depth_tokens.png", dpi=110)


def by_block() -> None:
    """One picture a setting; a line a chain, the mean over its seeds, which are points."""
    groups: dict[tuple[Any, ...], list[Runs]] = {}
    for runs in rows("depth"):
        groups.setdefault(setting(runs[0]), []).append(runs)
    for key, chains in groups.items():  # of a chain at several rates that of most seeds, then that of the best twin
        chains.sort(key=lambda runs: (len(runs), -runs[0]["twin_same_parts"]))
        groups[key] = list({parts_of(runs[0]): runs for runs in chains}.values())
    high = -(-len(groups) // ACROSS)
    figure, every = plt.subplots(high, ACROSS, figsize=(5 * ACROSS, 4.4 * high), squeeze=False, layout="constrained")
    for axes in every.flat[len(groups) :]:
        axes.set_visible(False)
    for axes, chains in zip(every.flat, groups.values(), strict=False):
        chains.sort(key=lambda runs: -sum(run["per_block"][-1] for run in runs) / len(runs))
        for colour, runs in zip(COLOURS, chains, strict=False):
            seeds = f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"
            losses = [run["per_block"] for run in runs]
            blocks = range(1, len(losses[0]) + 1)
            mean = [sum(values) / len(values) for values in zip(*losses, strict=True)]
            axes.plot(blocks, mean, color=colour, marker="o", label=f"{parts_of(runs[0])} ({seeds})")
            for values in losses:
                axes.plot(blocks, values, color=colour, linewidth=0, marker=".", alpha=0.6)
        different = [runs for runs in chains if runs[0]["twin_same_parts"] != runs[0]["twin"]]
        with_channels = max(different or chains, key=len)  # the twins of most seeds
        for arm, (name, line) in TWINS.items():
            if with_channels[0][arm] is not None:
                nats = sum(run[arm] for run in with_channels) / len(with_channels)
                axes.axhline(nats, color="black", linestyle=line, linewidth=1, label=name)
        axes.set_title(title(chains[0][0]), fontsize=8)
        axes.set_xlabel("block")
        axes.set_xticks(list(blocks))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    for axes in every[:, 0]:
        axes.set_ylabel("validation loss, nats a token")
    figure.savefig(DOCS / "pictures" / "depth.png", dpi=110)


if __name__ == "__main__":
    main()
