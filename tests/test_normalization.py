"""Norms between blocks and peer normalisation, against references in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ff_lightning.errors import InputError
from ff_lightning.normalization import (
    GroupStandard,
    PeerNormalisation,
    RunningMean,
    Standardise,
    UnitLength,
    UnitRMS,
    evaluating,
    frozen_statistics,
    settle,
)
from tests import references, references_scff

NORMS = [
    pytest.param(UnitLength(), references.unit_length, id="unit_length"),
    pytest.param(UnitRMS(), references.unit_rms, id="unit_rms"),
    pytest.param(Standardise(), references_scff.standardised, id="standardise"),
]
BOTH = [pytest.param(UnitLength(), id="unit_length"), pytest.param(UnitRMS(), id="unit_rms")]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
Reference = Callable[[references.Row], list[float]]


def activities(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).relu()


@pytest.mark.parametrize(("norm", "reference"), NORMS)
def test_equals_the_reference_with_its_gradient(norm: nn.Module, reference: Reference) -> None:
    h = activities(3, 5).requires_grad_()
    weights = torch.arange(15.0, dtype=torch.float64).view(3, 5).cos()
    normed = norm(h)
    (normed * weights).sum().backward()

    def weighted(at: list[list[float]]) -> float:
        rows = [reference(row) for row in at]
        return sum(w * v for ws, vs in zip(weights.tolist(), rows, strict=True) for w, v in zip(ws, vs, strict=True))

    expected = torch.tensor([reference(row) for row in h.tolist()], dtype=torch.float64)
    gradient = torch.tensor(references.numerical_gradient(weighted, h.tolist()), dtype=torch.float64)
    torch.testing.assert_close(normed, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(h.grad, gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("norm", BOTH)
def test_the_scale_of_what_comes_in_does_not_come_out(norm: nn.Module) -> None:
    h = activities(8, 30)
    for scale in (1e-4, 7.0, 1e4):
        torch.testing.assert_close(norm(scale * h), norm(h), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(4, 12), (4, 3, 2, 2), (4, 6, 5)])
def test_a_whole_sample_has_unit_length_or_unit_rms(shape: tuple[int, ...]) -> None:
    h = activities(*shape)
    length = UnitLength()(h).flatten(1).square().sum(1).sqrt()
    rms = UnitRMS()(h).flatten(1).square().mean(1).sqrt()
    assert UnitLength()(h).shape == UnitRMS()(h).shape == h.shape
    torch.testing.assert_close(length, torch.ones(4, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(rms, torch.ones(4, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", BOTH)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("autocast", [True, False])
def test_the_dtype_is_kept_and_the_length_is_accumulated_in_float32(
    norm: nn.Module, dtype: torch.dtype, autocast: bool
) -> None:
    h = torch.full((2, 2000), 8.0, dtype=dtype)  # sum of squares 128000, above what fp16 holds
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        normed = norm(h)
    assert normed.dtype == dtype
    expected = 1.0 if isinstance(norm, UnitRMS) else 2000**-0.5
    torch.testing.assert_close(normed, torch.full_like(h, expected), rtol=1e-2, atol=0)


@pytest.mark.parametrize("norm", BOTH)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shouts_come_out_at_unit_length_or_unit_rms(norm: nn.Module, dtype: torch.dtype) -> None:
    h = torch.full((2, 2000), 2000.0, dtype=dtype)  # length 89443, above what fp16 holds
    expected = 1.0 if isinstance(norm, UnitRMS) else 2000**-0.5
    torch.testing.assert_close(norm(h), torch.full_like(h, expected), rtol=1e-2, atol=0)


@pytest.mark.parametrize("norm", BOTH)
def test_a_batch_of_nothing_is_passed_on(norm: nn.Module) -> None:
    assert norm(torch.zeros(0, 6)).shape == (0, 6)


@pytest.mark.parametrize("norm", BOTH)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_silence_stays_silence(norm: nn.Module, dtype: torch.dtype) -> None:
    assert torch.equal(norm(torch.zeros(2, 6, dtype=dtype)), torch.zeros(2, 6, dtype=dtype))


@pytest.mark.parametrize("norm", BOTH)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_whispers_stay_finite(norm: nn.Module, dtype: torch.dtype) -> None:
    for level in (1e-3, 1e-5, 1e-7):  # 1e-7 is close to the smallest number of fp16
        normed = norm(torch.full((2, 6), level, dtype=dtype))
        assert normed.isfinite().all()
        assert (normed.float().square().mean(1) <= 1.01).all()


@pytest.mark.parametrize("norm", BOTH)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_silence_gives_a_finite_gradient(norm: nn.Module, dtype: torch.dtype) -> None:
    # A network trained end to end sends its gradient through the norms.
    h = torch.zeros(2, 6, dtype=dtype)
    h[0] = 1.0
    h.requires_grad_()
    norm(h).sum().backward()
    assert h.grad.isfinite().all()


# Peer normalisation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_standardised_maps_keep_dtype_and_layout(dtype: torch.dtype, layout: torch.memory_format) -> None:
    h = 3 + 2 * activities(4, 6, 5, 7).to(dtype).contiguous(memory_format=layout)
    normed = Standardise()(h)
    assert normed.dtype == dtype
    if layout == torch.channels_last:
        assert normed.is_contiguous(memory_format=layout)
    rows = normed.double().flatten(1)
    torch.testing.assert_close(rows.mean(1), torch.zeros(4).double(), rtol=0, atol=1e-2)
    torch.testing.assert_close(rows.var(1, correction=0), torch.ones(4).double(), rtol=1e-2, atol=0)
    assert torch.equal(Standardise()(torch.zeros(1, 3, dtype=dtype)), torch.zeros(1, 3, dtype=dtype))


@pytest.mark.parametrize(("momentum", "weight"), [(0.9, 0.03), (0.0, 1.0), (0.5, 2.0)])
def test_peer_normalisation_follows_the_reference(momentum: float, weight: float) -> None:
    peer = PeerNormalisation(5, weight=weight, momentum=momentum).double()
    running: list[float] = []
    for step in range(4):
        h = (activities(6, 5) * (step + 1)).requires_grad_()
        value = peer(h)
        value.backward()
        settle(peer)
        seen = references.unit_means(h.tolist())
        before = running or seen  # the first batch sets the means before they are used
        expected, running = references.peer_normalisation(h.tolist(), before, momentum, weight)
        gradient = references.numerical_gradient(
            lambda at, old=before, seen=seen: references.peer_normalisation(at, old, momentum, weight, seen)[0],
            h.tolist(),
        )
        assert value.item() == pytest.approx(expected, rel=1e-12)
        assert peer.means.value.tolist() == pytest.approx(running, rel=1e-12)
        torch.testing.assert_close(h.grad, torch.tensor(gradient, dtype=torch.float64), rtol=1e-5, atol=1e-9)


def test_a_step_down_the_gradient_wakes_quiet_units_and_calms_loud_ones() -> None:
    h = torch.tensor([[0.0, 1.0, 5.0], [0.2, 1.0, 5.0]], requires_grad=True)
    peer = PeerNormalisation(3, momentum=0.0)
    peer(h).backward()
    quiet, _, loud = h.grad.sum(0).tolist()
    assert quiet < 0 < loud
    assert h.grad.sum().item() == pytest.approx(0.0, abs=1e-7)


def test_units_at_one_level_cost_nothing() -> None:
    h = torch.full((4, 3), 0.7, requires_grad=True)
    value = PeerNormalisation(3)(h)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert h.grad.abs().max() < 1e-8


def test_evaluation_leaves_the_running_means_alone() -> None:
    peer = PeerNormalisation(3)
    peer(torch.tensor([[0.0, 1.0, 9.0]]))
    settle(peer)
    before = peer.means.value.clone()
    assert peer.eval()(torch.tensor([[5.0, 1.0, 0.0]])) > 0
    settle(peer)
    assert torch.equal(peer.means.value, before)


def test_what_is_noted_while_frozen_is_not_taken_in() -> None:
    mean = RunningMean((2,), start=0.0)
    with frozen_statistics(mean):
        mean.note(torch.ones(2))
    settle(mean)
    assert not mean.value.any()
    mean.note(torch.ones(2))
    settle(mean)
    assert bool((mean.value > 0).all())


def test_what_is_frozen_stays_so_after_a_look_within() -> None:
    parts = nn.ModuleList([PeerNormalisation(3), nn.BatchNorm1d(3)])
    parts[0](activities(4, 3).float())
    settle(parts)
    before = {name: value.clone() for name, value in parts.state_dict().items()}
    with frozen_statistics(parts):
        with frozen_statistics(parts):
            pass
        for part in parts:
            part(activities(5, 3).float())
        settle(parts)
    assert all(torch.equal(value, before[name]) for name, value in parts.state_dict().items())
    for part in parts:
        part(activities(5, 3).float())
    settle(parts)
    assert not any(torch.equal(parts.state_dict()[name], before[name]) for name in ("0.means.value", "1.running_mean"))


def test_parts_leave_evaluation_mode_each_as_it_was() -> None:
    parts = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    parts[1].eval()

    def fail() -> None:
        with evaluating(parts):
            assert not any(part.training for part in parts.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [part.training for part in parts.modules()] == [True, True, False, False]


def test_running_means_are_saved() -> None:
    peer = PeerNormalisation(3)
    peer(torch.tensor([[0.0, 1.0, 9.0]]))
    restored = PeerNormalisation(3)
    restored.load_state_dict(peer.state_dict())
    assert torch.equal(restored.means.value, peer.means.value)
    assert PeerNormalisation(3).means.value.isnan().all()
    assert not list(peer.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_activities_are_averaged_in_float32(dtype: torch.dtype) -> None:
    h = torch.full((4096, 2), 100.0, dtype=dtype, requires_grad=True)
    peer = PeerNormalisation(2, momentum=0.0)
    value = peer(h)
    value.backward()
    assert value.dtype == torch.float32
    assert peer.means.value.tolist() == [100.0, 100.0]
    assert h.grad.dtype == dtype


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PeerNormalisation(0), "Passed `num_units=0`. `num_units` must be a whole number, at least 1."),
        (lambda: PeerNormalisation(3, weight=-1.0), "Passed `weight=-1.0`. `weight` must be finite and not negative."),
        (lambda: PeerNormalisation(3, momentum=1.0), "Passed `momentum=1.0`. `momentum` must be in [0, 1)."),
        (lambda: PeerNormalisation(3, momentum=-0.5), "Passed `momentum=-0.5`. `momentum` must be in [0, 1)."),
        (lambda: PeerNormalisation(3, momentum=math.nan), "Passed `momentum=nan`. `momentum` must be in [0, 1)."),
    ],
)
def test_input_that_cannot_work_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message


def test_groups_are_brought_to_mean_0_and_variance_1() -> None:
    h = torch.randn(3, 6, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5 + 2
    groups = GroupStandard(2)(h).view(3, 2, -1)
    torch.testing.assert_close(groups.mean(-1), torch.zeros(3, 2, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(groups.var(-1, unbiased=False), torch.ones(3, 2, dtype=torch.float64), atol=1e-5, rtol=0)
    assert not list(GroupStandard().parameters())
    with pytest.raises(InputError, match="`num_groups=4` must divide it"):
        GroupStandard(4)(h)
    with pytest.raises(InputError, match="Passed `num_groups=0`"):
        GroupStandard(0)
