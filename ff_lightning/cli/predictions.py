"""Tables of what a task predicts of every sample, with the names of files or rows and of classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from ff_lightning.cli.tables import write_csv
from ff_lightning.data.order import OrderedLoader
from ff_lightning.tasks.evaluation import headings_of_classes


def write_predictions(batches: Sequence[Any], trainer: pl.Trainer, path: Path) -> bool:
    """Write what ``trainer.predict`` gave, with the names of files or rows and of classes.

    Args:
        batches: what ``predict_step`` returned.
        trainer: has the datamodule and its loader.
        path: CSV file to write.

    Returns:
        Whether they are predictions of samples; nothing is written otherwise.
    """
    if not batches or not all(hasattr(batch, "headings") and hasattr(batch, "lines") for batch in batches):
        return False
    data: Any = getattr(trainer, "datamodule", None)
    total = sum(len(batch[0]) for batch in batches)
    names = [str(row) for row in range(total)]
    loaders = trainer.predict_dataloaders
    loader = loaders[0] if isinstance(loaders, list) and len(loaders) == 1 else loaders
    if isinstance(loader, OrderedLoader) and hasattr(data, "row_names"):
        rows = [row for share in loader.shares() for row in range(share.start, share.stop)]
        names = data.row_names("validation", rows[:total])
    write_table(path, "name", names, batches, getattr(data, "class_names", None))
    return True


def write_table(
    path: Path, what: str, names: Sequence[str], batches: Sequence[Any], class_names: Sequence[str] | None
) -> None:
    """Write a line for each prediction: its name, and what the task says of it.

    Args:
        path: CSV file to write.
        what: heading of the names.
        names: of what was predicted.
        batches: predictions, in the order of the names.
        class_names: names of the classes or labels; ``None`` for their numbers.
    """
    count = next((part.shape[1] for batch in batches for part in batch if part.dim() == 2), len(class_names or ()))
    labels = list(class_names or map(str, range(count)))
    headings = batches[0].headings(labels) if batches else headings_of_classes(labels)
    rows = iter(names)

    def lines() -> Iterator[list[Any]]:
        yield [what, *headings]
        for batch in batches:
            for line in batch.lines(labels):
                yield [next(rows), *(_short(value) for value in line)]

    write_csv(path, lines())


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
