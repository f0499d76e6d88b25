"""A job that SLURM queues again goes on where it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ff_lightning.cli import main
from ff_lightning.cli.run_folder import requeued
from tests.command_line import RECIPES


def train(folder: Path, epochs: int) -> None:
    configs = [word for name in ("digits_mlp", "with/smoke") for word in ("--config", str(RECIPES / f"{name}.yaml"))]
    few = ["--trainer.max_epochs", str(epochs), "--model.network.widths", "[32, 32]"]
    assert main(["fit", *configs, "--trainer.default_root_dir", str(folder), *few]) == 0


def test_a_job_that_is_queued_again_goes_on_from_what_it_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, 1)
    shutil.copy(tmp_path / "last.ckpt", tmp_path / "hpc_ckpt_1.ckpt")  # as Lightning does when SLURM ends a job
    assert not requeued(tmp_path)  # another job would begin anew
    for name, value in (("NTASKS", "1"), ("JOB_NAME", "digits"), ("JOB_ID", "7"), ("RESTART_COUNT", "1")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr("lightning.fabric.plugins.environments.slurm.shutil.which", lambda name: None)
    assert requeued(tmp_path)
    train(tmp_path, 3)
    assert not (tmp_path / "earlier_1").exists()
    assert torch.load(tmp_path / "last.ckpt")["global_step"] == 6
    assert (tmp_path / "metrics_1.csv").exists()
