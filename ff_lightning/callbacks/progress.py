"""The progress bar: how fast a training is, and when it will be done."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ff_lightning.report.words import clock
from ff_lightning.tasks.evaluation import ImageClassification
from ff_lightning.tasks.language_modelling import LanguageModelling

DRAWN = 1
"""How often a second the bar is drawn. A drawing takes 1 to 4 ms: at Lightning's 100, a tenth of all time or more."""


class TrainingProgress(RichProgressBar):
    """Lightning's progress bar with tokens, images or samples a second, and the time left for the whole training.

    Both are means over the training so far, without its first batch, and count the time of validations.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=DRAWN)
        self._since = 0.0
        self._told = 0.0
        self._batches = 0
        self._items = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count."""
        super().on_train_start(trainer, pl_module)
        self._since, self._batches, self._items = 0.0, 0, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count; the first batch starts the clock. The bar is told as often as it is drawn, and of the last batch.

        Telling it takes a millisecond, and the host waits for the device.
        """
        now = time.monotonic()
        if self._since:
            self._batches += 1
            self._items += count_items(pl_module, batch) * trainer.world_size
        else:
            self._since = now
        if now - self._told >= 1 / DRAWN or trainer.is_last_batch:
            self._told = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, int | str | float | Any]:
        """Lightning's values, and ours."""
        metrics = super().get_metrics(trainer, pl_module)
        if not self._batches or not trainer.training:
            return metrics
        seconds = max(time.monotonic() - self._since, 1e-9)
        metrics[f"{item_name(pl_module)}/s"] = f"{self._items / seconds:,.0f}"
        updates = float(trainer.estimated_stepping_batches)
        if 0 <= updates < float("inf"):
            batches = (updates - trainer.global_step) * getattr(pl_module, "accumulate_batches", 1)
            metrics["left"] = clock(batches * seconds / self._batches)
        return metrics


def count_items(module: pl.LightningModule, batch: Any) -> int:
    """How many tokens, images or samples a batch holds.

    Args:
        module: decides what is counted.
        batch: what the dataloader gives.
    """
    tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()]
    if not tensors:
        return 0
    return tensors[0][:, 1:].numel() if isinstance(module, LanguageModelling) else len(tensors[0])


def item_name(module: pl.LightningModule) -> str:
    """What :func:`count_items` counts."""
    if isinstance(module, LanguageModelling):
        return "tokens"
    return "images" if isinstance(module, ImageClassification) else "samples"
