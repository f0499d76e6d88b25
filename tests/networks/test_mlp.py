"""Fully connected stacks: the split first layer equals one matrix, and arguments are checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.candidates import Softmax
from ff_lightning.errors import InputError
from ff_lightning.goodness import MeanOfSquares, SumOfSquares
from ff_lightning.losses import MovingThresholdLoss, SymBa
from ff_lightning.negatives import overlay_labels
from ff_lightning.networks import MLP, ClassMLP, DenseReLU, LabelledReLU, LocalFields, RecurrentMLP, SpikingMLP
from ff_lightning.networks.mlp import InputDropout, labelled_relu
from ff_lightning.normalization import Standardise, UnitLength, UnitRMS
from ff_lightning.signals import Labelled, Signal
from tests import references
from tests.training import digits

IMAGES, CLASSES = digits(11, torch.float64)
LABELS = torch.stack([CLASSES, (CLASSES + 3) % 10, torch.zeros_like(CLASSES)])


def labelled_layer(overlay: bool = True, **kwargs: float) -> LabelledReLU:
    torch.manual_seed(0)
    layer = LabelledReLU(64, 7, num_classes=10, overlay=overlay, **kwargs).double()
    nn.init.normal_(layer.image.bias)
    return layer


@pytest.mark.parametrize("num_classes", [None, 10])
def test_a_standardised_image_shows_contrasts_alone(num_classes: int | None) -> None:
    def goodness(norm: nn.Module | None, image: Tensor) -> Tensor:
        torch.manual_seed(0)
        net = MLP(64, [9, 8], num_classes=num_classes, overlay=False, image_norm=norm).double().eval()
        return net.goodness(image if num_classes is None else Labelled(image, LABELS))

    torch.testing.assert_close(goodness(Standardise(eps=1e-12), IMAGES + 0.3), goodness(Standardise(eps=1e-12), IMAGES))
    assert not torch.allclose(goodness(None, IMAGES + 0.3), goodness(None, IMAGES), rtol=1e-2)


def whole_layer(layer: LabelledReLU) -> nn.Linear:
    """One matrix put together from the label part and the image part."""
    whole = nn.Linear(10 + layer.image.in_features, 7).double()
    with torch.no_grad():
        whole.weight.copy_(torch.cat([layer.label.weight, layer.image.weight], dim=1))
        whole.bias.copy_(layer.image.bias)
    return whole


def written(layer: LabelledReLU, labels: Tensor) -> Tensor:
    """Images at unit RMS with the label in (or beside) them."""
    images = UnitRMS()(IMAGES)
    if layer.skip:
        return overlay_labels(images, labels, 10, scale=layer.label_scale)
    return torch.cat([F.one_hot(labels, 10) * layer.label_scale, images], dim=1)


@pytest.mark.parametrize("overlay", [True, False])
@pytest.mark.parametrize("scale", [10.0, 0.5])
def test_split_layer_equals_one_matrix_on_images_with_labels(overlay: bool, scale: float) -> None:
    layer = labelled_layer(overlay, label_scale=scale)
    whole = whole_layer(layer)
    weights = torch.arange(33 * 7, dtype=torch.float64).view(33, 7).sin()
    found = layer(Labelled(IMAGES, LABELS))
    expected = torch.cat([F.relu(whole(written(layer, labels))) for labels in LABELS])
    assert found.shape == (33, 7)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    by_parts = torch.cat([layer.label.weight.grad, layer.image.weight.grad], dim=1)
    torch.testing.assert_close(by_parts, whole.weight.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer.image.bias.grad, whole.bias.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("overlay", [True, False])
def test_sharing_the_image_part_equals_a_pass_for_every_label(overlay: bool) -> None:
    layer = labelled_layer(overlay)
    shared = layer(Labelled(IMAGES, LABELS))
    separate = [layer(Labelled(IMAGES, labels.unsqueeze(0))) for labels in LABELS]
    torch.testing.assert_close(shared, torch.cat(separate), rtol=1e-14, atol=0)


@pytest.mark.parametrize("overlay", [True, False])
def test_a_shared_image_part_serves_several_passes(overlay: bool) -> None:
    layer = labelled_layer(overlay)
    layer(Labelled(IMAGES, LABELS)).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in layer.parameters()]
    layer.zero_grad()
    shared = layer.image_part(IMAGES)
    before = shared.detach().clone()
    with torch.no_grad():
        judged = layer(Labelled(IMAGES, LABELS[1:], shared.detach()))
    h = layer(Labelled(IMAGES, LABELS, shared))
    assert torch.equal(shared, before)
    torch.testing.assert_close(h, layer(Labelled(IMAGES, LABELS)), rtol=1e-14, atol=0)
    assert torch.equal(judged, h[11:])
    h.square().sum().backward()
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("overlay", [True, False])
def test_an_image_without_a_label_has_no_label_input(overlay: bool) -> None:
    layer = labelled_layer(overlay)
    found = layer(IMAGES)
    assert found.shape == (11, 7)
    silent = labelled_layer(overlay, label_scale=0.0)
    torch.testing.assert_close(found, silent(Labelled(IMAGES, CLASSES.unsqueeze(0))), rtol=1e-14, atol=0)


@pytest.mark.parametrize("shape", [(11, 1, 8, 8), (11, 8, 8)])
def test_images_are_flattened(shape: tuple[int, ...]) -> None:
    layer = labelled_layer()
    labels = CLASSES.unsqueeze(0)
    assert torch.equal(layer(Labelled(IMAGES.view(shape), labels)), layer(Labelled(IMAGES, labels)))
    dense = DenseReLU(64, 5).double()
    assert torch.equal(dense(IMAGES.view(shape)), dense(IMAGES))


def test_the_contrast_of_an_image_does_not_matter() -> None:
    layer, labels = labelled_layer(), CLASSES.unsqueeze(0)
    bright = layer(Labelled(50 * IMAGES, labels))
    torch.testing.assert_close(bright, layer(Labelled(IMAGES, labels)), rtol=1e-4, atol=1e-5)


def test_dense_layer_equals_the_reference() -> None:
    layer = DenseReLU(64, 5).double()
    weight, bias = layer.linear.weight.tolist(), layer.linear.bias.tolist()
    for row, found in zip(IMAGES.tolist(), layer(IMAGES).tolist(), strict=True):
        assert found == pytest.approx(references.relu_layer(row, weight, bias), rel=1e-12)


def test_unit_inputs_start_with_pre_activations_of_unit_variance() -> None:
    torch.manual_seed(0)
    dense, labelled = DenseReLU(400, 500), LabelledReLU(400, 500, num_classes=10, overlay=False)
    x = UnitRMS()(torch.randn(100, 400))
    for linear in (dense.linear, labelled.image):
        assert linear(x).square().mean().item() == pytest.approx(1.0, rel=0.05)
        assert torch.equal(linear.bias, torch.zeros(500))
    assert labelled.label.weight.std().item() == pytest.approx(400**-0.5, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_the_split_layer_stays_close_to_itself(dtype: torch.dtype) -> None:
    layer = labelled_layer().float()
    x = Labelled(IMAGES.float(), LABELS)
    with torch.autocast("cpu", dtype):
        h = layer(x)
    assert h.dtype == dtype
    torch.testing.assert_close(h.float(), layer(x), rtol=0.05, atol=0.05)


def test_dropped_pixels_are_the_same_for_all_labels_of_an_image_and_none_in_evaluation() -> None:
    torch.manual_seed(0)
    layer, plain = labelled_layer(dropout=0.5), labelled_layer()
    same = Labelled(IMAGES, CLASSES.expand(3, -1))
    first, second, third = layer(same).chunk(3)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert not torch.equal(layer(same)[:11], first)
    layer.eval()
    assert torch.equal(layer(same), plain(same))


@pytest.mark.parametrize("num_classes", [10, None])
def test_a_stack_drops_pixels_in_its_first_block_alone(num_classes: int | None) -> None:
    network = MLP(64, [12, 8], num_classes=num_classes, dropout=0.5).double()
    torch.manual_seed(0)
    assert not torch.equal(network[0](IMAGES), network[0](IMAGES))
    h = torch.rand(3, 12, dtype=torch.float64)
    assert torch.equal(network[1](h), network[1](h))
    network.eval()
    assert torch.equal(network[0](IMAGES), network[0](IMAGES))


# The stack -----------------------------------------------------------------------------------------------------


def test_shapes_and_defaults() -> None:
    network = MLP(64, [12, 8])
    assert (network.in_features, network.num_classes, network.out_features) == (64, 10, 8)
    assert isinstance(network[0].layer, LabelledReLU)
    assert isinstance(network[1].layer, DenseReLU)
    for block in network:
        assert isinstance(block.goodness, MeanOfSquares)
        assert isinstance(block.loss, SymBa)
        assert isinstance(block.norm, UnitRMS)
        assert block.peer is None
    assert network(IMAGES.float().view(11, 1, 8, 8)).shape == (11, 8)


def test_without_classes_the_first_layer_takes_plain_images() -> None:
    network = MLP(64, [12, 8], num_classes=None)
    assert network.num_classes is None
    assert network.goodness(IMAGES.float().view(11, 1, 8, 8)).shape == (2, 11)
    dense = network[0].layer[-1]
    assert isinstance(dense, DenseReLU)
    expected = F.relu(dense.linear(UnitRMS()(IMAGES.float())))
    torch.testing.assert_close(network[0](IMAGES.float()), expected)


def test_parts_are_copied_for_every_block() -> None:
    loss, goodness, norm = MovingThresholdLoss(momentum=0.0), SumOfSquares(), UnitLength()
    network = MLP(64, [12, 8], loss=loss, goodness=goodness, norm=norm)
    for step in network.local_losses(Signal(Labelled(IMAGES.float(), LABELS[:2]))):
        del step
    assert loss.threshold.isnan()
    assert network[0].threshold.item() != network[1].threshold.item()
    for block in network:
        assert isinstance(block.goodness, SumOfSquares)
        assert isinstance(block.norm, UnitLength)
        assert block.goodness is not goodness
        assert block.norm is not norm


def test_peer_normalisation_has_the_width_of_its_block() -> None:
    network = MLP(64, [12, 8], peer_weight=0.03)
    assert [block.peer.means.value.numel() for block in network] == [12, 8]
    assert [block.peer.weight for block in network] == [0.03, 0.03]


def test_label_arguments_reach_the_first_layer() -> None:
    first = MLP(20, [4], num_classes=5, label_scale=2.5, overlay=False)[0].layer
    assert (first.num_classes, first.label_scale, first.skip) == (5, 2.5, 0)
    assert MLP(20, [4], num_classes=5)[0].layer.skip == 5


@pytest.mark.parametrize("parts", [{"num_classes": None}, {"loss": Softmax()}])
def test_what_is_asked_of_a_label_in_the_input_is_left_out_with_a_word(
    parts: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "lightning.pytorch"):
        MLP(64, [4], **parts)
        MLP(64, [4], label_scale=99.0, overlay=False)
        assert not caplog.messages
        MLP(64, [4], label_scale=99.0, overlay=False, **parts)
        MLP(64, [4], label_scale=5, **parts)
    said = "Left out of the network, whose inputs carry no label: "
    assert caplog.messages == [f"{said}`label_scale=99.0` and `overlay=False`.", f"{said}`label_scale=5`."]


@pytest.mark.parametrize(
    "build", [partial(LocalFields, (1, 8, 8), fields=[4], strides=[2], channels=[4]), partial(SpikingMLP, 64, [4])]
)
def test_other_networks_leave_it_out_alike(build: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lightning.pytorch"):
        build(num_classes=None)
        build(label_scale=3.0)
        assert not caplog.messages
        build(num_classes=None, label_scale=3.0)
    assert caplog.messages == ["Left out of the network, whose inputs carry no label: `label_scale=3.0`."]


@pytest.mark.parametrize(
    "build",
    [
        partial(MLP, 64, [4]),
        partial(LocalFields, (1, 8, 8), fields=[4], strides=[2], channels=[4]),
        partial(SpikingMLP, 64, [4]),
        partial(RecurrentMLP, 64, [4]),
    ],
)
def test_a_label_has_a_strength(build: Any) -> None:
    for scale in (math.nan, -1.0, "3"):
        with pytest.raises(InputError, match=f"Passed `label_scale={scale!r}`. .* finite and not negative"):
            build(label_scale=scale)


LISTED = "must be a list of one or more whole numbers, at least 1"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(0, [4]), "Passed `in_features=0`. `in_features` must be a whole number, at least 1."),
        (lambda: MLP("64", [4]), "Passed `in_features='64'`. `in_features` must be a whole number, at least 1."),
        (lambda: MLP(64, [4], dropout=1.0), "Passed `dropout=1.0`. `dropout` must be in [0, 1)."),
        (lambda: MLP(64, [4], dropout=-0.5), "Passed `dropout=-0.5`. `dropout` must be in [0, 1)."),
        (
            lambda: MLP(64, [4], num_classes=None, dropout=1.0),
            "Passed `dropout=1.0`. `dropout` must be in [0, 1).",
        ),
        (
            lambda: MLP(64, [4], num_classes=None, dropout=-0.5),
            "Passed `dropout=-0.5`. `dropout` must be in [0, 1).",
        ),
        (lambda: MLP(64, [4], dropout="0.5"), "Passed `dropout='0.5'`. `dropout` must be in [0, 1)."),
        *(
            (lambda kind=kind, widths=widths: kind(64, widths), f"Passed `widths={said}`. `widths` {LISTED}.")
            for kind in (MLP, ClassMLP)
            for widths, said in (
                ([], "[]"),
                ((4, 0), "(4, 0)"),
                ([-3], "[-3]"),
                (4, "4"),
                ([8.5], "[8.5]"),
                ("44", "'44'"),
                (np.array([8, 8]), "array([8, 8])"),
            )
        ),
        *(
            (
                lambda kind=kind, count=count: kind(64, [4], num_classes=count),
                f"Passed `num_classes={count}`. `num_classes` must be a whole number, at least 2, or None.",
            )
            for kind in (MLP, ClassMLP)
            for count in (1, 2.5)
        ),
        (
            lambda: MLP(10, [4], num_classes=10),
            "Passed `in_features=10` with `num_classes=10` and `overlay=True`. The label needs fewer pixels than "
            "the image has.",
        ),
        (
            lambda: DenseReLU(64, 4)(torch.zeros(2, 63)),
            "Passed samples of 63 values. The network was built with `in_features=64`.",
        ),
        (
            lambda: MLP(64, [4])(torch.zeros(2, 1, 28, 28)),
            "Passed samples of 784 values. The network was built with `in_features=64`.",
        ),
        (
            lambda: MLP(64, [4])(torch.zeros(2, 64, dtype=torch.uint8)),
            "Passed samples of dtype torch.uint8. They must be floating point, for images in [0, 1].",
        ),
        (
            lambda: DenseReLU(3, 4)(torch.zeros(2, 3, dtype=torch.long)),
            "Passed samples of dtype torch.int64. They must be floating point, for images in [0, 1].",
        ),
    ],
)
def test_input_that_cannot_work_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message


def test_with_the_label_beside_it_an_image_may_be_small() -> None:
    assert MLP(4, [3], num_classes=10, overlay=False)[0].layer.image.in_features == 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_label_picks_what_a_product_with_one_hot_labels_gives(dtype: torch.dtype) -> None:
    """Bit for bit, and so do the gradients, but for those of the weight, whose sums have another order."""
    z, labels = torch.randn(20, 30).to(dtype), torch.randint(10, (2, 20))
    found = []
    for kind in (nn.Linear, type("Other", (nn.Linear,), {})):
        torch.manual_seed(1)
        label = kind(10, 30, bias=False).to(dtype)
        part = z.clone().requires_grad_()
        h = labelled_relu(Labelled(torch.zeros(20, 5, dtype=dtype), labels, part), lambda x: x, label, 10.0)
        h.square().sum().backward()
        assert part.grad is not None
        assert label.weight.grad is not None
        found.append((h.detach(), part.grad, label.weight.grad))
    (h, to_z, to_weight), (other, other_to_z, other_to_weight) = found
    assert torch.equal(h, other)
    assert torch.equal(to_z, other_to_z)
    torch.testing.assert_close(to_weight, other_to_weight)


def test_without_gradient_activities_are_not_rounded_to_half_precision() -> None:
    z, label = torch.randn(4, 6).bfloat16(), nn.Linear(3, 6, bias=False)
    x = Labelled(torch.zeros(4, 5), torch.randint(3, (2, 4)), z)
    with torch.no_grad():
        h = labelled_relu(x, lambda x: x, label, 10.0)
    hot = F.one_hot(x.labels, 3).float() * 10
    assert h.dtype == torch.float32
    torch.testing.assert_close(h, (label(hot) + z.float()).relu().flatten(0, 1), rtol=0, atol=0)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.9999999])
def test_dropout_of_the_input(rate: float) -> None:
    """The share that it drops, the mean that it keeps; nothing is dropped outside of training."""
    torch.manual_seed(0)
    dropout, x = InputDropout(rate), torch.ones(999, 333)
    kept = dropout(x)
    dropped = (kept == 0).float()
    assert float(dropped.mean()) == pytest.approx(rate, abs=0.003)
    if rate < 0.5:
        assert float(kept.max()) == pytest.approx(1 / (1 - rate), rel=1e-4)
        for part in (dropped[::2], dropped[1::2], dropped[:, ::4], dropped[:500]):  # everywhere
            assert float(part.mean()) == pytest.approx(rate, abs=0.005)
    assert torch.isfinite(kept).all()
    assert dropout.eval()(x) is x or torch.equal(dropout(x), x)
    torch.manual_seed(0)
    assert torch.equal(dropout.train()(x), kept)
