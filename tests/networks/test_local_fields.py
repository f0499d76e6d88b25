"""Local receptive fields: loops over positions, Hinton's sizes, locality in space and between blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ff_lightning as ff
from ff_lightning.data import ImageDataModule
from ff_lightning.errors import InputError
from ff_lightning.losses import SymBa
from ff_lightning.networks import LocalFields
from ff_lightning.networks.local_fields import LocalLinear
from ff_lightning.normalization import Standardise
from ff_lightning.readouts import LinearReadout
from ff_lightning.signals import Labelled, Signal
from tests import references_hinton
from tests.training import ADAM, digits, trainer

IMAGES, CLASSES = digits(12)
IMAGES = IMAGES.view(-1, 1, 8, 8)


def network(**kwargs: Any) -> LocalFields:
    """Three blocks for the digits: grids of 3x3, 2x2 and 1x1 positions."""
    torch.manual_seed(0)
    sizes = {"channels": [5, 6, 7], "fields": [4, 2, 2], "strides": [2, 1, 1], "loss": SymBa(10.0), "num_classes": None}
    return LocalFields((1, 8, 8), **sizes | kwargs)


@pytest.mark.parametrize(
    ("grid", "field", "stride", "padding"), [((5, 4, 2), 2, 1, 0), ((4, 5, 3), 3, 2, 1), ((3, 3, 1), 3, 1, 0)]
)
def test_a_locally_connected_layer_is_a_loop_over_positions(
    grid: tuple[int, int, int], field: int, stride: int, padding: int
) -> None:
    torch.manual_seed(0)
    layer = LocalLinear(grid, 4, field=field, stride=stride, padding=padding).double()
    nn.init.normal_(layer.bias)
    x = torch.randn(3, *grid, dtype=torch.float64)
    weight, bias = layer.weight.tolist(), layer.bias.squeeze(1).tolist()
    expected = [
        references_hinton.locally_connected(row, weight, bias, field=field, stride=stride, padding=padding)
        for row in x.tolist()
    ]
    torch.testing.assert_close(layer(x).tolist(), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(layer(x.flatten(1)), layer(x))


def test_with_shared_weights_it_would_be_a_convolution() -> None:
    torch.manual_seed(0)
    layer = LocalLinear((6, 6, 2), 3, field=3, stride=1, padding=1)
    x = torch.randn(2, 6, 6, 2)
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
    kernel = layer.weight[0].view(3, 3, 2, 3).permute(3, 2, 0, 1)
    convolved = nn.functional.conv2d(x.permute(0, 3, 1, 2), kernel, padding=1).permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(layer(x), convolved, rtol=1e-4, atol=1e-5)


def test_the_defaults_are_hintons() -> None:
    net = LocalFields()
    assert net.widths == [4 * 4 * 128, 3 * 3 * 220, 2 * 2 * 512]
    assert [block.layer(h).shape[1] for block, h in zip(net, [IMAGES.new_ones(2, 1, 28, 28)], strict=False)] == [2048]
    assert net(torch.ones(2, 1, 28, 28)).shape == (2, 2048)


def test_what_stands_outside_a_field_does_not_matter() -> None:
    net = network()
    linear = net[0].layer[-1].linear
    grid = IMAGES.movedim(1, -1).clone()
    before = linear(grid).view(-1, 3, 3, 5)
    grid[:, 4:, :] += 1.0
    after = linear(grid).view(-1, 3, 3, 5)
    assert torch.equal(before[:, 0], after[:, 0])
    assert (before[:, 1:] != after[:, 1:]).any(-1).all()


@pytest.mark.parametrize("num_classes", [None, 10])
def test_a_block_trains_its_own_parameters_alone(num_classes: int | None) -> None:
    net = network(num_classes=num_classes, peer_weight=0.1)
    wrong = (CLASSES + 1) % 10
    signal = Signal.pair(IMAGES, IMAGES.flip(0))
    if num_classes:
        signal = Signal(Labelled(IMAGES, torch.stack([CLASSES, wrong])))
    for step in net.local_losses(signal):
        net.zero_grad()
        step.loss.backward()
        touched = {name.split(".")[1] for name, p in net.named_parameters() if p.grad is not None}
        assert touched == {str(step.block)}
        own = net[step.block]
        assert all(p.grad is not None and p.grad.any() for p in own.parameters())


def test_a_label_reaches_every_unit_of_the_first_block() -> None:
    net = network(num_classes=10)
    layer = net[0].layer
    labels = torch.stack([CLASSES, (CLASSES + 1) % 10])
    h = layer(Labelled(IMAGES, labels))
    parts = layer.image_part(IMAGES).repeat(2, 1) + 10.0 * layer.label.weight.T[labels.flatten()]
    torch.testing.assert_close(h, parts.relu(), rtol=1e-5, atol=1e-5)
    assert torch.equal(layer(Labelled(IMAGES, labels, layer.image_part(IMAGES))), h)
    assert torch.equal(layer(IMAGES), layer.image_part(IMAGES).relu())


@pytest.mark.parametrize("num_classes", [None, 10])
def test_a_standardised_image_shows_contrasts_alone(num_classes: int | None) -> None:
    image = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    plain, standardised = (
        network(num_classes=num_classes, image_norm=norm).double().eval() for norm in (None, Standardise(eps=1e-12))
    )
    torch.testing.assert_close(standardised(image + 0.3), standardised(image))
    assert not torch.allclose(plain(image + 0.3), plain(image), rtol=1e-2)


def test_the_brightness_of_an_image_does_not_matter() -> None:
    net = network()
    torch.testing.assert_close(net.goodness(3 * IMAGES), net.goodness(IMAGES), rtol=1e-4, atol=1e-5)


WIDE = {"channels": [24, 48, 96]}


@pytest.mark.parametrize("how", ["labels", "no labels", "twin"])
def test_it_learns_digits(how: str, tmp_path: Path) -> None:
    task: ff.FFLightningModule
    if how == "labels":
        net = network(num_classes=10, loss=SymBa(20.0), label_scale=3.0, **WIDE)
        task = ff.FFClassifier(net, optimizer=ADAM)
    elif how == "no labels":
        net = network(peer_weight=0.03, **WIDE)
        task = ff.FFRepresentation(net, LinearReadout(sum(net.widths), 10, first_block=0), optimizer=ADAM)
    else:
        task = ff.BackpropTwin(network(**WIDE), num_classes=10, optimizer=ADAM)
    run = trainer(tmp_path, max_epochs=6, num_sanity_val_steps=0)
    run.fit(task, ImageDataModule("digits", batch_size=50))
    assert run.callback_metrics["val/accuracy"] > 0.85


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"fields": [9, 2, 2]}, "Passed a field of 9 by 9 with padding 0 over a grid of 8 by 8"),
        ({"fields": [4, 2]}, r"Passed `fields=\[4, 2\]` with 3 `channels`"),
        ({"strides": [2, 0, 1]}, r"Passed `strides=\[2, 0, 1\]`"),
        ({"paddings": [0, 0, -1]}, r"Passed `paddings=\[0, 0, -1\]`"),
        ({"channels": []}, "`channels` must be a list of one or more whole numbers"),
        ({"fields": 3}, "Passed `fields=3`. `fields` must be a list"),
        ({"dropout": 1.0}, "`dropout` must be in"),
    ],
)
def test_sizes_that_make_no_sense(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(**kwargs)


def test_images_of_another_size() -> None:
    with pytest.raises(InputError, match="Passed samples of 49 values"):
        network()(Tensor(2, 1, 7, 7))
