"""A picture of a test: goodness of positives and negatives in every block, and the confusion matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from ff_lightning.readouts import label_goodness
from ff_lightning.tasks.classifier import FFClassifier
from ff_lightning.tasks.evaluation import ImageClassification

POSITIVE, NEGATIVE, HARDEST = "#1b7837", "#bdbdbd", "#c51b7d"


class ClassificationPictures(pl.Callback):
    """Draws ``test.png`` when an image classifier has been tested.

    The histograms need labels in the input, so they are drawn for :class:`~ff_lightning.FFClassifier` alone. With
    several devices they show the images of the first one; the confusion matrix counts all.

    Args:
        dirpath: folder of the picture; ``pictures`` in the run folder by default.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self._goodness: list[Tensor] = []
        self._labels: list[Tensor] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier test."""
        self._goodness, self._labels = [], []
        if isinstance(pl_module, ImageClassification):
            pl_module.test_metrics.confusion.reset()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the goodness that every block gives to every label."""
        if isinstance(pl_module, FFClassifier) and trainer.is_global_zero:
            x, y = batch
            self._goodness.append(label_goodness(pl_module.network, x, pl_module.num_classes).float().cpu())
            self._labels.append(y.cpu())

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw and write the picture."""
        if not isinstance(pl_module, ImageClassification):
            return
        confusion = pl_module.test_metrics.confusion.compute().cpu()  # sums over ranks, so every rank asks
        if not trainer.is_global_zero or not int(confusion.sum()):
            return
        names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        figure = draw_test(
            confusion,
            names or [str(index) for index in range(len(confusion))],
            torch.cat(self._goodness, dim=1) if self._goodness else None,
            torch.cat(self._labels) if self._labels else None,
        )
        folder = Path(trainer.default_root_dir) / "pictures" if self.dirpath is None else Path(self.dirpath)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "test.png")
        rank_zero_info(f"Wrote {folder / 'test.png'}")


def draw_test(confusion: Tensor, names: list[str], goodness: Tensor | None, labels: Tensor | None) -> Figure:
    """Draw histograms on the left, as far as there is goodness, and the confusion matrix on the right.

    Args:
        confusion: ``(C, C)`` counts; rows are true classes.
        names: of the classes.
        goodness: ``(L, N, C)`` of every block, image and label.
        labels: ``(N,)`` true classes.

    Returns:
        A figure that belongs to no window.
    """
    if goodness is None or labels is None:
        figure = Figure(figsize=(6.4, 5.8), dpi=120, layout="constrained")
        draw_confusion(figure.subplots(), confusion, names)
        return figure
    figure = Figure(figsize=(13, 6), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    axes = np.atleast_1d(left.subplots(len(goodness), 1))
    for index, (ax, g) in enumerate(zip(axes, goodness, strict=True)):
        draw_goodness(ax, g, labels)
        ax.set_title(f"Block {index}", fontsize=10)
    axes[-1].set_xlabel("goodness of an image with a label")
    left.suptitle(f"Goodness of {len(labels):,} test images with each label written in")
    handles, texts = axes[0].get_legend_handles_labels()
    left.legend(handles, texts, loc="outside lower center", ncols=3, frameon=False, fontsize=9, columnspacing=1)
    draw_confusion(right.subplots(), confusion, names)
    return figure


def draw_goodness(ax: Axes, g: Tensor, labels: Tensor) -> None:
    """Histograms of one block: the true label, all wrong labels, and the wrong label with the most goodness.

    Args:
        ax: where to draw.
        g: ``(N, C)`` goodness of every image and label.
        labels: ``(N,)`` true classes.
    """
    g = g.double()  # so that the ends of the range belong to the first and the last bin
    true = torch.nn.functional.one_hot(labels, g.shape[1]).bool()
    samples: dict[str, tuple[Tensor, str, Literal["step", "stepfilled"]]] = {
        "positives: true label": (g[true], POSITIVE, "stepfilled"),
        "negatives: any wrong label": (g[~true], NEGATIVE, "stepfilled"),
        "negatives: hardest wrong label": (g.masked_fill(true, -torch.inf).amax(1), HARDEST, "step"),
    }
    # A handful of samples far out would squeeze all others together: the last bin takes them in.
    low, high = np.quantile(g.numpy(), [0.0, 0.9999])
    bins = np.linspace(low, max(high, low + 1e-6), 51)
    for label, (values, colour, style) in samples.items():
        weights = np.full(len(values), 100 / len(values))
        alpha = 1.0 if style == "step" else 0.6
        ax.hist(
            values.clamp(low, high).numpy(),
            bins.tolist(),
            weights=weights,
            label=label,
            color=colour,
            histtype=style,
            alpha=alpha,
            lw=1.6,
        )
    ax.set_ylabel("share of samples (%)")
    ax.spines[["top", "right"]].set_visible(False)


def draw_confusion(ax: Axes, confusion: Tensor, names: list[str]) -> None:
    """Confusion matrix with counts; mistakes are what is coloured.

    Args:
        ax: where to draw.
        confusion: ``(C, C)`` counts; rows are true classes.
        names: of the classes.
    """
    counts = confusion.numpy()
    right, total = int(np.trace(counts)), int(counts.sum())
    mistakes = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    ax.imshow(mistakes, cmap="Reds", vmin=0, vmax=max(1.5 * mistakes.max(), 8))
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            weight = "bold" if row == column else "normal"
            ax.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=9, weight=weight)
    turned = 45 if max(map(len, names)) > 3 else 0
    ax.set_xticks(range(len(names)), names, rotation=turned, ha="right" if turned else "center")
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    ax.set_title(f"{total - right:,} of {total:,} test images misclassified ({100 * (1 - right / total):.2f} % error)")
    ax.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="#e0e0e0", lw=0.6)
    ax.tick_params(which="minor", length=0)
