"""The arithmetic of a transformer layer, with backward passes that save passes over memory on the CPU.

On other devices, and where nothing asks for a gradient, torch's own kernels are used. All functions are exact: only
the order of the sums differs. Activities in bfloat16 are rounded after every tap of a convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

FULL = (torch.float32, torch.float64)
"""Types in which most of what is written here is faster than torch's own kernels; bfloat16 is left to those."""


def _goes_back(*tensors: Tensor) -> bool:
    """Whether one of the backward passes written here will be used."""
    return torch.is_grad_enabled() and tensors[0].device.type == "cpu" and any(x.requires_grad for x in tensors)


def rms_norm(x: Tensor) -> Tensor:
    """Scale the last dimension to mean square 1; no parameters.

    Args:
        x: ``(…, D)``.
    """
    if not _goes_back(x) or x.dtype not in FULL:
        return F.rms_norm(x, x.shape[-1:])
    y: Tensor = _RMSNorm.apply(x)  # type: ignore[no-untyped-call]
    return y


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(torch.finfo(x.dtype).eps).rsqrt_()
        y: Tensor = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        y, scale = ctx.saved_tensors
        along = (grad * y).mean(-1, keepdim=True)
        to_x: Tensor = torch.addcmul(grad, y, along, value=-1).mul_(scale)
        return to_x


def unit_energy(x: Tensor) -> Tensor:
    """``rms_norm(x)²``: the share of each channel in the energy, mean 1.

    Args:
        x: ``(…, D)``.
    """
    if not _goes_back(x):
        return rms_norm(x).square()
    y: Tensor = _UnitEnergy.apply(x)  # type: ignore[no-untyped-call]
    return y


class _UnitEnergy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x * x
        scale = y.mean(-1, keepdim=True).add_(torch.finfo(x.dtype).eps).reciprocal_()
        y.mul_(scale)
        ctx.save_for_backward(x, y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, y, scale = ctx.saved_tensors
        along = (grad * y).mean(-1, keepdim=True)
        to_x: Tensor = (grad - along).mul_(x).mul_(2 * scale)
        return to_x


def squared_relu(x: Tensor) -> Tensor:
    """``relu(x)²`` (So 2021, 2109.08668, Primer)."""
    return F.relu(x).square()


def squared_relu_mlp(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """``relu(x @ up.T)² @ down.T``.

    Args:
        x: ``(…, D)``.
        up: ``(hidden, D)``.
        down: ``(D, hidden)``.
    """
    if not _goes_back(x, up, down):
        return F.linear(squared_relu(F.linear(x, up)), down)
    x, up, down = in_type_of_autocast(x, up, down)
    with torch.autocast("cpu", enabled=False):
        y: Tensor = _SquaredReLUMLP.apply(x, up, down)  # type: ignore[no-untyped-call]
    return y


class _SquaredReLUMLP(torch.autograd.Function):
    """Keeps and computes nothing for weights that are constants, as those of a copy of the next block are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        kept = F.relu(F.linear(x, up), inplace=True)
        y = kept * kept
        _, up_learns, down_learns = ctx.needs_input_grad
        ctx.save_for_backward(x if up_learns else None, up, down, kept, y if down_learns else None)
        return F.linear(y, down)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, up, down, kept, y = ctx.saved_tensors
        x_learns, up_learns, down_learns = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        half = (rows @ down).mul_(kept.flatten(0, -2))  # of the gradient behind `up`
        to_x = to_up = None
        to_down = rows.T @ y.flatten(0, -2) if down_learns else None
        if up_learns:
            to_up = up.new_empty(up.shape)
            torch.addmm(to_up, half.T, x.flatten(0, -2), beta=0, alpha=2, out=to_up)
        if x_learns:
            to_x = rows.new_empty(len(rows), up.shape[1])
            torch.addmm(to_x, half, up, beta=0, alpha=2, out=to_x)
            to_x = to_x.view(*grad.shape[:-1], up.shape[1])
        return to_x, to_up, to_down


def in_type_of_autocast(*tensors: Tensor) -> list[Tensor]:
    """Tensors of a CPU as its autocast would have them; elsewhere as they are."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    return [x.to(torch.get_autocast_dtype("cpu")) for x in tensors]


def depthwise_convolution(x: Tensor, weight: Tensor, *, padded: bool = False) -> Tensor:
    """Slide one small filter a channel along the positions.

    Args:
        x: ``(B, T + taps - 1, D)``, or with ``padded`` ``(B, T, D)``, as if zeros came before.
        weight: ``(D, 1, taps)``.
        padded: zeros come before ``x``.

    Returns:
        ``(B, T, D)``, in the dtype of the autocast.
    """
    taps = weight.shape[2]
    if x.device.type != "cpu":
        x = F.pad(x, (0, 0, taps - 1, 0)) if padded else x
        return F.conv1d(x.transpose(1, 2), weight, groups=weight.shape[0]).transpose(1, 2)
    x, weight = in_type_of_autocast(x, weight)
    if x.shape[1] == taps and not padded:  # one position, as in generation: faster at once
        return (x * weight[:, 0].T).sum(1, keepdim=True)
    y: Tensor = _DepthwiseConvolution.apply(x, weight, taps - 1 if padded else 0)  # type: ignore[no-untyped-call]
    return y


class _DepthwiseConvolution(torch.autograd.Function):
    """Shifted rows times a filter: rows stay as they lie in memory, and no position before the first is stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, zeros: int) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.zeros, ctx.shape = zeros, x.shape
        filters = weight[:, 0].T.contiguous()
        taps, length = len(filters), x.shape[1] + zeros - len(filters) + 1
        y: Tensor = x[:, x.shape[1] - length :] * filters[-1]
        for tap in range(taps - 1):
            to, seen = _shifted(tap - zeros, length)
            y[:, to].addcmul_(x[:, seen], filters[tap])
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        filters, length = weight[:, 0].T.contiguous(), grad.shape[1]
        spans = [_shifted(tap - ctx.zeros, length) for tap in range(len(filters))]
        to_x = None
        if ctx.needs_input_grad[0]:  # not where a block begins
            last = ctx.shape[1] - length
            to_x = grad.new_empty(ctx.shape)
            to_x[:, :last].zero_()
            _multiply(grad, filters[-1], to_x[:, last:])
            for (to, seen), weights in zip(spans[:-1], filters[:-1], strict=True):
                to_x[:, seen].addcmul_(grad[:, to], weights)
        if not ctx.needs_input_grad[1]:
            return to_x, None, None
        sums = [torch.linalg.vecdot(grad[:, to].flatten(0, 1), x[:, seen].flatten(0, 1), dim=0) for to, seen in spans]
        return to_x, torch.stack(sums, -1).unsqueeze(1), None


def _multiply(x: Tensor, y: Tensor, out: Tensor) -> None:
    """Write ``x * y`` to a part of a tensor; the compiler refuses such an ``out=``, and saves the pass itself."""
    if torch.compiler.is_compiling():
        out.copy_(x * y)
    else:
        torch.mul(x, y, out=out)


def _shifted(offset: int, length: int) -> tuple[slice, slice]:
    """Where a tap writes and what it reads, if position ``t`` reads ``t + offset`` and nothing lies before 0."""
    first = min(max(0, -offset), length)
    return slice(first, length), slice(first + offset, length + offset)


def rotary_attention(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """Causal attention of whole sequences with rotary positions (Su 2021, 2104.09864), for training.

    Args:
        qkv: ``(B, T, 3 * width)``, queries, keys and values, each by head.
        cos: ``(T, width / heads)``, of the angle of every position.
        sin: the same, with the sign of the half that it is for.
        heads: that share the width.

    Returns:
        ``(B, T, width)``.
    """
    batch, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    if _goes_back(qkv) and qkv.dtype in FULL and not torch.is_autocast_enabled("cpu"):
        y: Tensor = _RotaryAttention.apply(qkv, cos, sin, heads)  # type: ignore[no-untyped-call]
        return y
    qk, v = torch.split(qkv.view(batch, length, 3, heads, width // heads), [2, 1], 2)
    q, k = rotated(qk, cos, sin).permute(2, 0, 3, 1, 4)
    return attend(q, k, v.squeeze(2).transpose(1, 2)).transpose(1, 2).reshape(batch, length, width)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of channels of ``(B, T, …, …, D)`` by the angle of their position; ``cos``, ``sin`` are ``(T, D)``."""
    cos, sin = (table[:, None, None].to(x.dtype) for table in (cos, sin))
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def _turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Write ``x`` turned to ``out``, ``(…, T, D)`` both; ``-sin`` turns it back."""
    half = x.shape[-1] // 2
    _multiply(x, cos, out)
    # Without `value`, with which the compiler would round in another place.
    out[..., :half].addcmul_(x[..., half:], sin[:, :half])
    out[..., half:].addcmul_(x[..., :half], sin[:, half:])


class _RotaryAttention(torch.autograd.Function):
    """Each part is written once, where the next matrix product wants it."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
        batch, length, size = qkv.shape[0], qkv.shape[1], qkv.shape[2] // (3 * heads)
        cos, sin = cos.to(qkv.dtype), sin.to(qkv.dtype)
        parts = qkv.view(batch, length, 3, heads, size).permute(2, 0, 3, 1, 4)
        turned = qkv.new_empty(3, batch, heads, length, size)
        _turn(parts[:2], cos, sin, turned[:2])
        turned[2].copy_(parts[2])
        q, k, v = turned.flatten(1, 2)
        hidden = qkv.new_full((length, length), -torch.inf).triu_(1)
        scores = torch.baddbmm(hidden, q, k.mT, alpha=size**-0.5)
        weights = scores.softmax(-1)
        mixed: Tensor = weights @ v
        ctx.save_for_backward(turned, weights, mixed, cos, sin)
        return mixed.view(batch, heads, length, size).transpose(1, 2).reshape(batch, length, heads * size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        turned, weights, mixed, cos, sin = ctx.saved_tensors
        _, batch, heads, length, size = turned.shape
        q, k, v = turned.flatten(1, 2)
        grad = grad.view(batch, length, heads, size).transpose(1, 2).reshape(-1, length, size)
        to_parts = torch.empty_like(turned)
        to_q, to_k, to_v = to_parts.flatten(1, 2)
        torch.bmm(weights.mT, grad, out=to_v)
        along = torch.linalg.vecdot(grad, mixed).unsqueeze(-1)
        to_scores = torch.bmm(grad, v.mT).sub_(along).mul_(weights)
        torch.baddbmm(to_q, to_scores, k, beta=0, alpha=size**-0.5, out=to_q)
        torch.baddbmm(to_k, to_scores.mT, q, beta=0, alpha=size**-0.5, out=to_k)
        to_qkv = grad.new_empty(batch, length, 3, heads, size)
        parts = to_qkv.permute(2, 0, 3, 1, 4)
        _turn(to_parts[:2], cos, -sin, parts[:2])
        parts[2].copy_(to_parts[2])
        return to_qkv.flatten(2), None, None, None


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of the last ``T`` of ``S`` positions.

    Written as two matrix products on the CPU, where the backward pass of torch's fused kernel is several times
    slower for short contexts. Positions to come are hidden by what the first product adds to.

    Args:
        q: ``(B, heads, T, D)``.
        k: ``(B, heads, S, D)``, ``S >= T``.
        v: ``(B, heads, S, D)``.

    Returns:
        ``(B, heads, T, D)``.
    """
    new, seen = q.shape[2], k.shape[2]
    if q.is_cuda and new == seen:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if q.is_cuda:
        reached = torch.ones(new, seen, dtype=torch.bool, device=q.device).tril_(seen - new) if new > 1 else None
        return F.scaled_dot_product_attention(q, k, v, attn_mask=reached)
    hidden = q.new_full((new, seen), -torch.inf).triu_(seen - new + 1)
    wanted = (q * q.shape[-1] ** -0.5).flatten(0, 1)
    scores = torch.baddbmm(hidden, wanted, k.flatten(0, 1).mT)
    mixed: Tensor = scores.softmax(-1).to(v.dtype) @ v.flatten(0, 1)
    return mixed.view(q.shape)
