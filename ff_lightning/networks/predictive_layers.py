"""Layers of the representation circuit of predictive Forward-Forward: recurrent layers that compete.

They learn by a rule that needs nothing but what meets at a synapse (Ororbia and Mali 2023, 2301.01452, section 2);
:mod:`ff_lightning.networks.predictive` puts the two circuits together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.blocks import ContrastiveBlock
from ff_lightning.errors import InputError
from ff_lightning.goodness import SumOfSquares
from ff_lightning.networks.mlp import refuse_other_size
from ff_lightning.normalization import UnitLength


class Calm(SumOfSquares):
    """Minus the sum of squares: the goodness of layers that are calm for positives (2301.01452, section 2).

    >>> Calm()(torch.tensor([[1.0, 2.0, 2.0]]))
    tensor([-9.])
    """

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        return -super().forward(h)


class Rivalry(nn.Module):
    """Lateral competition: units of a group inhibit each other and excite themselves (2301.01452, section 2).

    Unit ``j`` loses ``relu(L_ij) z_i`` to every rival ``i``, and gains ``relu(L_jj) z_j``.

    Args:
        units: number of units, a multiple of ``group``.
        group: units that compete with each other, neighbours in the layer.

    Shape:
        ``(N, units)`` to ``(N, units)``: what is taken from the pre-activations.
    """

    signs: Tensor

    def __init__(self, units: int, group: int) -> None:
        super().__init__()
        if group < 1 or units % group:
            raise InputError(f"Passed `group={group}` with a layer of {units} units. `group` must divide them.")
        self.weight = nn.Parameter(torch.empty(units // group, group, group).uniform_(0.0, 0.05))
        self.register_buffer("signs", 1 - 2 * torch.eye(group), persistent=False)

    def forward(self, z: Tensor) -> Tensor:  # noqa: D102
        strength = F.relu(self.weight) * self.signs
        groups = z.view(len(z), len(self.weight), -1).transpose(0, 1)
        return torch.bmm(groups, strength).transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class Neighbours:
    """What a layer sees at one step of settling.

    Attributes:
        below: ``(S * B, …)`` of the layer below, or ``(B, …)`` of an image for all ``S`` streams.
        above: ``(S * B, …)`` of the layer above, or the labels.
        last: ``(S * B, units)``, its own activities one step earlier.
        noise: ``(S * B, units)``, added to what drives it; ``None`` for none.
    """

    below: Tensor
    above: Tensor
    last: Tensor
    noise: Tensor | None = None


class RecurrentReLU(nn.Module):
    """ReLU units driven from below, from above and by their rivals, which keep a share of their last activity.

    Args:
        below: values that come from below.
        units: units of this layer.
        above: values that come from above.
        group: units that compete with each other.
        damping: share of its last activity that a unit keeps at a step, in ``[0, 1)``.
    """

    def __init__(self, below: int, units: int, above: int, *, group: int, damping: float = 0.3) -> None:
        super().__init__()
        self.damping = damping
        self.below = nn.Linear(below, units)
        self.above = nn.Linear(above, units, bias=False)
        self.rivalry = Rivalry(units, group)
        self.norm = UnitLength()
        nn.init.orthogonal_(self.below.weight)
        nn.init.orthogonal_(self.above.weight)
        nn.init.normal_(self.below.bias, std=units**-0.5)

    def forward(self, x: Tensor | Neighbours) -> Tensor:
        """Activities ``(N, units)``: one step of settling among :class:`Neighbours`, or of one pass upwards.

        In a pass upwards ``x`` is what lies below, ``(N, …)``, which is brought to unit length first.
        """
        if isinstance(x, Neighbours):
            return self.settle(self.below(x.below), x.above, x.last, x.noise)
        x = x.flatten(1)
        refuse_other_size(x, self.below.in_features)
        return F.relu(self.below(self.norm(x)), inplace=True)

    def settle(self, driven: Tensor, above: Tensor, last: Tensor, noise: Tensor | None = None) -> Tensor:
        """One step of settling: ``(1 - damping) relu(driven + V above - rivalry(last) + noise) + damping last``.

        Args:
            driven: what ``self.below`` makes of the layer below, ``(S * B, units)``, or ``(B, units)`` for all
                ``S`` streams.
            above: ``(S * B, above)``.
            last: ``(S * B, units)``, activities one step earlier.
            noise: ``(S * B, units)``.

        Returns:
            ``(S * B, units)``. The gradient passes the ReLU as if there were none, so that silent units learn too.
        """
        drive: Tensor = self.above(above) - self.rivalry(last)
        drive = drive.view(-1, *driven.shape).add_(driven).flatten(0, 1)
        if noise is not None:
            drive = drive.add_(noise)
        settled: Tensor = _Settled.apply(drive, last.to(drive.dtype), self.damping)  # type: ignore[no-untyped-call]
        return settled


class NoisePool:
    """Gaussian noise that is drawn once a batch, and read from another place each time.

    Drawing as much anew at every step takes a noticeable share of the time of a step.

    Args:
        states: activities that noise is needed for.
        scale: standard deviation.
    """

    STRIDE = 7919  # a prime, so that places do not soon return

    def __init__(self, states: Sequence[Tensor], scale: float) -> None:
        self.size = max(h.numel() for h in states)
        self.pool = torch.randn(2 * self.size, device=states[0].device).mul_(scale).to(states[0].dtype)
        self.place = 0

    def next(self, like: Tensor) -> Tensor:
        """Noise of the shape of ``like``."""
        self.place = (self.place + self.STRIDE) % self.size
        return self.pool[self.place : self.place + like.numel()].view_as(like)


class SettlingBlock(ContrastiveBlock):
    """A layer of the representation circuit; what it passes on while it settles is its raw activities."""

    def pass_on(self, x: Tensor | Neighbours, h: Tensor) -> Tensor:
        """The activities themselves, which the next step reads; in a pass upwards their direction."""
        passed: Tensor = h if isinstance(x, Neighbours) else self.norm(h)
        return passed


class _Settled(torch.autograd.Function):
    """``(1 - damping) relu(drive) + damping last``, with the gradient of a line instead of that of the ReLU."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, drive: Tensor, last: Tensor, damping: float) -> Tensor:
        ctx.damping = damping  # type: ignore[attr-defined]
        return torch.lerp(F.relu(drive), last, damping)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * (1 - ctx.damping), None, None  # type: ignore[attr-defined]
