"""Linear probes: how well the classes can be read off activities that no longer change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ff_lightning.errors import InputError

DECAYS = (1e-2, 1e-3, 1e-4, 1e-5)
"""Weights of the squared norm that are tried, the strongest first."""

ITERATIONS = 60
"""Of L-BFGS, with each of them."""


@dataclass(frozen=True)
class Probe:
    """A linear softmax on standardised features.

    Attributes:
        mean: ``(D,)`` of the features that it was fitted to.
        scale: ``(D,)``, one over their standard deviation; 0 where they do not vary.
        weight: ``(C, D)``.
        bias: ``(C,)``.
        decay: weight of the squared norm in its fit.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    decay: float

    def scores(self, features: Tensor) -> Tensor:
        """Scores ``(N, C)`` of features ``(N, D)``."""
        return F.linear((features - self.mean) * self.scale, self.weight, self.bias)

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Share of ``N`` samples whose class has the highest score."""
        return float((self.scores(features).argmax(1) == labels).double().mean())


def fitted_probe(
    features: Tensor,
    labels: Tensor,
    validation: tuple[Tensor, Tensor],
    num_classes: int,
    decays: Sequence[float] = DECAYS,
) -> Probe:
    """Fit a linear softmax by L-BFGS; validation samples choose how strongly its weights are held down.

    Args:
        features: ``(N, D)`` floating, constant.
        labels: ``(N,)`` int64.
        validation: the same of other samples.
        num_classes: ``C``.
        decays: see :class:`Probe`, the strongest first: each fit starts from the one before.

    Returns:
        The probe that is most often right on the validation samples; of several, the one held down most.

    Raises:
        InputError: there are no samples.
    """
    if not len(features) or not len(validation[1]):
        raise InputError("Passed no samples to fit a probe to, or none to choose by. It needs both.")
    mean, deviation = features.mean(0), features.std(0, correction=0)
    scale = torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 0.0)
    x = (features - mean) * scale
    weight = x.new_zeros(num_classes, x.shape[1]).requires_grad_()
    bias = x.new_zeros(num_classes).requires_grad_()
    found: list[tuple[float, Probe]] = []
    for decay in decays:
        _fit(x, labels, weight, bias, decay)
        probe = Probe(mean, scale, weight.detach().clone(), bias.detach().clone(), decay)
        found.append((probe.accuracy(*validation), probe))
    return max(found, key=lambda one: one[0])[1]


def _fit(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, decay: float) -> None:
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), labels) + decay * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]


def pooled(h: Tensor, most: int) -> Tensor:
    """Activities ``(B, …)`` as features ``(B, D)``; maps are averaged over the finest square grid of at most ``most``.

    >>> pooled(torch.ones(2, 4, 8, 8), 20).shape  # 4 channels on a grid of 2 x 2
    torch.Size([2, 16])
    """
    if h.dim() == 4:
        side = 1
        while (side + 1) ** 2 * h.shape[1] <= most and side < max(h.shape[2:]):
            side += 1
        h = F.adaptive_avg_pool2d(h, (min(side, h.shape[2]), min(side, h.shape[3])))
    return h.flatten(1).float()
