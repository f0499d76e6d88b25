"""`last.ckpt` and `best.ckpt`: when each is written, and when both are one file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from ff_lightning.callbacks import BestCheckpoint, LastCheckpoint
from tests.training import assert_same_weights, classifier, loader, trainer, weights

TRAIN, VALIDATION = loader(300, 50), loader(100, 50)


class Judge(pl.Callback):
    """Logs what it was told as the value that decides, one after the other."""

    def __init__(self, *values: float) -> None:
        self.values = iter(values)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the next one."""
        pl_module.log("judged", next(self.values))


def fit(folder: Path, *values: float, last: bool = True, ckpt_path: str | None = None, **flags: Any) -> pl.Trainer:
    callbacks = [Judge(*values), *[LastCheckpoint()] * last, BestCheckpoint("judged")]
    run = trainer(folder, callbacks=callbacks, enable_checkpointing=True, num_sanity_val_steps=0, **flags)
    run.fit(classifier(1), TRAIN, VALIDATION, ckpt_path=ckpt_path)
    return run


def same_file(folder: Path) -> bool:
    return os.path.samefile(folder / "last.ckpt", folder / "best.ckpt")


def step(path: Path) -> int:
    return int(torch.load(path, weights_only=False)["global_step"])


def test_the_best_epoch_is_written_once(tmp_path: Path) -> None:
    fit(tmp_path, 0.5, 0.6, max_epochs=2)
    assert same_file(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["best.ckpt", "last.ckpt"]
    assert step(tmp_path / "best.ckpt") == 12


def test_a_worse_epoch_leaves_the_best_one_alone(tmp_path: Path) -> None:
    fit(tmp_path, 0.6, 0.5, max_epochs=2)
    assert not same_file(tmp_path)
    assert (step(tmp_path / "best.ckpt"), step(tmp_path / "last.ckpt")) == (6, 12)


def test_the_best_checkpoint_goes_on_like_the_last(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 0.1, 0.2, 0.3, max_epochs=3)
    fit(tmp_path / "cut", 0.1, 0.2, max_epochs=2)
    gone_on = fit(tmp_path / "cut", 0.15, ckpt_path=str(tmp_path / "cut/best.ckpt"), max_epochs=3)
    assert gone_on.global_step == whole.global_step == 18
    assert_same_weights(weights(gone_on.lightning_module), weights(whole.lightning_module))
    assert (step(tmp_path / "cut/best.ckpt"), step(tmp_path / "cut/last.ckpt")) == (12, 18)  # .15 is worse than .2


def test_a_validation_within_an_epoch_is_written_at_once(tmp_path: Path) -> None:
    fit(tmp_path, 0.6, 0.5, max_epochs=1, val_check_interval=0.5)
    assert (step(tmp_path / "best.ckpt"), step(tmp_path / "last.ckpt")) == (3, 6)


def test_without_a_last_checkpoint_the_best_one_is_written_in_validation(tmp_path: Path) -> None:
    fit(tmp_path, 0.5, last=False)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["best.ckpt"]


def test_a_file_system_without_second_names_gets_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("ff_lightning.engine.checkpoints.os.link", refuse)
    fit(tmp_path, 0.5, max_epochs=1)
    assert not same_file(tmp_path)
    assert step(tmp_path / "best.ckpt") == step(tmp_path / "last.ckpt") == 6


def judged(best: Path) -> float:
    """The value for which a best checkpoint was written."""
    return float(torch.load(best, weights_only=True)["callbacks"]["BestCheckpoint"]["best_model_score"])


@pytest.mark.parametrize(("before", "now"), [("run", "absolute"), ("absolute", "run")])
def test_a_folder_that_is_spelled_otherwise_is_the_same(
    before: str, now: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spelled = {"absolute": tmp_path / "run"}
    (tmp_path / "link").symlink_to("run")
    fit(spelled.get(before, Path(before)), 0.9, max_epochs=1)
    gone_on = fit(spelled.get(now, Path(now)), 0.1, ckpt_path="link/last.ckpt", max_epochs=2)
    (saver,) = (one for one in gone_on.checkpoint_callbacks if isinstance(one, BestCheckpoint))
    assert (step(Path("run/best.ckpt")), judged(Path("run/best.ckpt"))) == (6, pytest.approx(0.9))
    assert step(Path("run/last.ckpt")) == 12
    assert Path(saver.best_model_path).samefile("run/best.ckpt")
    assert list(saver.best_k_models) == [saver.best_model_path] == [os.path.join(str(saver.dirpath), "best.ckpt")]
    fit(Path("run"), 0.95, ckpt_path="run/last.ckpt", max_epochs=3)
    assert (step(Path("run/best.ckpt")), judged(Path("run/best.ckpt"))) == (18, pytest.approx(0.95))


def test_the_last_checkpoint_stays_where_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning removes the previous one, which another spelling names."""
    monkeypatch.chdir(tmp_path)
    fit(Path("run"), 0.8, 0.9, max_epochs=2)
    fit(tmp_path / "run", 0.1, ckpt_path="run/best.ckpt", max_epochs=3)
    assert step(tmp_path / "run/last.ckpt") == 18


@pytest.mark.parametrize("copied", [False, True])
def test_a_run_that_is_moved_or_copied_keeps_its_best(copied: bool, tmp_path: Path) -> None:
    fit(tmp_path / "run", 0.9, max_epochs=1)
    (shutil.copytree if copied else shutil.move)(tmp_path / "run", tmp_path / "moved")
    fit(tmp_path / "moved", 0.1, ckpt_path=str(tmp_path / "moved/last.ckpt"), max_epochs=2)
    assert step(tmp_path / "moved/best.ckpt") == 6
    assert step(tmp_path / "moved/last.ckpt") == 12


@pytest.mark.parametrize("there_was_one", [False, True])
def test_another_folder_begins_with_a_best_of_its_own(there_was_one: bool, tmp_path: Path) -> None:
    fit(tmp_path / "run", 0.9, max_epochs=1)
    if there_was_one:
        fit(tmp_path / "other", 0.95, max_epochs=1)
    with pytest.warns(UserWarning, match="The dirpath has changed"):
        fit(tmp_path / "other", 0.1, ckpt_path=str(tmp_path / "run/last.ckpt"), max_epochs=2)
    assert (step(tmp_path / "other/best.ckpt"), judged(tmp_path / "other/best.ckpt")) == (12, pytest.approx(0.1))
    assert judged(tmp_path / "run/best.ckpt") == pytest.approx(0.9)
