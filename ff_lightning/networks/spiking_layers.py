"""Leaky integrate-and-fire units, and layers of them.

A unit sums its input current into a leaky membrane, spikes where that reaches 1, and is then set back by 1; a trace
remembers its spikes for a while:

    u(t) = decay * u(t-1) - s(t-1) + I(t)
    s(t) = 1 if u(t) >= 1 else 0
    z(t) = trace_decay * z(t-1) + (1 - trace_decay) * s(t)

The equations of u and s are those of ``snntorch.Leaky`` with the reset by subtraction, and a test compares them. They
are written here because that class keeps the last membrane, and with it the graph of a step, on itself and itself in a
list of its class, and makes spikes float32 whatever the precision.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.errors import InputError, positive
from ff_lightning.goodness import accumulation_dtype


class LIFState(NamedTuple):
    """What units remember from one time step to the next; each ``(N, D)``, at least float32.

    Attributes:
        membrane: u, after the step and before the reset.
        spikes: s, zeros and ones.
        trace: z, in [0, 1].
    """

    membrane: Tensor
    spikes: Tensor
    trace: Tensor

    def detach(self) -> LIFState:
        """The same values, without a graph."""
        return LIFState(*(part.detach() for part in self))


class _Spike(torch.autograd.Function):
    """1 where the membrane reaches 1; in the backward pass its derivative is that of a fast sigmoid.

    ``1 / (1 + slope * |u - 1|)**2`` (Zenke and Ganguli 2018, SuperSpike, arXiv 1705.11146).
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, membrane: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(membrane)
        ctx.slope = slope  # type: ignore[attr-defined]
        return (membrane >= 1).to(membrane.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (membrane,) = ctx.saved_tensors  # type: ignore[attr-defined]
        width = (membrane - 1).abs_().mul_(ctx.slope).add_(1).square_()  # type: ignore[attr-defined]
        return grads[0] / width, None


class LIF(nn.Module):
    """Leaky integrate-and-fire units; nothing is kept on the module.

    Args:
        decay: share of the membrane that is left after a step, in [0, 1).
        trace_decay: share of the trace that is left after a step, in [0, 1).
        slope: how narrow the surrogate derivative is, per unit of membrane; positive.

    Shape:
        Input current ``(N, D)``, output a state of parts ``(N, D)``.
    """

    def __init__(self, *, decay: float = 0.9, trace_decay: float = 0.7, slope: float = 4.0) -> None:
        super().__init__()
        for name, value in (("decay", decay), ("trace_decay", trace_decay)):
            if not 0 <= value < 1:
                raise InputError(f"Passed `{name}={value}`. `{name}` must be in [0, 1).")
        self.decay = decay
        self.trace_decay = trace_decay
        self.slope = positive("slope", slope)

    def forward(self, current: Tensor, state: LIFState | None = None) -> LIFState:
        """One time step; ``None`` is rest. No gradient flows through the reset, as in ``snntorch``."""
        membrane = current.to(accumulation_dtype(current))
        if state is not None:
            membrane = membrane + (self.decay * state.membrane).sub_(state.spikes.detach())
        spikes: Tensor = _Spike.apply(membrane, self.slope)  # type: ignore[no-untyped-call]
        before = torch.zeros_like(spikes) if state is None else state.trace
        return LIFState(membrane, spikes, torch.lerp(spikes, before, self.trace_decay))


class SpikingLayer(nn.Module):
    """LIF units with synapses from below, from the label, and among themselves.

    The current is ``W x(t) + b + label_scale * Y[y] - relu(m) * mean of the layer's own spikes at t - 1``. The last
    term is the competition: every unit has its own strength ``m``, which it learns, and inhibits nobody in particular.

    Args:
        in_features: values of a frame.
        out_features: units.
        num_classes: of the label; ``None`` for no label.
        label_scale: how strongly the label acts.
        lateral: strength of the competition at the start; 0 for none.
        neuron: the units; :class:`LIF` with its defaults by default.

    Shape:
        - ``x``: ``(B, in_features)`` or ``(S * B, in_features)``.
        - ``labels``: ``(S, B)`` int64, or ``None``: no current from the label.
        - Output: a state of parts ``(S * B, out_features)``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        num_classes: int | None = 10,
        label_scale: float = 1.0,
        lateral: float = 0.0,
        neuron: LIF | None = None,
    ) -> None:
        super().__init__()
        self.synapses = nn.Linear(in_features, out_features)
        nn.init.normal_(self.synapses.weight, std=in_features**-0.5)
        nn.init.zeros_(self.synapses.bias)
        self.context = None if num_classes is None else nn.Parameter(torch.randn(num_classes, out_features))
        self.label_scale = label_scale
        self.competition = nn.Parameter(torch.full((out_features,), lateral)) if lateral else None
        self.neuron = LIF() if neuron is None else neuron

    def forward(self, x: Tensor, labels: Tensor | None = None, state: LIFState | None = None) -> LIFState:  # noqa: D102
        current = self.synapses(x)
        if labels is not None and self.context is not None:
            context = F.embedding(labels, self.context * self.label_scale)
            current = (current.view(-1, labels.shape[1], current.shape[-1]) + context).flatten(0, 1)
        if self.competition is not None and state is not None:
            current = current - F.relu(self.competition) * state.spikes.mean(-1, keepdim=True)
        stepped: LIFState = self.neuron(current, state)
        return stepped
