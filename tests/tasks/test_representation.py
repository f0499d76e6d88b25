"""Unsupervised FF: features from images and hybrids of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

import ff_lightning as ff
from ff_lightning.data import ImageDataModule
from ff_lightning.losses import SymBa
from ff_lightning.networks import MLP
from ff_lightning.readouts import LinearReadout, NestedReadout
from tests.training import assert_same_weights, trainer, weights


def test_features_without_labels_are_worth_reading(tmp_path: Path) -> None:
    network = MLP(64, [256, 256], num_classes=None, loss=SymBa(10.0))
    module = ff.FFRepresentation(
        network, LinearReadout(512, 10, first_block=0), optimizer=partial(torch.optim.Adam, lr=3e-3)
    )
    run = trainer(tmp_path, max_epochs=8, num_sanity_val_steps=0)
    run.fit(module, ImageDataModule("digits", batch_size=100))
    assert run.callback_metrics["val/accuracy"] > 0.85


def test_nested_readouts_tell_what_each_block_adds_and_change_no_block(tmp_path: Path) -> None:
    trained, found = [], []
    for readout in (LinearReadout(48, 10, first_block=0), NestedReadout([16, 16, 16], 10, first_block=0)):
        torch.manual_seed(0)
        network = MLP(64, [16, 16, 16], num_classes=None, loss=SymBa(10.0))
        module = ff.FFRepresentation(network, readout, optimizer=partial(torch.optim.Adam, lr=3e-3))
        module.seed = 0
        run = trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0)
        torch.manual_seed(1)  # order of the images
        run.fit(module, ImageDataModule("digits", batch_size=100))
        trained.append(weights(network))
        found.append(dict(run.callback_metrics))
        run.test(module, ImageDataModule("digits", batch_size=100), verbose=False)
    assert_same_weights(*trained)
    plain, nested = found
    by_depth = [nested[f"val/accuracy/block_{index}"] for index in range(3)]
    assert nested["val/accuracy"] == by_depth[-1] == plain["val/accuracy"]
    assert min(by_depth) > 0.3
    assert len(set(map(float, by_depth))) > 1
    assert "val/accuracy/block_0" not in plain
    assert {f"test/accuracy/block_{index}" for index in range(3)} <= set(run.callback_metrics)


def test_the_readout_sends_nothing_back_into_the_blocks() -> None:
    network = MLP(64, [16, 16], num_classes=None)
    module = ff.FFRepresentation(network, LinearReadout(16, 10))
    module.generator = lambda stream=0: torch.Generator().manual_seed(stream)
    step = next(module.local_losses((torch.rand(8, 1, 8, 8), torch.arange(8))))
    assert step.block == 2
    step.loss.backward()
    assert all(p.grad is None for p in network.parameters())
    assert module.readout.linear.weight.grad is not None
