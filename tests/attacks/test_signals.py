"""What asks a run to end: the state is kept, the way to go on is said, and the exit status is the usual one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ff_lightning.engine.reading import read_checkpoint
from tests.attacks.spoiling import RECIPES, ROOT


def _started(command: str, folder: Path, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "ff_lightning", command, *RECIPES["classifier"]]
    words += ["--trainer.default_root_dir", str(folder), *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_training_keeps_its_state(number: int, status: int, tmp_path: Path) -> None:
    endless = ["--trainer.max_epochs", "100000", "--trainer.limit_train_batches", "2"]
    with _started("fit", tmp_path, *endless) as run:
        while not (tmp_path / "last.ckpt").exists():
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(number)
        said = run.communicate(timeout=120)[1]
    assert run.returncode == status
    assert f"--ckpt_path {tmp_path / 'last.ckpt'}" in said
    assert "Traceback" not in said
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] > 0
