"""Draws of candidates from a prediction."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ff_lightning.candidates import GROUPED_FROM, draw_shares, draw_tokens


def test_draws_follow_the_softmax() -> None:
    at = torch.randn(2, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    drawn = draw_tokens(at, 100_000, torch.Generator().manual_seed(0))
    shares = F.one_hot(drawn, 5).double().mean(1)
    torch.testing.assert_close(shares, at.softmax(-1), atol=0.01, rtol=0)


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    at = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    assert set(draw_tokens(at, 10_000, torch.Generator().manual_seed(0)).tolist()) == {1, 3}


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("size", [GROUPED_FROM, GROUPED_FROM + 5])
def test_of_many_tokens_those_are_drawn_that_one_search_finds(size: int, even: bool) -> None:
    at = 3 * torch.randn(2, 3, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = draw_tokens(at, 64, torch.Generator().manual_seed(1), even=even)
    noise = torch.rand(2, 3, 1 if even else 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    places = (noise + torch.arange(64)) / 64 if even else noise
    assert torch.equal(drawn, torch.searchsorted(at.softmax(-1).cumsum(-1), places, right=True))


@pytest.mark.parametrize("even", [True, False])
def test_of_many_tokens_none_of_probability_zero_is_drawn(even: bool) -> None:
    possible = [1, 31, 32, 700, GROUPED_FROM + 3]
    at = torch.full((4000, GROUPED_FROM + 5), -torch.inf)
    at[:, possible] = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    drawn = draw_tokens(at, 8, torch.Generator().manual_seed(1), even=even)
    assert drawn.unique().tolist() == possible


def test_evenly_spread_draws_are_rounded_shares() -> None:
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).expand(1000, 4)
    shares = draw_shares(p.log(), 16, torch.Generator().manual_seed(0))
    assert bool(((16 * (shares - p)).abs() < 1 + 1e-4).all())
    torch.testing.assert_close(shares.mean(0), p[0], atol=0.005, rtol=0)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("size", [3, 5000])
def test_shares_are_whole_numbers_of_draws(even: bool, size: int) -> None:
    at = 3 * torch.randn(40, size, generator=torch.Generator().manual_seed(0))
    counts = 16 * draw_shares(at, 16, torch.Generator().manual_seed(0), even=even)
    assert bool((counts == counts.round()).all())
    assert bool((counts >= 0).all())
    assert bool((counts.sum(-1) == 16).all())


HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@HALF
@pytest.mark.parametrize("size", [4000, GROUPED_FROM])
@pytest.mark.parametrize("autocast", [False, True])
def test_of_half_precision_logits_every_token_can_be_drawn(size: int, autocast: bool, dtype: torch.dtype) -> None:
    """Of equal ones as many are drawn as in float32: random numbers of bfloat16 have 256 places."""
    at = torch.zeros(size)
    expected = draw_tokens(at, 2000, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype, enabled=autocast):
        assert torch.equal(draw_tokens(at.to(dtype), 2000, torch.Generator().manual_seed(0)), expected)


@HALF
@pytest.mark.parametrize("even", [True, False])
def test_shares_of_half_precision_logits_are_those_of_float32(even: bool, dtype: torch.dtype) -> None:
    at = torch.randn(20, 4000, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = draw_shares(at.float(), 100, torch.Generator().manual_seed(1), even=even)
    assert torch.equal(draw_shares(at, 100, torch.Generator().manual_seed(1), even=even), expected)
