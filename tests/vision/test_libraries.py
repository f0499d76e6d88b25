"""Models of torchvision and timm: where they are cut, what they compute then, and that they are kept."""

from __future__ import annotations

import json
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ff_lightning as ff
from ff_lightning.cli import main
from ff_lightning.conversion import convert
from ff_lightning.errors import InputError
from ff_lightning.pretrained import save_pretrained
from ff_lightning.signals import Signal
from tests.training import ADAM, digits, trainer

pytestmark = pytest.mark.filterwarnings("ignore")


def torchvision(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return getattr(import_module("torchvision.models"), name)(weights=None, num_classes=10, **options)


def timm(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return import_module("timm").create_model(name, num_classes=10, **options)


TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
MODELS: dict[str, tuple[Any, int]] = {
    "resnet18": (torchvision, 5),
    "resnet50": (torchvision, 5),
    "vgg11": (torchvision, 5),
    "mobilenet_v2": (torchvision, 9),
    "mobilenet_v3_small": (torchvision, 7),
    "efficientnet_b0": (torchvision, 9),
    "convnext_tiny": (torchvision, 4),
    "densenet121": (torchvision, 8),
    "regnet_y_400mf": (torchvision, 5),
    "swin_t": (torchvision, 5),
    "vit_b_16": (partial(torchvision, image_size=32), 12),
    "timm resnet18": (timm, 5),
    "timm convnext_atto": (timm, 4),
    "timm efficientnet_b0": (timm, 9),
    "timm mobilenetv3_small_100": (timm, 7),
    "timm vit_tiny_patch16_224": (partial(timm, **TINY), 3),
    "timm deit_tiny_patch16_224": (partial(timm, img_size=32), 12),
    "timm swin_tiny_patch4_window7_224": (partial(timm, img_size=56), 4),
}


def built(name: str) -> Any:
    return MODELS[name][0](name.removeprefix("timm "))


def shape_of(name: str) -> tuple[int, ...] | None:
    """Of images that are smaller than by default, where the model does not say itself which it takes."""
    return None if "vit" in name or "deit" in name or "timm swin" in name else (3, 64, 64)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_cut_at_its_stages(name: str) -> None:
    network = convert(built(name), example=shape_of(name))
    assert (len(network), network.num_classes) == (MODELS[name][1], 10)
    assert sum(p.numel() for p in network[0].layer.parameters()) > 0


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "convnext_tiny", "vit_b_16", "timm vit_tiny_patch16_224"])
def test_in_blocks_it_computes_what_it_did_up_to_its_head(name: str) -> None:
    """Without a norm between blocks: pooled as the model pools, its head gives the same scores."""
    model = built(name).eval()
    network = convert(model, example=shape_of(name), norm=nn.Identity()).eval()
    x = torch.rand(2, *network.input_shape)
    with torch.no_grad():
        *_, h = network.activities(x)
        expected = model(x)
        if h.dim() == 4:
            kind = "head" if hasattr(model, "head") else "classifier" if hasattr(model, "classifier") else "fc"
            rest: Any = getattr(model, kind)
            pooled = model.avgpool(h) if hasattr(model, "avgpool") else h.mean((2, 3), keepdim=True)
            found = rest(pooled if name == "convnext_tiny" else pooled.flatten(1))
        else:
            found = model.heads(h[:, 0]) if hasattr(model, "heads") else model.head(h[:, 0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "timm vit_tiny_patch16_224"])
def test_gradients_stay_in_their_block(name: str) -> None:
    network = convert(built(name), example=shape_of(name))
    for block in network:
        for weight in block.goodness.parameters():
            nn.init.normal_(weight)  # from 0 nothing reaches the layers
    images = torch.rand(4, *network.input_shape)
    for index, step in enumerate(network.local_losses(Signal(images, torch.arange(4)))):
        network.zero_grad()
        step.loss.backward()
        assert {key.split(".")[1] for key, p in network.named_parameters() if p.grad is not None} == {str(index)}


def images(count: int) -> tuple[Tensor, Tensor]:
    pixels, classes = digits(count)
    return nn.functional.interpolate(pixels.view(-1, 1, 8, 8), 32).expand(-1, 3, -1, -1), classes


@pytest.mark.parametrize("name", ["resnet18", "timm vit_tiny_patch16_224"])
def test_it_learns_is_kept_by_name_and_comes_back(name: str, tmp_path: Path) -> None:
    x, y = images(700)
    maker = partial(import_module("timm").create_model, "vit_tiny_patch16_224", num_classes=10, **TINY)
    source = built(name) if name == "resnet18" else maker
    torch.manual_seed(0)
    model = ff.FFClassifier(convert(source, example=(3, 32, 32)), optimizer=ADAM)
    model.seed = 0
    run = trainer(tmp_path, max_epochs=3 if name == "resnet18" else 8)
    run.fit(model, DataLoader(TensorDataset(x[:500], y[:500]), 50), DataLoader(TensorDataset(x[500:], y[500:]), 100))
    assert float(run.callback_metrics["val/accuracy"]) > (0.7 if name == "resnet18" else 0.2)
    run.save_checkpoint(tmp_path / "model.ckpt")
    save_pretrained(tmp_path / "model.ckpt", tmp_path / "shared")
    described = json.loads((tmp_path / "shared" / "config.json").read_text())["hyper_parameters"]["network"]
    assert described["class_path"] == "ff_lightning.conversion.ConvertedStack"
    expected = model.eval()(x[500:510])
    for place in ("model.ckpt", "shared"):
        assert torch.equal(ff.load(tmp_path / place)(x[500:510]), expected)
    run.validate(ff.load(tmp_path / "model.ckpt"), DataLoader(TensorDataset(x[500:], y[500:]), 100), verbose=False)


def test_names_that_fetch_weights_or_code_are_refused(tmp_path: Path) -> None:
    from ff_lightning.engine.restoring import build_module

    described = dict(ff.FFClassifier(convert(built("resnet18"), example=(3, 32, 32))).hparams)
    bad = [
        ({"class_path": "torchvision.models.resnet18", "init_args": {"weights": "DEFAULT"}}, "passes `weights`"),
        ({"class_path": "torchvision.models.get_model", "init_args": {"name": "resnet18"}}, "no constructor"),
        ({"class_path": "torchvision.models.segmentation.fcn_resnet50", "init_args": {}}, "no constructor"),
        ({"class_path": "timm.create_model", "init_args": {"model_name": "hf-hub:a/b"}}, "no name of a model"),
        (
            {"class_path": "timm.create_model", "init_args": {"model_name": "resnet18", "pretrained": True}},
            "pretrained",
        ),
        (
            {"class_path": "timm.create_model", "init_args": {"model_name": "x", "checkpoint_path": "a"}},
            "checkpoint_path",
        ),
        ({"class_path": "timm.models.load_checkpoint", "init_args": {}}, "no constructor"),
    ]
    for model, says in bad:
        arguments = {**described["network"]["init_args"], "model": model}
        network = {**described["network"], "init_args": arguments}
        with pytest.raises(InputError, match=says):
            build_module({**described, "network": network}, "ckpt_path=x", ff.FFClassifier)


def test_a_recipe_names_a_model_and_the_command_line_uses_it(tmp_path: Path) -> None:
    recipe = tmp_path / "vit.yaml"
    recipe.write_text(RECIPE)
    folder = tmp_path / "run"
    words = ["--config", str(recipe), "--trainer.default_root_dir", str(folder)]
    assert main(["fit", *words]) == 0
    assert main(["test", *words]) == 0
    assert main(["export", "--ckpt_path", str(folder / "last.ckpt"), "--output", str(tmp_path / "vit.pt2")]) == 0
    own: Any = ff.load(folder / "last.ckpt")
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(torch.export.load(tmp_path / "vit.pt2").module()(x), own(x), rtol=1e-4, atol=1e-5)


RECIPE = """
trainer:
  accelerator: cpu
  max_steps: 4
  log_every_n_steps: 1
  enable_progress_bar: false
model:
  class_path: ff_lightning.FFClassifier
  init_args:
    network:
      class_path: ff_lightning.conversion.ConvertedStack
      init_args:
        model:
          class_path: timm.create_model
          init_args:
            model_name: vit_tiny_patch16_224
          dict_kwargs: {num_classes: 10, img_size: 8, patch_size: 4, in_chans: 1, embed_dim: 24, depth: 2, num_heads: 2}
data:
  class_path: ff_lightning.data.ImageDataModule
  init_args:
    source: digits
"""
