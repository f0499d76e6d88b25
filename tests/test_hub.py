"""What is shared: a folder with safetensors weights, from which the same model comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ff_lightning.cli import main
from ff_lightning.errors import InputError
from ff_lightning.hub import SharedModel
from tests.command_line import QUIET, configs
from tests.training import digits

pytest.importorskip("safetensors", reason="safetensors is not installed")


def convolutional(folder: Path) -> str:
    """A checkpoint of two updates."""
    words = [*configs("digits_conv", "with/smoke"), *QUIET, "--trainer.default_root_dir", str(folder)]
    assert main(["fit", *words]) == 0
    return str(folder / "last.ckpt")


def there_and_back(path: str, folder: Path) -> tuple[SharedModel, SharedModel]:
    shared = SharedModel.from_checkpoint(path)
    shared.save_pretrained(folder)
    assert {file.name for file in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    return shared, SharedModel.from_pretrained(folder)


@pytest.mark.parametrize("recipe", ["digits_mlp", "digits_conv"])
def test_a_classifier_comes_back(tmp_path: Path, digits_run: Path, recipe: str) -> None:
    path = convolutional(tmp_path / "run") if recipe == "digits_conv" else str(digits_run / "last.ckpt")
    shared, loaded = there_and_back(path, tmp_path / "shared")
    images = digits(5)[0].view(5, 1, 8, 8)
    assert torch.equal(shared(images), loaded(images))
    assert not loaded.model.training
    assert loaded.data["class_names"] == [str(digit) for digit in range(10)]
    assert type(loaded.model).__name__ == "FFClassifier"
    config = json.loads((tmp_path / "shared" / "config.json").read_text())
    assert config["hyper_parameters"]["_class_path"] == "ff_lightning.FFClassifier"


def test_a_language_model_comes_back_with_its_tokenizer(tmp_path: Path, text_run: Path) -> None:
    shared, loaded = there_and_back(str(text_run / "last.ckpt"), tmp_path / "shared")
    tokens = loaded.tokenizer.encode("The value").unsqueeze(0)
    assert loaded.tokenizer.decode(tokens[0]) == "The value"
    assert torch.equal(shared(tokens), loaded(tokens))
    model: Any = loaded.model
    assert torch.equal(model.generate(tokens, 8), shared.model.generate(tokens, 8))  # type: ignore[operator]


def test_weights_must_fit_and_a_checkpoint_must_be_of_the_command_line(tmp_path: Path, digits_run: Path) -> None:
    shared, _ = there_and_back(str(digits_run / "last.ckpt"), tmp_path / "shared")
    config = json.loads((tmp_path / "shared" / "config.json").read_text())
    config["hyper_parameters"]["network"]["init_args"]["widths"] = [500, 500]
    (tmp_path / "shared" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="block"):
        SharedModel.from_pretrained(tmp_path / "shared")
    with pytest.raises(InputError, match="does not say how its network is built"):
        SharedModel({})
    assert isinstance(shared, torch.nn.Module)
