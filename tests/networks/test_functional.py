"""The arithmetic of a transformer layer against torch's own, forward and backward."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ff_lightning.networks.functional import attend, depthwise_convolution, rms_norm, squared_relu


def test_attention_is_that_of_torch() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 6)
    torch.testing.assert_close(attend(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_attention_of_the_last_positions() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 6)
    torch.testing.assert_close(attend(q[:, :, 5:], k, v), attend(q, k, v)[:, :, 5:])


def test_squared_relu() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.equal(squared_relu(x), F.relu(x).square())
    assert torch.autograd.gradcheck(squared_relu, x)


def test_rms_norm() -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(rms_norm(x), F.rms_norm(x, (5,)))
    assert torch.autograd.gradcheck(rms_norm, x)
    assert not rms_norm(torch.zeros(2, 3)).any()
    assert rms_norm(torch.randn(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_depthwise_convolution() -> None:
    x = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 4, dtype=torch.float64, requires_grad=True)
    expected = sum(x[:, tap : tap + 4] * weight[:, 0, tap] for tap in range(4))
    torch.testing.assert_close(depthwise_convolution(x, weight), expected)
    assert torch.autograd.gradcheck(depthwise_convolution, (x, weight))


def test_depthwise_convolution_under_autocast() -> None:
    x, weight = torch.randn(2, 7, 3, requires_grad=True), torch.randn(3, 1, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = depthwise_convolution(x, weight)
    low.float().sum().backward()
    assert low.dtype == torch.bfloat16
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(weight.grad[:, 0, 0], x[:, :4].sum((0, 1)).detach(), rtol=0.02, atol=0.1)
