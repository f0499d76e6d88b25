"""LabelledConvNet: a layer in plain loops, sweeps, locality, how far a label reaches, tasks around it, errors."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ff_lightning as ff
from ff_lightning.data import ImageDataModule
from ff_lightning.errors import InputError
from ff_lightning.losses import SymBa
from ff_lightning.negatives import HardWrongLabel
from ff_lightning.networks import LabelBias, LabelledConvNet, LabelPart, LearnedPlanes, WavePlanes
from ff_lightning.optim import MuonAdamW
from ff_lightning.readouts import GoodnessReadout, LinearReadout, label_goodness
from ff_lightning.readouts.early_exit import EarlyExit, lead
from ff_lightning.signals import Labelled, Signal
from tests import references_conv
from tests.training import ADAM, assert_same_weights, digits, trainer, weights

PIXELS, CLASSES = digits(12, torch.float64)
IMAGES = PIXELS.view(12, 1, 8, 8)
WRONG = (CLASSES + 3) % 10
PAIR = Signal(Labelled(IMAGES, torch.stack([CLASSES, WRONG])))
PARTS = pytest.mark.parametrize("labels", [WavePlanes(), LearnedPlanes(), LabelBias()], ids=["waves", "planes", "bias"])


def network(labels: LabelPart | None = None, widths: tuple[int, ...] = (6, 8, 10), **kwargs: Any) -> LabelledConvNet:
    """A small net with the same weights at every call."""
    torch.manual_seed(0)
    return LabelledConvNet((1, 8, 8), widths, **{"pool_after": [1], "loss": SymBa(10.0), "labels": labels} | kwargs)


def double(labels: LabelPart | None = None, **kwargs: Any) -> LabelledConvNet:
    net = network(labels, **kwargs).double()
    for block in net:
        nn.init.normal_(block.layer.image.bias, std=0.1)
    return net


def gradients(net: LabelledConvNet) -> list[dict[str, Tensor]]:
    """Of every block after all local losses of a batch."""
    net.zero_grad()
    for step in net.local_losses(PAIR):
        step.loss.backward()
    return [{n: p.grad.clone() for n, p in block.named_parameters() if p.grad is not None} for block in net]


@PARTS
def test_a_layer_is_a_convolution_over_the_image_and_the_plane_of_its_label(labels: LabelPart) -> None:
    layer = double(labels)[0].layer
    found = layer(Labelled(IMAGES, PAIR.h.labels))
    assert found.is_contiguous(memory_format=torch.channels_last)
    images = layer.norm(IMAGES).tolist()
    if isinstance(labels, LabelBias):  # a plane would be less bright at the borders, so it is part of the bias
        filters = torch.cat([layer.image.weight, torch.zeros(6, 1, 3, 3)], 1).tolist()
        shifts = layer.image.bias + labels.scale * layer.label.weight
        told = [(torch.zeros(8, 8).tolist(), shift.tolist()) for shift in shifts]
    else:
        filters = torch.cat([layer.image.weight, layer.label.filters], 1).tolist()
        planes = labels.scale * layer.label.planes.squeeze(1)
        told = [(plane.tolist(), layer.image.bias.tolist()) for plane in planes]
    for row, (image, label) in enumerate([*zip(images, CLASSES, strict=True), *zip(images, WRONG, strict=True)]):
        plane, bias = told[int(label)]
        expected = references_conv.labelled_layer(image, plane, filters, bias)
        torch.testing.assert_close(found[row].tolist(), expected, rtol=1e-9, atol=1e-9)


@PARTS
@pytest.mark.parametrize("pool_after", [[0], [2]])
def test_a_sweep_over_labels_is_one_pass_a_label(labels: LabelPart, pool_after: list[int]) -> None:
    net = double(labels, pool_after=pool_after)
    found = label_goodness(net, IMAGES, 10)
    assert found.shape == (3, 12, 10)
    for label in range(10):
        alone = net.goodness(Labelled(IMAGES, torch.full((1, 12), label)))
        torch.testing.assert_close(found[:, :, label], alone)
    for row, image in enumerate(IMAGES.split(1)):
        torch.testing.assert_close(label_goodness(net, image, 10), found[:, row : row + 1])


@PARTS
def test_the_image_part_is_computed_once(labels: LabelPart) -> None:
    layer = double(labels)[0].layer
    x = Labelled(IMAGES, PAIR.h.labels)
    layer(x).square().sum().backward()
    expected = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    shared = layer.image_part(IMAGES)
    before = shared.detach().clone()
    h = layer(Labelled(IMAGES, x.labels, shared))
    assert torch.equal(shared, before)
    assert torch.equal(h, layer(x))
    h.square().sum().backward()
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@PARTS
def test_the_label_reaches_the_last_block(labels: LabelPart) -> None:
    """And there its effect differs from image to image: neither image nor label alone says the goodness."""
    goodness = label_goodness(double(labels), IMAGES, 10)[-1]
    assert goodness.std(-1).min() > 1e-3
    alone = goodness.mean(0, keepdim=True) + goodness.mean(1, keepdim=True) - goodness.mean()
    assert (goodness - alone).abs().mean() > 1e-3


def test_blocks_are_told_the_label_once_or_each() -> None:
    told = {kind: [block.layer.label is not None for block in network(kind())] for kind in (WavePlanes, LabelBias)}
    assert told == {WavePlanes: [True, False, False], LabelBias: [True, True, True]}
    net = double(LabelBias())
    before = label_goodness(net, IMAGES, 10)
    with torch.no_grad():
        net[2].layer.label.weight.zero_()
    after = label_goodness(net, IMAGES, 10)
    assert torch.equal(before[:2], after[:2])
    assert not torch.allclose(before[2], after[2])


@PARTS
def test_updates_of_lower_blocks_ignore_the_upper_ones_bit_for_bit(labels: LabelPart) -> None:
    net = double(labels)
    before = gradients(net)
    for block, found in zip(net, before, strict=True):
        assert found.keys() == dict(block.named_parameters()).keys()
        assert all(gradient.any() for gradient in found.values())
    for index in (2, 1):
        with torch.no_grad():
            for parameter in net[index].parameters():
                parameter.add_(torch.randn_like(parameter))
        for one, other in zip(before[:index], gradients(net), strict=False):
            assert all(torch.equal(one[name], other[name]) for name in one)


@PARTS
def test_a_loss_reaches_one_block(labels: LabelPart) -> None:
    net = double(labels)
    for step in net.local_losses(PAIR):
        net.zero_grad()
        step.loss.backward()
        touched = {name.split(".")[1] for name, p in net.named_parameters() if p.grad is not None}
        assert touched == {str(step.block)}


@PARTS
def test_an_early_exit_sees_what_a_sweep_sees(labels: LabelPart) -> None:
    net = double(labels)
    goodness = label_goodness(net, IMAGES, 10)
    margins = [float(lead(scores).median()) for scores in goodness.cumsum(0)[:-1]]
    answer = EarlyExit(margins).answer(net, IMAGES, 10)
    assert len(answer.block.unique()) > 1
    for row, block in enumerate(answer.block.tolist()):
        torch.testing.assert_close(answer.scores[row], goodness[: block + 1, row].sum(0), check_dtype=False)


@PARTS
def test_images_without_a_label_are_told_nothing(labels: LabelPart) -> None:
    net = double(labels)
    layer = net[0].layer
    torch.testing.assert_close(layer(IMAGES), layer.image_part(IMAGES).relu())
    twin = ff.BackpropTwin(net).double()
    (step,) = twin.local_losses((IMAGES, CLASSES))
    step.loss.backward()
    silent = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    assert silent == {name for name, _ in net.named_parameters() if ".label." in name}


def classifier(labels: LabelPart, **kwargs: Any) -> ff.FFClassifier:
    module = ff.FFClassifier(network(labels), **{"negatives": HardWrongLabel(0.1), "optimizer": ADAM} | kwargs)
    module.seed = 0
    return module


def data() -> ImageDataModule:
    return ImageDataModule("digits", batch_size=50, limit=300)


@PARTS
def test_streamed_and_fused_updates_are_the_same_and_resume(labels: LabelPart, tmp_path: Path) -> None:
    found = []
    for update in ("streamed", "fused"):
        module = classifier(labels, update=update)
        trainer(tmp_path, max_steps=6, max_epochs=-1).fit(module, data())
        found.append(weights(module))
    assert_same_weights(*found, rtol=1e-5, atol=1e-6)
    first, second = classifier(labels), classifier(labels)
    run = trainer(tmp_path, max_steps=2, max_epochs=-1)
    run.fit(first, data())
    run.save_checkpoint(tmp_path / "stop.ckpt")
    for parameter in second.parameters():
        nn.init.zeros_(parameter)
    later = trainer(tmp_path, max_steps=6, max_epochs=-1)
    later.fit(second, data(), ckpt_path=tmp_path / "stop.ckpt", weights_only=True)
    assert_same_weights(found[0], weights(second))


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (WavePlanes(), {}),
        (LearnedPlanes(), {"negatives": HardWrongLabel(0.025)}),
        (LabelBias(), {"negatives": HardWrongLabel(0.025, blocks=2), "readout": GoodnessReadout(first_block=1)}),
        (WavePlanes(), {"readout": LinearReadout(64 * 16 + 64 * 16, 10), "optimizer": ADAM}),
    ],
    ids=["waves", "planes, hard", "bias, but first", "linear readout"],
)
def test_it_learns_digits(labels: LabelPart, task: dict[str, Any], tmp_path: Path) -> None:
    net = network(labels, (32, 64, 64), loss=SymBa(40.0), pool_after=[0])
    module = ff.FFClassifier(net, **{"optimizer": partial(MuonAdamW, lr=4e-3)} | task)
    run = trainer(tmp_path, max_epochs=4, num_sanity_val_steps=0, check_val_every_n_epoch=4)
    run.fit(module, ImageDataModule("digits", batch_size=50))
    assert run.callback_metrics["val/accuracy"] > 0.85
    assert run.callback_metrics["val/separation/block_2"] > 0.85


@PARTS
def test_bfloat16_keeps_activities_narrow_and_goodness_wide(labels: LabelPart) -> None:
    net = network(labels)
    with torch.autocast("cpu", torch.bfloat16):
        x = Labelled(IMAGES.float(), PAIR.h.labels)
        assert {h.dtype for h in net.activities(x)} == {torch.bfloat16}
        narrow = net.goodness(x)
        for step in net.local_losses(Signal(x)):
            step.loss.backward()
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, net.goodness(x), rtol=0.05, atol=0.05)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": 3}, "Passed `widths=3`. `widths` must be a list of one or more whole numbers"),
        ({"kernel_sizes": 4}, "`kernel_size` must be odd"),
        ({"pool_after": [3]}, "must name different layers of 0 to 2"),
        ({"num_classes": 1}, "Passed `num_classes=1`"),
        ({"norm": nn.BatchNorm2d(6)}, "Passed `norm=BatchNorm2d` with parameters"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(**arguments)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"Passed images of shape \(8, 8\)"):
        label_goodness(double(), IMAGES.squeeze(1), 10)
