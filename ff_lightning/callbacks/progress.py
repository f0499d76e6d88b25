"""The progress bar: how fast a training is, and when it will be done."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import BarColumn, ProgressColumn, Task
from rich.text import Text
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ff_lightning.report.words import clock
from ff_lightning.tasks.evaluation import ImageClassification
from ff_lightning.tasks.language_modelling import LanguageModelling

BAR_WIDTH = 8
"""Characters of the bar itself, so that words have room in a terminal of 80."""

NOT_DRAWN = 2
"""Lightning's last columns: the time of this epoch and batches a second, of which ours say more."""

DRAWN = 1
"""How often a second a training tells the bar, which is then drawn. A drawing takes 1 to 4 ms: at Lightning's 100 a
second, a tenth of all time or more."""

LOOKED = 5
"""How often a second Lightning's thread looks for something to draw. Whoever ends a bar waits for its next look."""


class TrainingProgress(RichProgressBar):
    """Lightning's progress bar with tokens, images or samples a second, and the time left for the whole training.

    Both are means over the training so far, without its first batch, and count the time of validations. The bar is one
    line, whatever the width of the terminal: what does not fit is cut at the end.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=LOOKED)
        self.shown = Words()
        self._since = 0.0
        self._told = 0.0
        self._batches = 0
        self._items = 0

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """Lightning's epoch, bar and batches, and one line of words behind them."""
        columns = super().configure_columns(trainer)[:-NOT_DRAWN]
        for column in columns:
            if isinstance(column, BarColumn):
                column.bar_width = BAR_WIDTH
        return [*columns, self.shown]

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

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar as it is, since others are going to print below it."""
        super().on_train_end(trainer, pl_module)
        if self.progress is not None:
            self.progress.stop()

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, int | str | float | Any]:
        """Nothing: Lightning's column would break lines. Ours is told instead."""
        self.shown.words = self.words(trainer, pl_module)
        return {}

    def words(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Name and value of what the bar shows: the time left, the speed, and what was logged for it."""
        logged = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        left = self.speed(trainer, pl_module)
        return {name: left.pop(name) for name in ["left"] if name in left} | logged | left

    def speed(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The time that is left, and items a second; nothing before the second batch."""
        if not self._batches or not trainer.training:
            return {}
        seconds = max(time.monotonic() - self._since, 1e-9)
        updates = float(trainer.estimated_stepping_batches)
        found = {}
        if 0 <= updates < float("inf"):
            batches = (updates - trainer.global_step) * getattr(pl_module, "accumulate_batches", 1)
            found["left"] = clock(batches * seconds / self._batches)
        return found | {f"{item_name(pl_module)}/s": f"{self._items / seconds:,.0f}"}


class Words(ProgressColumn):
    """Names and values on one line, cut where the terminal ends."""

    def __init__(self) -> None:
        super().__init__()
        self.words: dict[str, Any] = {}

    def render(self, task: Task) -> Text:
        """What was last told, of a training; the bars of validations and tests have nothing to say."""
        words = "  ".join(f"{name.removeprefix('train/')} {_short(value)}" for name, value in self.words.items())
        return Text(words, no_wrap=True, overflow="ellipsis")


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


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
