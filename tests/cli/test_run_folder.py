"""A job that SLURM queues again goes on where it was, and what is refused leaves a run as it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import ff_lightning as ff
from ff_lightning.cli import main
from ff_lightning.cli.run_folder import requeued
from ff_lightning.errors import InputError
from tests.command_line import RECIPES, error_of, files_of


def command(folder: Path, epochs: int) -> list[str]:
    configs = [word for name in ("digits_mlp", "with/smoke") for word in ("--config", str(RECIPES / f"{name}.yaml"))]
    few = ["--trainer.max_epochs", str(epochs), "--model.network.widths", "[32, 32]"]
    return ["fit", *configs, "--trainer.default_root_dir", str(folder), *few]


def train(folder: Path, epochs: int) -> None:
    assert main(command(folder, epochs)) == 0


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


def test_what_is_refused_leaves_the_run_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, 1)
    before = files_of(tmp_path)
    late = [  # which is seen by the sanity check, the loop, and the first batch
        (["--best.monitor", "val/acc"], "Passed `monitor=val/acc`"),
        (["--trainer.val_check_interval", "100000"], "`val_check_interval` (100000) must be less than or equal to"),
        (["--model.clip_norm", "3"], "of the first batch"),
    ]
    for wrong, says in late:
        with monkeypatch.context() as patched:
            if "--model.clip_norm" in wrong:
                patched.setattr(ff.FFClassifier, "training_step", refuse)
            assert says in error_of(capsys, *command(tmp_path, 3), *wrong)
            assert says in error_of(capsys, *command(tmp_path, 3), *wrong, "--ckpt_path", "last")
        assert files_of(tmp_path) == before
    assert "no HPC checkpoint was found" in error_of(capsys, *command(tmp_path, 3), "--ckpt_path", "hpc")
    assert files_of(tmp_path) == before
    train(tmp_path, 1)
    assert set(before) <= {name.removeprefix("earlier_1/") for name in files_of(tmp_path)}
    assert (tmp_path / "earlier_1" / "last.ckpt").read_bytes() == before["last.ckpt"]


def refuse(*_: object) -> None:
    raise InputError("of the first batch")


def test_a_resume_of_what_is_done_trains_nothing_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, 2)
    before = files_of(tmp_path)
    assert main([*command(tmp_path, 1), "--ckpt_path", "last"]) == 0
    assert f"Nothing was left to train: {tmp_path} is as it was." in caplog.text
    assert files_of(tmp_path) == before


def test_a_training_in_a_folder_with_files_of_others_leaves_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("test/test_a.py", "pictures/a.jpg", "config.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = files_of(tmp_path)
    assert "would write over `config.yaml`" in error_of(capsys, *command(tmp_path, 1))
    assert files_of(tmp_path) == before
    (tmp_path / "config.yaml").unlink()
    del before["config.yaml"]
    assert "`val_check_interval`" in error_of(capsys, *command(tmp_path, 1), "--trainer.val_check_interval", "1000")
    assert files_of(tmp_path) == before
    train(tmp_path, 1)
    assert before.items() <= files_of(tmp_path).items()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--run_name", ".."], "Passed `run_name=..`. It must be the name of a folder in `runs`"),
        (["--seed_everything", "-1"], "Passed `seed_everything=-1`. It must be a whole number from 0 to 2**32 - 1."),
        (["--seed_everything", "4294967296"], "Passed `seed_everything=4294967296`. It must be"),
        (["--init_from", "nofile"], "Passed `init_from=nofile`. There is no such file."),
    ],
)
def test_what_names_nothing_is_one_line_and_leaves_no_folder(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in error_of(capsys, "fit", "--config", str(RECIPES / "digits_mlp.yaml"), *words)
    assert not list(tmp_path.iterdir())
