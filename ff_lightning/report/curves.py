"""``metrics.csv`` in a run folder: every logged value, written so that a kill loses no row that was there."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from ff_lightning.engine.integrity import replace_file


class SyncedWriter(ExperimentWriter):
    """Lightning's writer, but for how rows come to the disk.

    Lightning writes the whole file anew in its place whenever a new name is logged: a kill then leaves half of it.
    """

    def save(self) -> None:
        """Write what was logged since the last time, whole rows only."""
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        new = {name for row in self.metrics for name in row} - set(self.metrics_keys)
        if new:
            self.metrics_keys = sorted({*self.metrics_keys, *new})
            replace_file(path, _text(self.metrics_keys, [*_rows(path), *self.metrics], header=True))
        else:
            with path.open("ab") as file:
                file.write(_text(self.metrics_keys, self.metrics, header=False))
                file.flush()
                os.fsync(file.fileno())
        self.metrics = []


class MetricsFile(CSVLogger):
    """Lightning's logger of CSV files, with such a writer.

    Args:
        save_dir: the run folder.
        version: folder in it; ``""`` for none.
    """

    def __init__(self, save_dir: str | Path, version: str = "") -> None:
        super().__init__(save_dir, name="", version=version)
        self._writer: SyncedWriter | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> SyncedWriter:
        """The writer."""
        if self._writer is None:
            self._writer = SyncedWriter(log_dir=self.log_dir)
        return self._writer

    def finalize(self, status: str) -> None:
        """Write what is left."""
        if self._writer is not None:
            self.save()


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _text(names: Sequence[str], rows: Iterable[Mapping[str, Any]], *, header: bool) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
