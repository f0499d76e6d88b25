from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ff_lightning.errors import InputError
from ff_lightning.language.floors import WittenBell, nats_per_token

TEXT = (
    "The truth value of an object is tested with if and while. By default, an object is considered true unless its "
    "class defines either a method that returns False or a method that returns zero, when called with the object."
)


def tokens(text: str) -> Tensor:
    return torch.tensor(list(text.encode()))


def reference(train: str, row: str, order: int, vocab_size: int) -> list[list[float]]:
    """Log probabilities with dictionaries, one token at a time."""
    counts = [Counter(train[i : i + n] for i in range(len(train) - n + 1)) for n in range(order + 1)]
    followers = [Counter(gram[:-1] for gram in level) for level in counts]
    totals: list[Counter[str]] = [Counter() for _ in counts]
    for n, level in enumerate(counts[1:], start=1):
        for gram, count in level.items():
            totals[n][gram[:-1]] += count
    scores: list[list[float]] = [[] for _ in range(order)]
    for place, token in enumerate(row):
        p = 1 / vocab_size
        for n in range(1, order + 1):
            context = row[place - n + 1 : place]
            if place >= n - 1 and totals[n][context]:
                kinds = followers[n][context]
                p = (counts[n][context + token] + kinds * p) / (totals[n][context] + kinds)
            scores[n - 1].append(math.log(p))
    return scores


@pytest.mark.parametrize(("cut", "order"), [(150, 5), (60, 3), (7, 7), (1, 1), (20, 8)])
def test_counts_agree_with_dictionaries(cut: int, order: int) -> None:
    model = WittenBell(tokens(TEXT[:cut]), order=order, vocab_size=128)
    expected = torch.tensor(reference(TEXT[:cut], TEXT[cut:], order, 128), dtype=torch.float64)
    torch.testing.assert_close(model.log_probabilities(tokens(TEXT[cut:])), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("context", ["", "e", "th", "the objec", "ject.", "zzzz"])
def test_probabilities_of_all_tokens_sum_to_one(context: str) -> None:
    model = WittenBell(tokens(TEXT), vocab_size=128)
    every = torch.arange(128)[:, None]
    rows = torch.cat([tokens(context).long().expand(128, -1), every], dim=1)
    total = model.log_probabilities(rows)[..., -1].exp().sum(1)
    torch.testing.assert_close(total, torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-12)


def test_rows_are_scored_apart() -> None:
    model = WittenBell(tokens(TEXT[:120]), vocab_size=128)
    rows = tokens(TEXT[120:180]).view(2, 3, 10)
    scores = model.log_probabilities(rows)
    assert scores.shape == (5, 2, 3, 10)
    assert torch.equal(scores[:, 1, 2], model.log_probabilities(rows[1, 2]))


def test_large_vocabularies_do_not_overflow() -> None:
    spread = 50_021 * tokens(TEXT)  # V^5 is far beyond 64 bits
    few, many = (
        WittenBell(text[:120], vocab_size=size).log_probabilities(text[120:])
        for text, size in ((tokens(TEXT), 128), (spread, 128 * 50_021))
    )
    seen = few[4].exp() > 0.5
    assert seen.any()
    torch.testing.assert_close(many[4][seen], few[4][seen], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64])
def test_kind_of_whole_numbers_does_not_matter(kind: torch.dtype) -> None:
    text = tokens(TEXT).to(kind)
    assert nats_per_token(text[:99], text[99:], 3, vocab_size=128) == nats_per_token(
        text[:99].long(), text[99:].long(), 3, vocab_size=128
    )


def test_tiny_shakespeare(shared_data: Path) -> None:
    text = (shared_data / "tinyshakespeare/input.txt").read_text()
    characters = torch.tensor([ord(character) for character in text], dtype=torch.uint8)
    cut = int(0.9 * len(text))
    # 65 characters occur: the base of the recursion is a little lower than with 128, to the third digit it is the same
    nats = nats_per_token(characters[:cut], characters[cut:], vocab_size=128)
    assert nats == pytest.approx({1: 3.347, 2: 2.486, 3: 2.049, 4: 1.774, 5: 1.669}, abs=1e-3)


@pytest.mark.parametrize(
    ("train", "validation", "options", "message"),
    [
        ([0, 1], [0], {"order": 0}, "order=0.*at least 1"),
        ([0, 1], [0], {"order": True}, "order=True.*whole number"),
        ([0, 1], [0], {"order": 3}, r"shape \(2,\).*at least `order=3` tokens"),
        ([], [0], {"order": 1}, r"shape \(0,\).*at least"),
        ([[0, 1]], [0], {"order": 1}, r"shape \(1, 2\).*one row"),
        ([0.0, 1.0], [0], {"order": 1}, "float32.*whole numbers"),
        ([0, 1], [], {"order": 1}, "empty `validation`"),
        ([0, 1], [2], {"order": 1}, "Token 2 is outside the vocabulary, 0 to 1"),
        ([0, -1], [0], {"order": 1}, "Token -1 is outside the vocabulary"),
        ([0, 9], [0], {"order": 1, "vocab_size": 5}, "Token 9 is outside the vocabulary, 0 to 4"),
        ([0, 1], [0], {"vocab_size": "a", "order": 1}, r"WittenBell\(vocab_size='a'\).*whole number"),
        ([0, 1], [0], {"vocab_size": 2.5, "order": 1}, r"vocab_size=2\.5"),
        ([torch.nan, 1.0], [0], {"order": 1}, "float32.*whole numbers"),
    ],
)
def test_bad_input(train: list, validation: list, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        nats_per_token(torch.tensor(train), torch.tensor(validation, dtype=torch.int64), **options)


def test_a_text_that_is_no_tensor_is_refused() -> None:
    for text in ([0, 1], "ab"):
        with pytest.raises(InputError, match=rf"as a {type(text).__name__}.*must be a tensor"):
            WittenBell(text, order=1)
    with pytest.raises(InputError, match=r"as a list.*must be a tensor"):
        WittenBell(torch.tensor([0, 1]), order=1).log_probabilities([0])
