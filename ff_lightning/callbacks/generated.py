"""A picture of what a generative circuit makes: reconstructions of test images, and samples of every class."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from ff_lightning.callbacks.drawings import draw_generated
from ff_lightning.callbacks.pictures import keep_picture
from ff_lightning.engine.casting import images_of
from ff_lightning.errors import whole
from ff_lightning.tasks.predictive import FFPredictive


class GeneratedPictures(pl.Callback):
    """Draws ``generated.png`` when an :class:`~ff_lightning.FFPredictive` has been tested; nothing for other tasks.

    Loggers that take images get it, too.

    Args:
        dirpath: folder of the picture; ``pictures`` in the run folder by default.
        count: images that are reconstructed, and samples of each class.

    Raises:
        InputError: ``count`` is no whole number, at least 1.
    """

    def __init__(self, dirpath: str | None = None, *, count: int = 10) -> None:
        self.dirpath = dirpath
        self.count = whole("count", count, least=1, owner=self)
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
        x = images_of(batch)[: self.count]
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
        keep_picture(trainer, figure, "generated", self.dirpath)
