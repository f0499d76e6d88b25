"""Every recipe and every overlay trains on real data."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import wandb
import yaml

from ff_lightning.cli import main

RECIPES = Path(__file__).parents[1] / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
OVERLAYS = sorted(path.stem for path in RECIPES.glob("with/*.yaml"))
OWN_TEST = {"smoke", "ddp", "wandb", "wandb_offline"}
FEW = ["--data.limit", "1000", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def configs(recipe: str, *overlays: str) -> list[str]:
    paths = [RECIPES / f"{recipe}.yaml", *(RECIPES / "with" / f"{overlay}.yaml" for overlay in overlays)]
    return [word for path in paths for word in ("--config", str(path))]


def updates(run: str) -> int:
    """Updates that the last checkpoint of a run has seen."""
    return int(torch.load(Path("runs") / run / "last.ckpt", weights_only=True)["global_step"])


def test_the_recipes_are_those_that_the_documentation_names() -> None:
    assert NAMES == ["digits_mlp", "fashion_mlp", "mnist_mlp", "mnist_mlp_jitter", "mnist_mlp_unsupervised"]
    assert OVERLAYS == ["bf16", "ddp", "smoke", "twin", "wandb", "wandb_offline"]


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_says_how_to_run_it(path: Path) -> None:
    name = path.relative_to(RECIPES)
    header = path.read_text().split("\ntrainer:")[0].split("\nmodel:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"--config recipes/{name}" in header
    assert "# Override:" in header
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("recipe", [name for name in NAMES if name != "digits_mlp"])
def test_a_recipe_trains_and_its_checkpoint_is_tested(recipe: str, shared_data: Path) -> None:
    args = [*configs(recipe, "smoke"), *FEW]
    assert main(["fit", *args]) == 0
    assert updates(f"{recipe}-smoke") == 2
    assert main(["test", *args, "--ckpt_path", f"runs/{recipe}-smoke/last.ckpt"]) == 0
    assert Path(f"runs/{recipe}-smoke/pictures/test.png").is_file()


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name not in OWN_TEST])
def test_an_overlay_trains(overlay: str) -> None:
    assert main(["fit", *configs("digits_mlp", "smoke", overlay), *FEW]) == 0
    assert updates(f"digits_mlp-smoke-{overlay}") == 2


def test_overlays_compose_and_the_last_one_wins() -> None:
    assert main(["fit", *configs("digits_mlp", "twin", "bf16", "smoke"), *FEW, "--trainer.max_epochs", "2"]) == 0
    assert updates("digits_mlp-twin-bf16-smoke") == 4
    config = yaml.safe_load(Path("runs/digits_mlp-twin-bf16-smoke/config.yaml").read_text())
    assert config["trainer"]["precision"] == "bf16-mixed"
    assert config["model"]["class_path"] == "ff_lightning.BackpropTwin"
    assert config["model"]["init_args"]["network"]["init_args"]["widths"] == [500, 500, 500]


def test_the_twin_of_an_unsupervised_recipe_drops_its_readout(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["fit", *configs("mnist_mlp_unsupervised", "twin", "smoke"), *FEW]) == 0
    assert "discard" not in capsys.readouterr().err.lower()
    state = torch.load("runs/mnist_mlp_unsupervised-twin-smoke/last.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in state if name.startswith("readout")]


def test_two_processes_share_the_work() -> None:
    """In processes of its own: the launcher starts the second one by repeating the command."""
    command = [sys.executable, "-m", "ff_lightning", "fit", *configs("digits_mlp", "smoke", "ddp"), *FEW]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(RECIPES.parent)}
    cpu = ["--trainer.accelerator", "cpu"]
    done = subprocess.run([*command, *cpu], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert updates("digits_mlp-smoke-ddp") == 2
    assert done.stdout.count("Validation after epoch 1") == 1
    assert done.stderr.count("The run is kept in") == 1


def test_wandb_offline_leaves_a_run_file_and_keeps_checkpoints_in_the_run_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert main(["fit", *configs("digits_mlp", "smoke", "wandb_offline"), *FEW]) == 0
    wandb.finish()
    (run,) = Path("runs/wandb").glob("offline-run-*/*.wandb")
    deadline = time.monotonic() + 60  # wandb's own process writes the file
    while run.stat().st_size <= 1000 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert run.stat().st_size > 1000
    assert {"last.ckpt", "best.ckpt", "config.yaml"} <= {
        path.name for path in Path("runs/digits_mlp-smoke-wandb_offline").iterdir()
    }


def test_wandb_online_differs_from_offline_in_one_word() -> None:
    online, offline = (
        yaml.safe_load((RECIPES / f"with/{name}.yaml").read_text()) for name in ("wandb", "wandb_offline")
    )
    assert offline["trainer"]["logger"]["init_args"].pop("offline") is True
    assert online == offline
