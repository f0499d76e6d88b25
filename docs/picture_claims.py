"""Draws `pictures/claims.png` from `results/claims.jsonl`: error over width and over depth, beside the twin.

python docs/picture_claims.py
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from picture_first_page import OURS, THEIRS
from tables_claims import claims, pairs
from tables_common import DOCS, Runs


def curves(axes: Axes, trainings: Runs, over: str, label: str) -> None:
    """Validation errors, and training errors below them."""
    found = list(pairs(trainings))
    sizes = [ours[over] for ours, _ in found]
    for place, (name, colour) in enumerate((("Forward-Forward", OURS), ("same network, backprop", THEIRS))):
        axes.plot(sizes, [pair[place]["validation"] for pair in found], "o-", color=colour, label=name)
        axes.plot(sizes, [pair[place]["train"] for pair in found], "o:", color=colour, label=f"{name}, training images")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_ylim(bottom=0)
    axes.set(xlabel=label, ylabel="error, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)


def main() -> None:
    """Draw both."""
    run = claims()
    if run is None:
        raise SystemExit("There is no docs/results/claims.jsonl: python recipes/benchmarks/claims.py makes its line.")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    curves(left, run["width"], "width", f"units in each of {run['width'][0]['depth']} layers")
    curves(right, run["depth"], "depth", f"layers of {run['depth'][0]['width']} units")
    left.legend(frameon=False, fontsize=8)
    figure.savefig(DOCS / "pictures" / "claims.png", dpi=110)


if __name__ == "__main__":
    main()
