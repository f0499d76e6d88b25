"""Tables of what a classifier predicts, with the names of files or rows and of classes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from ff_lightning.cli.tables import as_text
from ff_lightning.data.order import OrderedLoader
from ff_lightning.tasks.evaluation import Prediction


def write_predictions(batches: Sequence[Any], trainer: pl.Trainer, path: Path) -> bool:
    """Write what ``trainer.predict`` of a classifier gave, with the names of files or rows and of classes.

    Args:
        batches: what ``predict_step`` returned.
        trainer: has the datamodule and its loader.
        path: CSV file to write.

    Returns:
        Whether they are predictions of a classifier; nothing is written otherwise.
    """
    if not batches or not all(isinstance(batch, Prediction) for batch in batches):
        return False
    data: Any = getattr(trainer, "datamodule", None)
    total = sum(len(batch.classes) for batch in batches)
    names = [str(row) for row in range(total)]
    loaders = trainer.predict_dataloaders
    loader = loaders[0] if isinstance(loaders, list) and len(loaders) == 1 else loaders
    if isinstance(loader, OrderedLoader) and hasattr(data, "row_names"):
        rows = [row for share in loader.shares() for row in range(share.start, share.stop)]
        names = data.row_names("validation", rows[:total])
    write_table(path, "name", names, batches, getattr(data, "class_names", None))
    return True


def write_table(
    path: Path, what: str, names: Sequence[str], batches: Sequence[Prediction], class_names: Sequence[str] | None
) -> None:
    """Write a line for each prediction: its name, the class, the block that answered, probabilities and scores.

    Args:
        path: CSV file to write.
        what: heading of the names.
        names: of what was predicted.
        batches: predictions, in the order of the names.
        class_names: names of the classes; ``None`` for their numbers.
    """
    classes = batches[0].scores.shape[1] if batches else len(class_names or ())
    labels = list(class_names or map(str, range(classes)))
    path.parent.mkdir(parents=True, exist_ok=True)
    headings = [what, "label", "probability", "block"]
    headings += [f"{kind} {label}" for kind in ("probability", "score") for label in labels]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(as_text(headings))
        rows = iter(names)
        for batch in batches:
            columns = zip(*(part.tolist() for part in batch), strict=True)
            for label, probabilities, scores, block in columns:
                numbers = [f"{value:.6g}" for value in (*probabilities, *scores)]
                table.writerow(as_text([next(rows), labels[label], f"{probabilities[label]:.6g}", block, *numbers]))
