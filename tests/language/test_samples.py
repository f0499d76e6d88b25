"""Diversity of samples, and their loss under counts, against plain Python."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ff_lightning.errors import InputError
from ff_lightning.language.floors import WittenBell, nats_per_token
from ff_lightning.language.samples import distinct_n, ngram_loss
from tests.texts import text, windows


@pytest.mark.parametrize("n", [1, 2, 4, 17])
def test_distinct_n_counts_as_sets_do(n: int) -> None:
    rows = windows(20)
    grams = [tuple(row[i : i + n]) for row in rows.tolist() for i in range(len(row) - n + 1)]
    assert distinct_n(rows, n) == len(set(grams)) / len(grams)


def test_large_tokens_are_told_apart() -> None:
    rows = torch.tensor([[2**40, 2**41, 2**40, 2**41 + 1]])
    assert distinct_n(rows, 2) == 1
    assert distinct_n(rows, 1) == 0.75


def test_the_loss_is_that_of_the_probabilities_of_the_counts() -> None:
    """Bigrams of one row, where Witten-Bell is quickly written down."""
    train, rows = windows(200).flatten().tolist(), windows(3, 60_000)
    pairs, singles, vocabulary = Counter(pairwise(train)), Counter(train), text()[1]
    contexts = Counter(train[:-1])
    kinds = Counter(first for first, _ in pairs)
    total = 0.0
    for row in rows.tolist():
        for place, token in enumerate(row):
            p = (singles[token] + len(singles) / vocabulary) / (len(train) + len(singles))
            before = row[place - 1]
            if place and contexts[before]:
                p = (pairs[before, token] + kinds[before] * p) / (contexts[before] + kinds[before])
            total -= math.log(p)
    model = WittenBell(torch.tensor(train), order=4, vocab_size=vocabulary)
    assert ngram_loss(rows, model, order=2) == pytest.approx(total / rows.numel(), rel=1e-12)


def test_the_loss_is_that_of_the_floor_and_higher_for_shuffled_text() -> None:
    train, rows = text()[0][:60_000], windows(200, 60_000)
    model = WittenBell(train, vocab_size=text()[1])
    found = ngram_loss(rows, model)
    assert found == nats_per_token(train, rows, vocab_size=text()[1])[4]
    shuffled = rows.flatten()[torch.randperm(rows.numel(), generator=torch.Generator().manual_seed(0))].view_as(rows)
    assert ngram_loss(shuffled, model) > found + 1


@pytest.mark.parametrize(
    ("tokens", "n", "message"),
    [
        (torch.zeros(2, 5), 0, "n=0.*at least 1"),
        (torch.zeros(2, 5), True, "n=True"),
        (torch.zeros(2, 5), 6, r"\(2, 5\).*at least `n=6`"),
        (torch.zeros(0, 5), 2, r"\(0, 5\)"),
        (torch.zeros(5), 2, r"\(5,\)"),
    ],
)
def test_what_has_no_ngrams_is_refused(tokens: Tensor, n: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        distinct_n(tokens.long(), n)


@pytest.mark.parametrize(
    ("samples", "order", "message"),
    [([[0]], 0, "order=0"), ([[0]], 3, "order=3.*that of the model"), ([[]], 2, "empty"), ([[7]], 2, "Token 7 is out")],
)
def test_what_the_counts_cannot_score_is_refused(samples: list[list[int]], order: int, message: str) -> None:
    model = WittenBell(torch.tensor([0, 1, 0, 1]), order=2)
    with pytest.raises(InputError, match=message):
        ngram_loss(torch.tensor(samples, dtype=torch.long), model, order)
