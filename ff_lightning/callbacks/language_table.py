"""A table of a language model: what counting and random layers reach, and what every block adds to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ff_lightning.candidates import Softmax
from ff_lightning.distributed import is_sharded
from ff_lightning.engine.casting import tokens_of
from ff_lightning.errors import InputError
from ff_lightning.language.floors import nats_per_token
from ff_lightning.language.frozen import frozen_nats
from ff_lightning.report.records import add_to_record, table_values
from ff_lightning.tasks.language_modelling import LanguageModelling
from ff_lightning.tasks.twin import BackpropTwin

COUNTED = 20_000_000
"""Of a larger text, n-grams are counted in this many of the first tokens."""

ORDERS = ["unigram", "bigram", "trigram", "4-gram", "5-gram"]

Row = tuple[str, float, float | None]
"""Name, nats a token, accuracy."""


class LanguageTable(pl.Callback):
    """Shows the loss of every block of a language model beside floors, after a training and after an evaluation.

    The floors are a uniform guess; n-gram models of the training text with Witten-Bell smoothing
    (:mod:`ff_lightning.language.floors`); and, unless a model has just been trained, frozen random layers under a
    trained readout (:mod:`ff_lightning.language.frozen`). They are scored on as many tokens as the blocks, the first of
    the split. They need a datamodule with ``tokens(split)``; without one there are the blocks alone.

    Args:
        frozen_steps: updates of the readout on frozen layers; 0 leaves that row out.
    """

    def __init__(self, frozen_steps: int = 200) -> None:
        if isinstance(frozen_steps, bool) or not isinstance(frozen_steps, int) or frozen_steps < 0:
            raise InputError(
                f"Passed `LanguageTable(frozen_steps={frozen_steps!r})`. `frozen_steps` must be a whole number, not "
                "negative."
            )
        self.frozen_steps = frozen_steps
        self._tokens = 0
        self._blocks: list[Row] = []
        self._frozen: list[Row] = []
        self._title = ""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget an earlier run, which may have been broken off."""
        self._blocks, self._frozen = [], []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count tokens afresh."""
        self._tokens = 0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the tokens that are predicted."""
        if isinstance(pl_module, LanguageModelling):
            self._tokens += tokens_of(batch, look=False)[:, 1:].numel()  # the task has looked at it

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the values of the validation; in a training, the last one stays."""
        if trainer.state.fn == "fit":
            self._collect(trainer, pl_module, "val", f"Validation after {trainer.global_step:,} updates")
            if self._blocks and not trainer.sanity_checking and trainer.is_global_zero:
                # Without floors, which take their time: a kill may come before those are counted.
                table = language_table([], self._blocks, title=self._title, caption="")
                add_to_record(Path(trainer.default_root_dir), "tables", {"fit": table_values(table)})
        else:
            self._collect(trainer, pl_module, "val", "Validation")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the values of the test."""
        self._collect(trainer, pl_module, "test", "Test")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Count, and print the table below the progress bar, which is gone by now."""
        if self._blocks and isinstance(pl_module, LanguageModelling):
            split = "test" if stage == "test" else "validation"
            floors = floor_rows(trainer, pl_module, split, self._tokens) + self._frozen
            table = language_table(floors, self._blocks, title=self._title, caption=describe(pl_module))
            Console().print(table)
            add_to_record(Path(trainer.default_root_dir), "tables", {stage: table_values(table)})
        self._blocks, self._frozen = [], []

    def _collect(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str, title: str) -> None:
        # Reading the values can average them over ranks, so every rank does it.
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.sanity_checking or not trainer.is_global_zero or not isinstance(pl_module, LanguageModelling):
            return
        self._tokens *= trainer.world_size
        self._title = f"{title}: {self._tokens:,} tokens"
        self._blocks = block_rows(values, stage, whole=isinstance(pl_module, BackpropTwin))
        if self.frozen_steps and trainer.state.fn != "fit" and not is_sharded(pl_module.network[0]):
            # Here and not in `teardown`, when Lightning has taken the network off its device.
            split = "test" if stage == "test" else "validation"
            self._frozen = frozen_rows(trainer, pl_module, split, self._tokens, steps=self.frozen_steps)


def block_rows(values: Mapping[str, float], stage: str, *, whole: bool = False) -> list[Row]:
    """Rows of the blocks, from the bottom up; each predicts with all that lies below it.

    Args:
        values: logged values by name, such as ``val/loss/block_0``.
        stage: ``"val"`` or ``"test"``.
        whole: the only block is the whole network.
    """
    rows: list[Row] = []
    while (nats := values.get(f"{stage}/loss/block_{len(rows)}")) is not None:
        name = f"up to block {len(rows)}" if rows else "whole network" if whole else "block 0"
        rows.append((name, nats, values.get(f"{stage}/accuracy/block_{len(rows)}")))
    return rows


def floor_rows(trainer: pl.Trainer, module: LanguageModelling, split: str, tokens: int) -> list[Row]:
    """Rows of the uniform guess and of the n-gram models.

    Args:
        trainer: has the datamodule.
        module: has the size of the vocabulary.
        split: ``"validation"`` or ``"test"``.
        tokens: how many of the split are scored, and the one before them.
    """
    texts = _texts(trainer, split, tokens)
    if texts is None:
        return []
    (train, scored), size = texts, module.network.vocab_size
    part = f", first {COUNTED / 1e6:g} M tokens" if len(train) > COUNTED else ""
    order = min(len(ORDERS), len(train))
    nats = nats_per_token(train[:COUNTED], scored[:COUNTED], order, vocab_size=size)
    rows: list[Row] = [(f"{ORDERS[n - 1]}{part}", value, None) for n, value in nats.items()]
    return [("uniform", math.log(size), None), *rows]


def frozen_rows(trainer: pl.Trainer, module: LanguageModelling, split: str, tokens: int, *, steps: int) -> list[Row]:
    """The row of the network with frozen random layers, if the data and the kind of network allow one.

    Args:
        trainer: see :func:`floor_rows`.
        module: see :func:`floor_rows`.
        split: see :func:`floor_rows`.
        tokens: see :func:`floor_rows`.
        steps: updates of the readout.
    """
    with torch.inference_mode(False):  # in which Lightning evaluates
        texts = _texts(trainer, split, tokens)
        if texts is None:
            return []
        batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", 32)
        nats = frozen_nats(module.network, *texts, steps=steps, batch_size=batch_size, seed=module.seed)
    return [(f"frozen random layers, readout of {steps} steps", nats, None)]


def _texts(trainer: pl.Trainer, split: str, tokens: int) -> tuple[Tensor, Tensor] | None:
    """Tokens of training, and those of a split that are scored with the one before them, if there is a datamodule."""
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "tokens"):
        return None
    data.setup("fit")  # a test has read the test split alone
    return data.tokens("train"), data.tokens(split)[: tokens + 1]


def describe(module: LanguageModelling) -> str:
    """Say in a line how a model is trained: its tier, and how far a gradient reaches."""
    spans = [len(block.layer) for block in module.network.token_blocks()]
    layers = f"{sum(spans)} layers" if sum(spans) > 1 else "1 layer"
    if isinstance(module, BackpropTwin):
        return f"backprop end to end: {layers}"
    tiers = {"T2" if isinstance(block.loss, Softmax) else "T1" for block in module.network.token_blocks()}
    span = " or ".join(map(str, sorted(set(spans))))
    return f"{' and '.join(sorted(tiers))}: {layers}, {span} in a block"


def language_table(floors: list[Row], blocks: list[Row], *, title: str, caption: str) -> Table:
    """Lay out what counting, random layers and the blocks reach.

    Args:
        floors: rows above the line.
        blocks: rows below it; the last one is the model's own prediction.
        title: heading.
        caption: how the model was trained.
    """
    table = Table(title=title, caption=caption, caption_justify="left")
    table.add_column("")
    for name in ("nats", "bits", "accuracy"):
        table.add_column(name, justify="right")
    for index, (name, nats, accuracy) in enumerate([*floors, *blocks]):
        if index == len(floors):
            table.add_section()
        share = "" if accuracy is None else f"{100 * accuracy:.2f} %"
        last = index == len(floors) + len(blocks) - 1
        table.add_row(name, f"{nats:.4f}", f"{nats / math.log(2):.4f}", share, style="bold" if last else "")
    return table
