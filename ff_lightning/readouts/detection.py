"""Finding words in a running recording: from scores at every frame to events, and how many of them are right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Events:
    """Words that were found, one row each.

    Attributes:
        frame: ``(E,)`` int64, where each was found.
        label: ``(E,)`` int64, which word.
        score: ``(E,)`` float, the probability of the word there.
    """

    frame: Tensor
    label: Tensor
    score: Tensor

    def above(self, threshold: float) -> Events:
        """Those with at least this score."""
        kept = self.score >= threshold
        return Events(self.frame[kept], self.label[kept], self.score[kept])


def find_events(goodness: Tensor, *, reach: int = 12, smooth: int = 5) -> Events:
    """Find frames at which a word is more probable than any word at the frames around.

    A word is reported ``reach`` frames after the frame at which it was found, when no later one can be better.

    Args:
        goodness: ``(T, C)``, of all classes at every frame, as log-probability up to a constant; the last class is
            "no word".
        reach: frames to either side.
        smooth: probabilities are averaged over so many frames, the current one and earlier ones.

    Returns:
        The events, by time; every one, however improbable.
    """
    probability = goodness.float().softmax(-1)[:, :-1].T
    recent = F.avg_pool1d(F.pad(probability.unsqueeze(0), (smooth - 1, 0)), smooth, stride=1)[0]
    score, label = recent.max(0)
    highest = F.max_pool1d(F.pad(score.view(1, 1, -1), (reach, reach), value=-1.0), 2 * reach + 1, stride=1).view(-1)
    # Of equal neighbours the first one counts, as it does when the recording runs.
    at = (score == highest).nonzero()[:, 0]
    at = at[torch.cat([at.new_full((1,), reach + 1), at.diff()])[: len(at)] > reach]
    return Events(at, label[at], score[at])


@dataclass(frozen=True)
class Matched:
    """Events of one or more recordings beside the words that were spoken.

    Attributes:
        score: ``(E,)`` of every event.
        right: ``(E,)`` bool: the word ends there, and no better event says so.
        words: how many words were spoken.
        minutes: length of the recordings.
    """

    score: Tensor
    right: Tensor
    words: int
    minutes: float

    def threshold(self, false_alarms: float) -> float:
        """The score that an event must have for at most so many false alarms a minute, and no lower than helps.

        It lies halfway between the lowest score of a right event that is above the first false alarm too many, and the
        best wrong event below that; other recordings have other scores.
        """
        wrong = self.score[~self.right].sort(descending=True).values
        allowed = int(false_alarms * self.minutes)
        right = self.score[self.right]
        if allowed < len(wrong):
            right = right[right > wrong[allowed]]
        if not len(right):
            return 1.0
        below = wrong[wrong < right.min()]
        return float(right.min() + (below.max() if len(below) else 0.0)) / 2

    def detected(self, threshold: float) -> float:
        """Share of the words that are found."""
        return float((self.right & (self.score >= threshold)).sum()) / max(1, self.words)

    def false_alarms(self, threshold: float) -> float:
        """False alarms a minute."""
        return float((~self.right & (self.score >= threshold)).sum()) / self.minutes


def match(events: Events, words: Tensor, *, minutes: float, tolerance: int = 15) -> Matched:
    """Say which events are right.

    Args:
        events: of one recording.
        words: ``(W, 2)`` int64, class and last frame of every word.
        minutes: length of the recording.
        tolerance: frames that an event may lie before or behind the end of its word.
    """
    right = torch.zeros(len(events.score), dtype=torch.bool)
    free = torch.ones(len(words), dtype=torch.bool)
    for event in events.score.argsort(descending=True).tolist():
        near = (words[:, 1] - events.frame[event]).abs() <= tolerance
        fitting = (near & free & (words[:, 0] == events.label[event])).nonzero()[:, 0]
        if len(fitting):
            free[fitting[0]] = False
            right[event] = True
    return Matched(events.score, right, len(words), minutes)
