"""The fast paths of the first block against the plain ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ff_lightning.networks.functional import dropout_by_bytes, relu_of_each_class


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_activities_of_each_class_are_those_of_one_hot_labels(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    z, weight = torch.randn(5, 7).to(dtype), torch.randn(7, 4).to(dtype).requires_grad_()
    found = torch.stack(list(relu_of_each_class(z, weight, 10.0)))
    hot = F.one_hot(torch.arange(4), 4).to(dtype)[:, None].expand(-1, 5, -1) * 10.0
    assert torch.equal(found, F.relu(F.linear(hot, weight) + z))
    assert not found.requires_grad


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_dropout_by_bytes_keeps_the_expected_share_and_mean(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 301, requires_grad=True)
    y = dropout_by_bytes(x, rate)
    rounded = round(256 * rate) / 256
    assert (y == 0).float().mean().item() == pytest.approx(rounded, abs=4e-3)
    assert y.mean().item() == pytest.approx(1, abs=2e-2)
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - rounded)])
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y), "the same mask and scale on the way back"
    neighbours = torch.corrcoef(torch.stack([y[:, :-1].flatten(), y[:, 1:].flatten()]).detach())
    assert abs(neighbours[0, 1].item()) < 0.01, "bytes of one word are independent"


def test_a_rate_near_0_drops_nothing() -> None:
    x = torch.randn(3)
    assert dropout_by_bytes(x, 0.001) is x
