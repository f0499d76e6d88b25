"""ResNet against DeeperForward written down plainly; sizes; the twin; the recipe under predsim."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import ff_lightning as ff
from ff_lightning.errors import InputError
from ff_lightning.losses import SimilarityMatching
from ff_lightning.networks import ResNet
from ff_lightning.signals import Signal
from tests import references_conv
from tests.command_line import RECIPES
from tests.training import digits

PIXELS, CLASSES = digits(6, torch.float64)
IMAGES = PIXELS.view(6, 1, 8, 8)


def network(**kwargs: Any) -> ResNet:
    torch.manual_seed(0)
    arguments = {"stages": 3, "layers_per_stage": 2, "dropout": 0.0} | kwargs
    return ResNet((1, 8, 8), 10, **arguments).double()


@pytest.mark.parametrize("layers", [2, 4])
def test_goodness_and_gradients_equal_the_paper(layers: int) -> None:
    stack = network(layers_per_stage=layers, stages=2)
    convolutions = [module for module in stack.modules() if isinstance(module, torch.nn.Conv2d)]
    filters = [conv.weight.detach().clone().requires_grad_() for conv in convolutions]
    assert len(filters) == len(stack) == 2 * layers + 1
    expected = references_conv.deeper_forward(IMAGES, filters, 10, layers)
    torch.testing.assert_close(stack.goodness(IMAGES), torch.stack(expected).detach())
    for step, g in zip(stack.local_losses(Signal(IMAGES, CLASSES)), expected, strict=True):
        reference = F.cross_entropy(g, CLASSES)
        torch.testing.assert_close(step.loss, reference)
        step.loss.backward()
        reference.backward()
    for conv, weight in zip(convolutions, filters, strict=True):
        torch.testing.assert_close(conv.weight.grad, weight.grad)


def test_a_layer_leaks_below_zero_by_its_slope() -> None:
    x = torch.randn(3, 10, 8, 8, dtype=torch.float64)
    for slope in (0.0, 0.2):
        layer = network(slope=slope)[1].layer
        torch.testing.assert_close(layer(x), F.leaky_relu(layer.conv(x), slope))


def test_the_recipe_takes_predsim_and_keeps_its_readout(few_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FF_LIGHTNING_DATA", str(few_images))
    monkeypatch.syspath_prepend(str(RECIPES / "benchmarks"))
    load = importlib.import_module("recipe").load
    model = load(["cifar_resnet", "with/predsim"], ["--model.network.width", "10"]).model
    images, classes = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    assert all(isinstance(block.matching, SimilarityMatching) for block in model.network)
    assert {block.layer.slope for block in list(model.network)[1:]} == {0.01}
    for step in model.network.local_losses(Signal(images, classes)):
        step.loss.backward()
    assert all(parameter.grad is not None for parameter in model.network.parameters())
    assert model.readout.combine(model.network.goodness(images)).shape == (2, 10)


def test_the_papers_network_has_17_layers_of_100_to_800_channels() -> None:
    with torch.device("meta"):
        stack = ResNet()
    layers = [module for module in stack.modules() if isinstance(module, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in layers] == [100] * 5 + [200] * 4 + [400] * 4 + [800] * 4
    assert [layer.stride[0] for layer in layers] == [1] * 5 + [2, 1, 1, 1] * 3


def test_the_twin_reaches_every_filter() -> None:
    twin = ff.BackpropTwin(network()).double()
    (step,) = twin.local_losses((IMAGES, CLASSES))
    step.loss.backward()
    assert all(parameter.grad is not None for parameter in twin.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 4}, "Passed `width=10` with `num_classes=4`"),
        ({"layers_per_stage": 3}, "each of an even number of layers"),
        ({"stages": 5}, "must be multiples of 16"),
        ({"dropout": 1.0}, "Passed `dropout=1.0`"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(**arguments)
