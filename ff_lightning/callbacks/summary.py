"""What learns by itself in a network, shown as a training begins."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_summary.model_summary import get_human_readable_count
from rich import box, get_console
from rich.filesize import decimal
from rich.table import Table
from torch import nn
from torch.distributed.tensor import DTensor

from ff_lightning.engine.costs import Cost, counted
from ff_lightning.module import FFLightningModule
from ff_lightning.tasks.twin import BackpropTwin


class BlockSummary(pl.Callback):
    """Shows every local module with its layer, goodness, loss, parameters, and what its first local step cost.

    The command line uses it in the place of Lightning's summary, which knows of layers but not of blocks. It is shown
    after the first batch, whose steps are counted. Compiled and sharded blocks are not counted.
    """

    def __init__(self) -> None:
        self._counting = ExitStack()
        self._costs: list[Cost] = []
        self._due = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for the first batch."""
        self._due = trainer.is_global_zero and isinstance(pl_module, FFLightningModule)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin to count."""
        if self._due and isinstance(pl_module, FFLightningModule):
            sharded = any(isinstance(parameter, DTensor) for parameter in pl_module.parameters())
            if not (sharded or pl_module.compile_blocks):
                self._costs = self._counting.enter_context(counted(pl_module.local_modules()))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print the table."""
        if self._due and isinstance(pl_module, FFLightningModule):
            self._counting.close()
            self._due = False
            get_console().print(summary_table(pl_module, self._costs))  # that of the progress bar, above it

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop counting."""
        self._counting.close()


def summary_table(module: FFLightningModule, costs: Sequence[Cost] = ()) -> Table:
    """One row for each of :meth:`~ff_lightning.FFLightningModule.local_modules`, and their sum.

    Args:
        module: the task.
        costs: of the local modules in a batch; two columns less without them.
    """
    named = "" if isinstance(module, BackpropTwin) else "block {}"  # a twin is one whole
    blocks = {id(block): named.format(index) for index, block in enumerate(module.network)}
    table = Table("", "layer", "goodness", "local loss", title=f"{type(module).__name__}: what learns by itself")
    table.box, table.collapse_padding, table.pad_edge = box.SIMPLE_HEAD, True, False  # within 80 columns
    for heading in ("weights", *(("FLOPs", "kept") if costs else ())):
        table.add_column(heading, justify="right")
    total = 0
    for index, local in enumerate(module.local_modules()):
        parameters = sum(parameter.numel() for parameter in local.parameters())
        total += parameters
        parts = (_kind(getattr(local, name, None)) for name in ("goodness", "loss"))
        layer = getattr(local, "layer", local)
        cost = _said(costs[index]) if costs else ()
        table.add_row(blocks.get(id(local), ""), _kind(layer), *parts, get_human_readable_count(parameters), *cost)
    table.add_section()
    most = Cost(sum(cost.operations for cost in costs), max((cost.kept_bytes for cost in costs), default=0))
    together = _said(most) if costs else ()
    table.add_row("all", "", "", "", get_human_readable_count(total), *together, style="bold")
    if costs:
        table.caption = "Of a batch: FLOPs forward, and bytes of activations that are kept at a time"
    return table


def _said(cost: Cost) -> tuple[str, str]:
    """Operations and bytes of a block; nothing where they were not counted."""
    if not cost.operations:
        return "", ""
    return get_human_readable_count(cost.operations), decimal(cost.kept_bytes)


def _kind(part: Any) -> str:
    return type(part).__name__ if isinstance(part, nn.Module) else ""
