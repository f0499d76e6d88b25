"""Models that Python built: what their checkpoints say of them, and that they come back."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

import ff_lightning as ff
from ff_lightning.blocks import ClassBlock
from ff_lightning.candidates import CandidateLoss, LogisticContrast, Softmax
from ff_lightning.engine.building import Builder
from ff_lightning.engine.restoring import build_module
from ff_lightning.errors import InputError
from ff_lightning.goodness import ChannelGroups, MeanActivity
from ff_lightning.language import GPT
from ff_lightning.losses import ContrastiveLoss, SymBa, TwoThresholdLoss
from ff_lightning.negatives import HardWrongLabel
from ff_lightning.networks import (
    MLP,
    CollaborativeMLP,
    ConvNet,
    LabelBias,
    LabelledConvNet,
    RecurrentMLP,
    ResNet,
    SelfContrastConv,
)
from ff_lightning.parts import Part, Undescribed, described, kinds_of
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
    lazy = nn.LazyLinear(3)
    for value, says in (
        *((OwnLayer(3), "a `OwnLayer`"), (lambda: 3, "a `function`")),
        *((torch.zeros(1), "a `Tensor`"), (lazy, "a `LazyLinear`")),
    ):
        with pytest.raises(Undescribed, match=says):
            described(value)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: MLP(64, [8], loss="swish"), r"`MLP\(loss='swish'\)`.*an object, a `[\w.]*ContrastiveLoss` or `"),
        (lambda: MLP(64, [8], loss=SymBa), r"`MLP\(loss=SymBa\)`, a class. Pass an object of it: `SymBa\(…\)`"),
        (lambda: MLP(64, [8], loss=nn.CrossEntropyLoss()), r"`MLP\(loss=CrossEntropyLoss\)`. It must be an object"),
        (lambda: MLP(64, [8], norm={"class_path": "x"}), r"norm={'class_path': 'x'}\)`.*or `torch.nn.Module`"),
        (lambda: MLP(64, [8], goodness=ChannelGroups), r"`MLP\(goodness=ChannelGroups\)`, a class"),
        (lambda: CollaborativeMLP(64, [8], loss=3), r"`CollaborativeMLP\(loss=3\)`. It must be an object"),
        (lambda: ConvNet(loss=SymBa()), r"`ConvNet\(loss=SymBa\)`.*`ff_lightning.candidates.CandidateLoss`"),
        (lambda: GPT(30, loss=Softmax), r"`GPT\(loss=Softmax\)`, a class"),
        (lambda: SelfContrastConv((1, 8, 8), [4], losses=["x"]), r"`SelfContrastBlock\(loss='x'\)`"),
        (lambda: ff.FFClassifier(MLP(64, [8]), readout="linear"), r"`FFClassifier\(readout='linear'\)`.*Readout`"),
        (lambda: ff.FFClassifier(MLP(64, [8]), readout=nn.Linear(8, 10)), r"`FFClassifier\(readout=Linear\)`"),
        (lambda: ff.FFClassifier(MLP(64, [8]), negatives=HardWrongLabel), r"\(negatives=HardWrongLabel\)`"),
        (lambda: ff.FFClassifier(MLP(64, [8]), schedule="greedy"), r"`FFClassifier\(schedule='greedy'\)`.*Schedule`"),
        (lambda: ff.BackpropTwin(MLP(64, [8]), schedule=Staggered), r"Twin\(schedule=Staggered\)`, a class"),
    ],
)
def test_a_name_a_class_or_another_object_in_place_of_a_part_is_refused(build: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build()


def test_the_kinds_of_parts_are_known_of_every_class() -> None:
    """Else its arguments would not be checked: a name in a type may be known while types are checked alone."""

    def kinds(kind: type) -> Iterator[type]:
        for each in kind.__subclasses__():
            yield each
            yield from kinds(each)

    for kind in kinds(Part):
        assert get_type_hints(kind.__init__) is not None, kind
    assert kinds_of(MLP)["loss"] == (ContrastiveLoss, CandidateLoss)


class OwnLoss(SymBa):
    """A part of a user, with arguments of its own and of any kind."""

    def __init__(self, *parts: SymBa, loss: Any = None, **more: Any) -> None:
        super().__init__(**more)


def test_what_a_constructor_does_not_say_is_not_checked() -> None:
    OwnLoss(SymBa(), loss="swish")
    MLP(64, [8], norm=None, loss=OwnLoss(), goodness=lambda h: h.square().mean(1))


def test_copies_say_the_same() -> None:
    network = MLP(64, [20, 20], loss=SymBa(3.0))
    for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert described(copied) == described(network)
