"""Draws `pictures/claims.png` from `results/claims.jsonl`: error over width and over depth, beside the twin.

python docs/picture_claims.py
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from picture_first_page import OURS, THEIRS
from tables_claims import STUCK, claims, pairs
from tables_common import DOCS, Runs


def curves(axes: Axes, trainings: Runs, over: str, label: str) -> None:
    """Validation errors, and training errors below them; what has not learned is said at the edge."""
    found = list(pairs(trainings))
    sizes = [ours[over] for ours, _ in found]
    for place, (name, colour) in enumerate((("Forward-Forward", OURS), ("same network, backprop", THEIRS))):
        learned = [pair[place] for pair in found if pair[place]["validation"] < STUCK]
        at = [one[over] for one in learned]
        axes.plot(at, [one["validation"] for one in learned], "o-", color=colour, label=name)
        axes.plot(at, [one["train"] for one in learned], "o:", color=colour, label=f"{name}, training images")
        for one in (pair[place] for pair in found if pair[place]["validation"] >= STUCK):
            text = f"{one['validation']:.0f} %,\nhas not learned"
            axes.annotate(
                text, (one[over], 0.97), xycoords=("data", "axes fraction"), color=colour, ha="right", va="top"
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set(xlabel=label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)


def main() -> None:
    """Draw width, depth, and depth at the other rate."""
    run = claims()
    if run is None:
        raise SystemExit("There is no docs/results/claims.jsonl: python recipes/benchmarks/claims.py makes its lines.")
    figure, every = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained", sharey=True)
    slow = run["slow"]["depth"]
    curves(every[0], run["width"], "width", f"units in each of {run['width'][0]['depth']} layers")
    curves(every[1], run["depth"], "depth", f"layers of {run['depth'][0]['width']} units")
    curves(every[2], slow, "depth", f"layers of {slow[0]['width']} units, at a rate of {slow[0]['lr']}")
    shown = [one["validation"] for one in (*run["width"], *run["depth"], *slow) if one["validation"] < STUCK]
    every[0].set(ylim=(0, 1.15 * max(shown)), ylabel="error, %")
    figure.legend(*every[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
    figure.savefig(DOCS / "pictures" / "claims.png", dpi=110)


if __name__ == "__main__":
    main()
