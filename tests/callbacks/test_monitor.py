from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

import ff_lightning as ff
from ff_lightning.callbacks import GoodnessMonitor
from ff_lightning.metrics import margin
from tests.training import ADAM, SGD, classifier, loader, mlp, trainer, weights
from tests.training import assert_same_weights as same


def rows(tmp_path: Path, module: ff.FFLightningModule, **options: Any) -> list[dict[str, str]]:
    """Train on three batches, and read what was logged."""
    logger = CSVLogger(tmp_path, name="", version="")
    run = trainer(tmp_path, logger=logger, callbacks=[GoodnessMonitor()], **{"log_every_n_steps": 2} | options)
    run.fit(module, loader(300, 50))
    with (tmp_path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


class Watch(pl.Callback):
    """Keeps what callbacks are shown, and the gradients of block 0 at the time of its update."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.norms: list[float] = []

    def on_local_step(self, trainer: Any, pl_module: Any, step: Any) -> None:
        self.steps.append(step)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if optimizer is pl_module.block_optimizers[0]:
            squares = [p.grad.square().sum() for p in pl_module.network[0].parameters()]
            self.norms.append(float(torch.stack(squares).sum().sqrt()))


def test_every_block_has_every_curve_on_logged_steps_alone(tmp_path: Path) -> None:
    logged = rows(tmp_path, classifier(depth=2))
    assert [row["step"] for row in logged] == ["1", "3", "5"]
    quantities = ("goodness_pos", "goodness_neg", "margin", "dead_units", "gradient_norm", "separation", "loss")
    for row in logged:
        assert all(row[f"train/{quantity}/block_{block}"] for quantity in quantities for block in (0, 1))


def test_the_values_are_those_of_the_step(tmp_path: Path) -> None:
    watch = Watch()
    logger = CSVLogger(tmp_path, name="", version="")
    run = trainer(tmp_path, logger=logger, callbacks=[GoodnessMonitor(), watch], log_every_n_steps=1, max_steps=2)
    run.fit(classifier(depth=2, optimizer=SGD, clip_norm=1e-3), loader(300, 50))
    with (tmp_path / "metrics.csv").open() as file:
        row = list(csv.DictReader(file))[1]
    step = watch.steps[2]
    assert (step.block, len(watch.steps)) == (0, 4)
    assert float(row["train/goodness_pos/block_0"]) == pytest.approx(float(step.g_pos.mean()))
    assert float(row["train/goodness_neg/block_0"]) == pytest.approx(float(step.g_neg.mean()))
    assert float(row["train/margin/block_0"]) == pytest.approx(float(margin(step.g_pos, step.g_neg)))
    assert float(row["train/gradient_norm/block_0"]) == pytest.approx(watch.norms[1], rel=1e-4)
    assert watch.norms[1] == pytest.approx(1e-3, rel=1e-2), "after clipping"


def test_dead_units_are_counted(tmp_path: Path) -> None:
    network = mlp(2, width=16)
    with torch.no_grad():
        network[1].layer.linear.weight[:4] = 0
        network[1].layer.linear.bias[:4] = -1
    row = rows(tmp_path, classifier(network=network, optimizer=SGD), log_every_n_steps=1)[0]
    assert float(row["train/dead_units/block_1"]) >= 4 / 16
    assert float(row["train/dead_units/block_0"]) < 4 / 16


def test_a_twin_has_a_gradient_norm_and_no_goodness(tmp_path: Path) -> None:
    row = rows(tmp_path, ff.BackpropTwin(mlp(2), optimizer=ADAM))[0]
    assert float(row["train/gradient_norm/block_0"]) > 0
    assert not [name for name in row if "goodness" in name]


def test_it_changes_nothing_and_leaves_no_hooks(tmp_path: Path) -> None:
    with_it, without = classifier(depth=2), classifier(depth=2)
    trainer(tmp_path, callbacks=[GoodnessMonitor()], log_every_n_steps=1).fit(with_it, loader(200, 50))
    trainer(tmp_path).fit(without, loader(200, 50))
    same(weights(with_it), weights(without))
    assert not [layer for layer in with_it.modules() if layer._forward_hooks]
