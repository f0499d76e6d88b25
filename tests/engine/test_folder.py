"""What a training finds in its folder: only what a run left is moved, and it comes back where nothing is trained."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ff_lightning.engine.folder import (
    BELONGS,
    CONFIG,
    DRAWN,
    RECORD,
    UNFINISHED,
    own_folder,
    prepared,
    refuse_foreign,
    set_aside,
)
from ff_lightning.errors import InputError
from ff_lightning.report.records import start_record
from ff_lightning.report.run import PICTURES
from tests.command_line import files_of

USERS = ("test/0/a.png", "test/test_a.py", "pictures/a.jpg", "pictures/1.png", "train/b.png", "notes.txt", "metrics.py")
RUNS = (
    *("last.ckpt", "best.ckpt", CONFIG, "metrics.csv", "metrics_1.csv", "samples.txt", "pictures/validation.png"),
    *("test/metrics.csv", "test/config.yaml", "predict/predictions_rank0.csv", "lightning_logs/version_0/events.out"),
)


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def write_run(folder: Path) -> None:
    write(folder, *RUNS)
    start_record(folder, {"run": {"command": "ff-lightning fit"}})


def test_only_what_a_run_left_is_moved(tmp_path: Path) -> None:
    write(tmp_path, *USERS)
    assert set_aside(tmp_path) is None
    write_run(tmp_path)
    assert set_aside(tmp_path) == tmp_path / "earlier_1"
    assert set(files_of(tmp_path / "earlier_1")) == {*RUNS, RECORD}
    assert set(files_of(tmp_path)) == {*USERS, *(f"earlier_1/{name}" for name in (*RUNS, RECORD))}
    assert not (tmp_path / "predict").exists()
    assert (tmp_path / "test").is_dir()
    assert set_aside(tmp_path) is None


def test_what_a_link_leads_to_stays(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    write(elsewhere, "test.png")
    write_run(run)
    (run / "pictures" / "validation.png").unlink()
    (run / "pictures").rmdir()
    (run / "pictures").symlink_to(elsewhere)
    assert set_aside(run) is not None
    assert set(files_of(elsewhere)) == {"test.png"}


@pytest.mark.parametrize("name", ["config.yaml", "pretrained.ckpt", "metrics.csv", "run.json", "checkpoints/a.ckpt"])
def test_a_training_does_not_begin_over_files_of_others(name: str, tmp_path: Path) -> None:
    write(tmp_path, *USERS)
    refuse_foreign(tmp_path)
    write(tmp_path, name)
    before = files_of(tmp_path)
    with pytest.raises(InputError, match=rf"default_root_dir=.*would write over `{name}`, which no run has left"):
        refuse_foreign(tmp_path)
    assert set_aside(tmp_path) is None
    assert files_of(tmp_path) == before


def test_a_run_is_known_by_its_record_and_a_damaged_one_by_its_lock(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / RECORD).write_text("{")
    refuse_foreign(tmp_path)
    (tmp_path / ".record.lock").unlink()
    with pytest.raises(InputError, match=r"would write over .* and 5 more"):
        refuse_foreign(tmp_path)


def test_a_training_goes_on_from_a_checkpoint_that_was_copied(tmp_path: Path) -> None:
    write(tmp_path, "last.ckpt", "best.ckpt")
    refuse_foreign(tmp_path, str(tmp_path / "last.ckpt"))
    with pytest.raises(InputError, match=r"`best\.ckpt`, `last\.ckpt`"):
        refuse_foreign(tmp_path, "elsewhere/last.ckpt")
    write(tmp_path, CONFIG)
    with pytest.raises(InputError, match=CONFIG):
        refuse_foreign(tmp_path, str(tmp_path / "last.ckpt"))


REFUSED: dict[str, Callable[[Path], object]] = {
    "nothing written": lambda run: None,
    "a record and rows": lambda run: (start_record(run, {"run": {"seed": 1}}), write(run, "metrics.csv")),
    "other loggers": lambda run: write(run, "hparams.yaml", "lightning_logs/version_1/a", "events.out.tfevents.1"),
}


@pytest.mark.parametrize("anew", [True, False], ids=["anew", "going on"])
@pytest.mark.parametrize("writes", REFUSED)
def test_a_refused_training_leaves_the_run_as_it_was(anew: bool, writes: str, tmp_path: Path) -> None:
    write(tmp_path, *USERS)
    write_run(tmp_path)
    before = files_of(tmp_path)

    def refused() -> None:
        with prepared(tmp_path, anew=anew) as earlier:
            assert earlier == (tmp_path / "earlier_1" if anew else None)
            assert not (tmp_path / "metrics.csv").exists()
            REFUSED[writes](tmp_path)
            raise InputError("no")

    with pytest.raises(InputError, match="no"):
        refused()
    assert files_of(tmp_path) == before
    with prepared(tmp_path, anew=anew):  # nothing was left to train
        REFUSED[writes](tmp_path)
    assert files_of(tmp_path) == before
    assert not list(tmp_path.glob("earlier*"))


@pytest.mark.parametrize("name", [CONFIG, "new.ckpt"])
def test_what_was_trained_stays(name: str, tmp_path: Path) -> None:
    write_run(tmp_path)
    with suppress(RuntimeError), prepared(tmp_path, anew=True):
        write(tmp_path, name)
        raise RuntimeError
    assert (tmp_path / "earlier_1" / "last.ckpt").exists()
    assert (tmp_path / name).exists()
    with suppress(RuntimeError), prepared(tmp_path, anew=False):
        write(tmp_path, "metrics.csv")
        (tmp_path / "new").write_text("of the training that goes on")
        os.replace(tmp_path / "new", tmp_path / CONFIG)
        raise RuntimeError
    assert (tmp_path / CONFIG).read_text() == "of the training that goes on"


def test_a_run_that_was_asked_to_end_does_not_bring_the_earlier_one_back(tmp_path: Path) -> None:
    """Who then goes on with ``last.ckpt`` would go on with another training."""
    write_run(tmp_path)
    with pytest.raises(KeyboardInterrupt), prepared(tmp_path, anew=True):
        raise KeyboardInterrupt
    assert not (tmp_path / "last.ckpt").exists()
    assert (tmp_path / "earlier_1" / "last.ckpt").exists()


def test_a_move_that_was_killed_loses_nothing_of_a_run_after_it(tmp_path: Path) -> None:
    write(tmp_path / UNFINISHED, "last.ckpt")
    write_run(tmp_path)
    (tmp_path / "last.ckpt").write_text("later")
    assert set_aside(tmp_path) == tmp_path / "earlier_2"
    assert (tmp_path / "earlier_1" / "last.ckpt").read_text() == "last.ckpt"
    assert (tmp_path / "earlier_2" / "last.ckpt").read_text() == "later"


def test_curves_of_a_run_that_stopped_more_than_once_get_names_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "metrics.csv", "metrics_2.csv")
    with prepared(tmp_path, anew=False):
        write(tmp_path, CONFIG)
    assert {path.name for path in tmp_path.glob("metrics*")} == {"metrics_2.csv", "metrics_3.csv"}
    assert (tmp_path / "metrics_2.csv").read_text() == "metrics_2.csv"


def test_all_pictures_of_a_report_belong_to_the_run() -> None:
    assert set(PICTURES) <= set(DRAWN)
    assert {f"pictures/{name}.png" for name in DRAWN} <= set(BELONGS)


def test_a_folder_of_ones_own_is_new(tmp_path: Path) -> None:
    assert [own_folder(tmp_path, "a").name for _ in range(2)] == ["a_1", "a_2"]
