"""How the pictures are drawn; :mod:`ff_lightning.callbacks.pictures` says when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor, nn

POSITIVE, NEGATIVE, HARDEST = "#1b7837", "#bdbdbd", "#c51b7d"
FIELDS = 64
"""Units whose receptive field is drawn."""


def draw_evaluation(
    confusion: Tensor, names: list[str], goodness: Tensor | None, labels: Tensor | None, *, what: str = "test"
) -> Figure:
    """Draw histograms on the left, as far as there is goodness, and the confusion matrix on the right.

    Args:
        confusion: ``(C, C)`` counts; rows are true classes.
        names: of the classes.
        goodness: ``(L, N, C)`` of every block, image and label.
        labels: ``(N,)`` true classes.
        what: kind of the images, for the headings.

    Returns:
        A figure that belongs to no window.
    """
    if goodness is None or labels is None:
        figure = Figure(figsize=(6.4, 5.8), dpi=120, layout="constrained")
        draw_confusion(figure.subplots(), confusion, names, what=what)
        return figure
    size = 13, max(6.0, 1.6 * len(goodness))
    figure = Figure(figsize=size, dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    axes = np.atleast_1d(left.subplots(len(goodness), 1))
    for index, (ax, g) in enumerate(zip(axes, goodness, strict=True)):
        draw_goodness(ax, g, labels)
        ax.set_title(f"Block {index}", fontsize=10)
    axes[-1].set_xlabel("goodness of an image with a label")
    left.suptitle(f"Goodness of {len(labels):,} {what} images with each label written in")
    handles, texts = axes[0].get_legend_handles_labels()
    left.legend(handles, texts, loc="outside lower center", ncols=3, frameon=False, fontsize=9, columnspacing=1)
    draw_confusion(right.subplots(), confusion, names, what=what)
    return figure


def draw_goodness(ax: Axes, g: Tensor, labels: Tensor) -> None:
    """Histograms of one block: the true label, all wrong labels, and the wrong label with the most goodness.

    Args:
        ax: where to draw.
        g: ``(N, C)`` goodness of every image and label.
        labels: ``(N,)`` true classes.
    """
    true = torch.nn.functional.one_hot(labels, g.shape[1]).bool()
    samples: dict[str, tuple[Tensor, str, Literal["step", "stepfilled"]]] = {
        "positives: true label": (g[true], POSITIVE, "stepfilled"),
        "negatives: any wrong label": (g[~true], NEGATIVE, "stepfilled"),
        "negatives: hardest wrong label": (g.masked_fill(true, -torch.inf).amax(1), HARDEST, "step"),
    }
    draw_histograms(ax, samples, g)
    ax.set_ylabel("share of samples (%)")


def draw_histograms(
    ax: Axes, samples: dict[str, tuple[Tensor, str, Literal["step", "stepfilled"]]], together: Tensor
) -> None:
    """Histograms above each other, each of area 1.

    Args:
        ax: where to draw.
        samples: values ``(N,)``, colour and style by name.
        together: all values, which decide on the range.
    """
    # A handful of samples far out would squeeze all others together: the last bin takes them in. In float64 the ends
    # of the range belong to the first and the last bin.
    low, high = np.quantile(together.double().numpy(), [0.0, 0.9999])
    bins = np.linspace(low, max(high, low + 1e-6), 51)
    for label, (values, colour, style) in samples.items():
        weights = np.full(len(values), 100 / len(values))
        alpha = 1.0 if style == "step" else 0.6
        ax.hist(
            values.double().clamp(low, high).numpy(),
            bins.tolist(),
            weights=weights,
            label=label,
            color=colour,
            histtype=style,
            alpha=alpha,
            lw=1.6,
        )
    ax.spines[["top", "right"]].set_visible(False)


def draw_confusion(ax: Axes, confusion: Tensor, names: list[str], *, what: str = "test") -> None:
    """Confusion matrix with counts; mistakes are what is coloured.

    Args:
        ax: where to draw.
        confusion: ``(C, C)`` counts; rows are true classes.
        names: of the classes.
        what: kind of the images, for the heading.
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
    error = f"{100 * (1 - right / total):.2f} % error"
    ax.set_title(f"{total - right:,} of {total:,} {what} images misclassified ({error})")
    edges = np.arange(len(names) + 1) - 0.5  # as lines: minor ticks would take a quarter of the time of the picture
    lines = [[(at, edges[0]), (at, edges[-1])] for at in edges] + [[(edges[0], at), (edges[-1], at)] for at in edges]
    ax.add_collection(LineCollection(lines, colors="#e0e0e0", linewidths=0.6, zorder=0.9), autolim=False)


def draw_streams(goodness: Sequence[tuple[Tensor, Tensor]]) -> Figure:
    """Histograms of the goodness of positives and negatives in every block.

    Args:
        goodness: ``(N,)`` of positives and ``(M,)`` of negatives, a block.
    """
    columns = min(len(goodness), 2)
    rows = -(-len(goodness) // columns)
    figure = Figure(figsize=(4.6 * columns, 0.5 + 2.3 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax in axes[len(goodness) :]:
        ax.set_visible(False)
    for index, (g_pos, g_neg) in enumerate(goodness):
        samples: dict[str, tuple[Tensor, str, Literal["step", "stepfilled"]]] = {
            "positives": (g_pos, POSITIVE, "stepfilled"),
            "negatives": (g_neg, HARDEST, "step"),
        }
        draw_histograms(axes[index], samples, torch.cat([g_pos, g_neg]))
        axes[index].set_title(f"Block {index}", fontsize=10)
        axes[index].set_xlabel("goodness")
    for row in range(rows):
        axes[row * columns].set_ylabel("share (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def draw_losses(losses: Sequence[tuple[int, Sequence[float]]]) -> Figure:
    """Loss of the prediction up to every block, over a training.

    Args:
        losses: updates done, and nats a token up to each block, one entry a validation.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    ax = figure.subplots()
    shades = np.linspace(0.75, 0.15, len(losses[-1][1]))
    for block, shade in enumerate(shades):
        values = [each[block] for _, each in losses]
        name = f"up to block {block}" if block else "block 0"
        colour = (0.1 * shade, shade * 0.7 + 0.1, 0.25 + 0.5 * shade)
        ax.plot([step for step, _ in losses], values, "o-", ms=4, color=colour, label=f"{name}: {values[-1]:.3f}")
    ax.set_xlabel("updates")
    ax.set_ylabel("nats a token (validation)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return figure


def receptive_fields(layer: nn.Module, shape: Sequence[int]) -> Tensor | None:
    """What the units of a first layer look at.

    Args:
        layer: its first ``nn.Linear`` or ``nn.Conv2d`` sees the image, a linear one without the first ``layer.skip``
            pixels, if there is such an attribute: a label is written there.
        shape: of an image, ``(C, H, W)``.

    Returns:
        ``(units, C, height, width)``, those of the largest weights first; ``None`` if the layer sees no such image.
    """
    seeing = next((part for part in layer.modules() if isinstance(part, nn.Linear | nn.Conv2d)), None)
    if seeing is None or len(shape) != 3:
        return None
    weight = seeing.weight.detach().float().cpu()
    if weight.dim() == 2:
        skipped = int(getattr(layer, "skip", 0))
        if skipped + weight.shape[1] != int(np.prod(shape)):
            return None
        weight = nn.functional.pad(weight, (skipped, 0)).view(-1, *shape)
    return weight[weight.flatten(1).norm(dim=1).argsort(descending=True)]


def draw_fields(fields: Tensor) -> Figure:
    """Receptive fields of the first units, each scaled to its own largest weight.

    Args:
        fields: ``(units, C, height, width)``; channels are averaged.
    """
    some = fields[:FIELDS].mean(1)
    some = some / some.flatten(1).abs().amax(1).clamp_min(1e-12)[:, None, None]
    side = min(len(some), 16)
    missing = some.new_full((-len(some) % side, *some.shape[1:]), torch.nan)
    mosaic = tiled(torch.cat([some, missing]).view(-1, side, *some.shape[1:]))
    figure = Figure(figsize=(10.4, 0.6 + 9.8 * len(mosaic) / mosaic.shape[1]), dpi=110, layout="constrained")
    ax = figure.subplots()
    ax.imshow(mosaic.numpy(), cmap="PuOr", vmin=-1, vmax=1)
    ax.set_axis_off()
    ax.set_title(f"Block 0: weights of {len(some)} of {len(fields)} units (orange pulls down, purple up)", fontsize=10)
    return figure


def draw_generated(rows: Tensor, names: list[str]) -> Figure:
    """Images and their reconstructions, and below them samples, one row a class.

    Args:
        rows: ``(2 + C, N, channels, H, W)`` in [0, 1]; channels are averaged.
        names: of the classes.

    Returns:
        A figure that belongs to no window.
    """
    figure = Figure(figsize=(0.7 * rows.shape[1] + 1, 0.7 * len(rows) + 0.5), dpi=120, layout="constrained")
    ax = figure.subplots()  # one for all images: axes of their own take most of the time of a short test
    ax.imshow(tiled(rows.float().mean(2)).numpy(), cmap="gray", vmin=0, vmax=1)
    height = rows.shape[3] + 1
    ax.set_yticks([(index + 0.5) * height for index in range(len(rows))], ["images", "reconstructed", *names])
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.suptitle("Reconstructions, and samples of every class", fontsize=10)
    return figure


def tiled(images: Tensor) -> Tensor:
    """Put images beside and below each other.

    Args:
        images: ``(rows, columns, H, W)``.

    Returns:
        ``(rows * (H + 1) + 1, columns * (W + 1) + 1)``, with lines of NaN around every image, which stay blank.
    """
    framed = nn.functional.pad(images, (0, 1, 0, 1), value=torch.nan)
    return nn.functional.pad(framed.transpose(1, 2).flatten(2).flatten(0, 1), (1, 0, 1, 0), value=torch.nan)


def draw_label_goodness(images: Tensor, goodness: Tensor, labels: Tensor, names: list[str]) -> Figure:
    """Images, and below each the goodness that every block gives to every label.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        goodness: ``(L, N, C)`` of every block, image and label.
        labels: ``(N,)`` true classes.
        names: of the classes.
    """
    depth, count, classes = goodness.shape
    figure = Figure(figsize=(5.2 * count, 2.6 + 0.5 * depth), dpi=110, layout="constrained")
    axes = figure.subplots(2, count, squeeze=False, height_ratios=[2, max(0.4 * depth, 0.8)])
    for index in range(count):
        picture, table = axes[:, index]
        image: NDArray[np.float32] = images[index].permute(1, 2, 0).float().numpy()
        picture.imshow(image if image.shape[2] == 3 else image.mean(2), cmap="gray", vmin=0, vmax=1)
        picture.set_axis_off()
        true, best = int(labels[index]), int(goodness[:, index].sum(0).argmax())
        picture.set_title(f"true: {names[true]}, predicted: {names[best]}", fontsize=10)
        g = goodness[:, index].float()
        low, high = g.amin(1, keepdim=True), g.amax(1, keepdim=True)
        shades = ((g - low) / (high - low).clamp_min(1e-12)).numpy()
        table.imshow(shades, cmap="Greens", vmin=0, vmax=1.3, aspect="auto")
        for row, column in np.ndindex(depth, classes):
            table.text(column, row, f"{float(g[row, column]):.2g}", ha="center", va="center", fontsize=7)
        turned = 45 if max(map(len, names)) > 3 else 0
        table.set_xticks(range(classes), names, rotation=turned, ha="right" if turned else "center")
        table.set_yticks(range(depth), [f"block {row}" for row in range(depth)])
        table.set_xlabel("goodness with this label")
        table.add_patch(Rectangle((true - 0.5, -0.5), 1, depth, fill=False, ec=HARDEST, lw=2))
    return figure
