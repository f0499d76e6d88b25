"""What asks a run to end: the state is kept, the way to go on is said, and the exit status is the usual one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from ff_lightning.cli import main
from ff_lightning.engine.reading import read_checkpoint
from tests.attacks.spoiling import RECIPES, ROOT


def _started(command: str, folder: Path, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "ff_lightning", command, *RECIPES["classifier"]]
    words += ["--trainer.default_root_dir", str(folder), *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def test_a_training_keeps_its_state(tmp_path: Path) -> None:
    endless = ["--trainer.max_epochs", "100000", "--trainer.limit_train_batches", "2"]
    with _started("fit", tmp_path, *endless) as run:
        while not (tmp_path / "last.ckpt").exists():
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=120)[1]
    assert run.returncode == 143
    assert f"--ckpt_path {tmp_path / 'last.ckpt'}" in said
    assert "Traceback" not in said
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] > 0


class Sent(pl.Callback):
    """Sends a signal to its own process after a batch."""

    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_other_signals_do_the_same(number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = [*RECIPES["classifier"], "--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "9"]
    words += ["--trainer.callbacks", "tests.attacks.test_signals.Sent", "--trainer.callbacks.number", str(int(number))]
    with caplog.at_level("INFO"):
        assert main(["fit", *words]) == 128 + number
    assert f"--ckpt_path {tmp_path / 'last.ckpt'}" in caplog.text
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2
