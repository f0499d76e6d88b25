"""Lightning's Tuner: it finds a batch size, and its learning rates are refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import Tuner

from ff_lightning.data import ImageDataModule
from ff_lightning.errors import InputError
from tests.training import classifier, loader, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def copied(module: Any) -> list[Any]:
    return [value.clone() for value in module.state_dict().values()]


def test_a_batch_size_is_found_and_the_model_is_as_before(tmp_path: Path) -> None:
    module, data = classifier(), ImageDataModule("digits")
    before = copied(module)
    run = trainer(tmp_path)
    found = Tuner(run).scale_batch_size(module, datamodule=data, max_trials=3, steps_per_trial=2)
    assert found == data.batch_size == 2 * 2**2, "from 2, doubled"
    assert all(torch.equal(*pair) for pair in zip(before, copied(module), strict=True))
    assert run.global_step == 0
    run.fit(module, data)
    assert run.global_step == run.num_training_batches == len(data.train_dataloader()) > 100
    assert not all(torch.equal(*pair) for pair in zip(before, copied(module), strict=True))


def test_a_run_that_finds_its_batch_size_trains_as_one_that_was_told(tmp_path: Path) -> None:
    weights = []
    for callbacks, size in (([BatchSizeFinder(steps_per_trial=2, max_trials=2)], 100), ([], 4)):
        torch.manual_seed(0)
        module, data = classifier(), ImageDataModule("digits", batch_size=size)
        trainer(tmp_path, callbacks=callbacks, max_steps=3).fit(module, data)
        assert data.batch_size == 4
        weights.append(copied(module))
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))


def test_a_learning_rate_finder_is_refused(tmp_path: Path) -> None:
    module = classifier()
    before = copied(module)
    with pytest.raises(InputError, match=r"Tuner.lr_find.*every block has its own"):
        Tuner(trainer(tmp_path)).lr_find(module, loader(200, 50))
    with pytest.raises(InputError, match="Passed a `LearningRateFinder`"):
        trainer(tmp_path, callbacks=[LearningRateFinder()]).fit(module, loader(200, 50))
    assert all(torch.equal(*pair) for pair in zip(before, copied(module), strict=True))
