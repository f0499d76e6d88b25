"""Pictures of recordings, after real short trainings on tones that stand for words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import ff_lightning as ff
from ff_lightning.callbacks.sounds import SoundPictures, draw_over_time
from ff_lightning.data import AudioDataModule, LogMel, SpottingDataModule
from ff_lightning.networks import CausalConvNet, ConvNet, FrameEnergy
from ff_lightning.normalization import BATCH_NORMS
from tests.data.sounds import word_folders
from tests.training import ADAM, trainer


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(word_folders(tmp_path_factory.mktemp("words")))


def heard(source: str) -> tuple[ff.FFClassifier, AudioDataModule]:
    data = AudioDataModule(source, seconds=0.4, features=LogMel(bands=8, hop=32), test=0.25, batch_size=9)
    return ff.FFClassifier(ConvNet((1, 8, 12), (4, 4), pool_after=(), num_classes=2), optimizer=ADAM), data


def spotted(source: str) -> tuple[ff.FFSpotter, AudioDataModule]:
    few = {"features": LogMel(bands=8, hop=32, level=15.0), "words": 4, "test": 0.25, "batch_size": 9}
    network = CausalConvNet(8, [6, 6], kernel_size=3, goodness=FrameEnergy(3))
    return ff.FFSpotter(network, optimizer=ADAM), SpottingDataModule(source, seconds=0.4, **few)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
@pytest.mark.parametrize("make", [heard, spotted])
def test_a_training_leaves_a_picture_in_any_precision(make: Any, precision: str, folders: str, tmp_path: Path) -> None:
    module, data = make(folders)
    run = trainer(
        tmp_path, callbacks=[SoundPictures()], precision=precision, limit_train_batches=1, num_sanity_val_steps=0
    )
    run.fit(module, data)
    with Image.open(tmp_path / f"pictures/{make.__name__}.png") as picture:
        assert picture.width > 1000


@pytest.mark.parametrize("make", [heard, spotted])
def test_what_was_frozen_stays_so_while_a_picture_is_drawn(make: Any, folders: str, tmp_path: Path) -> None:
    module, data = make(folders)
    callback = SoundPictures()
    run = trainer(tmp_path, callbacks=[callback], limit_train_batches=1, num_sanity_val_steps=0)
    run.fit(module, data)
    frozen, *free = (part for part in module.train().modules() if isinstance(part, BATCH_NORMS))
    frozen.eval()
    callback.on_train_end(run, module)
    assert free
    assert all(norm.training for norm in free)
    assert not frozen.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_half_precision_can_be_drawn(dtype: torch.dtype) -> None:
    probabilities = torch.rand(2, 20, 3).softmax(-1).to(dtype)
    figure = draw_over_time(torch.rand(8, 20).to(dtype), probabilities, ["a", "b", "c"], 0.02, [(1, 0.3)])
    top, *rows = figure.axes[:3]
    shown = torch.as_tensor(top.images[0].get_array())
    assert shown.shape == (8, 20)
    assert [ax.images[0].get_array().shape for ax in rows] == [(3, 20)] * 2
