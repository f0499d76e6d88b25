"""Predictive Forward-Forward straight from the paper (Ororbia and Mali 2023, 2301.01452): one sample, one synapse.

The update rules are written out, without autograd: what a synapse changes by is an activity before it times a signal
after it, and nothing else enters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Row = list[float]
Matrix = list[Row]


@dataclass
class Layer:
    """Synapses of one recurrent layer: from below, biases, from above, and among rivals of the same group."""

    below: Matrix  # [unit][below]
    bias: Row
    above: Matrix  # [unit][above]
    rivals: list[Matrix]  # [group][from][to]


def unit_length(z: Row) -> Row:
    length = math.sqrt(sum(v * v for v in z))
    return [v / length for v in z] if length > 1e-6 else [v / 1e-6 for v in z]


def product(matrix: Matrix, z: Row) -> Row:
    return [sum(w * v for w, v in zip(row, z, strict=True)) for row in matrix]


def rivalry(rivals: list[Matrix], z: Row) -> Row:
    size = len(rivals[0])
    taken = []
    for j in range(len(z)):
        group, place = divmod(j, size)
        inhibited = sum(max(rivals[group][i][place], 0) * z[group * size + i] for i in range(size) if i != place)
        excited = max(rivals[group][place][place], 0) * z[j]
        taken.append(inhibited - excited)
    return taken


def settled(layer: Layer, below: Row, above: Row, last: Row, damping: float) -> Row:
    """Equation of a layer's activity: ``below`` and ``above`` are of unit length already, or a scaled label."""
    from_below, from_above = product(layer.below, below), product(layer.above, above)
    drives = zip(from_below, layer.bias, from_above, rivalry(layer.rivals, last), last, strict=True)
    return [(1 - damping) * max(w + b + v - r, 0) + damping * z for w, b, v, r, z in drives]


def stirred(z: Row, is_positive: bool, threshold: float, damping: float) -> Row:
    """Signal after the synapse: how the loss falls with the pre-activation of every unit, silent ones included.

    The loss is the cross-entropy of ``p(positive) = sigmoid(threshold - sum z^2)``.
    """
    p_positive = 1 / (1 + math.exp(sum(v * v for v in z) - threshold))
    push = p_positive - 1 if is_positive else p_positive
    return [push * 2 * v * (1 - damping) for v in z]


def layer_gradients(layer: Layer, below: Row, above: Row, last: Row, signal: Row) -> Layer:
    """Gradient of one sample's loss: activity before the synapse times signal after it."""
    size = len(layer.rivals[0])
    rivals = []
    for group, weights in enumerate(layer.rivals):
        start = group * size
        rivals.append(
            [
                [(weights[i][j] > 0) * (1 if i == j else -1) * last[start + i] * signal[start + j] for j in range(size)]
                for i in range(size)
            ]
        )
    return Layer(outer(signal, below), signal, outer(signal, above), rivals)


def unit_rms(z: Row) -> Row:
    return [v * math.sqrt(len(z)) for v in unit_length(z)]


@dataclass
class Prediction:
    """Synapses of one layer of the generative circuit."""

    weights: Matrix  # [below][above]
    bias: Row
    ceiling: float | None

    def of(self, above: Row) -> Row:
        most = math.inf if self.ceiling is None else self.ceiling
        drives = zip(product(self.weights, above), self.bias, strict=True)
        return [min(max(w + b, 0), most) for w, b in drives]


def prediction_gradient(prediction: Prediction, above: Row, below: Row) -> tuple[Matrix, Row]:
    """Gradient of one sample's squared error: error below times activity above, and the error for the bias."""
    errors = [2 * (p - v) for p, v in zip(prediction.of(above), below, strict=True)]
    return outer(errors, above), errors


def unit_columns(weights: Matrix) -> Matrix:
    """Synapses scaled so that those of every unit above have unit length."""
    lengths = [math.sqrt(sum(w * w for w in column)) for column in zip(*weights, strict=True)]
    return [[w / length for w, length in zip(row, lengths, strict=True)] for row in weights]


def along_directions(weights: Matrix, gradient: Matrix) -> Matrix:
    """Gradient for weights of which only the directions of columns count, from that for the directions."""
    columns = []
    for w, g in zip(zip(*weights, strict=True), zip(*gradient, strict=True), strict=True):
        length = math.sqrt(sum(v * v for v in w))
        along = sum(a * b for a, b in zip(w, g, strict=True)) / length
        columns.append([(b - along * a / length) / length for a, b in zip(w, g, strict=True)])
    return [list(row) for row in zip(*columns, strict=True)]


def outer(after: Row, before: Row) -> Matrix:
    return [[a * b for b in before] for a in after]


def inferred(prediction: Prediction, top: Row, latent: Row, rate: float) -> Row:
    """Latent state after one step: what it answers to the error of its own prediction is added to it."""
    error = [v - p for v, p in zip(top, prediction.of(latent), strict=True)]
    answers = [sum(row[k] * e for row, e in zip(prediction.weights, error, strict=True)) for k in range(len(latent))]
    return [z + rate * a for z, a in zip(latent, answers, strict=True)]
