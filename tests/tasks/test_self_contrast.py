"""Self-contrastive FF on real digits: one block after the other, and the readout last."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

import ff_lightning as ff
from ff_lightning.data import ImageDataModule
from ff_lightning.losses import TwoThresholdLoss
from ff_lightning.negatives import HybridMask
from ff_lightning.networks import SelfContrastConv, SelfContrastMLP
from ff_lightning.readouts import LinearReadout
from ff_lightning.schedules import Greedy
from tests.training import digits, trainer, weights

ADAM = partial(torch.optim.AdamW, lr=3e-3, weight_decay=1e-4)


def two() -> list[TwoThresholdLoss]:
    return [TwoThresholdLoss(2.0, 3.0), TwoThresholdLoss(1.0, 1.0)]


def task(**kwargs: Any) -> ff.FFSelfContrast:
    torch.manual_seed(0)
    network = SelfContrastMLP(64, [128, 128], losses=two(), own_pairs=[True, False])
    readout = LinearReadout(256, 10, first_block=0, dropout=0.1)
    return ff.FFSelfContrast(network, readout, **{"optimizer": ADAM, "schedule": Greedy([2, 1, 3])} | kwargs)


def test_features_without_labels_are_worth_reading(tmp_path: Path) -> None:
    module = task()
    run = trainer(tmp_path, max_epochs=9, num_sanity_val_steps=0)
    run.fit(module, ImageDataModule("digits", batch_size=50))
    assert run.callback_metrics["val/accuracy"] > 0.9


def test_a_convolutional_stack_with_a_pooled_readout_learns(tmp_path: Path) -> None:
    network = SelfContrastConv((1, 8, 8), [16, 32], losses=two())
    module = ff.FFSelfContrast(
        network, LinearReadout(96, 10, first_block=0, pool=2), optimizer=ADAM, schedule=Greedy([1, 1, 4])
    )
    run = trainer(tmp_path, max_epochs=6, num_sanity_val_steps=0)
    run.fit(module, ImageDataModule("digits", batch_size=50))
    assert run.callback_metrics["val/accuracy"] > 0.8


class Watch(pl.Callback):
    """Writes down which local modules moved in every epoch, and which layers were computed."""

    def __init__(self) -> None:
        self.moved: list[set[int]] = []
        self.computed: list[set[int]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.before = [weights(part) for part in pl_module.local_modules()]
        seen: set[int] = set()
        self.computed.append(seen)
        self.hooks = [
            block.layer.register_forward_hook(lambda *_, index=index: seen.add(index))
            for index, block in enumerate(pl_module.network)
        ]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        after = [weights(part) for part in pl_module.local_modules()]
        pairs = enumerate(zip(self.before, after, strict=True))
        self.moved.append({index for index, (a, b) in pairs if any(not torch.equal(a[name], b[name]) for name in a)})
        for hook in self.hooks:
            hook.remove()


@pytest.mark.parametrize("update", ["streamed", "fused"])
def test_only_what_learns_moves_and_nothing_above_it_is_computed(tmp_path: Path, update: str) -> None:
    watch = Watch()
    run = trainer(tmp_path, max_epochs=3, limit_val_batches=0, callbacks=[watch])
    run.fit(task(schedule=Greedy(), update=update), ImageDataModule("digits", batch_size=50))
    assert watch.moved == [{0}, {1}, {2}]
    assert watch.computed == [{0}, {0, 1}, {0, 1}]


def test_the_readout_may_have_an_optimizer_of_its_own(tmp_path: Path) -> None:
    module = task(readout_optimizer=partial(torch.optim.SGD, lr=0.5))
    run = trainer(tmp_path, limit_val_batches=0, max_epochs=3, limit_train_batches=2)
    run.fit(module, ImageDataModule("digits", batch_size=50))
    assert [type(optimizer).__name__ for optimizer in module.trainer.strategy.optimizers] == ["AdamW", "AdamW", "SGD"]


def test_without_a_schedule_all_learn_at_once(tmp_path: Path) -> None:
    watch = Watch()
    run = trainer(tmp_path, limit_val_batches=0, callbacks=[watch], limit_train_batches=2)
    run.fit(task(schedule=None), ImageDataModule("digits", batch_size=50))
    assert watch.moved == [{0, 1, 2}]


def test_images_without_classes_train_the_blocks(tmp_path: Path) -> None:
    images = digits(100)[0].view(-1, 1, 8, 8)
    module = task()
    before = weights(module)
    trainer(tmp_path, max_epochs=1).fit(module, DataLoader(images, batch_size=20))  # type: ignore[arg-type]
    moved = {name for name, value in weights(module).items() if not torch.equal(value, before[name])}
    assert any(name.startswith("network.blocks.0") for name in moved)
    assert not any(name.startswith("readout") for name in moved)


def test_negatives_are_refused() -> None:
    with pytest.raises(ff.InputError) as error:
        task(negatives=HybridMask())
    assert str(error.value) == (
        "Passed `negatives=HybridMask` to an `FFSelfContrast`, which contrasts images with others of the batch. Leave "
        "`negatives` out."
    )
