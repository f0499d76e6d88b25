"""Layers over a window of tokens: against loops, with a cache, with two streams."""

from __future__ import annotations

import pytest
import torch

from ff_lightning.language.window_layers import DenseLayer, WindowLayer
from tests import references

VOCAB, WIDTH = 7, 6


def layer(window: int, width: int = WIDTH) -> WindowLayer:
    torch.manual_seed(0)
    made = WindowLayer(VOCAB, window, width).double()
    torch.nn.init.normal_(made.linear.bias)
    return made


def tokens(rows: int = 2, length: int = 6) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("window", [1, 3, 9])
def test_units_see_the_codes_of_a_window(window: int) -> None:
    made, x = layer(window), tokens()
    for row, found in zip(x.tolist(), made(x), strict=True):
        for at in range(len(row)):
            codes = references.window_codes(row, at, row[at], window, VOCAB)
            expected = references.relu_layer(codes, made.linear.weight.tolist(), made.linear.bias.tolist())
            torch.testing.assert_close(found[at], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("window", [1, 3, 9])
def test_pieces_with_a_cache_give_what_the_whole_gives(window: int) -> None:
    made, x, cache = layer(window), tokens(length=11), WindowLayer.new_cache()
    pieces = [made(piece, cache) for piece in x.split([4, 1, 1, 5], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), made(x))
    assert cache.tokens.shape == (2, window - 1)
    if window == 9:
        assert torch.equal(cache.tokens, x[:, -8:])


@pytest.mark.parametrize("window", [1, 3, 9])
def test_the_fake_stream_has_another_last_token_in_every_window(window: int) -> None:
    made, real = layer(window), tokens()
    fake = (real + torch.arange(6) % VOCAB) % VOCAB  # the real token at position 0
    y, y_fake = made.pair(real, fake)
    assert torch.equal(y, made(real))
    for at in range(6):
        changed = real.clone()
        changed[:, at] = fake[:, at]
        torch.testing.assert_close(y_fake[:, at], made(changed)[:, at], rtol=1e-12, atol=1e-12)
    assert torch.equal(y_fake[:, 0], y[:, 0])


def test_inputs_of_a_new_unit_have_variance_1() -> None:
    made = WindowLayer(30, 10, 4000)
    x = torch.randint(30, (1, 40), generator=torch.Generator().manual_seed(1))
    assert made._inputs(x, None)[:, 9:].var().item() == pytest.approx(1, abs=0.05)
    assert not bool(made.linear.bias.any())
    dense = DenseLayer(50, 4000)
    assert dense.linear(torch.randn(40, 50).sign()).var().item() == pytest.approx(1, abs=0.05)


def test_a_dense_layer_sees_normalised_activities_of_its_own_position() -> None:
    torch.manual_seed(0)
    made, x = DenseLayer(5, WIDTH).double(), torch.randn(2, 3, 5, dtype=torch.float64)
    y = made(x)
    normalised = references.unit_rms(x[1, 2].tolist())
    expected = references.relu_layer(normalised, made.linear.weight.tolist(), made.linear.bias.tolist())
    torch.testing.assert_close(y[1, 2], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(made(7 * x), y)
    fake = torch.randn(2, 3, 5, dtype=torch.float64)
    for found, given in zip(made.pair(x, fake), (x, fake), strict=True):
        torch.testing.assert_close(found, made(given))


def test_both_streams_have_one_precision() -> None:
    first, second, x = WindowLayer(VOCAB, 3, WIDTH), DenseLayer(WIDTH, WIDTH), tokens()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pair = first.pair(x, x.flip(1))
        assert {y.dtype for y in (*pair, *second.pair(*pair))} == {torch.bfloat16}
