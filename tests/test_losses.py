"""Local losses: references in float64, stability, direction, and the threshold that moves."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from ff_lightning.candidates import Softmax
from ff_lightning.errors import InputError
from ff_lightning.losses import (
    ContrastiveLoss,
    MovingThresholdLoss,
    Swish,
    SymBa,
    ThresholdLoss,
    TwoThresholdLoss,
    positive,
)
from ff_lightning.normalization import settle
from tests import references, references_scff


def moved_to(theta: float, **kwargs: float) -> MovingThresholdLoss:
    """A moving threshold that has arrived at ``theta`` and stands there."""
    loss = MovingThresholdLoss(**kwargs)
    loss(torch.tensor([theta]), torch.tensor([theta]))
    settle(loss)
    return loss.eval()


def goodness_pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    g = 3 * torch.randn((2, *shape), dtype=torch.float64, generator=generator)
    return g[0].clone().requires_grad_(), g[1].clone().requires_grad_()


# θ and scales that float32 holds exactly, so that nothing but the formula is compared.
PAIRED = [
    pytest.param(ThresholdLoss(1.5), lambda p, n: references.threshold_loss(p, n, 1.5), id="threshold"),
    pytest.param(ThresholdLoss(-0.5, scale=3.0), lambda p, n: references.threshold_loss(p, n, -0.5, 3.0), id="scaled"),
    pytest.param(
        moved_to(0.75, scale=2.0), lambda p, n: references.threshold_loss(p, n, 0.75, 2.0), id="moving_threshold"
    ),
    pytest.param(SymBa(), lambda p, n: references.symba(p, n, 4.0), id="symba"),
    pytest.param(SymBa(0.5), lambda p, n: references.symba(p, n, 0.5), id="gentle_symba"),
    pytest.param(Swish(), lambda p, n: references.swish(p, n, 6.0), id="swish"),
]
MONOTONE = [
    ThresholdLoss(2.0),
    ThresholdLoss(-1.0, scale=0.1),
    moved_to(3.0),
    SymBa(),
    SymBa(0.2),
    TwoThresholdLoss(1.0, 2.0),
]


@pytest.mark.parametrize(("loss", "reference"), PAIRED)
@pytest.mark.parametrize("shape", [(7,), (4, 3)])
def test_equals_the_reference_with_its_gradient(
    loss: ContrastiveLoss, reference: Callable[..., float], shape: tuple[int, ...]
) -> None:
    g_pos, g_neg = goodness_pair(*shape)
    value = loss(g_pos, g_neg)
    value.backward()
    rows = [g_pos.flatten().tolist(), g_neg.flatten().tolist()]
    expected = references.numerical_gradient(lambda at: reference(*at), rows)
    assert value.dtype == torch.float64
    # torch's softplus is the identity above 20, which is 2e-9 away from the truth.
    assert value.item() == pytest.approx(reference(*rows), rel=1e-8)
    assert g_pos.grad.flatten().tolist() == pytest.approx(expected[0], rel=1e-5, abs=1e-8)
    assert g_neg.grad.flatten().tolist() == pytest.approx(expected[1], rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3), (2, 2, 3)])
def test_two_thresholds_equal_the_reference_with_its_gradient(shape: tuple[int, ...]) -> None:
    g_pos, g_neg = goodness_pair(*shape)
    value = TwoThresholdLoss(1.5, -0.25, penalty=0.5)(g_pos, g_neg)
    value.backward()
    (positives, negatives), length = (g.reshape(shape[0], -1).tolist() for g in (g_pos, g_neg)), shape[0]

    def loss(rows: list[list[float]]) -> float:
        return references_scff.two_threshold_loss(rows[:length], rows[length:], 1.5, -0.25, 0.5)

    expected = references.numerical_gradient(loss, [*positives, *negatives])
    assert value.item() == pytest.approx(loss([*positives, *negatives]), rel=1e-8)
    found = [*g_pos.grad.reshape(length, -1).tolist(), *g_neg.grad.reshape(length, -1).tolist()]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-8)


def test_silent_positives_have_a_gradient() -> None:
    g_pos = torch.zeros(2, 3, requires_grad=True)
    TwoThresholdLoss(1.0, 1.0, penalty=1.0)(g_pos, torch.zeros(2, 3)).backward()
    assert g_pos.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_class_softmax_equals_the_reference_with_its_gradient(scale: float) -> None:
    g = 3 * torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    g.requires_grad_()
    labels = torch.tensor([0, 4, 2, 2])
    value = Softmax(scale=scale)(g, labels).loss
    value.backward()
    expected = references.numerical_gradient(
        lambda at: references.class_softmax(at, labels.tolist(), scale), g.tolist()
    )
    assert value.item() == pytest.approx(references.class_softmax(g.tolist(), labels.tolist(), scale), rel=1e-12)
    torch.testing.assert_close(g.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("loss", "slope"), [(ThresholdLoss(2.0), 1.0), (moved_to(2.0), 1.0), (SymBa(4.0), 4.0), (Swish(6.0), 6.0)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_huge_goodness_gives_finite_losses_and_the_right_gradient(
    loss: ContrastiveLoss, slope: float, dtype: torch.dtype
) -> None:
    for high in (1e4, -1e4):
        g_pos = torch.full((2,), high, dtype=dtype, requires_grad=True)
        g_neg = torch.full((2,), -high, dtype=dtype, requires_grad=True)
        value = loss(g_pos, g_neg)
        value.backward()
        assert value.isfinite()
        # On the right side nothing is left to learn; on the wrong one the loss is a line of full slope.
        expected = 0.0 if high > 0 else slope / 2
        assert (-g_pos.grad).tolist() == pytest.approx([expected] * 2)
        assert g_neg.grad.tolist() == pytest.approx([expected] * 2)


def test_class_softmax_is_stable_for_huge_goodness() -> None:
    g = torch.tensor([[1e4, -1e4], [1e4, -1e4]], requires_grad=True)
    value = Softmax()(g, torch.tensor([0, 1])).loss
    value.backward()
    assert value.item() == 1e4
    assert g.grad.tolist() == [[0.0, 0.0], [0.5, -0.5]]


@pytest.mark.parametrize("loss", MONOTONE)
def test_loss_falls_as_positives_rise_and_as_negatives_fall(loss: ContrastiveLoss) -> None:
    grid = torch.linspace(-6, 6, 25, dtype=torch.float64).unsqueeze(1)
    for other in (-3.0, 0.0, 3.0):
        fixed = torch.full((1,), other, dtype=torch.float64)
        by_positive = torch.stack([loss(g, fixed) for g in grid])
        by_negative = torch.stack([loss(fixed, g) for g in grid])
        assert (by_positive.diff() < 0).all()
        assert (by_negative.diff() > 0).all()


def test_swish_falls_while_the_order_is_wrong_and_costs_nothing_when_well_separated() -> None:
    difference = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    values = torch.stack([Swish()(d.view(1), torch.zeros(1, dtype=torch.float64)) for d in difference])
    lowest = int(values.argmin())
    assert (values[: lowest + 1].diff() < 0).all()
    assert difference[lowest] > 0
    assert values[lowest].item() == pytest.approx(-0.27846, abs=1e-5)
    assert values[-1].abs() < 1e-8


@pytest.mark.parametrize("loss", [ThresholdLoss(2.0), SymBa(), Swish()])
def test_pairs_without_order_cost_what_chance_costs(loss: ContrastiveLoss) -> None:
    g = torch.full((3,), 2.0)
    expected = {ThresholdLoss: 2 * math.log(2), SymBa: math.log(2), Swish: 0.0}[type(loss)]
    assert loss(g, g).item() == pytest.approx(expected)


def test_only_losses_with_a_threshold_have_one() -> None:
    assert SymBa().threshold is None
    assert Swish().threshold is None
    assert ThresholdLoss(1.5).threshold.item() == 1.5


def test_a_fixed_threshold_is_saved_with_the_weights() -> None:
    restored = ThresholdLoss(0.0)
    restored.load_state_dict(ThresholdLoss(5.0).state_dict())
    assert restored.threshold.item() == 5.0
    assert not list(restored.parameters())


def drifting_batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    draw = torch.rand(count, 2, 6, dtype=torch.float64, generator=generator)
    return [(10 + k + g[0], 8 + k + g[1]) for k, g in enumerate(draw)]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_moving_threshold_follows_the_reference(momentum: float) -> None:
    loss = MovingThresholdLoss(momentum=momentum).double()
    batches = drifting_batches(5)
    thetas = references.moving_thresholds([[(p.tolist(), n.tolist())] for p, n in batches], momentum)
    for (g_pos, g_neg), before, after in zip(batches, thetas[:-1], thetas[1:], strict=True):
        value = loss(g_pos, g_neg)
        assert loss.threshold.item() == pytest.approx(before, rel=1e-12)
        expected = references.threshold_loss(g_pos.tolist(), g_neg.tolist(), before)
        assert value.item() == pytest.approx(expected, rel=1e-8)
        settle(loss)
        assert loss.threshold.item() == pytest.approx(after, rel=1e-12)


def test_the_first_training_batch_sets_the_moving_threshold() -> None:
    loss = MovingThresholdLoss(momentum=0.99)
    assert loss.threshold.isnan()
    loss(torch.tensor([100.0, 102.0]), torch.tensor([97.0, 97.0]))
    assert loss.threshold.item() == 99.0


def test_evaluation_leaves_the_moving_threshold_alone() -> None:
    loss = moved_to(4.0)
    loss(torch.tensor([50.0]), torch.tensor([60.0]))
    settle(loss)
    assert loss.threshold.item() == 4.0
    loss.train()
    loss(torch.tensor([50.0]), torch.tensor([60.0]))
    settle(loss)
    assert loss.threshold.item() == pytest.approx(0.9 * 4.0 + 0.1 * 55.0)


def test_moving_threshold_goes_on_after_a_checkpoint_as_if_nothing_had_happened() -> None:
    batches = drifting_batches(4)
    whole = MovingThresholdLoss()
    for pair in batches:
        whole(*pair)
        settle(whole)
    before = MovingThresholdLoss()
    for pair in batches[:2]:
        before(*pair)
        settle(before)
    after = MovingThresholdLoss()
    after.load_state_dict(before.state_dict())
    for pair in batches[2:]:
        after(*pair)
        settle(after)
    assert torch.equal(after.threshold, whole.threshold)


def test_no_gradient_goes_through_the_moving_threshold() -> None:
    g_pos, g_neg = goodness_pair(5)
    loss = MovingThresholdLoss().double()
    loss(g_pos, g_neg).backward()
    fixed = ThresholdLoss().double()
    fixed.theta.copy_(loss.threshold)
    expected = torch.autograd.grad(fixed(g_pos, g_neg), (g_pos, g_neg))
    assert not loss.threshold.requires_grad
    assert torch.equal(g_pos.grad, expected[0])
    assert torch.equal(g_neg.grad, expected[1])


def test_moving_threshold_may_move_again_before_the_backward_pass() -> None:
    g_pos, g_neg = goodness_pair(5)
    loss = MovingThresholdLoss(momentum=0.5).double()
    first = loss(g_pos, g_neg)
    expected = torch.autograd.grad(first, g_pos, retain_graph=True)[0]
    settle(loss)
    loss(g_pos + 5, g_neg)
    settle(loss)
    assert torch.equal(torch.autograd.grad(first, g_pos)[0], expected)


def test_copies_of_a_moving_threshold_move_apart() -> None:
    one = moved_to(1.0).train()
    other = copy.deepcopy(one)
    one(torch.tensor([9.0]), torch.tensor([9.0]))
    assert other.threshold.item() == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TwoThresholdLoss(math.inf, 0), "Passed `TwoThresholdLoss(positive=inf)`. `positive` must be finite."),
        (lambda: TwoThresholdLoss(0, math.nan), "Passed `TwoThresholdLoss(negative=nan)`. `negative` must be finite."),
        (
            lambda: TwoThresholdLoss(0, 1, penalty=-1.0),
            "Passed `penalty=-1.0`. `penalty` must be finite and not negative.",
        ),
        (lambda: ThresholdLoss(math.inf), "Passed `ThresholdLoss(threshold=inf)`. `threshold` must be finite."),
        (lambda: ThresholdLoss(math.nan), "Passed `ThresholdLoss(threshold=nan)`. `threshold` must be finite."),
        (lambda: ThresholdLoss(scale=0), "Passed `scale=0`. `scale` must be a positive, finite number."),
        (
            lambda: MovingThresholdLoss(scale=-1.0),
            "Passed `scale=-1.0`. `scale` must be a positive, finite number.",
        ),
        (lambda: MovingThresholdLoss(momentum=1), "Passed `momentum=1`. `momentum` must be in [0, 1)."),
        (lambda: MovingThresholdLoss(momentum=-0.1), "Passed `momentum=-0.1`. `momentum` must be in [0, 1)."),
        (lambda: MovingThresholdLoss(momentum=math.nan), "Passed `momentum=nan`. `momentum` must be in [0, 1)."),
        (lambda: SymBa(0.0), "Passed `alpha=0.0`. `alpha` must be a positive, finite number."),
        (lambda: Swish(-6.0), "Passed `alpha=-6.0`. `alpha` must be a positive, finite number."),
        (lambda: Softmax(scale=math.nan), "Passed `scale=nan`. `scale` must be a positive, finite number."),
        (lambda: positive("rate", math.inf), "Passed `rate=inf`. `rate` must be a positive, finite number."),
        (
            lambda: positive("rate", Fraction(1, 2)),
            "Passed `rate=Fraction(1, 2)`. `rate` must be a positive, finite number.",
        ),
    ],
)
def test_input_that_cannot_work_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message
