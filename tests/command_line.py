"""What the tests of the command line share: recipes by name, wrong calls, and real runs that many tests read."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from ff_lightning.cli import main

RECIPES = Path(__file__).parents[1] / "recipes"
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]

FEW = [
    *("--data.limit", "60", "--data.validation", "40", "--data.batch_size", "20", "--data.eval_batch_size", "20"),
    *("--trainer.enable_progress_bar", "false"),
]
"""Images that a test of a whole command needs: two batches of few."""
NARROW = ["--model.network.width", "32", "--data.batch_size", "2", "--data.eval_batch_size", "2"]
"""The same for a language model."""


def configs(*names: str) -> list[str]:
    """The options that name recipes and overlays."""
    return [word for name in names for word in ("--config", str(RECIPES / f"{name}.yaml"))]


def error_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that a wrong call ends with."""
    capsys.readouterr()
    assert main(list(args)) == 2
    err = capsys.readouterr().err
    last = err.splitlines()[-1]
    assert "Traceback" not in err
    assert err.count("error:") == 1
    assert last.startswith("ff-lightning: error: ")
    return last.removeprefix("ff-lightning: error: ")


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, without locks."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


SMALL = ["--model.network.width", "32", "--model.network.layers", "2", "--model.network.layers_per_block", "1"]
SMALL += ["--data.context", "24"]
"""A language model of two blocks that trains in a second."""
DIGITS = [*configs("digits_mlp"), *QUIET, "--trainer.max_epochs", "6"]
TEXT = [*configs("pydoc_gpt", "with/smoke", "with/samples"), *SMALL, *QUIET, "--trainer.limit_train_batches", "20"]
TEXT += ["--trainer.callbacks.max_new_tokens", "20"]
SHARED = {"digits": DIGITS, "text": TEXT}
"""Runs that are trained once for all tests, and how: a classifier that has learned something, and a language model."""


def shared_run(folder: Path, name: str) -> Path:
    """Folder of a finished run, which tests may read but not change; the first process that asks trains it.

    Args:
        folder: of all shared runs.
        name: a key of `SHARED`.
    """
    folder.mkdir(exist_ok=True)
    place, finished = folder / name, folder / f"{name} is finished"
    with FileLock(folder / f"{name}.lock"):
        if not finished.exists():
            words = [*SHARED[name], "--trainer.default_root_dir", str(place)]
            assert main(["fit", *words]) == 0
            if name == "digits":
                assert main(["test", *words, "--ckpt_path", str(place / "last.ckpt")]) == 0
            finished.touch()
    return place
