"""Readouts: all labels at once equal one label after the other; the linear softmax teaches no block."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ff_lightning.blocks import ClassBlock, ContrastiveBlock
from ff_lightning.candidates import Softmax
from ff_lightning.errors import InputError
from ff_lightning.goodness import ChannelGroups, MeanOfSquares
from ff_lightning.losses import SymBa
from ff_lightning.networks import MLP, ClassMLP, ConvNet, DenseReLU
from ff_lightning.readouts import (
    ChosenBlocks,
    GoodnessReadout,
    LastBlock,
    LinearReadout,
    MeanLogProbability,
    NestedReadout,
    label_goodness,
)
from ff_lightning.signals import Labelled
from ff_lightning.stacks import BlockStack
from tests import references, references_scff
from tests.training import assert_same_weights, digits, weights

IMAGES, CLASSES = digits(9, torch.float64)


def network(num_classes: int | None = 10, dtype: torch.dtype = torch.float64) -> MLP:
    torch.manual_seed(0)
    return MLP(64, [12, 10, 8], num_classes=num_classes).to(dtype)


def trained_readout(first_block: int) -> LinearReadout:
    """A readout with weights of its own, as a new one has zeros."""
    readout = LinearReadout({0: 30, 1: 18, 2: 8}[first_block], 10, first_block=first_block).double()
    torch.manual_seed(1)
    torch.nn.init.normal_(readout.linear.weight)
    return readout


@pytest.mark.parametrize("shape", [(9, 64), (9, 1, 8, 8)])
def test_goodness_of_all_labels_equals_a_loop_over_labels(shape: tuple[int, ...]) -> None:
    stack, images = network(), IMAGES.view(shape)
    found = label_goodness(stack, images, 10)
    assert found.shape == (3, 9, 10)
    assert not found.requires_grad
    for label in range(10):
        one = stack.goodness(Labelled(images, torch.full((1, 9), label)))
        torch.testing.assert_close(found[:, :, label], one, rtol=1e-12, atol=0)


def test_goodness_of_all_labels_equals_the_reference() -> None:
    stack = network()
    first = stack[0].layer
    weight = torch.cat([first.label.weight, first.image.weight], dim=1).tolist()
    layers = [(weight, first.image.bias.tolist())]
    layers += [(block.layer.linear.weight.tolist(), block.layer.linear.bias.tolist()) for block in list(stack)[1:]]
    found = label_goodness(stack, IMAGES[:2], 10)
    for index, image in enumerate(IMAGES[:2].tolist()):
        for label in range(10):
            h = references.overlay(references.unit_rms(image), label, 10, scale=10.0)
            for block, (w, b) in enumerate(layers):
                activities = references.relu_layer(h, w, b)
                expected = references.mean_of_squares(activities)
                assert found[block, index, label].item() == pytest.approx(expected, rel=1e-10)
                h = references.unit_rms(activities)


def test_the_image_part_is_computed_once() -> None:
    stack = network()
    seen: list[int] = []
    stack[0].layer.image.register_forward_hook(lambda _module, x, _z: seen.append(x[0].shape[0]))
    label_goodness(stack, IMAGES, 10)
    assert seen == [9]


@pytest.mark.parametrize("first_block", [0, 1, 2])
def test_goodness_readout_sums_the_blocks_it_reads(first_block: int) -> None:
    stack = network()
    goodness = label_goodness(stack, IMAGES, 10).tolist()
    scores = GoodnessReadout(first_block)(stack, IMAGES, 10)
    for sample in range(9):
        expected = [math.fsum(goodness[k][sample][c] for k in range(first_block, 3)) for c in range(10)]
        assert scores[sample].tolist() == pytest.approx(expected, rel=1e-12)
    assert not scores.requires_grad
    assert not list(GoodnessReadout().parameters())
    assert GoodnessReadout().local_loss(stack, IMAGES, CLASSES) is None


@pytest.mark.parametrize("at_once", [1, 30, 45, 10_000])
def test_a_sweep_in_parts_gives_the_same_and_keeps_few_rows_alive(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = network()
    whole = label_goodness(stack, IMAGES, 10)
    rows: list[int] = []
    stack[1].layer.register_forward_hook(lambda _module, _x, h: rows.append(h.shape[0]))
    monkeypatch.setattr("ff_lightning.readouts.goodness.SWEPT_AT_ONCE", at_once)
    torch.testing.assert_close(label_goodness(stack, IMAGES, 10), whole, rtol=1e-12, atol=0)
    assert max(rows) <= max(at_once, 10)
    assert sum(rows) == 90


def test_blocks_with_a_goodness_for_each_class_need_no_sweep() -> None:
    torch.manual_seed(0)
    blocks = [ClassBlock(DenseReLU(64, 20), ChannelGroups(10), Softmax()) for _ in range(1)]
    stack = BlockStack([*blocks, ClassBlock(DenseReLU(20, 30), ChannelGroups(10), Softmax())]).double()
    found = label_goodness(stack, IMAGES, 10)
    assert found.shape == (2, 9, 10)
    assert torch.equal(found, stack.goodness(IMAGES))
    assert torch.equal(GoodnessReadout()(stack, IMAGES, 10), found.sum(0))


def test_every_readout_says_that_the_last_block_answered() -> None:
    stack = network()
    for readout in (GoodnessReadout(), trained_readout(1)):
        answer = readout.answer(stack, IMAGES, 10)
        assert torch.equal(answer.scores, readout(stack, IMAGES, 10))
        assert answer.block.tolist() == [2] * 9


def test_maps_are_pooled_and_standardised_before_they_are_read() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 3, 3, padding=1), nn.ReLU())
    stack = BlockStack([ContrastiveBlock(layer, MeanOfSquares(3), SymBa())]).double()
    features = LinearReadout(27, 10, first_block=0, pool=3).double().features(stack, IMAGES)
    pooled = F.avg_pool2d(stack[0].norm(stack[0](IMAGES)), 3, ceil_mode=True).detach()
    expected = [references_scff.standardised(row) for row in pooled.flatten(1).tolist()]
    torch.testing.assert_close(features, torch.tensor(expected, dtype=torch.float64))


def test_features_are_dropped_in_training_alone() -> None:
    stack, readout = network(), LinearReadout(18, 10, dropout=0.5).double()
    torch.nn.init.normal_(readout.linear.weight)
    assert torch.equal(readout(stack, IMAGES, 10), readout(stack, IMAGES, 10))
    first, second = (readout.local_loss(stack, IMAGES, CLASSES) for _ in range(2))
    assert first != second
    readout.eval()
    first, second = (readout.local_loss(stack, IMAGES, CLASSES) for _ in range(2))
    assert first == second


def test_goodness_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert label_goodness(network(dtype=torch.float32), IMAGES.float(), 10).dtype == torch.float32


@pytest.mark.parametrize("first_block", [0, 1, 2])
def test_linear_readout_is_a_softmax_on_what_the_blocks_pass_on(first_block: int) -> None:
    stack, readout = network(), trained_readout(first_block)
    h, passed = IMAGES, []
    for block in stack:
        h = block.norm(block(h))
        passed.append(h)
    features = torch.cat(passed[first_block:], dim=1)
    expected = features @ readout.linear.weight.T
    scores = readout(stack, IMAGES, 10)
    loss = readout.local_loss(stack, IMAGES, CLASSES)
    assert not scores.requires_grad
    torch.testing.assert_close(scores, expected)
    assert loss.item() == pytest.approx(references.class_softmax(expected.tolist(), CLASSES.tolist()), rel=1e-6)


@pytest.mark.parametrize("num_classes", [10, None])
def test_linear_readout_sends_no_gradient_into_the_blocks(num_classes: int | None) -> None:
    stack, readout = network(num_classes), trained_readout(1)
    readout.local_loss(stack, IMAGES, CLASSES).backward()
    assert all(parameter.grad is None for parameter in stack.parameters())
    features = readout.features(stack, IMAGES)
    weight = readout.linear.weight.detach().clone().requires_grad_()
    F.cross_entropy(features @ weight.T, CLASSES).backward()
    torch.testing.assert_close(readout.linear.weight.grad, weight.grad, rtol=1e-5, atol=1e-7)
    assert readout.linear.bias.grad.abs().sum() > 0


def batch_normed() -> BlockStack:
    torch.manual_seed(0)
    layers = [DenseReLU(64, 12, batch_norm=True), DenseReLU(12, 10, batch_norm=True)]
    return BlockStack([ContrastiveBlock(layer, MeanOfSquares(), SymBa()) for layer in layers]).double()


def test_a_readout_that_learns_moves_no_running_value_of_the_blocks() -> None:
    stack, readout = batch_normed(), LinearReadout(10, 10).double()
    torch.nn.init.normal_(readout.linear.weight)
    before = weights(stack)
    loss = readout.local_loss(stack, IMAGES, CLASSES)
    assert_same_weights(before, weights(stack))
    assert torch.equal(loss, readout.loss(readout.features(stack, IMAGES), CLASSES)), "of this batch's statistics"
    assert not torch.equal(stack[0].layer.norm.running_mean, before["blocks.0.layer.norm.running_mean"])


def test_units_are_counted_without_a_trace() -> None:
    stack = batch_normed()
    stack.in_features = 64
    stack[1].layer.norm.eval()
    before, modes = weights(stack), [part.training for part in stack.modules()]
    assert LinearReadout(first_block=0).units(stack) == [12, 10]
    assert [part.training for part in stack.modules()] == modes
    assert_same_weights(before, weights(stack))


def test_a_new_linear_readout_believes_in_all_classes_alike() -> None:
    stack, readout = network(), LinearReadout(18, 10).double()
    assert torch.equal(readout(stack, IMAGES, 10), torch.zeros(9, 10, dtype=torch.float64))
    assert readout.local_loss(stack, IMAGES, CLASSES).item() == pytest.approx(math.log(10))


def learned(readout: LinearReadout, stack: BlockStack) -> LinearReadout:
    """After five steps of Adam."""
    optimizer = torch.optim.Adam(readout.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        readout.local_loss(stack, IMAGES, CLASSES).backward()
        optimizer.step()
    return readout


@pytest.mark.parametrize("first_block", [0, 1])
def test_nested_readouts_learn_as_if_each_were_alone_on_its_blocks(first_block: int) -> None:
    stack, widths = network(None), [12, 10, 8][first_block:]
    nested = learned(NestedReadout(widths, 10, first_block=first_block).double(), stack)
    scores = nested.nested(nested.features(stack, IMAGES))
    for count, found in enumerate(scores, 1):
        lower = BlockStack(list(stack)[: first_block + count])
        alone = learned(LinearReadout(sum(widths[:count]), 10, first_block=first_block).double(), lower)
        torch.testing.assert_close(found, alone(lower, IMAGES, 10), rtol=1e-5, atol=1e-7)
    assert torch.equal(scores[-1], nested(stack, IMAGES, 10))
    assert not torch.equal(scores[0], scores[-1])


def test_nested_readouts_begin_at_zero_and_draw_no_more_random_numbers() -> None:
    torch.manual_seed(0)
    LinearReadout(18, 10)
    expected = torch.rand(1)
    torch.manual_seed(0)
    readout = NestedReadout([10, 8], 10)
    assert torch.equal(torch.rand(1), expected)
    assert not any(parameter.any() for parameter in readout.parameters())


def test_check_accepts_every_block_of_the_stack() -> None:
    for first_block in range(3):
        GoodnessReadout(first_block).check(network())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GoodnessReadout(-1), "Passed `first_block=-1`. `first_block` must be a whole number, at least 0."),
        (
            lambda: GoodnessReadout(3).check(network()),
            "Passed `first_block=3`. The network has 3 blocks, so it must be at most 2.",
        ),
        (
            lambda: LinearReadout(4, 10).check(MLP(20, [4], num_classes=None)),
            "Passed `first_block=1`. The network has 1 blocks, so it must be at most 0.",
        ),
        (lambda: LinearReadout(0, 10), "Passed `in_features=0`. `in_features` must be at least 1."),
        (lambda: LinearReadout(4, 10, pool=0), "Passed `pool=0`. `pool` must be at least 1."),
        (
            lambda: LinearReadout(pool=2).attach(network(), 10),
            "Passed `pool=2` to the readout of a network whose blocks pass on (10,) values a sample. Squares are of "
            "feature maps, (channels, height, width): leave `pool` out.",
        ),
        (
            lambda: NestedReadout([8], 10, first_block=2, pool=3)(network(), IMAGES, 10),
            "Passed `pool=3` to the readout of a network whose blocks pass on (8,) values a sample. Squares are of "
            "feature maps, (channels, height, width): leave `pool` out.",
        ),
        (
            lambda: LinearReadout(8, 10, pool=2).part(torch.zeros(3, 4, 6)),
            "Passed `pool=2` to the readout of a network whose blocks pass on (4, 6) values a sample. Squares are of "
            "feature maps, (channels, height, width): leave `pool` out.",
        ),
        (lambda: LinearReadout(4, 10, dropout=1.0), "Passed `dropout=1.0`. `dropout` must be in [0, 1)."),
        (
            lambda: LinearReadout(7, 10).features(network(), IMAGES),
            "Passed `in_features=7` to the readout. Blocks 1 and above have 18 units.",
        ),
        (lambda: NestedReadout([], 10), "Passed `widths=[]`. `widths` needs one or more numbers of at least 1."),
        (
            lambda: NestedReadout([4, 0], 10),
            "Passed `widths=[4, 0]`. `widths` needs one or more numbers of at least 1.",
        ),
        (
            lambda: NestedReadout([8, 10], 10).features(network(), IMAGES),
            "Passed `widths=[8, 10]` to the readout. Blocks 1 and above have [10, 8] units.",
        ),
    ],
)
def test_input_that_cannot_work_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message


def scores(seed: int = 0) -> torch.Tensor:
    return torch.randn(4, 9, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_last_block_and_the_mean_log_probability() -> None:
    g = scores()
    assert torch.equal(LastBlock().combine(g), g[3])
    expected = torch.stack([row - row.exp().sum(-1, keepdim=True).log() for row in g[1:]]).mean(0)
    torch.testing.assert_close(MeanLogProbability(first_block=1).combine(g), expected)
    of_task = MeanLogProbability(first_block=1)
    of_task.attach(ClassMLP(4, [5] * len(g), num_classes=g.shape[-1], loss=Softmax(scale=2.0)), g.shape[-1])
    torch.testing.assert_close(of_task.combine(g / 2), expected)


def test_the_best_range_of_blocks_is_chosen() -> None:
    readout, g = ChosenBlocks(4), scores()
    torch.testing.assert_close(readout.combine(g), g.sum(0))
    for seed in (0, 1):
        readout.observe(scores(seed), CLASSES)
    both = torch.cat([scores(0), scores(1)], 1)
    right = {
        (first, stop): (both[first:stop].sum(0).argmax(-1) == CLASSES.repeat(2)).sum().item()
        for first in range(4)
        for stop in range(first + 1, 5)
    }
    readout.choose()
    first, stop = readout.chosen.tolist()
    assert right[first, stop] == max(right.values())
    assert stop - first == min(stop - first for (first, stop), count in right.items() if count == max(right.values()))
    torch.testing.assert_close(readout.combine(g), g[first:stop].sum(0))
    assert readout.state_dict()["chosen"].tolist() == [first, stop]
    knows = torch.nn.functional.one_hot(CLASSES, 10).double()
    readout.observe(torch.stack([-knows, -knows, knows, -knows]), CLASSES)
    readout.choose()
    assert readout.chosen.tolist() == [2, 3], "what was observed before counts no more"


def test_a_choice_of_blocks_must_fit_the_stack() -> None:
    with pytest.raises(InputError, match="Passed `depth=2` with a network of 3 blocks"):
        ChosenBlocks(2).check(network())


def test_blocks_that_score_classes_are_asked_once() -> None:
    torch.manual_seed(0)
    stack = ConvNet((1, 8, 8), (4, 4), pool_after=()).double()
    found = label_goodness(stack, IMAGES.view(9, 1, 8, 8), 10)
    assert torch.equal(found, stack.goodness(IMAGES.view(9, 1, 8, 8)))
