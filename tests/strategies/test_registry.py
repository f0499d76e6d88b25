from __future__ import annotations

import lightning.pytorch as pl

import ff_lightning as ff
from ff_lightning.strategies import LayerParallelStrategy


def test_lightning_knows_the_strategy_by_name() -> None:
    assert ff.FFClassifier
    trainer = pl.Trainer(strategy="layer_parallel", devices=2, accelerator="cpu", logger=False)
    assert isinstance(trainer.strategy, LayerParallelStrategy)
    assert trainer.num_devices == 2
