"""Slow, obvious re-implementations of Hinton's local and recurrent nets (2212.13345), to test the package against.

Plain Python floats and loops, one sample at a time, as in :mod:`tests.references`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.references import Row, Rows, mean_of_squares, unit_rms

Map = Sequence[Sequence[Row]]
"""Rows, columns and channels."""


def locally_connected(
    below: Map, weight: Sequence[Rows], bias: Rows, *, field: int, stride: int, padding: int
) -> list[float]:
    """Section 3.2: a grid of positions; a unit sees all channels of a square below it, with weights of its own.

    ``weight[p][k][c]`` goes to unit ``c`` of position ``p``, from the ``k``-th value of its square: rows first, then
    columns, then channels. Beyond the edge is nothing.
    """
    height, width, channels = len(below), len(below[0]), len(below[0][0])
    answers: list[float] = []
    tops = range(-padding, height + padding - field + 1, stride)
    lefts = range(-padding, width + padding - field + 1, stride)
    corners = [(top, left) for top in tops for left in lefts]
    for position, (top, left) in enumerate(corners):
        seen: list[float] = []
        for y in range(top, top + field):
            for x in range(left, left + field):
                inside = 0 <= y < height and 0 <= x < width
                seen += list(below[y][x]) if inside else [0.0] * channels
        for unit, shift in enumerate(bias[position]):
            answers.append(shift + sum(value * weight[position][k][unit] for k, value in enumerate(seen)))
    return answers


def weighted(weight: Rows, values: Row) -> list[float]:
    """Matrix times vector."""
    return [sum(w * v for w, v in zip(row, values, strict=True)) for row in weight]


def settle(
    image: Row, label: Row, layers: Sequence[tuple[Rows, Row, Rows]], *, iterations: int, damping: float
) -> list[list[list[float]]]:
    """Section 3.4: activities of every layer after every iteration, for one image and one label.

    Args:
        image: already at unit RMS.
        label: one of N, already scaled.
        layers: of each the weights from below, the bias, and the weights from above.
        iterations: synchronous ones, after one pass upwards.
        damping: share of the old activities that stays.
    """
    state: list[list[float]] = []
    below: Row = image
    for up, bias, _ in layers:
        state.append([max(0.0, z + b) for z, b in zip(weighted(up, below), bias, strict=True)])
        below = unit_rms(state[-1])
    course = []
    for _ in range(iterations):
        ends = [list(image), *[unit_rms(h) for h in state], list(label)]
        after = []
        for index, (up, bias, down) in enumerate(layers):
            z = [
                a + b + c
                for a, b, c in zip(weighted(up, ends[index]), weighted(down, ends[index + 2]), bias, strict=True)
            ]
            after.append(
                [damping * old + (1 - damping) * max(0.0, new) for old, new in zip(state[index], z, strict=True)]
            )
        state = after
        course.append(state)
    return course


def judged_goodness(course: Sequence[Sequence[Row]], first: int, last: int) -> list[float]:
    """Mean of squares of every layer, averaged over the iterations ``first`` to ``last``, counted from 1."""
    layers = range(len(course[0]))
    chosen = course[first - 1 : last]
    return [sum(mean_of_squares(state[index]) for state in chosen) / len(chosen) for index in layers]
