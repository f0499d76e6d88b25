"""The arithmetic of a transformer layer against torch's own, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ff_lightning.language.functional import (
    attend,
    depthwise_convolution,
    rms_norm,
    rotary_attention,
    squared_relu,
    squared_relu_mlp,
    unit_energy,
)


def test_attention_is_that_of_torch() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 6)
    torch.testing.assert_close(attend(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_attention_of_the_last_positions() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 6)
    torch.testing.assert_close(attend(q[:, :, 5:], k, v), attend(q, k, v)[:, :, 5:])


def tables(length: int, size: int) -> tuple[Tensor, Tensor]:
    angles = torch.outer(torch.arange(length).double(), 0.3 ** torch.arange(size // 2).double())
    return torch.cat([angles.cos()] * 2, 1), torch.cat([-angles.sin(), angles.sin()], 1)


def test_rotary_attention_is_that_of_complex_numbers() -> None:
    """Queries and keys as complex numbers that turn with their position, then torch's own attention."""
    batch, length, heads, size = 2, 7, 3, 4
    qkv = torch.randn(batch, length, 3 * heads * size, dtype=torch.float64, requires_grad=True)
    cos, sin = tables(length, size)

    def attention(qkv: Tensor) -> Tensor:
        return rotary_attention(qkv, cos, sin, heads)

    q, k, v = qkv.view(batch, length, 3, heads, size).permute(2, 0, 3, 1, 4)
    turn = torch.complex(cos, -sin)[:, : size // 2]
    turned = [torch.complex(*x.split(size // 2, -1)) * turn for x in (q, k)]
    q, k = (torch.cat([x.real, x.imag], -1) for x in turned)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(qkv), expected)
    torch.testing.assert_close(attention(qkv.detach()), expected.detach())
    assert torch.autograd.gradcheck(attention, qkv)
    weight = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad((y * weight).sum(), qkv)[0] for y in (attention(qkv), expected))
    torch.testing.assert_close(ours, theirs)


def test_rotary_attention_under_autocast() -> None:
    qkv = torch.randn(2, 7, 36, requires_grad=True)
    cos, sin = (table.float() for table in tables(7, 4))
    exact = rotary_attention(qkv, cos, sin, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = rotary_attention(qkv, cos, sin, 3)
    torch.testing.assert_close(low.float(), exact, rtol=0.05, atol=0.05)


def test_squared_relu_mlp() -> None:
    x, up, down = (torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((2, 3, 4), (9, 4), (5, 9)))
    expected = F.linear(F.relu(F.linear(x, up)).square(), down)
    torch.testing.assert_close(squared_relu_mlp(x, up, down), expected)
    torch.testing.assert_close(squared_relu_mlp(x.detach(), up.detach(), down.detach()), expected.detach())
    assert torch.autograd.gradcheck(squared_relu_mlp, (x, up, down))
    assert torch.autograd.gradcheck(lambda up: squared_relu_mlp(x.detach(), up, down), up)


def test_squared_relu_mlp_under_autocast() -> None:
    x, up, down = (torch.randn(size, requires_grad=True) for size in ((2, 3, 4), (9, 4), (5, 9)))
    exact = torch.autograd.grad(squared_relu_mlp(x, up, down).sum(), (x, up, down))
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as under Lightning, where autocast covers the whole step
        y = squared_relu_mlp(x, up, down)
        found = torch.autograd.grad(y.float().sum(), (x, up, down))
    assert y.dtype == torch.bfloat16
    for value, expected in zip(found, exact, strict=True):
        assert value.dtype == torch.float32
        off = (value - expected).norm() / expected.norm()
        assert off < 0.03, "sums that cancel are rounded as coarsely as their terms"


def test_rms_norm() -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(rms_norm(x), F.rms_norm(x, (5,)))
    assert torch.autograd.gradcheck(rms_norm, x)
    assert not rms_norm(torch.zeros(2, 3)).any()
    assert rms_norm(torch.randn(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_unit_energy() -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(unit_energy(x), F.rms_norm(x, (5,)).square())
    assert torch.autograd.gradcheck(unit_energy, x)
    assert not unit_energy(torch.zeros(2, 3, requires_grad=True)).any()


@pytest.mark.parametrize("function", [rms_norm, squared_relu, unit_energy])
def test_the_value_is_the_same_where_nothing_asks_for_a_gradient(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(3, 4, 5, requires_grad=True)
    torch.testing.assert_close(function(x.detach()), function(x))
    with torch.no_grad():
        torch.testing.assert_close(function(x), function(x.detach()))


@pytest.mark.parametrize("function", [rms_norm, unit_energy])
def test_norms_are_computed_in_float32_under_autocast(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(3, 64, requires_grad=True)
    (exact,) = torch.autograd.grad(function(x)[:, 0].sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = function(x)
        (grad,) = torch.autograd.grad(y[:, 0].sum(), x)  # as under Lightning, where autocast covers the whole step
    torch.testing.assert_close(y, function(x))
    torch.testing.assert_close(grad, exact)


def test_depthwise_convolution() -> None:
    x = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 4, dtype=torch.float64, requires_grad=True)
    expected = sum(x[:, tap : tap + 4] * weight[:, 0, tap] for tap in range(4))
    torch.testing.assert_close(depthwise_convolution(x, weight), expected)
    assert torch.autograd.gradcheck(depthwise_convolution, (x, weight))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7])
def test_depthwise_convolution_behind_zeros(length: int) -> None:
    x = torch.randn(2, length, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 4, dtype=torch.float64, requires_grad=True)

    def behind_zeros(x: Tensor, weight: Tensor) -> Tensor:
        return depthwise_convolution(x, weight, padded=True)

    padded = F.pad(x, (0, 0, 3, 0)).transpose(1, 2)
    torch.testing.assert_close(behind_zeros(x, weight), F.conv1d(padded, weight, groups=3).transpose(1, 2))
    assert torch.autograd.gradcheck(behind_zeros, (x, weight))


def test_depthwise_convolution_of_one_position() -> None:
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 4, dtype=torch.float64, requires_grad=True)
    longer = torch.cat([x, torch.randn(2, 1, 3, dtype=torch.float64)], 1)
    torch.testing.assert_close(depthwise_convolution(x, weight), depthwise_convolution(longer, weight)[:, :1])
    assert torch.autograd.gradcheck(depthwise_convolution, (x, weight))


def test_depthwise_convolution_of_an_input_without_gradient() -> None:
    x, weight = torch.randn(2, 7, 3), torch.randn(3, 1, 4, requires_grad=True)
    (alone,) = torch.autograd.grad(depthwise_convolution(x, weight).square().sum(), weight)
    x.requires_grad_()
    both, _ = torch.autograd.grad(depthwise_convolution(x, weight).square().sum(), (weight, x))
    assert torch.equal(alone, both)


@pytest.mark.parametrize("function", [squared_relu_mlp, depthwise_convolution])
def test_constant_weights_cost_nothing(function: Callable[..., Tensor]) -> None:
    """As in a copy of the next block: the gradient of the input is the same, and less is kept for it."""
    shapes = [(12, 6), (6, 12)] if function is squared_relu_mlp else [(6, 1, 4)]
    x, weights = torch.randn(2, 9, 6, requires_grad=True), [torch.randn(shape) for shape in shapes]
    gradients, kept = [], []

    def keep(tensor: Tensor) -> Tensor:
        kept[-1] += tensor.numel()
        return tensor

    for learns in (True, False):
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = function(x, *(weight.requires_grad_(learns) for weight in weights))
        gradients += torch.autograd.grad(y, x, y.detach())
    assert torch.equal(*gradients)
    assert kept[1] < kept[0]


def test_depthwise_convolution_under_autocast() -> None:
    x, weight = torch.randn(2, 7, 3, requires_grad=True), torch.randn(3, 1, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = depthwise_convolution(x, weight)
    low.float().sum().backward()
    assert low.dtype == torch.bfloat16
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(weight.grad[:, 0, 0], x[:, :4].sum((0, 1)).detach(), rtol=0.02, atol=0.1)
