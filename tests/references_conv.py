"""Slow, obvious re-implementations for convolutional stacks: Python floats for goodness, plain torch for networks.

A feature map is a list of channels, a channel a list of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.references import mean

Map = Sequence[Sequence[Sequence[float]]]
Matrix = Sequence[Sequence[float]]


def fields(sample: Map, grid: int) -> list[float]:
    """Means over the fields of a grid, channel by channel, at mean square 1; maps must be multiples of the grid."""
    found = []
    for channel in sample:
        rows, columns = len(channel), len(channel[0])
        high, wide = max(rows // grid, 1), max(columns // grid, 1)
        for top in range(0, rows, high):
            for left in range(0, columns, wide):
                found.append(mean([channel[i][j] for i in range(top, top + high) for j in range(left, left + wide)]))
    length = math.sqrt(mean([value * value for value in found]))
    return [value / length for value in found]


def weigh(values: list[float], weight: Matrix, bias: Sequence[float]) -> list[float]:
    return [math.fsum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def weighted_energy(sample: Map, weight: Matrix, bias: Sequence[float], grid: int) -> list[float]:
    return weigh([value * value for value in fields(sample, grid)], weight, bias)


def projected_activity(sample: Map, weight: Matrix, bias: Sequence[float], grid: int) -> list[float]:
    """Mono-Forward's G = a M^T (2501.09238), of pooled activities with mean square 1."""
    return weigh(fields(sample, grid), weight, bias)


def deeper_forward(x: Tensor, filters: Sequence[Tensor], num_classes: int, stage: int) -> list[Tensor]:
    """Goodness of every layer of DeeperForward's residual net (kOYnXVQCtA), each ``(B, C)``; no gradient between.

    Layers come in stages of ``stage`` behind a stem. Behind every second one the shortcut is added, behind the last of
    a stage but the very last it is concatenated; what comes out is the next shortcut, pooled where the map will have
    been halved when it is used.
    """
    goodness = []
    x = F.layer_norm(x, x.shape[1:])
    shortcut = x
    for index, weight in enumerate(filters):
        starts_stage = index > 1 and (index - 1) % stage == 0
        h = F.relu(F.conv2d(x.detach(), weight, stride=2 if starts_stage else 1, padding=1))
        goodness.append(h.view(len(h), num_classes, -1).mean(2))
        x = F.group_norm(h, num_classes).detach()
        ends_stage = index > 0 and index % stage == 0 and index < len(filters) - 1
        if ends_stage:
            x = torch.cat([x, shortcut], 1)
        elif index > 0 and index % 2 == 0:
            x = x + shortcut
        if index % 2 == 0:
            shortcut = F.avg_pool2d(x, 2) if ends_stage else x
    return goodness


def wave(label: int, num_classes: int, height: int, width: int, wavelengths: Sequence[float]) -> list[list[float]]:
    """The wave of a class, pixel by pixel, at mean square 1: it runs at an angle of its own."""
    length = wavelengths[label % len(wavelengths)]
    angle, phase = math.pi * label / num_classes, 2 * math.pi * label / num_classes
    heights = [
        [
            math.cos(2 * math.pi * (math.cos(angle) * column + math.sin(angle) * row) / length + phase)
            for column in range(width)
        ]
        for row in range(height)
    ]
    size = math.sqrt(mean([mean([value * value for value in row]) for row in heights]))
    return [[value / size for value in row] for row in heights]


def labelled_layer(image: Map, plane: Sequence[Sequence[float]], filters: Sequence[Map], bias: Sequence[float]) -> Map:
    """Convolution of an image with its label's plane as the last channel, zeros around it, and ReLU; pixel by pixel."""
    maps = [*image, plane]
    rows, columns, reach = len(plane), len(plane[0]), len(filters[0][0]) // 2

    def seen(channel: Sequence[Sequence[float]], row: int, column: int) -> float:
        return channel[row][column] if 0 <= row < rows and 0 <= column < columns else 0.0

    def unit(weights: Map, shift: float, row: int, column: int) -> float:
        terms = [
            weight * seen(channel, row + i - reach, column + j - reach)
            for channel, square in zip(maps, weights, strict=True)
            for i, line in enumerate(square)
            for j, weight in enumerate(line)
        ]
        return max(math.fsum(terms) + shift, 0.0)

    return [
        [[unit(weights, shift, row, column) for column in range(columns)] for row in range(rows)]
        for weights, shift in zip(filters, bias, strict=True)
    ]
