"""The arithmetic of a transformer layer, with backward passes that save passes over memory on the CPU.

On other devices, and where nothing asks for a gradient, torch's own kernels are used. All functions are exact: only
the order of the sums differs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def _goes_back(x: Tensor) -> bool:
    """Whether one of the backward passes written here will be used."""
    return x.requires_grad and x.device.type == "cpu" and torch.is_grad_enabled()


def rms_norm(x: Tensor) -> Tensor:
    """Scale the last dimension to mean square 1; no parameters.

    Args:
        x: ``(…, D)``.
    """
    if not _goes_back(x) or x.dtype not in (torch.float32, torch.float64):
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
    if not _goes_back(x):
        return F.relu(x).square()
    y: Tensor = _SquaredReLU.apply(x)  # type: ignore[no-untyped-call]
    return y


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        kept = F.relu(x)
        ctx.save_for_backward(kept)
        return kept * kept

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (kept,) = ctx.saved_tensors
        half: Tensor = grad * kept
        return half.add_(half)


def depthwise_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Slide one small filter a channel along the positions, without padding.

    Args:
        x: ``(B, T + taps - 1, D)``.
        weight: ``(D, 1, taps)``.

    Returns:
        ``(B, T, D)``, in the dtype of the autocast.
    """
    if x.device.type != "cpu":
        return F.conv1d(x.transpose(1, 2), weight, groups=weight.shape[0]).transpose(1, 2)
    if torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
        x, weight = x.to(kind), weight.to(kind)
    if x.shape[1] == weight.shape[2]:  # one position, as in generation: a convolution takes ten times as long
        return (x * weight[:, 0].T).sum(1, keepdim=True)
    y: Tensor = _DepthwiseConvolution.apply(x, weight)  # type: ignore[no-untyped-call]
    return y


class _DepthwiseConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv1d(x.transpose(1, 2), weight, groups=weight.shape[0]).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        channels, _, taps = weight.shape
        length = grad.shape[1]
        to_x = None
        if ctx.needs_input_grad[0]:  # not where a block begins
            padded = F.pad(grad, (0, 0, taps - 1, taps - 1)).transpose(1, 2)
            to_x = F.conv1d(padded, weight.flip(-1), groups=channels).transpose(1, 2)
        rows = grad.reshape(-1, channels)
        windows = (x[:, tap : tap + length].reshape(-1, channels) for tap in range(taps))
        to_weight = torch.stack([torch.linalg.vecdot(rows, window, dim=0) for window in windows], -1)
        return to_x, to_weight.unsqueeze(1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of the last ``T`` of ``S`` positions.

    Written as two matrix products on the CPU, where the backward pass of torch's fused kernel is several times
    slower for short contexts.

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
    hidden = None
    if new > 1:
        hidden = torch.ones(new, seen, dtype=torch.bool, device=q.device).triu_(seen - new + 1)
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if hidden is None else ~hidden)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    mixed: Tensor = scores.softmax(-1).to(v.dtype) @ v
    return mixed
