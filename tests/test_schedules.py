"""Schedules: periods, ranges of updates, and the rate that holds and then falls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, SequentialLR

from ff_lightning.errors import InputError
from ff_lightning.schedules import (
    Greedy,
    HoldThenDecay,
    Periods,
    Rates,
    ReadoutLast,
    RestOnPlateau,
    Schedule,
    Simultaneous,
    Staggered,
    update_ranges,
)
from tests import references

SCHEDULES = [Simultaneous(), Staggered(), Staggered(0.0), Greedy(), ReadoutLast(), RestOnPlateau()]


def optimizer(*rates: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def rates_of(scheduler: HoldThenDecay, steps: int) -> list[list[float]]:
    """Rates of all parameter groups at each of the next updates."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


# Periods -------------------------------------------------------------------------------------------------------


def test_windows() -> None:
    assert Simultaneous().periods(3) == [(0.0, 1.0)] * 3
    assert Staggered(0.2).periods(3) == [(0.0, 1.0), (0.2, 1.0), (0.4, 1.0)]
    assert Greedy().periods(4) == [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]
    assert ReadoutLast(0.2).periods(3) == [(0.0, 0.8), (0.0, 0.8), (0.8, 1.0)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize("depth", [1, 2, 7])
def test_every_block_gets_a_period_within_the_training(schedule: Schedule, depth: int) -> None:
    periods = schedule.periods(depth)
    assert len(periods) == depth
    assert all(0 <= start < stop <= 1 for start, stop in periods)
    assert periods[0][0] == 0
    assert periods[-1][1] == 1


@pytest.mark.parametrize("total", [None, 7])
def test_a_block_with_rate_0_rests_and_the_others_learn_to_the_end(total: int | None) -> None:
    schedule = Rates([0, 0.3, 1])
    ranges = update_ranges(schedule, 3, total)
    assert [update in ranges[0] for update in (0, 3, 10**9)] == [False] * 3
    assert all(10**9 in updates for updates in ranges[1:])
    assert [schedule.rate(index, 3) for index in range(3)] == [0, 0.3, 1]
    assert (schedule.periods(1), schedule.rate(0, 1)) == ([(0.0, 1.0)], 1.0), "of a twin"


def test_rates_that_make_no_sense_are_refused() -> None:
    for rates in ([], [0, 0], [-1, 1], [float("nan"), 1]):
        with pytest.raises(InputError, match="rates"):
            Rates(rates)
    with pytest.raises(InputError, match="for 3 blocks"):
        Rates([0, 1]).periods(3)


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [1, 7, 10, 97, 1000])
def test_greedy_gives_every_update_to_one_block(depth: int, total: int) -> None:
    ranges = update_ranges(Greedy(), depth, total)
    owners = [[k for k, updates in enumerate(ranges) if update in updates] for update in range(total)]
    assert all(len(owner) == 1 for owner in owners)
    assert owners == sorted(owners)
    shares = [sum(owner == [k] for owner in owners) for k in range(depth)]
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize("shares", [[1, 2, 5], [0.1, 0.2, 0.7], [6, 4, 21, 50]])
def test_greedy_gives_shares_that_may_differ(shares: list[float]) -> None:
    ranges = update_ranges(Greedy(shares), len(shares), 1000)
    assert [updates.stop for updates in ranges[:-1]] == [updates.start for updates in ranges[1:]]
    assert ranges[-1].stop > 1000
    lengths = [min(updates.stop, 1000) - updates.start for updates in ranges]
    assert Greedy(shares).periods(1) == [(0.0, 1.0)]
    assert lengths == pytest.approx([1000 * share / sum(shares) for share in shares], abs=1)


@pytest.mark.parametrize("total", [7, 100])
def test_only_blocks_that_learn_to_the_end_go_on_past_it(total: int) -> None:
    assert [10 * total in updates for updates in update_ranges(Greedy(), 3, total)] == [False, False, True]
    assert all(10 * total in updates for updates in update_ranges(Staggered(0.3), 3, total))


@pytest.mark.parametrize("schedule", [Simultaneous, Staggered, Greedy, ReadoutLast])
def test_upper_blocks_learn_as_fast_unless_said_otherwise(schedule: type[Schedule]) -> None:
    assert schedule().depth_decay == 1.0
    assert schedule(depth_decay=0.5).depth_decay == 0.5
    assert schedule(depth_decay=0.5).periods(2) == schedule().periods(2)


def test_staggered_blocks_start_after_their_delay() -> None:
    ranges = update_ranges(Staggered(0.25), 4, 40)
    assert [updates.start for updates in ranges] == [0, 10, 20, 30]
    assert all(39 in updates for updates in ranges)


@pytest.mark.parametrize("total", [None, 12])
def test_simultaneous_blocks_learn_always(total: int | None) -> None:
    for updates in update_ranges(Simultaneous(), 3, total):
        assert all(update in updates for update in (0, 11, 10**9))


def test_a_schedule_without_delay_or_of_one_block_needs_no_end() -> None:
    assert len(update_ranges(Staggered(0.0), 3, None)) == 3
    assert len(update_ranges(Greedy(), 1, None)) == 1


# Learning rates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("warmup", "hold", "final"),
    [(0.0, 0.5, 0.0), (0.2, 0.5, 0.1), (0.0, 0.0, 0.0), (0.5, 0.5, 0.2), (0.3, 1.0, 0.0), (1.0, 1.0, 1.0)],
)
@pytest.mark.parametrize("total", [1, 10, 33])
def test_rates_equal_the_reference(warmup: float, hold: float, final: float, total: int) -> None:
    scheduler = HoldThenDecay(optimizer(0.1, 2.0), warmup=warmup, hold=hold, final=final, total_updates=total)
    for done, (first, second) in enumerate(rates_of(scheduler, total + 5)):
        factor = references.hold_then_decay(done, total, warmup, hold, final)
        assert first == pytest.approx(0.1 * factor, abs=1e-12)
        assert second == pytest.approx(2.0 * factor, abs=1e-12)


def test_warm_up_rises_in_equal_steps_from_near_zero() -> None:
    rates = [rate for (rate,) in rates_of(HoldThenDecay(optimizer(1.0), warmup=0.4, total_updates=10), 5)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_the_rate_falls_to_final_and_stays_there() -> None:
    rates = [rate for (rate,) in rates_of(HoldThenDecay(optimizer(4.0), final=0.25, total_updates=8), 12)]
    assert rates == pytest.approx([4.0] * 5 + [3.25, 2.5, 1.75] + [1.0] * 4)


def test_without_a_total_the_rate_stays() -> None:
    assert rates_of(HoldThenDecay(optimizer(0.3), warmup=0.5), 50) == [[0.3]] * 50


def test_a_total_set_later_counts_from_the_start() -> None:
    late = HoldThenDecay(optimizer(0.1, 2.0), warmup=0.2, hold=0.5, final=0.1)
    late.set_total(20)
    early = HoldThenDecay(optimizer(0.1, 2.0), warmup=0.2, hold=0.5, final=0.1, total_updates=20)
    assert rates_of(late, 22) == rates_of(early, 22)


def test_a_scheduler_without_a_total_of_its_own_follows_the_training() -> None:
    assert HoldThenDecay(optimizer(0.1)).follows_training
    assert not HoldThenDecay(optimizer(0.1), total_updates=5).follows_training


def test_the_last_rate_is_the_one_that_was_set() -> None:
    scheduler = HoldThenDecay(optimizer(0.1, 2.0), warmup=0.2)
    scheduler.set_total(20)
    assert scheduler.get_last_lr() == [group["lr"] for group in scheduler.optimizer.param_groups]


@pytest.mark.parametrize("stop", [0, 1, 6, 9])
def test_a_restored_schedule_goes_on_where_it_stopped(stop: int) -> None:
    kwargs = {"warmup": 0.2, "hold": 0.5, "final": 0.1}
    whole = HoldThenDecay(optimizer(0.1), total_updates=10, **kwargs)
    expected = rates_of(whole, 12)
    before = HoldThenDecay(optimizer(0.1), total_updates=10, **kwargs)
    rates_of(before, stop)
    after = HoldThenDecay(optimizer(0.1), **kwargs)
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    after.load_state_dict(before.state_dict())
    assert after.total_updates == 10
    assert rates_of(after, 12 - stop) == expected[stop:]


def test_it_is_a_scheduler_like_torchs_own() -> None:
    sgd = optimizer(1.0)
    first = torch.optim.lr_scheduler.ConstantLR(sgd, factor=0.5, total_iters=100)
    scheduler = HoldThenDecay(sgd, hold=0.0, total_updates=4)
    assert isinstance(scheduler, LRScheduler)
    chained = SequentialLR(sgd, [first, scheduler], milestones=[2])
    rates = []
    for _ in range(5):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        chained.step()
    assert rates == pytest.approx([0.5, 0.5, 1.0, 0.75, 0.5])
    assert scheduler.get_last_lr() == pytest.approx([0.25])


def test_every_block_learns_in_the_period_that_it_was_given() -> None:
    schedule = Periods([[0, 0.5], [0, 0.75], [0.25, 1]])
    ranges = update_ranges(schedule, 3, 100)
    assert [(block.start, block.stop) for block in ranges[:2]] == [(0, 50), (0, 75)]
    assert ranges[2].start == 25
    assert 10**6 in ranges[2]
    assert Periods([[0, 0.5], [0.5, 1]]).periods(1) == [(0.0, 1.0)], "a twin has all the time"


def test_a_block_rests_for_good_once_its_loss_has_stood_still() -> None:
    schedule = RestOnPlateau(2, least=0.1)
    for losses in ({0: 1.0, 1: 1.0}, {0: 0.95, 1: 0.8}, {0: 0.92, 1: 0.6}):
        assert not schedule.rests(0)
        schedule.observe(losses)
    assert schedule.rests(0)
    assert not schedule.rests(1)
    again = RestOnPlateau(2, least=0.1)
    again.load_state_dict(schedule.state_dict())
    assert (again.best, again.waited) == (schedule.best, schedule.waited) == ({0: 1.0, 1: 0.6}, {0: 2, 1: 0})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Staggered(1.0), "Passed `delay=1.0`. `delay` must be in [0, 1)."),
        (lambda: Simultaneous(depth_decay=0), "Passed `depth_decay=0`. `depth_decay` must be in (0, 1]."),
        (lambda: Greedy([]), "Passed `shares=[]`. `shares` needs one positive number a block."),
        (lambda: Greedy([1, 0]), "Passed `shares=[1, 0]`. `shares` needs one positive number a block."),
        (
            lambda: Greedy([1, 2]).periods(3),
            "Passed `shares=[1, 2]` for 3 blocks, a readout that learns counted among them. `shares` needs one number "
            "a block.",
        ),
        (
            lambda: Periods([[0, 0.5], [0.5, 0.5]]),
            "Passed `periods=[[0, 0.5], [0.5, 0.5]]`. `periods` needs `[start, stop]` for every block, shares of the "
            "training with 0 <= start < stop <= 1.",
        ),
        (
            lambda: Periods([[0, 1], [0, 1]]).periods(3),
            "Passed `periods` of 2 blocks for 3, a readout that learns counted among them. `periods` needs `[start, "
            "stop]` for each.",
        ),
        (
            lambda: RestOnPlateau(0),
            "Passed `RestOnPlateau(patience=0)`. `patience` must be a whole number, at least 1.",
        ),
        (
            lambda: RestOnPlateau(least=-1.0),
            "Passed `RestOnPlateau(least=-1.0)`. `least` must be finite and not negative.",
        ),
        (lambda: ReadoutLast(0.0), "Passed `share=0.0`. `share` must be in (0, 1)."),
        (lambda: ReadoutLast(1), "Passed `share=1`. `share` must be in (0, 1)."),
        (lambda: Greedy(depth_decay=1.5), "Passed `depth_decay=1.5`. `depth_decay` must be in (0, 1]."),
        (lambda: Staggered(depth_decay=-1), "Passed `depth_decay=-1`. `depth_decay` must be in (0, 1]."),
        (lambda: Staggered(-0.1), "Passed `delay=-0.1`. `delay` must be in [0, 1)."),
        (
            lambda: Staggered(0.25).periods(5),
            "Passed `delay=0.25` for 5 blocks. The last one would start at 1 of the training; `delay` must be "
            "below 0.25.",
        ),
        (
            lambda: update_ranges(Staggered(0.5), 4, 100),
            "Passed `delay=0.5` for 4 blocks. The last one would start at 1.5 of the training; `delay` must be "
            "below 0.333333.",
        ),
        (
            lambda: update_ranges(Greedy(), 2, None),
            "Passed `schedule=Greedy` to a training without an end. Give the Trainer `max_epochs` or `max_steps`.",
        ),
        (
            lambda: HoldThenDecay(optimizer(1.0), warmup=0.6, hold=0.5),
            "Passed `warmup=0.6, hold=0.5`. Needed: 0 <= warmup <= hold <= 1.",
        ),
        (
            lambda: HoldThenDecay(optimizer(1.0), warmup=-0.1),
            "Passed `warmup=-0.1, hold=0.5`. Needed: 0 <= warmup <= hold <= 1.",
        ),
        (
            lambda: HoldThenDecay(optimizer(1.0), hold=1.5),
            "Passed `warmup=0.0, hold=1.5`. Needed: 0 <= warmup <= hold <= 1.",
        ),
        (
            lambda: HoldThenDecay(optimizer(1.0), final=-0.5),
            "Passed `final=-0.5`. `final` must be in [0, 1].",
        ),
        (lambda: HoldThenDecay(optimizer(1.0), final=2.0), "Passed `final=2.0`. `final` must be in [0, 1]."),
    ],
)
def test_input_that_cannot_work_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message
