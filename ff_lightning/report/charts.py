"""Line charts: where every line and tick lies, for the page to draw as SVG."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ff_lightning.report.run import Curve

WIDTH, HEIGHT = 380, 200
LEFT, RIGHT, TOP, BOTTOM = 56, 362, 8, 180
POINTS = 240
"""Of a longer curve, this many points are drawn."""

QUANTITIES = {
    "val/loss": "Nats a token of the prediction up to each block, validation",
    "val/accuracy": "Share of right predictions, validation",
    "val/r2": "Share of the variance that is explained, validation",
    "val/auroc": "How often an anomaly is stranger than a normal sample, validation",
    "train/loss": "Local loss of each block",
    "train/goodness": "Mean goodness: positives solid, negatives dashed",
    "train/separation": "Share of samples on the right side; 0.5 is chance",
    "train/margin": "Goodness gap in units of spread",
    "train/gradient_norm": "Norm of each block's gradient",
    "train/dead_units": "Share of units that answer to nothing in a batch",
    "val/separation": "Share on the right side against the hardest wrong label, validation",
    "lr": "Learning rate of each block",
}
"""Quantities that are drawn, in this order, and what they are."""

KIND = re.compile(r"(?P<quantity>(train|val)/\w+?)(?P<stream>_pos|_neg)?(/block_(?P<block>\d+))?")
RATE = re.compile(r"lr-[A-Za-z]\w*(-(?P<block>\d+))?(?P<group>/pg\d+)?")
WHOLE = -1


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        label: its name; empty for one that shares that of the line before.
        colour: CSS.
        dashed: drawn with gaps.
        points: of an SVG polyline.
        last: its last value, as text.
        end: where it ends.
    """

    label: str
    colour: str
    dashed: bool
    points: str
    last: str
    end: tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: heading.
        note: what is drawn.
        lines: the curves.
        across: ticks of updates: place and text.
        up: ticks of values.
    """

    title: str
    note: str
    lines: list[Line]
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]


@dataclass(frozen=True)
class Named:
    """A curve with its name, colour and style."""

    label: str
    colour: str
    curve: Curve
    dashed: bool = False


def run_charts(curves: Mapping[str, Curve]) -> list[Chart]:
    """Charts of one run, a quantity each.

    Args:
        curves: logged values by name.
    """
    found: dict[str, list[tuple[int, bool, Curve]]] = {}
    for name, curve in curves.items():
        place = _place(name)
        if place is not None:
            quantity, block, dashed = place
            found.setdefault(quantity, []).append((block, dashed, curve))
    charts = []
    for quantity, note in QUANTITIES.items():
        lines = sorted(found.get(quantity, []), key=lambda line: line[:2])
        if any(block != WHOLE for block, *_ in lines):
            # The last block of a language model, or the only block, is the whole network; a sum is of no block.
            lines = [line for line in lines if line[0] != WHOLE or quantity == "val/accuracy"]
        blocks = max((block for block, *_ in lines), default=WHOLE) + 1
        named = [Named(_label(block, dashed), colour(block, blocks), curve, dashed) for block, dashed, curve in lines]
        if named and any(value for each in named for _, value in each.curve):
            charts.append(draw("learning rate" if quantity == "lr" else quantity, note, named))
    return charts


def _place(name: str) -> tuple[str, int, bool] | None:
    """Quantity, block and stream of a logged value."""
    if match := RATE.fullmatch(name):
        if match["group"] not in (None, "/pg1"):
            return None
        return "lr", int(match["block"] or 0), False
    match = KIND.fullmatch(name)
    if match is None:
        return None
    block = WHOLE if match["block"] is None else int(match["block"])
    return match["quantity"], block, match["stream"] == "_neg"


def _label(block: int, dashed: bool) -> str:
    return "network" if block == WHOLE else "" if dashed else f"block {block}"


def colour(index: int, count: int) -> str:
    """Colour of one of several lines, from blue below to red above; the page's own for the whole network."""
    if index == WHOLE:
        return "var(--ink)"
    return f"hsl({215 - 205 * index / max(count - 1, 1):.0f} 62% 47%)"


def draw(title: str, note: str, named: Sequence[Named]) -> Chart:
    """Place curves in a chart.

    Args:
        title: heading.
        note: what is drawn.
        named: the curves, none of them empty.
    """
    low = min(value for each in named for _, value in each.curve)
    high = max(value for each in named for _, value in each.curve)
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = (0.0 if 0 <= low < 0.2 * high else low - margin), high + margin
    last = max(max(step for each in named for step, _ in each.curve), 1)

    def x(step: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * step / last, 1)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low), 1)

    lines = []
    for each in named:
        some = thinned(each.curve)
        points = " ".join(f"{x(step)},{y(value)}" for step, value in some)
        end = x(some[-1][0]), y(some[-1][1])
        lines.append(Line(each.label, each.colour, each.dashed, points, f"{some[-1][1]:.4g}", end))
    across = [(x(step), short(step)) for step in ticks(0, last, 4)]
    return Chart(title, note, lines, across, [(y(value), short(value)) for value in ticks(low, high, 5)])


def thinned(curve: Curve) -> Curve:
    """At most :data:`POINTS` points of a curve, first and last among them, evenly taken."""
    if len(curve) <= POINTS:
        return curve
    return [curve[round(index * (len(curve) - 1) / (POINTS - 1))] for index in range(POINTS)]


def ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``.

    >>> ticks(0, 800, 4)
    [0.0, 200.0, 400.0, 600.0, 800.0]
    """
    raw = (high - low) / count
    power: float = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.999 * raw)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{index * step:.10g}") + 0.0 for index in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis.

    >>> short(0.25), short(12000), short(0.0005)
    ('0.25', '12k', '5e-4')
    """
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.0e}".replace("e-0", "e-") if 0 < abs(value) < 1e-3 else f"{value:g}"
