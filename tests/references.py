"""Slow, obvious re-implementations from the papers, to test the package against.

Plain Python floats (float64) and loops; no tensor, no autograd. Samples are lists of numbers, batches lists of
samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

Row = Sequence[float]
Rows = Sequence[Row]


def mean(values: Row) -> float:
    return math.fsum(values) / len(values)


def sigmoid(z: float) -> float:
    if z < 0:
        return math.exp(z) / (1 + math.exp(z))
    return 1 / (1 + math.exp(-z))


def softplus(z: float) -> float:
    """The logarithm of ``1 + exp(z)``, in the form that does not overflow."""
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def numerical_gradient(function: Callable[[list[list[float]]], float], at: Rows) -> list[list[float]]:
    """Central differences: the derivative of ``function(rows)`` by every number of the rows."""
    eps = 1e-5
    rows = [list(row) for row in at]
    gradient = [[0.0] * len(row) for row in rows]
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            row[j] = value + eps
            above = function(rows)
            row[j] = value - eps
            below = function(rows)
            row[j] = value
            gradient[i][j] = (above - below) / (2 * eps)
    return gradient


# Goodness ------------------------------------------------------------------------------------------------------


def sum_of_squares(h: Row) -> float:
    """Hinton 2022 (arXiv 2212.13345), section 2, equation 1: the sum over j of ``y_j`` squared."""
    total = 0.0
    for y in h:
        total += y * y
    return total


def mean_of_squares(h: Row) -> float:
    """The same divided by the number of units (CwC, arXiv 2312.12668, section 3, for one group of channels)."""
    return sum_of_squares(h) / len(h)


def mean_activity(h: Row) -> float:
    """DeeperForward (Sun et al. 2025, OpenReview kOYnXVQCtA), section 3: goodness is the plain mean."""
    total = 0.0
    for y in h:
        total += y
    return total / len(h)


def channel_groups(h: Row, num_classes: int, of: Callable[[Row], float]) -> list[float]:
    """CwC (arXiv 2312.12668), section 3: class c owns the c-th of ``num_classes`` equal slices of the channels."""
    size = len(h) // num_classes
    return [of(h[c * size : (c + 1) * size]) for c in range(num_classes)]


# Losses --------------------------------------------------------------------------------------------------------


def threshold_loss(g_pos: Row, g_neg: Row, theta: float, scale: float = 1.0) -> float:
    """Hinton 2022, section 2, equation 1: ``p(positive) = sigmoid(goodness - theta)``, minus log-likelihood."""
    positives = [softplus(-scale * (g - theta)) for g in g_pos]
    negatives = [softplus(scale * (g - theta)) for g in g_neg]
    return mean(positives) + mean(negatives)


def symba(g_pos: Row, g_neg: Row, alpha: float) -> float:
    """SymBa (arXiv 2303.08418), section 3: ``log(1 + exp(-alpha * (G_pos - G_neg)))``."""
    return mean([softplus(-alpha * (p - n)) for p, n in zip(g_pos, g_neg, strict=True)])


def swish(g_pos: Row, g_neg: Row, alpha: float) -> float:
    """D. Hamann (github.com/dah33/explore_forward_forward): ``z * sigmoid(z)`` of the same difference."""
    z = [-alpha * (p - n) for p, n in zip(g_pos, g_neg, strict=True)]
    return mean([value * sigmoid(value) for value in z])


def class_softmax(g: Rows, labels: Sequence[int], scale: float = 1.0) -> float:
    """CwC (arXiv 2312.12668), section 3: cross-entropy of the softmax over the goodness of all classes."""
    losses = []
    for row, label in zip(g, labels, strict=True):
        highest = max(row)
        partition = math.fsum(math.exp(scale * (value - highest)) for value in row)
        losses.append(math.log(partition) - scale * (row[label] - highest))
    return mean(losses)


def moving_thresholds(batches: Sequence[Sequence[tuple[Row, Row]]], momentum: float) -> list[float]:
    """Theta in every batch, and after the last: a running mean of the midpoint between the two means.

    The first midpoint of all sets it. A batch with several kinds of negatives moves it once, by their mean.
    """
    thetas: list[float] = []
    for batch in batches:
        midpoints = [(mean(g_pos) + mean(g_neg)) / 2 for g_pos, g_neg in batch]
        thetas = thetas or [midpoints[0]]
        thetas.append(momentum * thetas[-1] + (1 - momentum) * mean(midpoints))
    return thetas


# Normalisation -------------------------------------------------------------------------------------------------


def unit_length(h: Row, eps: float = 1e-6) -> list[float]:
    """Hinton 2022, section 2: the length of the hidden vector is divided out before it is passed on."""
    length = max(math.sqrt(sum_of_squares(h)), eps)
    return [y / length for y in h]


def unit_rms(h: Row, eps: float = 1e-6) -> list[float]:
    """The same in Hinton's and Löwe's code: mean square 1, so that a unit does not depend on the width."""
    rms = max(math.sqrt(sum_of_squares(h) / len(h)), eps)
    return [y / rms for y in h]


def unit_means(h_pos: Rows) -> list[float]:
    """Mean activity of every unit."""
    return [mean([sample[unit] for sample in h_pos]) for unit in range(len(h_pos[0]))]


def peer_normalisation(
    h_pos: Rows, running: Row, momentum: float, weight: float, seen: Row | None = None
) -> tuple[float, list[float]]:
    """Löwe (github.com/loeweX/Forward-Forward), ``_calc_peer_normalization_loss``: loss and new running means.

    Hinton 2022 describes it in the footnote of section 3 without the formula. The loss is that of the means before this
    batch; as activities move away from those of the batch, whose means are ``seen``, it moves as the new ones do.
    """
    means = unit_means(h_pos)
    changes = [new - old for new, old in zip(means, means if seen is None else seen, strict=True)]
    tracked = [old + (1 - momentum) * change for old, change in zip(running, changes, strict=True)]
    level = mean(tracked)
    moved = [momentum * old + (1 - momentum) * new for old, new in zip(running, means, strict=True)]
    return weight * mean([(level - unit) ** 2 for unit in tracked]), moved


# Negatives -----------------------------------------------------------------------------------------------------


def overlay(image: Row, label: int, num_classes: int, scale: float = 1.0) -> list[float]:
    """Hinton 2022, section 3.3: the first pixels are replaced by a one-of-N representation of the label."""
    return [scale if pixel == label else 0.0 for pixel in range(num_classes)] + list(image[num_classes:])


def blurred_mask(bits: Sequence[Sequence[bool]], blurs: int) -> list[list[bool]]:
    """Hinton 2022, section 3.2: blur with [1/4, 1/2, 1/4] in both directions, again and again; cut at 0.5.

    What lies beyond the border repeats the border.
    """
    image = [[float(bit) for bit in row] for row in bits]
    height, width = len(image), len(image[0])
    for _ in range(blurs):
        image = [
            [row[max(x - 1, 0)] / 4 + row[x] / 2 + row[min(x + 1, width - 1)] / 4 for x in range(width)]
            for row in image
        ]
        image = [
            [image[max(y - 1, 0)][x] / 4 + image[y][x] / 2 + image[min(y + 1, height - 1)][x] / 4 for x in range(width)]
            for y in range(height)
        ]
    return [[value > 0.5 for value in row] for row in image]


def hard_label_chances(
    scores: Row, true: int, temperature: float, uniform: float, candidates: int | None
) -> list[float]:
    """Hinton 2022, section 3.3: wrong labels as the model believes in them, here mixed with chance.

    Averaged over all sets of candidates, which are equally likely.
    """
    wrong = [c for c in range(len(scores)) if c != true]
    sets = list(itertools.combinations(wrong, min(candidates or len(wrong), len(wrong))))
    chances = [0.0] * len(scores)
    for chosen in sets:
        partition = math.fsum(math.exp(scores[c] / temperature) for c in chosen)
        for c in chosen:
            belief = math.exp(scores[c] / temperature) / partition
            chances[c] += ((1 - uniform) * belief + uniform / len(chosen)) / len(sets)
    return chances


def chi_square(counts: Sequence[int], expected: Row) -> float:
    """Pearson's statistic of observed counts against expected ones."""
    return math.fsum((n - e) ** 2 / e for n, e in zip(counts, expected, strict=True))


# Blocks --------------------------------------------------------------------------------------------------------


def relu_layer(x: Row, weight: Rows, bias: Row) -> list[float]:
    """Activities of one layer of rectified linear units."""
    return [
        max(math.fsum(w * value for w, value in zip(row, x, strict=True)) + b, 0.0)
        for row, b in zip(weight, bias, strict=True)
    ]


def symba_gradients(
    x_pos: Rows, x_neg: Rows, weight: Rows, bias: Row, alpha: float
) -> tuple[list[list[float]], list[float]]:
    """Gradients of SymBa on the mean of squares of one layer, by hand (SymBa, arXiv 2303.08418, section 3).

    With d = G_pos - G_neg the loss of a pair falls by ``alpha * sigmoid(-alpha * d)`` per unit of d, and
    ``dG/dW_ij = 2 / D * h_i * x_j``.
    """
    units, pairs = len(weight), len(x_pos)
    by_weight = [[0.0] * len(weight[0]) for _ in range(units)]
    by_bias = [0.0] * units
    for positive, negative in zip(x_pos, x_neg, strict=True):
        h_pos, h_neg = relu_layer(positive, weight, bias), relu_layer(negative, weight, bias)
        slope = alpha * sigmoid(-alpha * (mean_of_squares(h_pos) - mean_of_squares(h_neg)))
        for sign, h, x in ((-1, h_pos, positive), (1, h_neg, negative)):
            for i in range(units):
                by_bias[i] += sign * slope * 2 / units * h[i] / pairs
                for j, value in enumerate(x):
                    by_weight[i][j] += sign * slope * 2 / units * h[i] * value / pairs
    return by_weight, by_bias


# Language ------------------------------------------------------------------------------------------------------


def window_codes(tokens: Sequence[int], at: int, last: int, window: int, vocab_size: int) -> list[float]:
    """One-hot codes of the window of tokens that ends at ``at``, oldest first, with ``last`` as its last token."""
    codes: list[float] = []
    for place in range(at - window + 1, at + 1):
        token = last if place == at else tokens[place] if place >= 0 else None
        codes += [1.0 if token == symbol else 0.0 for symbol in range(vocab_size)]
    return codes


def stacked_activities(codes: Row, layers: Sequence[tuple[Rows, Row]]) -> list[list[float]]:
    """Activities of all layers of rectified linear units; each reads those below at mean square 1."""
    activities: list[list[float]] = []
    for weight, bias in layers:
        below = unit_rms(activities[-1]) if activities else codes
        activities.append(relu_layer(below, weight, bias))
    return activities


def candidate_loss(
    h_pos: Rows, negatives: Sequence[Rows], thetas: Row, scale: float, logits: Rows, targets: Sequence[int]
) -> float:
    """Hinton 2022, section 2, and the first draft, section 4.1: logistic loss of mean squares, and a softmax.

    Several kinds of negatives count alike, each with the threshold that has just moved.
    """
    g_pos = [mean_of_squares(h) for h in h_pos]
    contrasts = [
        threshold_loss(g_pos, [mean_of_squares(h) for h in h_neg], theta, scale)
        for h_neg, theta in zip(negatives, thetas, strict=True)
    ]
    return mean(contrasts) + class_softmax(logits, targets)


def linear_readout(h: Row, weight: Rows, bias: Row, *, squared: bool) -> list[float]:
    """Score of every symbol from the activities at mean square 1, or from their squares."""
    x = [y * y if squared else y for y in unit_rms(h)]
    return [math.fsum(w * y for w, y in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


# Schedules -----------------------------------------------------------------------------------------------------


def hold_then_decay(done: int, total: int, warmup: float, hold: float, final: float) -> float:
    """Factor on the learning rate: a line up to 1 at ``warmup``, 1 up to ``hold``, a line down to ``final``."""
    if done < warmup * total:
        return (done + 1) / (warmup * total + 1)
    if min(done, total) <= hold * total:
        return 1.0
    if done >= total:
        return final
    return 1.0 + (final - 1.0) * (done - hold * total) / (total - hold * total)


# Metrics -------------------------------------------------------------------------------------------------------


def separation(g_pos: Row, g_neg: Row, theta: float | None = None) -> float:
    """Share of samples on the right side of theta; without it, share of pairs in the right order."""
    if theta is None:
        return mean([1.0 if p > n else 0.0 for p, n in zip(g_pos, g_neg, strict=True)])
    return mean([1.0 if p > theta else 0.0 for p in g_pos] + [1.0 if n < theta else 0.0 for n in g_neg])


def label_contrast(g: Rows, labels: Sequence[int], theta: float | None) -> dict[str, float]:
    """Accuracy, separation and gap of one block: the true label against the best of the wrong ones."""
    true = [row[label] for row, label in zip(g, labels, strict=True)]
    wrong = [max([*row[:label], *row[label + 1 :]]) for row, label in zip(g, labels, strict=True)]
    return {
        "accuracy": separation(true, wrong),
        "separation": separation(true, wrong, theta),
        "goodness_gap": mean(true) - mean(wrong),
    }
