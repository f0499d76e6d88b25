"""A table of what every block has learned, shown at the end of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.table import Table

from ff_lightning.report.records import add_to_record, table_values
from ff_lightning.tasks.language_modelling import LanguageModelling
from ff_lightning.tasks.twin import BackpropTwin

STAGES = {"fit": "val", "validate": "val", "test": "test"}
"""Name in the logs of what each subcommand evaluates."""

ORDER = ["loss", "separation", "goodness_gap", "accuracy"]
BY_CLASS = {"precision", "recall", "f1", "top_5"}
"""What :class:`~ff_lightning.callbacks.ClassTable` shows."""
SHARES = {"separation", "accuracy"}
WHOLE = -1
"""Row of what is not of one block."""

Cells = dict[tuple[str, str], dict[int, float]]
"""Values by (stage, quantity) and block."""


class BlockTable(pl.Callback):
    """Shows loss, separation, goodness gap and accuracy of every block, and those of the readout.

    Language models have a table of their own, :class:`~ff_lightning.callbacks.LanguageTable`.
    """

    def __init__(self) -> None:
        self._table: Table | None = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the values of the last validation."""
        self._collect(trainer, pl_module, "fit", f"Validation after epoch {trainer.current_epoch}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the values; of one in a training, keep them before its checkpoint is written: a kill may come later."""
        if trainer.state.fn == "validate":
            self._collect(trainer, pl_module, "validate", "Validation")
        elif not trainer.sanity_checking:
            self._collect(trainer, pl_module, "fit", f"Validation after epoch {trainer.current_epoch + 1}")
            self._keep(trainer, "fit")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the values of the test."""
        self._collect(trainer, pl_module, "test", "Test")

    def _collect(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str, title: str) -> None:
        if isinstance(pl_module, LanguageModelling):
            return
        # Reading the values can average them over ranks, so every rank does it.
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._table = block_table(values, STAGES[stage], blocks=_count_blocks(pl_module), title=title)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Print the table below the progress bar, which is gone by now."""
        if trainer.is_global_zero and self._table is not None and self._table.columns:
            Console().print(self._table)
            self._keep(trainer, stage)
        self._table = None

    def _keep(self, trainer: pl.Trainer, stage: str) -> None:
        if trainer.is_global_zero and self._table is not None and self._table.columns:
            add_to_record(Path(trainer.default_root_dir), "tables", {stage: table_values(self._table)})


def block_table(values: Mapping[str, float], stage: str, *, blocks: int, title: str) -> Table:
    """Lay logged values out by block.

    Args:
        values: logged values by name, such as ``val/separation/block_0`` or ``val/accuracy``. What was logged in
            training fills in for what ``stage`` does not have.
        stage: ``"val"`` or ``"test"``.
        blocks: how many of the local modules are blocks; what lies above is the readout.
        title: heading.

    Returns:
        One row a block, and one for the readout; without columns if nothing is there to show.
    """
    cells = _sorted_cells(values, stage, blocks)
    table = Table(title=title)
    if not cells:
        return table
    rows = sorted({row for column in cells.values() for row in column if row != WHOLE})
    table.add_column("")
    for origin, quantity in cells:
        table.add_column(("" if origin == stage else "train ") + quantity.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(f"block {row}", *(_text(quantity, column.get(row)) for (_, quantity), column in cells.items()))
    if any(WHOLE in column for column in cells.values()):
        table.add_section()
        texts = [_text(quantity, column.get(WHOLE)) for (_, quantity), column in cells.items()]
        table.add_row("readout" if rows else "whole network", *texts, style="bold")
    return table


def _sorted_cells(values: Mapping[str, float], stage: str, blocks: int) -> Cells:
    cells: Cells = {}
    for name, value in values.items():
        match = re.fullmatch(r"(train|val|test)/(\w+?)(?:/block_(\d+))?", name)
        if match is None or match[2] in BY_CLASS:
            continue
        if match[1] not in (stage, "train") or (match[1] != stage and match[2] not in ORDER):
            continue
        row = WHOLE if match[3] is None or int(match[3]) >= blocks else int(match[3])
        if match[3] is not None or match[1] == stage:  # the total of the training losses is of no row
            cells.setdefault((match[1], match[2]), {})[row] = value
    evaluated = {quantity for origin, quantity in cells if origin == stage and len(cells[origin, quantity]) > 1}
    keys = [key for key in cells if key[0] == stage or key[1] not in evaluated]
    rank = {quantity: index for index, quantity in enumerate(ORDER)}
    return {key: cells[key] for key in sorted(keys, key=lambda key: (rank.get(key[1], len(ORDER)), key))}


def _text(quantity: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if quantity in SHARES else f"{value:.4g}"


def _count_blocks(pl_module: Any) -> int:
    """Number of leading local modules that are blocks of the network: none for a twin, which is one whole."""
    if isinstance(pl_module, BackpropTwin):
        return 0
    pairs = zip(pl_module.network, pl_module.local_modules(), strict=False)
    return sum(block is module for block, module in pairs)
