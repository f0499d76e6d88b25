"""Unsupervised FF: features from images and hybrids of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch.utils.data import DataLoader

import ff_lightning as ff
from ff_lightning.blocks import ContrastiveBlock
from ff_lightning.data import ImageDataModule
from ff_lightning.errors import InputError
from ff_lightning.goodness import MeanOfSquares
from ff_lightning.losses import SymBa
from ff_lightning.negatives import Hardest, HybridMask, SampleNegatives
from ff_lightning.networks import MLP, DenseReLU
from ff_lightning.readouts import LinearReadout, NestedReadout
from ff_lightning.schedules import Greedy, ReadoutLast
from ff_lightning.signals import Signal
from ff_lightning.stacks import BlockStack
from tests.training import assert_same_weights, digits, trainer, weights


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


def task(readout: LinearReadout, network: BlockStack | None = None, **options: Any) -> ff.FFRepresentation:
    module = ff.FFRepresentation(network or MLP(64, [16, 12], num_classes=None), readout, **options)
    module.generator = lambda stream=0: torch.Generator().manual_seed(stream)
    return module


BATCH = torch.rand(8, 1, 8, 8), torch.arange(8)


def test_the_readout_sends_nothing_back_into_the_blocks() -> None:
    module = task(LinearReadout(12, 10))
    *_, step = module.local_losses(BATCH)
    assert step.block == 2
    step.loss.backward()
    assert all(p.grad is None for p in module.network.parameters())
    assert module.readout.linear.weight.grad is not None


@pytest.mark.parametrize("first_block", [0, 1])
def test_the_readout_reads_the_positives_and_the_blocks_before_their_update(first_block: int) -> None:
    readout = LinearReadout([28, 12][first_block], 10, first_block=first_block)
    torch.nn.init.normal_(readout.linear.weight)
    module = task(readout)
    expected = readout.local_loss(module.network, *BATCH)
    *blocks, last = module.local_losses(BATCH)
    assert [step.block for step in blocks] == [0, 1]
    torch.testing.assert_close(last.loss, expected)
    for step in module.local_losses(BATCH):
        with torch.no_grad():  # an update beyond recognition
            for parameter in module.local_modules()[step.block].parameters():
                parameter.add_(1.0 if step.block < 2 else 0.0)
    torch.testing.assert_close(step.loss, expected)


@pytest.mark.parametrize("learning", [[True, True, True], [False, False, True]], ids=["beside", "last"])
@pytest.mark.parametrize("negatives", [HybridMask(2), Hardest(HybridMask(2), pool=2)], ids=["drawn", "mined"])
def test_running_values_move_once_in_a_batch_that_blocks_learn_from(
    learning: list[bool], negatives: SampleNegatives
) -> None:
    torch.manual_seed(0)
    layers = [DenseReLU(64, 16, batch_norm=True), DenseReLU(16, 12, batch_norm=True)]
    network = BlockStack([ContrastiveBlock(layer, MeanOfSquares(), SymBa()) for layer in layers])
    module = task(LinearReadout(12, 10), network, negatives=negatives)
    module.step_context = lambda: ff.StepContext(learning=learning)
    list(module.local_losses(BATCH))
    assert [int(block.layer.norm.num_batches_tracked) for block in network] == learning[:2]


class Counted(HybridMask):
    """Counts how often negatives are made."""

    made = 0

    def __call__(self, *args: Any) -> torch.Tensor:
        self.made += 1
        return super().__call__(*args)


def test_a_readout_that_learns_alone_needs_no_negatives(tmp_path: Path) -> None:
    network, readout, negatives = MLP(64, [16, 12], num_classes=None), LinearReadout(28, 10, first_block=0), Counted()
    module = ff.FFRepresentation(network, readout, negatives=negatives, schedule=Greedy([1, 1, 2]))
    run = trainer(tmp_path, max_epochs=4, num_sanity_val_steps=0)
    run.fit(module, ImageDataModule("digits", batch_size=100))
    assert negatives.made == run.global_step / 2
    assert run.callback_metrics["val/accuracy"] > 0.3


def stop_after(epochs: int) -> LambdaCallback:
    """Ends a training before its time."""

    def stop(run: pl.Trainer, module: pl.LightningModule) -> None:
        run.should_stop = run.current_epoch == epochs - 1

    return LambdaCallback(on_train_epoch_end=stop)


def test_a_readout_can_learn_after_the_blocks(tmp_path: Path) -> None:
    """The blocks become what they become without it in as many epochs, and stay so; it is 0 until they have."""
    trained = []
    for epochs, schedule in ((3, None), (5, ReadoutLast(0.4)), (3, ReadoutLast(0.4))):
        torch.manual_seed(0)
        network = MLP(64, [16, 12], num_classes=None, loss=SymBa(10.0))
        module = ff.FFRepresentation(network, LinearReadout(28, 10, first_block=0), schedule=schedule)
        module.seed = 0
        run = trainer(tmp_path, max_epochs=5, num_sanity_val_steps=0, callbacks=[stop_after(epochs)])
        torch.manual_seed(1)  # order of the images
        run.fit(module, ImageDataModule("digits", batch_size=100))
        trained.append((weights(network), module.readout.linear.weight.detach().abs().sum()))
    (beside, learned), (after, learned_later), (before, not_yet) = trained
    assert_same_weights(beside, after)
    assert_same_weights(beside, before)
    assert min(learned, learned_later) > 0 == not_yet


def test_a_network_that_does_not_say_what_it_passes_on_is_refused() -> None:
    class Silent(BlockStack):
        def local_losses(self, signal: Signal, context: ff.StepContext) -> Iterator[ff.LocalStep]:
            for step in super().local_losses(signal, context):
                yield replace(step, passed=None)

    network = Silent(list(MLP(64, [16, 12], num_classes=None)))
    with pytest.raises(InputError, match=r"`network=Silent`.*`LocalStep\.passed`"):
        list(task(LinearReadout(12, 10), network).local_losses(BATCH))


def test_images_without_classes_train_the_blocks_and_leave_the_readout(tmp_path: Path) -> None:
    images = digits(100)[0].view(-1, 1, 8, 8)
    module = task(LinearReadout(12, 10))
    before = weights(module)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(module, DataLoader(images, batch_size=20), DataLoader(images, batch_size=50))  # type: ignore[arg-type]
    moved = {name for name, value in weights(module).items() if not torch.equal(value, before[name])}
    assert any(name.startswith("network.blocks.0") for name in moved)
    assert not any(name.startswith("readout") for name in moved)
    assert "val/accuracy" not in run.callback_metrics
