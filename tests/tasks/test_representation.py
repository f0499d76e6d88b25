"""Unsupervised FF: features from images and hybrids of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

import ff_lightning as ff
from ff_lightning.data import ImageDataModule
from ff_lightning.losses import SymBa
from ff_lightning.networks import MLP
from ff_lightning.readouts import LinearReadout
from tests.training import trainer


def test_features_without_labels_are_worth_reading(tmp_path: Path) -> None:
    network = MLP(64, [256, 256], num_classes=None, loss=SymBa(10.0))
    module = ff.FFRepresentation(
        network, LinearReadout(512, 10, first_block=0), optimizer=partial(torch.optim.Adam, lr=3e-3)
    )
    run = trainer(tmp_path, max_epochs=8, num_sanity_val_steps=0)
    run.fit(module, ImageDataModule("digits", batch_size=100))
    assert run.callback_metrics["val/accuracy"] > 0.85


def test_the_readout_sends_nothing_back_into_the_blocks() -> None:
    network = MLP(64, [16, 16], num_classes=None)
    module = ff.FFRepresentation(network, LinearReadout(16, 10))
    module.generator = lambda stream=0: torch.Generator().manual_seed(stream)
    step = next(module.local_losses((torch.rand(8, 1, 8, 8), torch.arange(8))))
    assert step.block == 2
    step.loss.backward()
    assert all(p.grad is None for p in network.parameters())
    assert module.readout.linear.weight.grad is not None
