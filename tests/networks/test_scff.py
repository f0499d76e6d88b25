"""Self-contrastive stacks: sums of pre-activations equal pairs laid side by side, and nothing leaks between blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ff_lightning.errors import InputError
from ff_lightning.losses import MovingThresholdLoss, TwoThresholdLoss
from ff_lightning.networks import SelfContrastConv, SelfContrastMLP
from ff_lightning.networks.scff import PairSignal, SelfContrastStack, Triangle
from ff_lightning.signals import LocalStep, StepContext
from tests import references_scff as references
from tests.training import assert_same_weights, digits, weights

IMAGES, CLASSES = digits(6, torch.float64)
THRESHOLDS = [(1.0, 2.0, 0.5), (0.5, 0.25, 0.0), (2.0, 3.0, 0.125)]
PAIRINGS = [list(pairing) for pairing in itertools.product([True], [True, False], [True, False])]


def losses() -> list[TwoThresholdLoss]:
    return [TwoThresholdLoss(positive, negative, penalty=penalty) for positive, negative, penalty in THRESHOLDS]


def mlp(own_pairs: list[bool] | None = None) -> SelfContrastMLP:
    torch.manual_seed(0)
    return SelfContrastMLP(64, [7, 6, 5], losses=losses(), own_pairs=own_pairs).double()


def conv(own_pairs: list[bool] | None = None) -> SelfContrastConv:
    torch.manual_seed(0)
    return SelfContrastConv((1, 8, 8), [4, 6, 8], losses=losses(), own_pairs=own_pairs).double()


def maps() -> Tensor:
    return IMAGES.view(-1, 1, 8, 8)


def steps(stack: SelfContrastStack, x: Tensor, first: int = 0, shift: int = 2) -> list[LocalStep]:
    learning = [index >= first for index in range(len(stack))]
    return list(stack.local_losses(paired(x, shift), StepContext(learning=learning)))


def paired(x: Tensor, shift: int) -> PairSignal:
    """Every image beside the one ``shift`` places before it."""
    return PairSignal(x, partner=(torch.arange(len(x)) - shift) % len(x))


@pytest.mark.parametrize("own_pairs", PAIRINGS)
@pytest.mark.parametrize("shift", [1, 4])
def test_losses_equal_those_of_pairs_side_by_side(own_pairs: list[bool], shift: int) -> None:
    stack = mlp(own_pairs)
    linears = [module for module in stack.modules() if isinstance(module, nn.Linear)]
    layers = [(linear.weight.tolist(), linear.bias.tolist()) for linear in linears]
    judges = iter(THRESHOLDS)
    expected = references.self_contrast_losses(
        IMAGES.tolist(),
        shift,
        layers,
        own_pairs,
        lambda g_pos, g_neg: references.two_threshold_loss(g_pos, g_neg, *next(judges)),
    )
    found = steps(stack, IMAGES, shift=shift)
    assert [step.block for step in found] == [0, 1, 2]
    assert [step.loss.item() for step in found] == pytest.approx(expected, rel=1e-9)


def test_a_convolution_of_pairs_equals_the_reference() -> None:
    stack, x = conv(), maps()[:2]
    layer = stack[0].layer[-1]
    rows = [references.standardised(image.flatten().tolist()) for image in x]
    planes = [[[row[8 * y : 8 * y + 8] for y in range(8)]] for row in rows]
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    z = [references.convolved(plane, weight, bias) for plane in planes]
    (step, *_) = steps(stack, x, shift=1)
    for index in range(2):
        for y, column in itertools.product(range(8), range(8)):
            own = [channel[y][column] for channel in z[index]]
            other = [channel[y][column] for channel in z[1 - index]]
            pair = [a + b for a, b in zip(own, other, strict=True)]
            assert step.g_pos[index, y, column].item() == pytest.approx(
                references.rectified_energy([2 * value for value in own]), rel=1e-9
            )
            assert step.g_neg[index, y, column].item() == pytest.approx(references.rectified_energy(pair), rel=1e-9)


def test_what_a_convolution_passes_on_equals_the_reference() -> None:
    stack = conv()
    z = stack[0](maps()[:1])
    channels = [[[0.0] * 8 for _ in range(8)] for _ in range(4)]
    for y, x in itertools.product(range(8), range(8)):
        for channel, value in enumerate(references.triangle(z[0, :, y, x].tolist())):
            channels[channel][y][x] = value
    pooled = [references.largest_of_four(plane) for plane in channels]
    expected = references.standardised([value for plane in pooled for row in plane for value in row])
    passed = stack[0].norm(z)
    assert passed.shape == (1, 4, 4, 4)
    assert passed.flatten().tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("make", [mlp, conv])
@pytest.mark.parametrize("own_pairs", PAIRINGS)
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_block_learns_the_same_whatever_rests_below(
    make: Callable[..., SelfContrastStack], own_pairs: list[bool], first: int
) -> None:
    x = IMAGES if make is mlp else maps()
    whole, part = make(own_pairs), make(own_pairs)
    everything, some = steps(whole, x), steps(part, x, first=first)
    assert [step.block for step in some] == list(range(first, 3))
    for mine, yours in zip(some, everything[first:], strict=True):
        mine.loss.backward()
        yours.loss.backward()
    for index, (mine, yours) in enumerate(zip(part, whole, strict=True)):
        for a, b in zip(mine.parameters(), yours.parameters(), strict=True):
            assert (a.grad is None) == (index < first)
            if a.grad is not None:
                # An image is half as strong as a pair of it with itself, against the eps of the variance.
                torch.testing.assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("make", [mlp, conv])
@pytest.mark.parametrize("own_pairs", PAIRINGS)
def test_a_loss_reaches_its_own_block_alone_bit_for_bit(
    make: Callable[..., SelfContrastStack], own_pairs: list[bool]
) -> None:
    """The updates of a block do not depend on what the losses above it are."""
    x = IMAGES if make is mlp else maps()
    changed = []
    for scale in (1.0, 1000.0):
        stack = make(own_pairs)
        for step in stack.local_losses(paired(x, 2)):
            before = weights(stack)
            (step.loss * (1.0 if step.block == 0 else scale)).backward()
            moved = [index for index, block in enumerate(stack) for p in block.parameters() if p.grad is not None]
            assert set(moved) == {step.block}
            with torch.no_grad():
                for parameter in stack[step.block].parameters():
                    parameter -= 0.01 * parameter.grad
                    parameter.grad = None
            assert_same_weights(
                {k: v for k, v in weights(stack).items() if not k.startswith(f"blocks.{step.block}.")},
                {k: v for k, v in before.items() if not k.startswith(f"blocks.{step.block}.")},
            )
        changed.append(weights(stack[0]))
    assert_same_weights(*changed)


@pytest.mark.parametrize("own_pairs", PAIRINGS)
def test_blocks_can_be_stepped_one_by_one(own_pairs: list[bool]) -> None:
    stack, signal, found = conv(own_pairs), paired(maps(), 2), []
    for block in stack:
        step, signal = block.local_step(signal)
        found.append(step.loss)
    assert torch.equal(torch.stack(found), torch.stack([step.loss for step in steps(stack, maps())]))


def test_single_images_give_what_positive_pairs_pass_on() -> None:
    """Trained on pairs, used on images: an image beside itself is the image, twice as strong."""
    stack = mlp()
    step = steps(stack, IMAGES)[2]
    passed = [block.norm(h) for block, h in zip(stack, stack.activities(IMAGES), strict=True)]
    torch.testing.assert_close(stack.goodness(IMAGES)[2] * 4, step.g_pos, rtol=1e-3, atol=0)  # eps of the variance
    assert passed[2].shape == (6, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_stay_channels_last(dtype: torch.dtype) -> None:
    stack = conv().float()
    seen: list[bool] = []
    for block in stack:
        block.layer.register_forward_hook(
            lambda _module, _x, z: seen.append(z.is_contiguous(memory_format=torch.channels_last))
        )
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        found = steps(stack, maps().float())
        assert stack(maps().float()).shape == (6, 8, 1, 1)
    assert all(seen)
    assert all(step.g_pos.dtype == torch.float32 for step in found)


@pytest.mark.parametrize("kind", [SelfContrastMLP, SelfContrastConv])
def test_losses_are_copied(kind: Any) -> None:
    one = MovingThresholdLoss()
    network = kind(64 if kind is SelfContrastMLP else (1, 8, 8), [4, 4], losses=[one, one])
    assert len({id(loss) for loss in (one, network[0].loss, network[1].loss)}) == 3


def test_sizes() -> None:
    stack = SelfContrastConv((3, 30, 32), [4, 8], losses=losses()[:2])
    assert stack(torch.rand(2, 3, 30, 32)).flatten(1).shape[1] == stack.out_features
    assert mlp().out_features == 5
    assert torch.equal(Triangle()(torch.tensor([[1.0, 2.0, 6.0]])), torch.tensor([[0.0, 0.0, 3.0]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SelfContrastMLP(4, [], losses=[]),
            "Passed `widths=[]`. `widths` must be a list of one or more whole numbers, at least 1.",
        ),
        (
            lambda: SelfContrastMLP(4.0, [3], losses=losses()[:1]),  # type: ignore[arg-type]
            "Passed `in_features=4.0`. `in_features` must be a whole number, at least 1.",
        ),
        (
            lambda: SelfContrastMLP(4, [3, 3], losses=losses()),
            "Passed 3 `losses` with 2 `widths`. There must be one for each block.",
        ),
        (
            lambda: SelfContrastMLP(4, [3], losses=losses()[:1], own_pairs=[True, True]),
            "Passed 2 `own_pairs` with 1 `widths`. There must be one for each block.",
        ),
        (
            lambda: SelfContrastMLP(4, [3], losses=losses()[:1], own_pairs=[False]),
            "Passed `own_pairs=[False]`. There are no streams below the first block.",
        ),
        (
            lambda: SelfContrastConv((1, 8, 6), [3, 3, 3], losses=losses()),
            "Passed `image_shape=(1, 8, 6)` with 3 blocks. Each halves height and width: they must be at least 8.",
        ),
    ],
)
def test_input_that_cannot_work_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message
