"""Precision, recall and F1 of every class or label, logged and shown when a classifier is evaluated."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ff_lightning.callbacks.pictures import class_names
from ff_lightning.report.records import add_to_record, table_values
from ff_lightning.tasks.evaluation import ImageClassification
from ff_lightning.tasks.multi_label import FFMultiLabel

SHOWN = 20
"""Classes in the table, and in the log; of more the weakest are shown and none is logged."""


class ClassTable(pl.Callback):
    """Logs ``test/precision/cat`` and the like for every class after a test or a validation, and shows them.

    Nothing happens in a training, whose log has the means over classes: ``val/precision``, ``val/recall``, ``val/f1``.
    """

    def __init__(self) -> None:
        self._table: Table | None = None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take in a validation that is not part of a training."""
        if trainer.state.fn == "validate" and isinstance(pl_module, ImageClassification | FFMultiLabel):
            self._collect(trainer, pl_module, "val", pl_module.val_metrics.confusion.compute())

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take in a test."""
        if isinstance(pl_module, ImageClassification | FFMultiLabel):
            self._collect(trainer, pl_module, "test", pl_module.test_metrics.confusion.compute())

    def _collect(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str, confusion: Tensor) -> None:
        if not int(confusion.sum()):  # of images without classes
            return
        names = class_names(trainer, len(confusion))
        values = by_class(confusion)
        for quantity, found in values.items() if len(names) <= SHOWN else ():
            pl_module.log_dict({f"{stage}/{quantity}/{name}": value for name, value in zip(names, found, strict=True)})
        counts = confusion[:, 1].sum(1) if confusion.dim() == 3 else confusion.sum(1)
        self._table = class_table(names, values, counts, title="Test" if stage == "test" else "Validation")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Print the table below the progress bar, which is gone by now."""
        if trainer.is_global_zero and self._table is not None:
            Console().print(self._table)
            add_to_record(Path(trainer.default_root_dir), "tables", {"classes": table_values(self._table)})
        self._table = None


def by_class(confusion: Tensor) -> dict[str, Tensor]:
    """Precision, recall and F1 of every class.

    Args:
        confusion: ``(C, C)`` counts; rows are true classes. ``(C, 2, 2)`` where each label may be there or not.

    Returns:
        ``(C,)`` each, 0 where there is nothing to divide by.
    """
    if confusion.dim() == 3:
        right, said, there = confusion[:, 1, 1].double(), confusion[:, :, 1].sum(1), confusion[:, 1].sum(1)
    else:
        right, said, there = confusion.diagonal().double(), confusion.sum(0), confusion.sum(1)
    precision, recall = right / said.clamp(min=1), right / there.clamp(min=1)
    f1 = 2 * right / (said + there).clamp(min=1)
    return {"precision": precision.float(), "recall": recall.float(), "f1": f1.float()}


def class_table(names: list[str], values: dict[str, Tensor], counts: Tensor, *, title: str) -> Table:
    """Lay values out by class, the weakest first if they are many.

    Args:
        names: of the classes.
        values: ``(C,)`` each.
        counts: ``(C,)`` how often every class occurs.
        title: heading.
    """
    weakest = torch.argsort(values["f1"])[:SHOWN].tolist() if len(names) > SHOWN else range(len(names))
    more = f", the {SHOWN} weakest of {len(names)} classes" if len(names) > SHOWN else ", by class"
    table = Table(title=title + more)
    for heading in ("", "count", *values):
        table.add_column(heading, justify="right" if heading else "left")
    for index in weakest:
        shares = [f"{100 * float(found[index]):.2f} %" for found in values.values()]
        table.add_row(names[index], str(int(counts[index])), *shares)
    return table
