from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from ff_lightning.callbacks import KeepOnInterrupt, LastCheckpoint
from ff_lightning.callbacks.interrupt import SIGNALS
from ff_lightning.data import ImageDataModule
from tests.training import assert_same_weights, classifier, loader, trainer, weights

BATCHES = 5


def digits() -> ImageDataModule:
    """Five batches an epoch, from a loader that goes on where it was."""
    return ImageDataModule("digits", batch_size=280)


class PressCtrlC(pl.Callback):
    """Presses Ctrl-C in the middle of a batch, or in a validation."""

    def __init__(self, step: int, *, in_validation: bool = False) -> None:
        self.step, self.in_validation = step, in_validation

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step == self.step and optimizer is pl_module.block_optimizers[0] and not self.in_validation:
            os.kill(os.getpid(), signal.SIGINT)

    def on_validation_start(self, trainer: Any, *_: Any, **__: Any) -> None:
        if trainer.global_step == self.step and self.in_validation:
            os.kill(os.getpid(), signal.SIGINT)


def stop(tmp_path: Path, press: PressCtrlC) -> None:
    """Train until Ctrl-C is pressed."""
    before = signal.getsignal(signal.SIGINT)
    run = trainer(
        tmp_path,
        callbacks=[press, LastCheckpoint(), KeepOnInterrupt("ff-lightning fit --config x.yaml")],
        enable_checkpointing=True,
        max_epochs=2,
        num_sanity_val_steps=0,
    )
    try:
        with pytest.raises(SystemExit):  # Lightning's way to end
            run.fit(classifier(depth=2), digits())
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning")
@pytest.mark.parametrize(
    ("press", "updates"),
    [(PressCtrlC(6), 7), (PressCtrlC(BATCHES - 1), BATCHES), (PressCtrlC(BATCHES, in_validation=True), BATCHES)],
    ids=["mid-epoch", "last batch", "validation"],
)
def test_the_update_is_finished_and_the_training_goes_on_as_if_never_stopped(
    press: PressCtrlC, updates: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop(tmp_path, press)
    path = tmp_path / "last.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == updates
    assert f"Stopped after {updates} updates; the state is kept in {path}." in caplog.text
    assert f"ff-lightning fit --config x.yaml --ckpt_path {path}" in caplog.text

    resumed, whole = classifier(depth=2), classifier(depth=2)
    options = {"max_epochs": 2, "num_sanity_val_steps": 0}
    trainer(tmp_path, **options).fit(resumed, digits(), ckpt_path=path, weights_only=True)
    trainer(tmp_path, **options).fit(whole, digits())
    assert_same_weights(weights(resumed), weights(whole))


def test_after_a_training_signals_are_what_they_were(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    trainer(tmp_path, callbacks=[KeepOnInterrupt()], max_steps=1).fit(classifier(), loader(100, 50))
    assert [signal.getsignal(number) for number in SIGNALS] == before
