"""One run, one folder: names, what is moved aside, what several processes write, and what a kill leaves."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
from jsonargparse import Namespace

from ff_lightning.callbacks import BlockTable
from ff_lightning.cli import main
from ff_lightning.cli.run_folder import CHOSEN, run_folder, trial_folder
from ff_lightning.engine.folder import UNFINISHED, own_folder, set_aside
from ff_lightning.errors import InputError
from ff_lightning.report.curves import MetricsFile
from ff_lightning.report.records import add_to_record, read_record, start_record
from ff_lightning.report.run import read_run
from tests.training import classifier, loader, trainer


def together(count: int, run: Callable[[int], object]) -> None:
    """Run something in several processes at a time."""
    children = []
    for index in range(count):
        child = os.fork()
        if not child:
            status = 1
            try:
                run(index)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * count


def asked(run_name: str | None, folder: str | None = None, *configs: str, fast: bool = False) -> Namespace:
    """What a command says of its folder."""
    trainer = Namespace(default_root_dir=folder, fast_dev_run=fast)
    return Namespace(run_name=run_name, trainer=trainer, config=list(configs))


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, as one process that nobody has started with others."""
    monkeypatch.chdir(tmp_path)
    for name in (CHOSEN, "LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.setenv(name, "")  # so that what is set is undone
        monkeypatch.delenv(name)
    return tmp_path


def test_runs_that_begin_at_the_same_time_get_folders_of_their_own(tmp_path: Path) -> None:
    together(6, lambda index: (own_folder(tmp_path, "sweep") / "owner").write_text(str(index)))
    assert {path.name for path in tmp_path.iterdir()} == {f"sweep_{number}" for number in range(1, 7)}
    assert {path.read_text() for path in tmp_path.glob("*/owner")} == set("012345")


def test_names_of_runs(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = "recipes/a.yaml"
    assert run_folder(asked(None, None, recipe), "fit") == Path("runs/a")
    assert run_folder(asked("mine", None, recipe), "test") == Path("runs/mine")
    first, second = (run_folder(asked("auto", None, recipe), "fit") for _ in range(2))
    assert (first, second) == (Path("runs/a_1"), Path("runs/a_2"))
    monkeypatch.setenv("LOCAL_RANK", "1")  # a rank that this process has started
    assert run_folder(asked("auto", None, recipe), "fit") == second
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="started one by one"):
        run_folder(asked("auto", None, recipe), "fit")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert run_folder(asked("auto", None, recipe), "fit") == Path("runs/a_77_0")
    for arguments, subcommand, message in (
        (asked("auto", None, recipe), "test", "Only a training begins a folder"),
        (asked("../a", None, recipe), "fit", "must be the name of a folder"),
        (asked("..", None, recipe), "fit", "must be the name of a folder"),
        (asked("", None, recipe), "fit", "must be the name of a folder"),
        (asked(None, None, "...yaml"), "fit", "must be the name of a folder"),
        (asked("a", "b", recipe), "fit", "leave one out"),
    ):
        with pytest.raises(InputError, match=message):
            run_folder(arguments, subcommand)


def test_a_trial_works_beside_a_run_and_not_beside_a_trial(tmp_path: Path) -> None:
    trial = asked(None, str(tmp_path), "recipes/a.yaml", "recipes/with/smoke.yaml")
    assert trial_folder(trial) == tmp_path
    start_record(tmp_path, {"run": {"command": "ff-lightning fit --config a.yaml --config with/smoke.yaml"}})
    assert trial_folder(trial) == tmp_path
    start_record(tmp_path, {"run": {"command": "ff-lightning fit --config a.yaml"}})
    assert trial_folder(trial) == tmp_path / "smoke"
    assert trial_folder(asked(None, str(tmp_path), "recipes/a.yaml")) == tmp_path
    assert trial_folder(asked(None, str(tmp_path), "a.yaml", fast=True)) == tmp_path / "fast_dev_run"


def test_a_move_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / UNFINISHED).mkdir()
    (tmp_path / UNFINISHED / "last.ckpt").write_text("moved before the kill")
    for name in ("best.ckpt", "hpc_ckpt_1.ckpt", "metrics.csv", "notes.txt"):
        (tmp_path / name).touch()
    assert set_aside(tmp_path) == tmp_path / "earlier_1"
    assert {path.name for path in (tmp_path / "earlier_1").iterdir()} == {
        *("last.ckpt", "best.ckpt", "hpc_ckpt_1.ckpt", "metrics.csv")
    }
    assert {path.name for path in tmp_path.iterdir()} == {"earlier_1", "notes.txt"}
    assert set_aside(tmp_path) is None


def test_a_training_and_those_who_test_it_lose_nothing_of_each_others_record(tmp_path: Path) -> None:
    start_record(tmp_path, {"run": {}})

    def write(index: int) -> None:
        for number in range(20):
            add_to_record(tmp_path, "tables", {f"{index} {number}": number})

    together(4, write)
    assert len(read_record(tmp_path)["tables"]) == 80


def test_rows_are_whole_whatever_comes_later(tmp_path: Path) -> None:
    """A new name, which makes the file a new one, and a kill in the middle of a row."""
    logger = MetricsFile(tmp_path)
    logger.log_metrics({"train/loss": 0.5}, step=0)
    logger.save()
    (tmp_path / "metrics.csv").chmod(0o400)  # nobody writes into it again
    logger.log_metrics({"val/loss": 0.25}, step=1)
    logger.finalize("failed")
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "1"]
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("2,0.1")  # of 0.123
    assert read_run(tmp_path).curves == {"train/loss": [(1, 0.5)], "val/loss": [(2, 0.25)]}


def test_the_table_of_a_validation_is_kept_before_its_checkpoint(tmp_path: Path) -> None:
    """A kill after the last checkpoint of a training loses none: nothing is validated again."""
    start_record(tmp_path, {"run": {}})
    kept = []

    class Look(pl.Callback):
        def on_train_epoch_end(self, *_: object) -> None:
            kept.append(read_record(tmp_path)["tables"]["fit"])

    run = trainer(tmp_path, callbacks=[BlockTable(), Look()], max_epochs=2, log_every_n_steps=1)
    run.fit(classifier(1), loader(60, 20), loader(20, 20))
    assert [table["title"] for table in kept] == ["Validation after epoch 1", "Validation after epoch 2"]
    assert read_record(tmp_path)["tables"]["fit"] == kept[-1]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a field of a megabyte": lambda run: (run / "metrics.csv").write_text("step,a\n1," + "1" * 10**6 + "\n"),
    "a step of 5,000 digits": lambda run: (run / "metrics.csv").write_text("step,val/a\n" + "9" * 5000 + ",1\n"),
    "values whose difference overflows": lambda run: (run / "metrics.csv").write_text("step,a\n1,1e308\n2,-1e308\n"),
    "a folder in the place of curves": lambda run: (run / "metrics_1.csv").mkdir(),
    "a table that is a list": lambda run: (run / "run.json").write_text(json.dumps({"tables": {"fit": [1]}})),
    "seconds that are text": lambda run: (run / "run.json").write_text(json.dumps({"run": {"seconds": "x"}})),
    "half of a character": lambda run: (run / "run.json").write_text(r'{"run": {"command": "\ud800"}}'),
    "100,000 brackets": lambda run: (run / "run.json").write_text("[" * 10**5),
    "samples in no encoding": lambda run: (run / "samples.txt").write_bytes(b"\xff\xfe"),
    "a picture cut short": lambda run: (run / "pictures" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n"),
    "a picture that is a pipe": lambda run: os.mkfifo(run / "pictures" / "a.png"),
    "a link to itself": lambda run: (run / "pictures" / "a.png").symlink_to(run / "pictures" / "a.png"),
    "a name that is no UTF-8": lambda run: (run / "pictures" / os.fsdecode(b"\xff.png")).write_bytes(b"no"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_folder_is_shown_or_named(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "metrics.csv").write_text("step,val/loss\n1,0.5\n")
    start_record(tmp_path, {"run": {"command": "ff-lightning fit"}})
    DAMAGES[damage](tmp_path)
    status = main(["report", str(tmp_path)])
    said = capsys.readouterr().err
    assert (status, said.count("\n")) in ((0, 0), (2, 1)), said
