"""Draws `pictures/locality_<network>.png` from `results/locality.jsonl`: direction and ranks of learning, by block.

python docs/picture_locality.py
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from tables_common import DOCS, rows

COLOURS = {"rank_activities": "#606c38", "rank_gradients": "#1b4965", "rank_backprop": "#bc6c25"}
NAMES = {
    "rank_activities": "activities",
    "rank_gradients": "gradient of the block's own loss",
    "rank_backprop": "gradient of backprop",
}


def draw(run: dict[str, Any]) -> None:
    """One figure of a network: cosines at every look on the left, ranks at the last look on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    looks = list(run["found"].items())
    for at, (update, blocks) in enumerate(looks):
        values = [block["cosine"] for block in blocks]
        shade = 0.25 + 0.75 * (at + 1) / len(looks)
        left.plot(range(len(values)), values, "o-", color="#1b4965", alpha=shade, label=f"{int(update):,} updates")
    left.axhline(0, color="#adb5bd", linewidth=0.8)
    left.set_ylim(min(-0.05, *left.get_ylim()), 1.05)
    left.set_ylabel("cosine with backprop")
    last = looks[-1][1]
    if any(block["cosine"] is not None for block in last):
        left.legend(frameon=False, fontsize=8)
    else:
        left.text(0.5, 0.5, "no chain: nothing to compare with", transform=left.transAxes, ha="center", fontsize=9)
    for kind, colour in COLOURS.items():
        if all(block[kind] is not None for block in last):
            right.plot(range(len(last)), [block[kind] for block in last], "o-", color=colour, label=NAMES[kind])
    right.set_ylim(bottom=0)
    right.set_ylabel("effective rank")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.set_xlabel("block")
        axes.set_xticks(range(len(last)))
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{run['network']}, tier {run['tier']}", fontsize=10)
    figure.savefig(DOCS / "pictures" / f"{picture(run)}.png", dpi=90)


def picture(run: dict[str, Any]) -> str:
    """Name of the picture of a run, after its recipe."""
    return "locality_" + run["network"].replace(" + with/", "-")


def main() -> None:
    """Draw one figure of every network."""
    for runs in rows("locality"):
        draw(runs[-1])
        plt.close()


if __name__ == "__main__":
    main()
