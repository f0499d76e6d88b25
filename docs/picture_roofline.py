"""Draws `pictures/roofline.png` from `results/roofline.jsonl`: the share of a step by kind of operation.

python docs/picture_roofline.py
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from tables_common import DOCS, rows

COLOURS = ("#1b4965", "#2a6f97", "#61a5c2", "#a9d6e5", "#bc6c25", "#dda15e", "#606c38", "#9aa88a", "#adb5bd")


def main() -> None:
    """Draw one bar a run; an operation has the same colour everywhere."""
    runs = [run for (run,) in rows("roofline")][::-1]
    kinds = list(dict.fromkeys(kind for run in reversed(runs) for kind in run["profile"]))
    colours = dict(zip(kinds, COLOURS, strict=False))
    figure, axes = plt.subplots(figsize=(9, 0.55 * len(runs) + 1.6), layout="constrained")
    for at, run in enumerate(runs):
        total, left = sum(run["profile"].values()), 0.0
        for kind, share in run["profile"].items():
            width = 100 * share / total
            axes.barh(at, width, left=left, color=colours[kind], edgecolor="white")
            if width >= 4:
                axes.text(left + width / 2, at, f"{width:.0f}", ha="center", va="center", color="white", fontsize=9)
            left += width
    names = [f"{run['network']}, {run['precision']}\n{run['step_ms']:.0f} ms" for run in runs]
    axes.set_yticks(range(len(runs)), names)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the CPU time of a step, %")
    axes.spines[["top", "right"]].set_visible(False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[kind]) for kind in kinds]
    figure.legend(handles, kinds, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(DOCS / "pictures" / "roofline.png", dpi=110)


if __name__ == "__main__":
    main()
