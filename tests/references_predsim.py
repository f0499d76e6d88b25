"""Slow, obvious re-implementation of the losses of Nøkland and Eidnes (1901.06656), in Python floats.

A sample is a list of units, or a feature map: a list of channels, each a list of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tests.references import mean


def cosine_similarity(samples: Sequence[Sequence[float]]) -> list[list[float]]:
    """Their matrix S(X): cosines between samples, each less its mean (section 2.2)."""
    centred = [[value - mean(sample) for value in sample] for sample in samples]
    lengths = [math.sqrt(math.fsum(value * value for value in sample)) for sample in centred]
    return [
        [math.fsum(a * b for a, b in zip(x, y, strict=True)) / (p * q) for y, q in zip(centred, lengths, strict=True)]
        for x, p in zip(centred, lengths, strict=True)
    ]


def linear(sample: Sequence[float], weight: Sequence[Sequence[float]]) -> list[float]:
    return [math.fsum(w * value for w, value in zip(row, sample, strict=True)) for row in weight]


def convolution(sample: Any, weight: Any) -> list[list[list[float]]]:
    """Filters of 3 x 3 without bias, zeros around the map."""
    height, width = len(sample[0]), len(sample[0][0])

    def at(channel: int, row: int, column: int) -> float:
        inside = 0 <= row < height and 0 <= column < width
        return float(sample[channel][row][column]) if inside else 0.0

    def value(filters: Any, row: int, column: int) -> float:
        return math.fsum(
            filters[c][i][j] * at(c, row + i - 1, column + j - 1)
            for c in range(len(sample))
            for i in range(3)
            for j in range(3)
        )

    return [[[value(filters, row, column) for column in range(width)] for row in range(height)] for filters in weight]


def deviations(sample: Any) -> list[float]:
    """Standard deviation of every map over its positions."""
    found = []
    for channel in sample:
        values = [value for row in channel for value in row]
        found.append(math.sqrt(math.fsum((value - mean(values)) ** 2 for value in values) / (len(values) - 1)))
    return found


def similarity_matching(samples: Any, labels: Sequence[int], num_classes: int, weight: Any) -> float:
    """Mean square of S(N(h)) - S(y), with N a matrix, or filters whose maps count by their deviation."""
    maps = isinstance(samples[0][0], list)
    mapped = [deviations(convolution(s, weight)) if maps else linear(s, weight) for s in samples]
    ours = cosine_similarity(mapped)
    theirs = cosine_similarity([[float(label == c) for c in range(num_classes)] for label in labels])
    pairs = range(len(samples))
    return mean([(ours[i][j] - theirs[i][j]) ** 2 for i in pairs for j in pairs])


def prediction(samples: Any, labels: Sequence[int], weight: Any, bias: Sequence[float], pool: int) -> float:
    """Cross-entropy of a linear softmax, of feature maps on their means over squares of side ``pool``, in nats."""
    total = []
    for sample, label in zip(samples, labels, strict=True):
        units = sample if not isinstance(sample[0], list) else pooled(sample, pool)
        logits = [value + b for value, b in zip(linear(units, weight), bias, strict=True)]
        total.append(math.log(math.fsum(math.exp(value) for value in logits)) - logits[label])
    return mean(total)


def pooled(sample: Any, side: int) -> list[float]:
    found = []
    for channel in sample:
        for top in range(0, len(channel), side):
            for left in range(0, len(channel[0]), side):
                field = [channel[i][j] for i in range(top, top + side) for j in range(left, left + side)]
                found.append(mean(field))
    return found
