"""ConvNet: what a layer computes, sizes of blocks and goodness, locality, pairs of blocks, twin, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ff_lightning as ff
from ff_lightning.candidates import Softmax
from ff_lightning.errors import InputError
from ff_lightning.goodness import ChannelGroups, MeanOfSquares, ProjectedActivity, WeightedEnergy
from ff_lightning.networks import ConvNet, ConvReLU
from ff_lightning.signals import Signal, StepContext
from tests.training import digits

PIXELS, CLASSES = digits(12, torch.float64)
IMAGES = PIXELS.view(12, 1, 8, 8)


def network(widths: tuple[int, ...] = (6, 8, 10), **kwargs: Any) -> ConvNet:
    """A small net whose goodness has weights that are not 0."""
    torch.manual_seed(0)
    stack = ConvNet((1, 8, 8), **{"widths": widths, "pool_after": [1], "loss": Softmax()} | kwargs).double()
    for parameter in (p for block in stack for p in block.goodness.parameters()):
        nn.init.normal_(parameter)
    return stack


def signal() -> Signal:
    return Signal(IMAGES, CLASSES)


def context(update: int = 0) -> StepContext:
    return StepContext(lambda index: torch.Generator().manual_seed(index), update)


def gradients(stack: ConvNet, update: int = 0) -> list[dict[str, Tensor]]:
    """Of every block after all local losses of a batch."""
    stack.zero_grad()
    for step in stack.local_losses(signal(), context(update)):
        step.loss.backward()
    return [{n: p.grad.clone() for n, p in block.named_parameters() if p.grad is not None} for block in stack]


def assert_identical(first: list[dict[str, Tensor]], second: list[dict[str, Tensor]]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def scramble(block: nn.Module) -> None:
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("images", [IMAGES, torch.cat([IMAGES, 1 - IMAGES], 1)], ids=["gray", "two channels"])
def test_a_layer_is_convolution_norm_relu_and_pooling(images: Tensor, pool: bool) -> None:
    torch.manual_seed(0)
    layer = ConvReLU(images.shape[1], 5, pool=pool).double().eval()
    nn.init.uniform_(layer.norm.running_var, 0.5, 2.0)
    z = F.conv2d(images, layer.conv.weight, padding=1) / (layer.norm.running_var[:, None, None] + 1e-5).sqrt()
    expected = F.max_pool2d(F.relu(z), 2) if pool else F.relu(z)
    h = layer(images)
    torch.testing.assert_close(h, expected)
    assert h.is_contiguous(memory_format=torch.channels_last)


def test_every_block_has_a_goodness_of_its_size() -> None:
    stack = network(goodness=WeightedEnergy(10, grid=4))
    assert [block.goodness.weight.shape[1] for block in stack] == [6 * 16, 8 * 16, 10 * 16]
    assert stack.goodness(IMAGES).shape == (3, 12, 10)
    assert stack(IMAGES).flatten(1).shape[1] == stack.out_features == 10 * 16
    assert stack.num_classes == 10


def test_several_layers_can_make_a_block() -> None:
    stack = network((6, 8, 10, 12), layers_per_block=2)
    assert [len([m for m in block.modules() if isinstance(m, ConvReLU)]) for block in stack] == [2, 2]
    assert [block.goodness.weight.shape[1] for block in stack] == [8 * 16, 12 * 16]
    for found, block in zip(gradients(stack), stack, strict=True):
        assert found.keys() == dict(block.named_parameters()).keys()


@pytest.mark.parametrize("goodness", [WeightedEnergy(), ProjectedActivity(grid=2), ChannelGroups(10)])
@pytest.mark.parametrize("loss", [None, Softmax()], ids=["own", "softmax"])
def test_updates_of_lower_blocks_ignore_the_upper_ones_bit_for_bit(goodness: Any, loss: Softmax | None) -> None:
    stack = network((10, 20, 10), goodness=goodness, loss=loss)
    before = gradients(stack)
    scramble(stack[2])
    assert_identical(gradients(stack)[:2], before[:2])
    scramble(stack[1])
    after = gradients(stack)
    assert_identical(after[:1], before[:1])
    assert not torch.equal(next(iter(after[2].values())), next(iter(before[2].values())))


@pytest.mark.parametrize(("update", "pairs"), [(0, [(0, 1), (2, 3), (4,)]), (7, [(0,), (1, 2), (3, 4)])])
def test_overlapping_updates_reach_neighbours_and_no_further(update: int, pairs: list[tuple[int, ...]]) -> None:
    stack = network((6, 6, 6, 6, 6), overlapping=True)
    reached = []
    for step in stack.local_losses(signal(), context(update)):
        stack.zero_grad()
        step.loss.backward()
        blocks = {index for index, block in enumerate(stack) for p in block.parameters() if p.grad is not None}
        assert step.blocks == tuple(sorted(blocks))
        reached.append(step.blocks)
    assert reached == pairs


def test_a_block_whose_partner_rests_learns_alone() -> None:
    """Every block has its turn under `Greedy` and the like: in pairs that both rest, those in the middle never had."""
    stack = network((6, 6, 6), overlapping=True)
    for update in (0, 1):
        for alone in range(3):
            learning = [index == alone for index in range(3)]
            steps = list(stack.local_losses(signal(), StepContext(context(update).generator, update, learning)))
            assert [step.blocks for step in steps] == [(alone,)]


def test_the_gradient_of_a_pair_is_that_of_the_sum_of_both_losses() -> None:
    stack = network((6, 8), overlapping=True)
    found = gradients(stack)
    stack.zero_grad()
    h = stack[0](IMAGES)
    both = [F.cross_entropy(stack[0].goodness(h), CLASSES), F.cross_entropy(stack[1].goodness(stack[1](h)), CLASSES)]
    sum(both).backward()
    for block, one in zip(stack, found, strict=True):
        for name, parameter in block.named_parameters():
            torch.testing.assert_close(one[name], parameter.grad)
    (step,) = stack.local_losses(signal(), context())
    torch.testing.assert_close(step.loss - step.below.loss, both[1])


def test_the_twin_trains_all_layers_and_no_goodness() -> None:
    stack = network()
    twin = ff.BackpropTwin(stack).double()
    (step,) = twin.local_losses((IMAGES, CLASSES))
    step.loss.backward()
    without = {name for name, parameter in stack.named_parameters() if parameter.grad is None}
    assert without == {f"blocks.{index}.goodness.{name}" for index in range(3) for name in ("weight", "bias")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": ()}, "`widths` must be a list of one or more whole numbers"),
        ({"widths": 8}, "Passed `widths=8`. `widths` must be a list of one or more whole numbers"),
        ({"widths": [8.5, 8]}, r"Passed `widths=\[8.5, 8\]`"),
        ({"pool_after": 1}, "Passed `pool_after=1`. `pool_after` must be a list of whole numbers"),
        ({"layers_per_block": 1.5}, "Passed `layers_per_block=1.5`. `layers_per_block` must be a whole number"),
        ({"kernel_sizes": 3.5}, "Passed `kernel_sizes=3.5`. `kernel_sizes` must be a whole number"),
        ({"kernel_sizes": 4}, "`kernel_size` must be odd"),
        ({"kernel_sizes": [3, 3]}, r"Passed `kernel_sizes=\[3, 3\]` with 3 `widths`"),
        ({"pool_after": [3]}, "must name different layers of 0 to 2"),
        ({"widths": (4,) * 5, "pool_after": [0, 1, 2, 3]}, "nothing is left of them"),
        ({"layers_per_block": 2}, "with 3 layers. It must divide"),
        ({"goodness": MeanOfSquares()}, "Passed `goodness=MeanOfSquares`, one number a sample"),
        ({"dropout": -0.1}, "Passed `dropout=-0.1`"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(**arguments)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"Passed images of shape \(8, 8\)"):
        network()(IMAGES.squeeze(1))
