"""Blocks that rest when their validation loss stops to fall: measured, kept in checkpoints, refused without one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F
from torch.optim import SGD

from ff_lightning.candidates import LinearContrast, Softmax
from ff_lightning.data import ImageDataModule
from ff_lightning.engine.plateau import PlateauWatch
from ff_lightning.errors import InputError
from ff_lightning.networks import ConvNet
from ff_lightning.schedules import RestOnPlateau
from tests.training import assert_same_weights, classifier, trainer, weights


def fit(folder: Path, path: Path | None = None, *, epochs: int = 4, rate: float = 0.1, **kwargs: Any) -> Any:
    """A training with a validation an epoch, and a checkpoint after each."""
    torch.manual_seed(0 if path is None else 99)
    network = ConvNet((1, 8, 8), [4, 6], pool_after=[0], loss=kwargs.pop("loss", Softmax()))
    module = classifier(network=network, optimizer=partial(SGD, lr=rate), **kwargs)
    saver = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    run = trainer(folder, max_epochs=epochs, callbacks=[saver], enable_checkpointing=True, limit_train_batches=3)
    weights_only = None if path is None else True
    data = ImageDataModule("digits", batch_size=50, validation=100, eval_batch_size=100)
    run.fit(module, data, ckpt_path=path, weights_only=weights_only)
    return module


@pytest.mark.parametrize("loss", [Softmax(), LinearContrast(4)], ids=["softmax", "own negatives"])
def test_what_a_block_is_judged_by_is_its_loss_on_validation_images(tmp_path: Path, loss: Any) -> None:
    """Of negatives drawn from a block's own prediction, the logistic loss against the best wrong class."""
    module = fit(tmp_path, epochs=1, loss=loss, schedule=RestOnPlateau())
    data = ImageDataModule("digits", validation=100, eval_batch_size=100)
    data.setup("validate")
    ((x, y),) = data.val_dataloader()
    for index, g in enumerate(module.network.eval().goodness(x)):
        others = g.masked_fill(F.one_hot(y, 10).bool(), -torch.inf).amax(1)
        logistic = F.softplus(others - g.gather(1, y.unsqueeze(1)).squeeze(1)).mean()
        expected = F.cross_entropy(g, y) if isinstance(loss, Softmax) else logistic
        assert module.schedule.best[index] == pytest.approx(expected.item(), rel=1e-5)


def test_blocks_that_no_longer_improve_rest_and_the_training_ends(tmp_path: Path) -> None:
    """Nothing is an improvement by 100 nats after the first validation; what rested is not touched any more."""
    module = fit(tmp_path, epochs=9, schedule=RestOnPlateau(1, least=100.0))
    assert module.trainer.current_epoch == 2
    learned, ended = (torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True) for epoch in (0, 1))
    assert learned["global_step"] == 3
    assert not torch.equal(*(each["state_dict"]["network.blocks.0.goodness.weight"] for each in (learned, ended)))
    assert ended["callbacks"][PlateauWatch.__qualname__]["waited"] == {0: 1, 1: 1}


def test_a_resumed_training_rests_where_one_without_a_stop_does(tmp_path: Path) -> None:
    """Block 0 has come to rest before the stop: its best loss is set so that it cannot be reached."""

    class FirstRests(RestOnPlateau):
        def observe(self, losses: Any) -> None:
            super().observe({block: loss if block else 1.0 for block, loss in losses.items()})

    whole = fit(tmp_path, rate=0.01, schedule=FirstRests(1))
    assert whole.schedule.rests(0)
    assert not whole.schedule.rests(1)
    resumed = fit(tmp_path, tmp_path / "epoch=1.ckpt", rate=0.01, schedule=FirstRests(1))
    assert_same_weights(weights(whole), weights(resumed))
    assert resumed.schedule.state_dict() == whole.schedule.state_dict()
    rested, last = (torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)["state_dict"] for epoch in (1, 3))
    for name, value in rested.items():
        if "blocks" in name and not name.startswith("network.blocks.0.layer.1.norm.num"):
            assert torch.equal(value, last[name]) == name.startswith("network.blocks.0"), name


def test_a_training_without_validation_is_refused(tmp_path: Path) -> None:
    module = classifier(network=ConvNet((1, 8, 8), [4], pool_after=[0]), schedule=RestOnPlateau())
    with pytest.raises(InputError, match="to a training without validation"):
        trainer(tmp_path, limit_val_batches=0).fit(module, ImageDataModule("digits"))
