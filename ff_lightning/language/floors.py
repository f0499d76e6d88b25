r"""What counting reaches on text: interpolated n-gram models with Witten-Bell smoothing.

With c(h, w) how often token w follows the n - 1 tokens h, c(h) their sum and T(h) the number of different w:

    P_n(w | h) = (c(h, w) + T(h) P_{n-1}(w | h')) / (c(h) + T(h)),

where h' is h without its first token, P_0 = 1 / V, and P_n = P_{n-1} after an h that never occurred. Witten and Bell
1991, method C; Chen and Goodman 1999, section 2.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ff_lightning.errors import InputError, whole


class WittenBell:
    """Models of order 1 to n of one text, counted once.

    Tokens are whole numbers below V; contexts are numbered afresh at every order, so V and n are not limited by the
    width of integers.

    Args:
        tokens: ``(N,)`` whole numbers, the training text.
        order: n, the length of the longest n-gram.
        vocab_size: V; ``None`` for the largest token and one.

    Raises:
        InputError: the text is not one row of whole numbers, is empty or shorter than an n-gram, has a token outside
            the vocabulary, or ``order`` or ``vocab_size`` is below 1.

    >>> model = WittenBell(torch.tensor([0, 1, 0, 1, 0]), order=2)
    >>> model.log_probabilities(torch.tensor([0, 1])).exp()
    tensor([[0.5714, 0.4286],
            [0.5714, 0.8095]], dtype=torch.float64)
    """

    def __init__(self, tokens: Tensor, *, order: int = 5, vocab_size: int | None = None) -> None:
        whole("order", order, least=1, owner=self)
        if vocab_size is not None:
            whole("vocab_size", vocab_size, least=1, owner=self)
        if not isinstance(tokens, Tensor) or tokens.ndim != 1 or len(tokens) < order:
            given = f"of shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else f"as a {type(tokens).__name__}"
            raise InputError(
                f"Passed `WittenBell(tokens)` {given}. They must be a tensor, one row of at least `order={order}` "
                "tokens."
            )
        _check_kind(tokens)
        self.vocab_size = int(tokens.max()) + 1 if vocab_size is None else vocab_size
        text = _whole(tokens, self.vocab_size)
        self._levels: list[_Level] = []
        numbers = torch.zeros_like(text)  # of the context that precedes each token; there is one empty context
        for n in range(1, order + 1):
            level, grams = _Level.count(numbers * self.vocab_size + text[n - 1 :], self.vocab_size)
            self._levels.append(level)
            numbers = grams[:-1]  # an n-gram is the context of the next token

    @property
    def order(self) -> int:
        """Length of the longest n-gram."""
        return len(self._levels)

    def log_probabilities(self, tokens: Tensor) -> Tensor:
        """Score every token after the ones before it in its row.

        The first tokens of a row, which have too few before them, are scored by the lower orders.

        Args:
            tokens: ``(…, T)`` whole numbers below V.

        Returns:
            ``(n, …, T)`` float64, nats, for order 1 to n.

        Raises:
            InputError: a token is outside the vocabulary.
        """
        text = _whole(tokens, self.vocab_size)
        contexts = torch.zeros_like(text)
        p = torch.full(text.shape, 1 / self.vocab_size, dtype=torch.float64, device=text.device)
        scores = []
        for level in self._levels:
            p, grams = level.refine(p, contexts, text, self.vocab_size)
            scores.append(p.log())
            contexts = torch.cat([torch.full_like(grams[..., :1], -1), grams[..., :-1]], dim=-1)
        return torch.stack(scores)


def nats_per_token(
    train: Tensor, validation: Tensor, order: int = 5, *, vocab_size: int | None = None
) -> dict[int, float]:
    """Mean negative log-likelihood of a text under the n-gram models of another.

    Args:
        train: ``(N,)`` whole numbers.
        validation: ``(…, T)`` whole numbers; every token counts.
        order: the longest n-gram.
        vocab_size: V; ``None`` for the largest token of ``train`` and one.

    Returns:
        Nats a token for every order from 1.

    Raises:
        InputError: what `WittenBell` refuses, or ``validation`` is empty.

    >>> nats = nats_per_token(torch.tensor([0, 1, 0, 1, 0]), torch.tensor([0, 1, 0]))
    >>> round(nats[1], 4), round(nats[2], 4)
    (0.6555, 0.3084)
    """
    _check_kind(validation)
    if validation.numel() == 0:
        raise InputError("Passed an empty `validation`. There must be at least one token.")
    scores = WittenBell(train, order=order, vocab_size=vocab_size).log_probabilities(validation)
    return {n: -score.mean().item() for n, score in enumerate(scores, start=1)}


@dataclass(frozen=True)
class _Level:
    """Counts of one order. An n-gram is the key ``context * V + token``, and its place among the keys its number."""

    keys: Tensor  # (G,) int64, different n-grams, sorted
    counts: Tensor  # (G,) int64, c(h, w)
    totals: Tensor  # (H,) int64, c(h)
    kinds: Tensor  # (H,) int64, T(h)

    @classmethod
    def count(cls, grams: Tensor, vocab_size: int) -> tuple[_Level, Tensor]:
        """Count n-grams, ``(N,)``, and return the number of each, too."""
        ordered, places = grams.sort()
        keys, inverse, counts = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
        contexts = keys // vocab_size
        kinds = contexts.bincount()
        totals = torch.zeros_like(kinds).index_add_(0, contexts, counts)
        return cls(keys, counts, totals, kinds), torch.empty_like(places).scatter_(0, places, inverse)

    def refine(self, lower: Tensor, contexts: Tensor, tokens: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
        """Go from P_{n-1} to P_n.

        Args:
            lower: ``(…, T)`` float64, P_{n-1}.
            contexts: ``(…, T)`` number of the context, -1 if it never occurred.
            tokens: ``(…, T)``.
            vocab_size: V.

        Returns:
            P_n, and the number of the n-gram that ends here, -1 if it never occurred; both ``(…, T)``.
        """
        # The context that ends the training text has occurred, though nothing followed it.
        known = (contexts >= 0) & (contexts < len(self.totals))
        context = torch.where(known, contexts, 0)
        grams = context * vocab_size + tokens
        places = torch.searchsorted(self.keys, grams).clamp_(max=len(self.keys) - 1)
        found = known & (self.keys[places] == grams)
        total, kinds = self.totals[context], self.kinds[context]
        raised = (torch.where(found, self.counts[places], 0) + kinds * lower) / (total + kinds)
        return torch.where(known & (total > 0), raised, lower), torch.where(found, places, -1)


def _check_kind(tokens: Tensor) -> None:
    if not isinstance(tokens, Tensor):
        raise InputError(f"Passed tokens as a {type(tokens).__name__}. They must be a tensor of whole numbers.")
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise InputError(f"Passed tokens of type {tokens.dtype}. They must be whole numbers.")


def _whole(tokens: Tensor, vocab_size: int) -> Tensor:
    _check_kind(tokens)
    text = tokens.long()
    wrong = text[(text < 0) | (text >= vocab_size)]
    if len(wrong):
        raise InputError(f"Token {int(wrong[0])} is outside the vocabulary, 0 to {vocab_size - 1}.")
    return text
