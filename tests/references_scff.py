"""Slow, obvious re-implementation of SCFF (arXiv 2409.11593) and of its authors' code, for tests of the package.

Plain Python floats (float64) and loops; a sample is a list of numbers, a map a list of channels of rows of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.references import Row, Rows, mean, softplus

Map = Sequence[Sequence[Row]]


def standardised(x: Row, eps: float = 1e-5) -> list[float]:
    """Section 4, "we standardise each sample": mean 0 and variance 1 over all its numbers."""
    level = mean(x)
    variance = mean([(value - level) ** 2 for value in x])
    return [(value - level) / math.sqrt(variance + eps) for value in x]


def concatenated_layer(first: Row, second: Row, weight: Rows, bias: Row) -> list[float]:
    """Pre-activations of ``[first; second]`` under the matrix ``[W, W]`` and the bias ``2 b``."""
    pair = [*first, *second]
    return [
        math.fsum(w * value for w, value in zip([*row, *row], pair, strict=True)) + 2 * b
        for row, b in zip(weight, bias, strict=True)
    ]


def rectified_energy(z: Row) -> float:
    """Goodness: the mean over the units of the squares of ``max(z, 0)``."""
    return mean([max(value, 0.0) ** 2 for value in z])


def triangle(z: Row) -> list[float]:
    """What is passed on: ``max(z - mean(z), 0)``."""
    level = mean(z)
    return [max(value - level, 0.0) for value in z]


def two_threshold_loss(g_pos: Rows, g_neg: Rows, positive: float, negative: float, penalty: float) -> float:
    """Of samples with a goodness at each of several positions; the penalty is on a sample's vector of goodness."""
    pull = mean([softplus(positive - g) for sample in g_pos for g in sample])
    push = mean([softplus(g - negative) for sample in g_neg for g in sample])
    return pull + push + penalty * mean([math.sqrt(math.fsum(g * g for g in sample)) for sample in g_pos])


def self_contrast_losses(
    images: Rows,
    shift: int,
    layers: Sequence[tuple[Rows, Row]],
    own_pairs: Sequence[bool],
    loss: Callable[[Rows, Rows], float],
) -> list[float]:
    """Loss of every layer of a fully connected net, from pairs that are built and passed on one by one."""
    singles = [standardised(x) for x in images]
    streams: tuple[list[list[float]], list[list[float]]] = ([], [])
    losses = []
    for (weight, bias), own in zip(layers, own_pairs, strict=True):
        if own:
            partners = [singles[(index - shift) % len(singles)] for index in range(len(singles))]
            z_pos = [concatenated_layer(x, x, weight, bias) for x in singles]
            z_neg = [concatenated_layer(x, other, weight, bias) for x, other in zip(singles, partners, strict=True)]
        else:  # no halves: W and b once
            half = [b / 2 for b in bias]
            z_pos, z_neg = ([concatenated_layer(x, [0.0] * len(x), weight, half) for x in stream] for stream in streams)
        losses.append(loss([[rectified_energy(z)] for z in z_pos], [[rectified_energy(z)] for z in z_neg]))
        streams = ([standardised(triangle(z)) for z in z_pos], [standardised(triangle(z)) for z in z_neg])
        singles = streams[0]
    return losses


def convolved(image: Map, weight: Sequence[Map], bias: Row) -> list[list[list[float]]]:
    """Cross-correlation with an odd square filter; beyond the border the map is reflected, its edge not repeated."""
    size = len(weight[0][0])
    reach = size // 2
    height, width = len(image[0]), len(image[0][0])

    def inside(at: int, length: int) -> int:
        return -at if at < 0 else 2 * (length - 1) - at if at >= length else at

    def value(filters: Map, y: int, x: int) -> float:
        return math.fsum(
            filters[c][dy][dx] * image[c][inside(y + dy - reach, height)][inside(x + dx - reach, width)]
            for c in range(len(image))
            for dy in range(size)
            for dx in range(size)
        )

    return [
        [[value(filters, y, x) + b for x in range(width)] for y in range(height)]
        for filters, b in zip(weight, bias, strict=True)
    ]


def largest_of_four(plane: Rows) -> list[list[float]]:
    """Maximum of 4 x 4 squares, two pixels apart, the first of which begins one pixel outside the map."""
    starts = range(-1, len(plane) - 2, 2)
    return [
        [
            max(
                plane[y][x]
                for y in range(max(top, 0), min(top + 4, len(plane)))
                for x in range(max(left, 0), min(left + 4, len(plane[0])))
            )
            for left in range(-1, len(plane[0]) - 2, 2)
        ]
        for top in starts
    ]
