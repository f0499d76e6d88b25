"""ResNet against DeeperForward written down plainly; sizes; the twin."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import ff_lightning as ff
from ff_lightning.errors import InputError
from ff_lightning.networks import ResNet
from ff_lightning.signals import Signal
from tests import references_conv
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
