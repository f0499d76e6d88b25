"""A picture of what a generative circuit makes: reconstructions of test images, and samples of every class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from torch import Tensor

from ff_lightning.tasks.predictive import FFPredictive


class GeneratedPictures(pl.Callback):
    """Draws ``generated.png`` when an :class:`~ff_lightning.FFPredictive` has been tested; nothing for other tasks.

    Args:
        dirpath: folder of the picture; ``pictures`` in the run folder by default.
        count: images that are reconstructed, and samples of each class.
    """

    def __init__(self, dirpath: str | None = None, *, count: int = 10) -> None:
        self.dirpath = dirpath
        self.count = count
        self._rows: Tensor | None = None

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Reconstruct the first images, and sample."""
        if batch_idx or not isinstance(pl_module, FFPredictive) or not trainer.is_global_zero:
            return
        x = batch[0][: self.count]
        labels = torch.arange(pl_module.num_classes).repeat_interleave(self.count)
        samples = pl_module.sample(labels).view(pl_module.num_classes, self.count, *x.shape[1:])
        self._rows = torch.cat([torch.stack([x, pl_module.reconstruct(x)]), samples[:, : len(x)]]).float().cpu()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw and write the picture."""
        if self._rows is None:
            return
        names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        figure = draw_generated(self._rows, names or [str(index) for index in range(len(self._rows) - 2)])
        self._rows = None
        folder = Path(trainer.default_root_dir) / "pictures" if self.dirpath is None else Path(self.dirpath)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "generated.png")
        rank_zero_info(f"Wrote {folder / 'generated.png'}")


def draw_generated(rows: Tensor, names: list[str]) -> Figure:
    """Draw images and their reconstructions, and below them samples, one row a class.

    Args:
        rows: ``(2 + C, N, channels, H, W)`` in [0, 1].
        names: of the classes.

    Returns:
        A figure that belongs to no window.
    """
    figure = Figure(figsize=(0.7 * rows.shape[1] + 1, 0.7 * len(rows) + 0.5), dpi=120, layout="constrained")
    axes = figure.subplots(len(rows), rows.shape[1], squeeze=False)
    for row, label in enumerate(["images", "reconstructed", *names]):
        for ax, image in zip(axes[row], rows[row], strict=True):
            ax.imshow(image.mean(0).numpy(), cmap="gray", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
        axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center")
    figure.suptitle("Reconstructions, and samples of every class", fontsize=10)
    return figure
