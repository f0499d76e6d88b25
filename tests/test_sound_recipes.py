"""The recipes of recordings train on real digits, where there are some; Speech Commands on a set of its form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from ff_lightning.cli import main
from tests.data.sounds import parquet
from tests.test_recipes import configs, updates

FEW = ["--trainer.enable_progress_bar", "false"]


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("stems", "picture"),
    [
        (("fsdd_conv",), "heard"),
        (("fsdd_scff",), "test"),
        (("fsdd_spotting",), "spotted"),
    ],
    ids=["conv", "scff", "spotting"],
)
def test_a_recipe_of_digits_trains_and_its_checkpoint_is_tested(
    stems: tuple[str, ...], picture: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FF_LIGHTNING_DATA", str(shared_data))
    args = [*configs(*stems, "smoke"), *FEW, "--data.limit", "100", "--data.validation", "60"]
    run = "-".join([*stems, "smoke"])
    assert main(["fit", *args]) == 0
    assert updates(run) == 2
    assert main(["test", *args, "--ckpt_path", f"runs/{run}/last.ckpt"]) == 0
    assert Path(f"runs/{run}/pictures/{picture}.png").is_file()


def test_the_twin_of_a_spotter_is_one_block(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FF_LIGHTNING_DATA", str(shared_data))
    few = [*FEW, "--data.limit", "50", "--data.validation", "20", "--trainer.limit_val_batches", "0"]
    assert main(["fit", *configs("fsdd_spotting", "spotting_twin", "smoke"), *few]) == 0
    state = torch.load("runs/fsdd_spotting-spotting_twin-smoke/last.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("network.blocks.0.") for name in state)
    assert not any(name.startswith("network.blocks.1.") for name in state)


def test_speech_commands_train_from_a_set_of_the_same_columns(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("validation", 1), ("test", 1)):
        parquet(tmp_path / "words" / f"{split}.parquet", count)
    words = ["--data.source", str(tmp_path / "words"), "--model.network.widths", "[4, 4, 8, 8, 8]"]
    args = [*configs("speech_commands_conv", "smoke"), *FEW, *words, "--data.batch_size", "10"]
    assert main(["fit", *args]) == 0
    assert updates("speech_commands_conv-smoke") == 2
    assert main(["test", *args, "--ckpt_path", "runs/speech_commands_conv-smoke/last.ckpt"]) == 0
    config = yaml.safe_load(Path("runs/speech_commands_conv-smoke/config.yaml").read_text())
    assert config["data"]["init_args"]["rate"] == 16000
    content = torch.load("runs/speech_commands_conv-smoke/last.ckpt", weights_only=True)
    assert content["AudioDataModule"]["class_names"] == ["high", "low"]
