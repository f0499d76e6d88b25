"""Events in a running recording, and which of them are right."""

from __future__ import annotations

import pytest
import torch

from ff_lightning.readouts.detection import Events, Matched, find_events, match


def bumps(frames: int, *peaks: tuple[int, int, float]) -> torch.Tensor:
    """Goodness of two words and of no word, with peaks (frame, word, height)."""
    goodness = torch.zeros(frames, 3)
    goodness[:, 2] = 5.0
    for frame, word, height in peaks:
        distance = (torch.arange(frames) - frame).abs()
        goodness[:, word] += height * (1 - distance / 5).clamp(min=0)
    return goodness


def test_peaks_are_events() -> None:
    events = find_events(bumps(100, (20, 0, 8.0), (60, 1, 9.0)), smooth=1).above(0.5)
    assert events.frame.tolist() == [20, 60]
    assert events.label.tolist() == [0, 1]
    assert (events.score > 0.9).all()


def test_of_near_peaks_the_higher_counts() -> None:
    events = find_events(bumps(100, (20, 0, 8.0), (28, 1, 9.0)), reach=12, smooth=1).above(0.5)
    assert events.frame.tolist() == [28]
    far = find_events(bumps(100, (20, 0, 8.0), (34, 1, 9.0)), reach=12, smooth=1).above(0.5)
    assert far.frame.tolist() == [20, 34]


def test_a_flat_top_is_one_event() -> None:
    goodness = bumps(60)
    goodness[20:24, 0] = 30.0
    events = find_events(goodness, reach=6, smooth=1).above(0.5)
    assert events.frame.tolist() == [20]


def test_events_do_not_depend_on_what_comes_much_later() -> None:
    goodness = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    whole, start = find_events(goodness, reach=10), find_events(goodness[:150], reach=10)
    assert whole.frame[whole.frame < 139].tolist() == start.frame[start.frame < 139].tolist()


def test_right_events_are_near_the_end_of_their_word() -> None:
    events = Events(torch.tensor([10, 40, 70, 74]), torch.tensor([0, 1, 0, 0]), torch.tensor([0.9, 0.8, 0.6, 0.7]))
    words = torch.tensor([[0, 12], [0, 41], [0, 75]])
    found = match(events, words, minutes=2.0, tolerance=5)
    assert found.right.tolist() == [True, False, False, True]  # wrong word; and one word is found once
    assert found.detected(0.0) == pytest.approx(2 / 3)
    assert found.false_alarms(0.0) == 1.0


def test_the_threshold_allows_so_many_false_alarms() -> None:
    score = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    right = torch.tensor([True, False, True, False, True, False])
    found = Matched(score, right, words=4, minutes=1.0)
    for allowed, detected in ((0.5, 1), (1.0, 2), (2.0, 3), (9.0, 3)):
        threshold = found.threshold(allowed)
        assert found.false_alarms(threshold) <= allowed
        assert found.detected(threshold) == detected / 4
    assert found.threshold(9.0) == pytest.approx(0.45)
