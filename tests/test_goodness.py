"""Goodness: references in float64, gradients, and accumulation in float32 whatever the autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ff_lightning.candidates import Softmax
from ff_lightning.conversion import convert
from ff_lightning.errors import InputError
from ff_lightning.goodness import (
    ChannelGroups,
    Goodness,
    MeanActivity,
    MeanOfSquares,
    OwnGoodness,
    ProjectedActivity,
    RectifiedEnergy,
    SumOfSquares,
    WeightedEnergy,
    accumulation_dtype,
    as_goodness,
    squared_norm,
)
from ff_lightning.networks import MLP, ClassMLP, ConvNet
from ff_lightning.signals import Signal
from tests import references, references_conv, references_scff

REDUCED = [
    pytest.param(SumOfSquares, references.sum_of_squares, id="sum_of_squares"),
    pytest.param(MeanOfSquares, references.mean_of_squares, id="mean_of_squares"),
    pytest.param(MeanActivity, references.mean_activity, id="mean_activity"),
]
Reference = Callable[[references.Row], float]


def activities(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize(("goodness", "reference"), REDUCED)
def test_equals_the_reference_with_its_gradient(goodness: type[SumOfSquares], reference: Reference) -> None:
    h = activities(3, 5)
    g = goodness()(h)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (g * weights).sum().backward()
    rows = h.tolist()

    def weighted(at: list[list[float]]) -> float:
        return sum(w * reference(row) for w, row in zip(weights.tolist(), at, strict=True))

    assert g.tolist() == pytest.approx([reference(row) for row in rows], rel=1e-12)
    for found, expected in zip(h.grad.tolist(), references.numerical_gradient(weighted, rows), strict=True):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(("goodness", "reference"), REDUCED)
@pytest.mark.parametrize(("shape", "event_dims"), [((2, 4, 3), 1), ((2, 3, 2, 2), 3), ((2, 3, 2, 2), 2)])
def test_event_dims_are_reduced_and_no_others(
    goodness: type[SumOfSquares], reference: Reference, shape: tuple[int, ...], event_dims: int
) -> None:
    h = activities(*shape)
    g = goodness(event_dims)(h)
    events = h.flatten(-event_dims) if event_dims > 1 else h
    assert g.shape == shape[:-event_dims]
    expected = [reference(row) for row in events.reshape(-1, events.shape[-1]).tolist()]
    assert g.flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("of", "reference"),
    [
        (None, references.mean_of_squares),
        (MeanOfSquares(), references.mean_of_squares),
        (SumOfSquares(), references.sum_of_squares),
        (MeanActivity(), references.mean_activity),
    ],
)
@pytest.mark.parametrize("shape", [(3, 6), (3, 6, 2, 2)])
def test_channel_groups_equal_the_reference(of: Goodness | None, reference: Reference, shape: tuple[int, ...]) -> None:
    h = activities(*shape)
    g = ChannelGroups(3, of)(h)
    assert g.shape == (3, 3)
    # Channels come first, so a group of channels is one slice of the flattened maps.
    expected = [references.channel_groups(row, 3, reference) for row in h.flatten(1).tolist()]
    torch.testing.assert_close(g, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(3, 6), (3, 6, 2, 4)])
def test_rectified_energy_equals_the_reference_at_every_position(shape: tuple[int, ...]) -> None:
    z = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    g = RectifiedEnergy()(z)
    assert g.shape == (3, *shape[2:])
    columns = z.movedim(1, -1).reshape(-1, 6).tolist()
    assert g.flatten().tolist() == pytest.approx([references_scff.rectified_energy(column) for column in columns])
    g.sum().backward()
    torch.testing.assert_close(z.grad, 2 * z.detach().relu() / 6)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (2, 0)])
def test_squared_norm_has_right_first_and_second_derivatives(shape: tuple[int, ...]) -> None:
    h = activities(*shape)
    assert torch.autograd.gradcheck(squared_norm, (h,))
    assert torch.autograd.gradgradcheck(squared_norm, (h,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_squared_norm_keeps_nothing_but_the_activities_for_its_backward_pass(dtype: torch.dtype) -> None:
    h = activities(3, 5, dtype=dtype)
    kept: list[Tensor] = []

    def pack(saved: Tensor) -> Tensor:
        kept.append(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        squared_norm(h).sum().backward()
    assert [(saved.dtype, saved.data_ptr()) for saved in kept] == [(dtype, h.data_ptr())]
    torch.testing.assert_close(h.grad, 2 * h.detach())


@pytest.mark.parametrize(
    ("goodness", "expected"),
    [
        (SumOfSquares(), 2000 * 64.0),
        (MeanOfSquares(), 64.0),
        (MeanActivity(), 8.0),
        (ChannelGroups(2, SumOfSquares()), 1000 * 64.0),
    ],
    ids=["sum_of_squares", "mean_of_squares", "mean_activity", "channel_groups"],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_accumulates_in_float32(
    goodness: Goodness, expected: float, dtype: torch.dtype, autocast: bool
) -> None:
    h = torch.full((2, 2000), 8.0, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype, enabled=autocast):
        g = goodness(h)
    assert g.dtype == torch.float32
    torch.testing.assert_close(
        g, torch.full_like(g, expected), rtol=1e-6, atol=0
    )  # fp16 ends at 65504, and a sum in bf16 stands still at 2 ** 8 times its steps
    g.sum().backward()
    assert h.grad.dtype == dtype
    assert h.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_under_autocast_the_goodness_of_a_layer_is_the_float32_goodness_of_its_activities(
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 300)
    x = torch.rand(4, 16)
    with torch.autocast("cpu", dtype):
        h = layer(x)
        g = SumOfSquares()(h)
    assert h.dtype == dtype
    torch.testing.assert_close(g, h.double().square().sum(1).float())


@pytest.mark.parametrize(
    "goodness", [SumOfSquares(), MeanOfSquares(), MeanActivity(), ChannelGroups(2), RectifiedEnergy()]
)
def test_float64_stays_float64(goodness: Goodness) -> None:
    assert goodness(activities(2, 4)).dtype == torch.float64


def test_accumulation_dtype_is_at_least_float32() -> None:
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    found = [accumulation_dtype(torch.zeros(1, dtype=dtype)) for dtype in dtypes]
    assert found == [torch.float32, torch.float32, torch.float32, torch.float64]


def test_goodness_of_squares_is_never_negative() -> None:
    h = activities(50, 7)
    assert (SumOfSquares()(h) >= 0).all()
    assert (MeanOfSquares()(h) >= 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SumOfSquares(0), "Passed `event_dims=0`. `event_dims` must be a whole number, at least 1."),
        (lambda: MeanActivity(-1), "Passed `event_dims=-1`. `event_dims` must be a whole number, at least 1."),
        (
            lambda: MeanOfSquares()(torch.zeros(3)),
            "Passed activities of shape (3,). With `event_dims=1` they need at least 2 dimensions.",
        ),
        (
            lambda: SumOfSquares(3)(torch.zeros(2, 4, 4)),
            "Passed activities of shape (2, 4, 4). With `event_dims=3` they need at least 4 dimensions.",
        ),
        (lambda: ChannelGroups(1), "Passed `num_classes=1`. `num_classes` must be a whole number, at least 2."),
        (
            lambda: ChannelGroups(3)(torch.zeros(2, 8)),
            "Passed activities with 8 channels. `num_classes=3` must divide it.",
        ),
    ],
)
def test_input_that_cannot_work_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message


WEIGHTED = [
    pytest.param(WeightedEnergy, references_conv.weighted_energy, id="energy"),
    pytest.param(ProjectedActivity, references_conv.projected_activity, id="projection"),
]


@pytest.mark.parametrize(("kind", "reference"), WEIGHTED)
@pytest.mark.parametrize(("shape", "grid"), [((3, 4, 6), 2), ((2, 3, 3), 4), ((5,), 4)])
def test_weighted_goodness_equals_the_reference(
    kind: type[WeightedEnergy], reference: Callable[..., list[float]], shape: tuple[int, ...], grid: int
) -> None:
    goodness = kind(4, grid=grid).sized(shape).double()
    h = activities(3, *shape)
    assert not goodness(h).any()
    torch.manual_seed(1)
    for parameter in goodness.parameters():
        nn.init.normal_(parameter)
    maps = (h if h.dim() == 4 else h.view(3, -1, 1, 1)).tolist()
    expected = [reference(sample, goodness.weight.tolist(), goodness.bias.tolist(), grid) for sample in maps]
    torch.testing.assert_close(goodness(h), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(goodness(7 * h), goodness(h))
    assert kind(4, shape)(h.detach().bfloat16()).dtype == torch.float32


def test_weighted_goodness_has_weights_for_one_shape() -> None:
    template = WeightedEnergy(10, grid=2)
    assert not list(template.parameters())
    with pytest.raises(InputError, match=r"without weights. Pass `shape`, or let a network size it"):
        template(activities(2, 3, 4, 4))
    first, second = template.sized((3, 4, 4)), template.sized((3, 4, 4))
    assert first.weight is not second.weight
    assert first.weight.shape == (10, 12)
    with pytest.raises(InputError, match=r"shape \(2, 2, 4, 4\)\. The goodness was built"):
        first(activities(2, 2, 4, 4))
    for arguments in ((1,), (10, (3, 4))):
        with pytest.raises(InputError, match=r"Passed `(num_classes|shape)="):
            WeightedEnergy(*arguments)
    with pytest.raises(InputError, match="Passed `grid=0`"):
        WeightedEnergy(grid=0)


def test_a_goodness_without_weights_is_sized_by_a_copy() -> None:
    groups = ChannelGroups(2, MeanActivity())
    copied = groups.sized((4, 8, 8))
    assert copied is not groups
    assert (copied.num_classes, type(copied.of)) == (2, MeanActivity)


class Counts(nn.Module):
    """A module of one's own with weights, which gives each of three classes a goodness."""

    num_classes = 3

    def __init__(self, units: int = 0) -> None:
        super().__init__()
        self.units = units
        self.linear = nn.Linear(units, 3) if units else None

    def sized(self, shape: Any) -> Counts:
        return Counts(torch.Size(shape).numel())

    def forward(self, h: Tensor) -> Tensor:
        assert self.linear is not None
        return self.linear(h.flatten(1))


def test_any_module_or_function_is_a_goodness() -> None:
    def clipped(h: Tensor) -> Tensor:
        return h.clamp(max=2).square().mean(1)

    x = torch.rand(6, 8)
    network = MLP(8, [5, 4], num_classes=None, goodness=clipped)
    (low, _), activities = network.goodness(x), next(network.activities(x))
    assert torch.equal(low, clipped(activities))
    (step, _) = network.local_losses(Signal.pair(x, x.flip(1)))
    step.loss.backward()
    assert as_goodness(goodness := MeanOfSquares()) is goodness
    half = OwnGoodness(clipped)(x.to(torch.bfloat16))
    assert half.dtype == torch.float32
    for build in (
        lambda: ClassMLP(8, [5, 4], goodness=Counts()),
        lambda: ConvNet((1, 4, 4), (5, 4), pool_after=(), goodness=Counts()),
        lambda: convert(nn.Sequential(nn.Linear(8, 5), nn.ReLU()), goodness=Counts(), loss=Softmax(), example=x),
    ):
        stack = build()
        assert stack.num_classes == 3
        image = torch.rand(6, 1, 4, 4) if isinstance(stack, ConvNet) else x
        assert stack.goodness(image).shape == (len(stack), 6, 3)
        own = [set(map(id, block.goodness.parameters())) for block in stack]
        assert all(own), "the weights of a goodness belong to its block"
        assert sum(map(len, own)) == len(set().union(*own))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP(8, [4], goodness=3, overlay=False, num_classes=None), r"MLP\(goodness=3\)`. It must be an object"),
        (lambda: OwnGoodness(3), "`goodness=int`. It must be an object: a `Goodness`"),
        (lambda: OwnGoodness(WeightedEnergy), "`goodness=WeightedEnergy`. It must be an object: a `Goodness`"),
        (lambda: ConvNet((1, 4, 4), (4,), pool_after=(), goodness=lambda h: h.mean((1, 2, 3))), "attribute `num_class"),
        (lambda: OwnGoodness(torch.sum)(torch.rand(3, 2)), r"`goodness=sum`.*a row for each of 3 samples"),
        (lambda: OwnGoodness(lambda h: h.argmax(1))(torch.rand(3, 2)), "torch.int64.*must return floating goodness"),
    ],
)
def test_a_goodness_that_does_not_fit_says_what_it_lacks(build: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()
