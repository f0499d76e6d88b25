"""What learns by itself in a network, shown before a training."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_summary.model_summary import get_human_readable_count
from rich.console import Console
from rich.table import Table
from torch import nn

from ff_lightning.module import FFLightningModule
from ff_lightning.tasks.twin import BackpropTwin


class BlockSummary(pl.Callback):
    """Shows every local module with its layer, goodness, loss and number of parameters.

    The command line uses it in the place of Lightning's summary, which knows of layers but not of blocks.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table."""
        if trainer.is_global_zero and isinstance(pl_module, FFLightningModule):
            Console().print(summary_table(pl_module))


def summary_table(module: FFLightningModule) -> Table:
    """One row for each of :meth:`~ff_lightning.FFLightningModule.local_modules`, and their sum."""
    named = "" if isinstance(module, BackpropTwin) else "block {}"  # a twin is one whole
    blocks = {id(block): named.format(index) for index, block in enumerate(module.network)}
    table = Table("", "layer", "goodness", "local loss", title=f"{type(module).__name__}: what learns by itself")
    table.add_column("parameters", justify="right")
    total = 0
    for local in module.local_modules():
        parameters = sum(parameter.numel() for parameter in local.parameters())
        total += parameters
        parts = (_kind(getattr(local, name, None)) for name in ("goodness", "loss"))
        layer = getattr(local, "layer", local)
        table.add_row(blocks.get(id(local), ""), _kind(layer), *parts, get_human_readable_count(parameters))
    table.add_section()
    table.add_row("all", "", "", "", get_human_readable_count(total), style="bold")
    return table


def _kind(part: Any) -> str:
    return type(part).__name__ if isinstance(part, nn.Module) else ""
