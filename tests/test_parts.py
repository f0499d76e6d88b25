"""Models that Python built: what their checkpoints say of them, and that they come back."""

from __future__ import annotations

import copy
import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

import ff_lightning as ff
from ff_lightning.blocks import ClassBlock
from ff_lightning.candidates import LogisticContrast, Softmax
from ff_lightning.engine.building import Builder
from ff_lightning.engine.restoring import build_module
from ff_lightning.errors import InputError
from ff_lightning.goodness import ChannelGroups, MeanActivity
from ff_lightning.language import GPT
from ff_lightning.losses import SymBa, TwoThresholdLoss
from ff_lightning.negatives import HardWrongLabel
from ff_lightning.networks import MLP, ConvNet, LabelBias, LabelledConvNet, RecurrentMLP, ResNet, SelfContrastConv
from ff_lightning.parts import Undescribed, described
from ff_lightning.pretrained import load, save_pretrained
from ff_lightning.readouts import LinearReadout
from ff_lightning.schedules import Staggered
from tests.networks.every import NETWORKS
from tests.training import digits, loader, trainer


class OwnLayer(nn.Module):
    """A layer of a class that says nothing of its arguments."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(64, width)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = torch.relu(self.linear(x.flatten(1)))
        return h


def by_hand() -> ff.BlockStack:
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 20, bias=False), nn.LayerNorm(20), nn.ReLU())
    second = nn.Sequential(nn.Linear(20, 30), nn.Dropout(0.1), nn.LeakyReLU(0.2))
    return ff.BlockStack(
        [ClassBlock(layer, ChannelGroups(10, of=MeanActivity()), Softmax()) for layer in (first, second)]
    )


def self_contrast() -> ff.FFSelfContrast:
    network = SelfContrastConv((1, 8, 8), [8, 16], losses=[TwoThresholdLoss(0, 1), TwoThresholdLoss(1, 2)])
    return ff.FFSelfContrast(network, LinearReadout(48, 10, first_block=0, pool=2))


MODELS: dict[str, Any] = {
    "mlp": lambda: ff.FFClassifier(MLP(64, [20, 20], loss=SymBa(3.0)), negatives=HardWrongLabel()),
    "conv": lambda: ff.FFClassifier(ConvNet((1, 8, 8), [8, 16], pool_after=[0], loss=LogisticContrast())),
    "labelled conv": lambda: ff.FFClassifier(LabelledConvNet((1, 8, 8), [8, 8], pool_after=[0], labels=LabelBias())),
    "recurrent": lambda: ff.FFClassifier(RecurrentMLP(64, [20, 20])),
    "residual": lambda: ff.FFClassifier(ResNet((1, 8, 8), 10, stages=2, layers_per_stage=2)),
    "by hand": lambda: ff.FFClassifier(by_hand(), num_classes=10),
    "self-contrast": self_contrast,
    "twin": lambda: ff.BackpropTwin(ConvNet((1, 8, 8), [8, 16], pool_after=[0])),
    "gpt": lambda: ff.FFLanguageModel(GPT(vocab_size=30, width=16, layers=2, heads=2, context=8)),
    "twin of text": lambda: ff.BackpropTwin(GPT(vocab_size=30, width=16, layers=2, heads=2, context=8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_python_built_says_how_and_is_built_again(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    words = json.loads(json.dumps(dict(model.hparams)))
    again = build_module(words, "ckpt_path=x", type(model))
    again.load_state_dict(model.state_dict())
    x = torch.randint(0, 30, (2, 5)) if "gpt" in name or "text" in name else torch.rand(3, 1, 8, 8)
    assert torch.equal(again.eval()(x), model(x))
    assert dict(again.hparams) == words, "and what is trained further says the same"


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_says_how_it_is_built(name: str) -> None:
    network = NETWORKS[name].build()
    words = json.loads(json.dumps(described(network)))
    again = Builder("x", training=True).build(words["class_path"], words["init_args"], ff.Network)
    assert repr(again) == repr(network)
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in network.state_dict().items()
    }


def test_a_training_in_python_is_loaded_shared_and_gone_on_with(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        "lr_scheduler": partial(StepLR, step_size=5),
        "schedule": Staggered(0.1),
    }
    model = ff.FFClassifier(MLP(64, [20, 20], overlay=False), **options)
    run = trainer(tmp_path, max_steps=3)
    run.fit(model, loader(60, 20))
    run.save_checkpoint(tmp_path / "a.ckpt")
    save_pretrained(tmp_path / "a.ckpt", tmp_path / "shared")
    x = digits(5)[0]
    for place in ("a.ckpt", "shared"):
        assert torch.equal(load(tmp_path / place)(x), model.eval()(x))
    again = ff.FFClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    assert isinstance(again.schedule, Staggered)
    trainer(tmp_path, max_epochs=2).fit(again, loader(60, 20), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert again.global_step == 6


def test_hyperparameters_show_network_and_optimizer() -> None:
    hparams = ff.FFClassifier(MLP(64, [20, 20]), optimizer=partial(torch.optim.SGD, lr=0.1)).hparams
    assert hparams["optimizer"] == {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    assert hparams["network"]["init_args"] == {"in_features": 64, "widths": [20, 20]}
    assert hparams["_class_path"] == "ff_lightning.tasks.classifier.FFClassifier"


def test_what_cannot_be_written_is_named_and_what_to_pass(tmp_path: Path) -> None:
    def network() -> ff.BlockStack:
        return ff.BlockStack([ClassBlock(OwnLayer(20), ChannelGroups(10), Softmax())])

    model = ff.FFClassifier(network(), num_classes=10)
    run = trainer(tmp_path, max_steps=1)
    run.fit(model, loader(20, 20))
    run.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=r"for it has a `OwnLayer`.*`load_from_checkpoint\(path, network=…\)`"):
        load(tmp_path / "a.ckpt")
    again = ff.FFClassifier.load_from_checkpoint(tmp_path / "a.ckpt", network=network(), num_classes=10)
    x = digits(5)[0]
    assert torch.equal(again.eval()(x), model.eval()(x))


def test_a_class_of_a_package_that_is_not_trusted_is_refused_by_name() -> None:
    class_path = f"{OwnStack.__module__}.OwnStack"
    model = ff.FFClassifier(OwnStack(20))
    assert model.hparams["network"] == {"class_path": class_path, "init_args": {"width": 20}}
    with pytest.raises(InputError, match=r"names `[\w.]*OwnStack`, and only classes of ff_lightning.*--trust"):
        build_module(dict(model.hparams), "ckpt_path=x", ff.FFClassifier)
    package = class_path.split(".")[0]
    again = build_module(dict(model.hparams), "ckpt_path=x", ff.FFClassifier, trust=[package])
    assert again.network[0].layer.linear.out_features == 20


class OwnStack(ff.BlockStack):
    """A network of a class of its own, whose arguments are kept."""

    def __init__(self, width: int) -> None:
        super().__init__([ClassBlock(OwnLayer(width), ChannelGroups(10), Softmax())])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8, affine=False),
        nn.MaxPool2d(2),
        nn.Embedding(10, 4, padding_idx=0),
        nn.GELU("tanh"),
        nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Sequential(nn.Identity())),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_of_torch_are_described_so_that_they_are_built_alike(layer: nn.Module) -> None:
    words = json.loads(json.dumps(described(layer)))
    again = Builder("x").build(words["class_path"], words.get("init_args", {}), nn.Module)
    assert repr(again) == repr(layer)
    assert [value.shape for value in again.state_dict().values()] == [v.shape for v in layer.state_dict().values()]


def test_what_has_no_words_is_said() -> None:
    for value, says in ((OwnLayer(3), "a `OwnLayer`"), (lambda: 3, "a `function`"), (torch.zeros(1), "a `Tensor`")):
        with pytest.raises(Undescribed, match=says):
            described(value)


def test_copies_say_the_same() -> None:
    network = MLP(64, [20, 20], loss=SymBa(3.0))
    for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert described(copied) == described(network)
