"""Weights & Biases offline: what its own run file holds after a training, and after it was resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb

from ff_lightning.cli import main
from tests.command_line import RECIPES, configs
from tests.wandb_files import history, records


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes name their folder relative to where they run; wandb's process of an earlier test runs elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()


def fit(recipe: str, *words: str, overlay: str = "wandb_offline") -> list[Path]:
    """Train two updates an epoch, and give the run files so far, the newest last."""
    recipes = configs(recipe, "with/smoke", f"with/{overlay}")
    assert main(["fit", *recipes, "--trainer.default_root_dir", "run", *words]) == 0
    wandb.finish()
    wandb.teardown()
    files = sorted(Path("run/wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    deadline = time.monotonic() + 60  # its own process writes the file
    while not any(record.HasField("exit") for record in records(files[-1])) and time.monotonic() < deadline:
        time.sleep(0.1)
    return files


def logged(path: Path) -> dict[str, Any]:
    """The last value of every key."""
    return {key: value for row in history(path) for key, value in row.items()}


def steps(path: Path) -> list[int]:
    """The updates after which training values were logged."""
    return [row["trainer/global_step"] for row in history(path) if "train/loss" in row]


def run_id(path: Path) -> str:
    (found,) = {record.run.run_id for record in records(path) if record.HasField("run")}
    return str(found)


def test_a_classifier_leaves_every_curve_and_picture() -> None:
    (path,) = fit("digits_mlp")
    values = logged(path)
    of_blocks = ["loss", "separation", "goodness_gap", "goodness_pos", "goodness_neg", "margin", "gradient_norm"]
    expected = {f"train/{name}/block_{index}" for name in [*of_blocks, "dead_units"] for index in range(3)}
    expected |= {f"val/{name}/block_{index}" for name in ("accuracy", "separation") for index in range(3)}
    expected |= {"train/loss", "val/accuracy", "lr-Adam", "lr-Adam-1", "lr-Adam-2", "trainer/global_step"}
    expected |= {f"pictures/{name}" for name in ("validation", "labels", "fields")}
    assert expected <= values.keys(), expected - values.keys()
    assert all(isinstance(value, int | float) for key, value in values.items() if key.startswith(("train/", "val/")))
    picture = values["pictures/validation"]
    assert picture["_type"] == "images/separated"
    assert all((path.parent / "files" / name).is_file() for name in picture["filenames"])
    axes = {record.metric.glob_name: record.metric for record in records(path) if record.HasField("metric")}
    assert axes["*"].step_metric == "trainer/global_step"
    assert steps(path) == [0, 1]
    updates = [item for record in records(path) for item in (*record.run.config.update, *record.config.update)]
    config = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in updates}
    assert {"network", "optimizer", "lr_scheduler", "trainer"} <= config.keys()
    assert (config["source"], config["batch_size"]) == ("digits", 100)


def test_checkpoints_become_artifacts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As online; Lightning refuses `log_model` with `offline`, and wandb itself is told not to go online."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    (path,) = fit("digits_mlp", "--trainer.logger.log_model", "true", overlay="wandb")
    artifacts = [record.request.log_artifact.artifact for record in records(path)]
    artifacts += [record.artifact for record in records(path)]
    models = [artifact for artifact in artifacts if artifact.type == "model"]
    assert models
    assert {Path(entry.path).suffix for model in models for entry in model.manifest.contents} == {".ckpt"}


def test_a_language_model_leaves_a_table_of_samples_and_goes_on_under_its_id() -> None:
    small = ["--model.network.width", "32", "--data.context", "16", "--trainer.max_epochs", "2"]
    small += ["--config", str(RECIPES / "with/samples.yaml"), "--trainer.callbacks.max_new_tokens", "8"]
    (first,) = fit("pydoc_gpt", *small)
    values = logged(first)
    assert {"val/loss", "val/loss/block_1", "samples/distinct_4", "pictures/losses", "samples"} <= values.keys()
    table = values["samples"]
    assert table["_type"] == "table-file"
    assert [row["samples"]["nrows"] for row in history(first) if "samples" in row] == [1, 2]
    assert json.loads((first.parent / "files" / table["path"]).read_text())["columns"] == ["step", "text"]
    first_again, second = fit("pydoc_gpt", *small, "--ckpt_path", "run/last.ckpt", "--trainer.max_epochs", "3")
    assert first_again == first
    assert run_id(second) == run_id(first)
    assert (steps(first), steps(second)) == ([0, 1, 2, 3], [4, 5])
    assert json.loads(Path("run/run.json").read_text())["run"]["wandb_id"] == run_id(first)


@pytest.mark.ranks
def test_processes_share_the_work_and_are_one_run() -> None:
    """In processes of its own: the launcher starts the second one by repeating the command."""
    words = configs("digits_mlp", "with/smoke", "with/ddp", "with/wandb_offline")
    done = subprocess.run(
        [sys.executable, "-m", "ff_lightning", "fit", *words, "--trainer.accelerator", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(RECIPES.parent)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Validation after epoch 1") == 1
    assert done.stderr.count("The run is kept in") == 1
    last = torch.load("runs/digits_mlp-smoke-ddp-wandb_offline/last.ckpt", weights_only=True)
    assert last["global_step"] == 2
    (path,) = Path("runs/digits_mlp-smoke-ddp-wandb_offline/wandb").glob("offline-run-*/*.wandb")
    assert steps(path) == [0, 1]
    assert {"val/accuracy", "pictures/validation"} <= logged(path).keys()
