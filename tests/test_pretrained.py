"""What is shared: a folder with safetensors weights, from which the same model comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import ff_lightning as ff
from ff_lightning.cli import main
from ff_lightning.engine.restoring import build_module
from ff_lightning.errors import InputError
from ff_lightning.pretrained import load, save_pretrained
from tests.training import digits, loader, trainer

pytest.importorskip("safetensors", reason="safetensors is not installed")
RECIPES = Path(__file__).parents[1] / "recipes"
pytestmark = pytest.mark.usefixtures("blank_pictures")


def trained(tmp_path: Path, recipe: str, *few: str) -> str:
    """A checkpoint of two updates."""
    configs = [word for name in (recipe, "with/smoke") for word in ("--config", str(RECIPES / f"{name}.yaml"))]
    assert main(["fit", *configs, "--trainer.default_root_dir", str(tmp_path), *few]) == 0
    return str(tmp_path / "last.ckpt")


def there_and_back(path: str, folder: Path) -> tuple[ff.FFLightningModule, ff.FFLightningModule]:
    save_pretrained(path, folder)
    assert {file.name for file in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    return load(path), load(folder)


@pytest.mark.parametrize("recipe", ["digits_mlp", "digits_conv"])
def test_a_classifier_comes_back(tmp_path: Path, recipe: str) -> None:
    first, loaded = there_and_back(trained(tmp_path / "run", recipe), tmp_path / "shared")
    images = digits(5)[0].view(5, 1, 8, 8)
    assert torch.equal(first(images), loaded(images))
    assert not loaded.training
    assert loaded.class_names == [str(digit) for digit in range(10)]
    assert loaded.image_shape == [1, 8, 8]
    assert type(loaded).__name__ == "FFClassifier"
    config = json.loads((tmp_path / "shared" / "config.json").read_text())
    assert config["hyper_parameters"]["_class_path"] == "ff_lightning.FFClassifier"


def test_a_language_model_comes_back_with_its_tokenizer(tmp_path: Path) -> None:
    few = ["--model.network.width", "32", "--data.context", "16"]
    first, loaded = there_and_back(trained(tmp_path / "run", "pydoc_gpt", *few), tmp_path / "shared")
    tokens = loaded.tokenizer.encode("The value").unsqueeze(0)
    assert loaded.tokenizer.decode(tokens[0]) == "The value"
    assert torch.equal(first(tokens), loaded(tokens))
    assert torch.equal(loaded.generate(tokens, 8), first.generate(tokens, 8))


@pytest.mark.parametrize(
    ("recipes", "tier"),
    [
        (["digits_mlp"], "T1: "),
        (["digits_conv", "with/twin"], "backprop |"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_card_says_tier_accuracy_and_how_to_load(tmp_path: Path, recipes: list[str], tier: str) -> None:
    few = [word for name in recipes[1:] for word in ("--config", str(RECIPES / f"{name}.yaml"))]
    trained(tmp_path / "run", recipes[0], *few)
    best = tmp_path / "run" / "best.ckpt"
    save_pretrained(best, tmp_path / "shared", results={"test/accuracy": 0.25})
    card = (tmp_path / "shared" / "README.md").read_text()
    (state,) = [one for name, one in torch.load(best)["callbacks"].items() if name == "BestCheckpoint"]
    assert f"| tier | {tier}" in card
    assert f"| `val/accuracy`, best of its training | {float(state['best_model_score']):.4f} |" in card
    assert "| test/accuracy | 0.2500 |" in card
    assert "| training | 2 updates, 1 epochs |" in card
    assert "ff.load(" in card
    assert ("no backprop between blocks" in card) == (tier[0] == "T" and tier[:2] != "T3")


def test_what_is_loaded_can_be_trained_further_and_kept(tmp_path: Path) -> None:
    path = trained(tmp_path / "run", "digits_mlp", "--model.network.widths", "[32, 32]")
    module = ff.FFClassifier.load_from_checkpoint(path)
    run = trainer(tmp_path, max_steps=1)
    run.fit(module, loader(40, 20))
    run.save_checkpoint(tmp_path / "further.ckpt")
    assert load(tmp_path / "further.ckpt").network[0].layer.image.out_features == 32


def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path = trained(tmp_path / "run", "digits_mlp", "--model.network.widths", "[32, 32]")
    save_pretrained(path, tmp_path / "shared")
    (tmp_path / "empty").mkdir()
    for source, says in (
        (tmp_path / "empty", r"It holds no `config\.json`"),
        (tmp_path / "none.ckpt", "There is no such file"),
        ("nobody/nothing-at-all", "the hub has no such model"),
        (tmp_path / "shared" / "config.json", "no checkpoint"),
    ):
        with pytest.raises(InputError, match=says):
            load(source)
    with pytest.raises(InputError, match="does not say how its network is built"):
        build_module({}, "ckpt_path=x", ff.FFClassifier)
