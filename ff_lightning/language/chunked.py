"""Losses over large vocabularies, a part of the positions at a time.

At a vocabulary of 49,152 the logits of 1,024 positions are 200 MB in float32, and a softmax with its gradient holds
several of them: they, not the activities, are the memory of a step. Here the gradient with respect to the activities
is taken as soon as the logits of a part are there, and nothing of that part but the gradient is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ff_lightning.candidates import CandidateLoss
from ff_lightning.distributed import eager
from ff_lightning.goodness import accumulation_dtype
from ff_lightning.signals import Contrast

LOGITS = 2**23
"""Logits that are alive together, by default: 32 MB in float32."""

LARGEST = 2.0**12
"""What no gradient of a cross-entropy is to exceed within a part: fp16 holds 16 times as much, for steeper losses."""


@eager
def chunked(
    loss: CandidateLoss,
    activities: Tensor,
    readout: tuple[Tensor, Tensor],
    targets: Tensor,
    generator: torch.Generator | None = None,
    *,
    at_once: int | None = None,
) -> Contrast:
    """A local loss over candidates, a part of the positions at a time; loss and gradient are those of all together.

    Nothing is computed twice. The forward pass takes the gradient, part by part, and the backward pass only scales it.
    So the gradient costs ``N * width`` values, however many candidates there are, and a forward pass under
    ``torch.no_grad`` does not take it. A gradient scaler comes with the backward pass, after this gradient has been
    taken, so that a part whose gradients may be fp16 has a scale of its own: a power of two, which changes nothing
    in other types.

    Args:
        loss: a mean over positions. A sampled one draws its negatives part by part.
        activities: ``(…, width)`` float, what the readout reads.
        readout: weight ``(V, width)`` and bias ``(V,)``.
        targets: ``(…)`` int64, the true candidates.
        generator: source of randomness.
        at_once: positions whose logits are alive together; about :data:`LOGITS` ``/ V`` by default.

    Returns:
        The loss, a float32 scalar, and the goodness of positives and negatives, ``(N,)``, of a loss that has both.
    """
    weight, bias = readout
    at_once = max(1, LOGITS // len(weight)) if at_once is None else at_once
    rows, wanted = activities.flatten(0, -2), targets.flatten()
    sides: list[Contrast] = []

    def judge(part: slice, some: Tensor, w: Tensor, b: Tensor) -> Tensor:
        found = loss.among_many(some, (w, b), wanted[part], generator)
        sides.append(found)
        return found.loss

    parts = [slice(start, min(start + at_once, len(rows))) for start in range(0, len(rows), at_once)]
    value: Tensor = _InParts.apply(judge, parts, rows, weight, bias)  # type: ignore[no-untyped-call]
    return Contrast(value, _joined([side.g_pos for side in sides]), _joined([side.g_neg for side in sides]))


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part.detach().flatten() for part in parts if part is not None]
    return torch.cat(there) if there else None


class _InParts(torch.autograd.Function):
    """Sum over parts of the share of a part in all rows, times what it is judged to lose."""

    @staticmethod
    def forward(ctx: Any, judge: Any, parts: Sequence[slice], rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        leaves = [x.detach() for x in (rows, weight, bias)]
        asked = ctx.needs_input_grad[2:]
        gradients = [
            torch.zeros_like(x, dtype=torch.float32 if x.dtype == torch.float16 else None) if needed else None
            for x, needed in zip(leaves, asked, strict=True)
        ]
        total = torch.zeros((), device=rows.device)
        steepest = _largest(leaves[1]) if asked[0] else None
        for part in parts:
            inputs = [leaves[0][part], *leaves[1:]]
            inputs = [x.detach().requires_grad_(needed) for x, needed in zip(inputs, asked, strict=True)]
            with torch.set_grad_enabled(any(asked)):
                lost = judge(part, *inputs)
                # In fp16 the scale of a few rows of many would overflow before the share is taken.
                lost = lost.to(accumulation_dtype(lost)) * ((part.stop - part.start) / len(rows))
            total += lost.detach()
            places = [g if g is None or index else g[part] for index, g in enumerate(gradients)]
            wanted = [(x, place) for x, place in zip(inputs, places, strict=True) if place is not None]
            if wanted:
                scale = _scale(inputs[0].detach(), len(rows), steepest, summed=any(asked[1:]))
                found = torch.autograd.grad(lost, [x for x, _ in wanted], scale.to(lost.dtype))
                for (_, place), gradient in zip(wanted, found, strict=True):
                    place.addcdiv_(gradient.to(place.dtype), scale.to(place.dtype))
                del found
            del lost
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [x.dtype for x in leaves]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        found = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        scaled = [None if gradient is None else (gradient * grad).to(dtype) for gradient, dtype in found]
        return (None, None, *scaled)


def _scale(rows: Tensor, count: int, steepest: Tensor | None, *, summed: bool) -> Tensor:
    """What a part's share of the loss is multiplied by, a power of two, while its gradient is taken.

    The gradient of a mean over ``N`` positions is at most ``1 / N`` at a logit, and ``1 / (N V)`` where candidates are
    equally likely, which fp16 does not hold. It has to hold the gradients of the rows and of the readout, too, which
    are sums over candidates and over rows. So the largest that any of them can be is brought to :data:`LARGEST`.

    Args:
        rows: of the part.
        count: ``N``, rows of all parts.
        steepest: the largest weight of the readout; ``None`` if rows have no gradient.
        summed: whether the readout has one.
    """
    largest = torch.ones((), device=rows.device, dtype=torch.float32)  # of the loss, and of the bias
    if steepest is not None:
        largest = torch.maximum(largest, 2 * steepest / len(rows))
    if summed:
        largest = torch.maximum(largest, rows.abs().mean(0, dtype=torch.float32).amax())
    wanted = LARGEST * count / len(rows) / largest
    return wanted / (2 * torch.frexp(wanted).mantissa)  # exact, which a device's powers of two need not be


def _largest(x: Tensor) -> Tensor:
    low, high = x.aminmax()
    return torch.maximum(-low, high).float()
