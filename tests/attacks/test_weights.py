"""Without weights nothing is evaluated, and `last` and `best` are those of the run."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import warnings
from pathlib import Path

import pytest
import torch

from ff_lightning.cli import main
from ff_lightning.cli.weights import chosen_weights
from ff_lightning.engine.folder import locked
from ff_lightning.errors import InputError
from tests.attacks.spoiling import RECIPES
from tests.command_line import error_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's: the folder was copied since the training


@pytest.mark.parametrize("subcommand", ["test", "validate", "predict"])
def test_nothing_is_evaluated_without_weights(subcommand: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"no `ckpt_path` to `{subcommand}`, and .* has neither best\.ckpt nor last"):
        chosen_weights(subcommand, None, tmp_path)
    (tmp_path / "last.ckpt").touch()
    assert chosen_weights(subcommand, None, tmp_path) == str(tmp_path / "last.ckpt")
    (tmp_path / "best.ckpt").touch()
    assert chosen_weights(subcommand, None, tmp_path) == str(tmp_path / "best.ckpt")
    assert chosen_weights(subcommand, "last", tmp_path) == str(tmp_path / "last.ckpt")
    assert chosen_weights(subcommand, "a.ckpt", tmp_path) == "a.ckpt"


def test_a_training_begins_anew_unless_told(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").touch()
    assert chosen_weights("fit", None, tmp_path) is None
    assert chosen_weights("fit", "hpc", tmp_path) == "hpc"
    with pytest.raises(InputError, match=r"Passed `ckpt_path=best`. There is no .*best\.ckpt"):
        chosen_weights("fit", "best", tmp_path)


def test_the_words_are_those_of_the_run(classifier_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "run"
    shutil.copytree(classifier_run, run)
    words = [*RECIPES["classifier"], "--trainer.default_root_dir", str(run)]
    assert main(["test", *words]) == 0
    assert "taking the run's own" in caplog.text
    assert main(["fit", *words, "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 4
    assert main(["test", *RECIPES["classifier"], "--trainer.default_root_dir", str(tmp_path / "none")]) == 2


def test_a_second_training_in_a_folder_is_refused(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(InputError, match=rf"runs in .*: process {os.getpid()}\. Wait"),
        locked(tmp_path),
    ):
        pytest.fail("both train")
    with locked(tmp_path):
        pass  # the first has let go


def test_a_lock_whose_owner_died_is_taken_over(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        with locked(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_an_earlier_run_is_moved_aside_and_a_trial_touches_nothing(
    classifier_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(classifier_run, run)
    (run / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    words = [*RECIPES["classifier"], "--trainer.default_root_dir", str(run)]
    with locked(run):
        assert "Another training runs in" in error_of(capsys, "fit", *words)
    assert main(["fit", *words, "--trainer.fast_dev_run", "true"]) == 0
    after = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert {name: after[name] for name in before if name != ".lock"} == {
        n: v for n, v in before.items() if n != ".lock"
    }
    assert main(["fit", *words]) == 0
    assert (run / "earlier_1" / "last.ckpt").read_bytes() == before["last.ckpt"]
    assert (run / "earlier_1" / "pictures").is_dir()
    assert (run / "notes.txt").exists()
    assert not (run / "earlier_1" / "notes.txt").exists()


@pytest.mark.parametrize("limit", [2_000, 20_000])
def test_a_full_disk_is_one_line_and_leaves_earlier_files(
    limit: int, classifier_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit of file sizes stops writes as a full disk does."""
    run = tmp_path / "run"
    shutil.copytree(classifier_run, run)
    before = (run / "last.ckpt").read_bytes()
    words = [*RECIPES["classifier"], "--trainer.default_root_dir", str(run), "--ckpt_path", str(run / "last.ckpt")]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = error_of(capsys, "fit", *words, "--trainer.max_epochs", "2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in said
    assert (run / "last.ckpt").read_bytes() == before
