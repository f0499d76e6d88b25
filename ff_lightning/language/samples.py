"""How good sampled text is: how much it repeats itself, and what counting makes of it.

Both say something only beside the same numbers of as much real text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ff_lightning.errors import InputError, whole
from ff_lightning.language.floors import WittenBell


def distinct_n(tokens: Tensor, n: int) -> float:
    """Share of different n-grams among all n-grams of some texts (Li et al. 2016, 1510.03055).

    It falls as the texts get longer or more: compare equal amounts.

    Args:
        tokens: ``(B, T)`` whole numbers, a text a row; n-grams do not cross rows.
        n: length of an n-gram.

    Returns:
        In (0, 1]; low where texts repeat themselves or each other.

    Raises:
        InputError: ``n`` is not a whole number of at least 1, or rows are shorter.

    >>> distinct_n(torch.tensor([[0, 1, 0, 1, 0]]), 2)
    0.5
    """
    whole("n", n, least=1)
    if tokens.ndim != 2 or not len(tokens) or tokens.shape[1] < n:
        raise InputError(f"Passed tokens of shape {tuple(tokens.shape)}. They must be (B, T) with T at least `n={n}`.")
    grams = tokens.unfold(1, n, 1).reshape(-1, n)
    different: Tensor = torch.unique(grams, dim=0)
    return len(different) / len(grams)


def ngram_loss(samples: Tensor, model: WittenBell, order: int = 4) -> float:
    """Mean negative log-likelihood of texts under an n-gram model of the training text.

    Far above that of real text, the samples have the wrong statistics; far below, they are too common or repeat.

    Args:
        samples: ``(B, T)`` whole numbers; every token counts, the first ones by lower orders.
        model: counted on the training text.
        order: n, at most that of the model.

    Returns:
        Nats a token.

    Raises:
        InputError: the model has no such order, a token is outside its vocabulary, or there is none.

    >>> round(ngram_loss(torch.tensor([[0, 1, 0]]), WittenBell(torch.tensor([0, 1, 0, 1, 0]), order=2), order=2), 4)
    0.3084
    """
    if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= model.order:
        raise InputError(f"Passed `order={order!r}`. `order` must be a whole number from 1 to that of the model.")
    if samples.numel() == 0:
        raise InputError("Passed empty `samples`. There must be at least one token.")
    return -model.log_probabilities(samples)[order - 1].mean().item()
