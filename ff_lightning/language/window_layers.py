"""Layers of a language model that sees a fixed window of tokens, as Hinton's first one did."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.language.functional import rms_norm


@dataclass
class WindowCache:
    """The last tokens that a :class:`WindowLayer` has seen, ``(B, window - 1)`` int64, -1 before the first."""

    tokens: Tensor | None = None


class WindowLayer(nn.Module):
    """ReLU units over the one-hot codes of the current and the previous ``window - 1`` tokens.

    Tokens before the start of a sequence are codes of zeros. Weights start with variance ``1 / window``, so that a
    unit's input has variance 1.

    Args:
        vocab_size: ``V``.
        window: tokens seen.
        width: units.
    """

    def __init__(self, vocab_size: int, window: int, width: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.window = window
        self.linear = nn.Linear(window * vocab_size, width)
        nn.init.normal_(self.linear.weight, std=window**-0.5)
        nn.init.zeros_(self.linear.bias)

    @staticmethod
    def new_cache() -> WindowCache:
        """An empty cache."""
        return WindowCache()

    def forward(self, tokens: Tensor, cache: WindowCache | None = None) -> Tensor:
        """Tokens ``(B, T)`` int64 to activities ``(B, T, width)``; the cache holds what came before."""
        return F.relu(self._inputs(tokens, cache))

    def pair(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Activities with the real and with another last token in every window; both ``(B, T)`` int64."""
        z = self._inputs(real, None)
        last = self.linear.weight[:, -self.vocab_size :].T
        z_fake = z + (F.embedding(fake, last) - F.embedding(real, last))
        return F.relu(z), F.relu(z_fake).to(z.dtype)

    def _inputs(self, tokens: Tensor, cache: WindowCache | None) -> Tensor:
        before = None if cache is None else cache.tokens
        if before is None:
            before = tokens.new_full((len(tokens), self.window - 1), -1)
        known = torch.cat([before, tokens], 1)
        if cache is not None:
            cache.tokens = known[:, known.shape[1] - self.window + 1 :]
        codes = F.one_hot(known + 1, self.vocab_size + 1)[..., 1:].to(self.linear.weight.dtype)
        windows = codes.unfold(1, self.window, 1)  # (B, T, V, window)
        z: Tensor = self.linear(windows.transpose(2, 3).flatten(2))
        return z


class DenseLayer(nn.Module):
    """ReLU units over the normalised activities of the same position.

    Args:
        in_features: units below.
        width: units.
    """

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, width)
        nn.init.normal_(self.linear.weight, std=in_features**-0.5)
        nn.init.zeros_(self.linear.bias)

    @staticmethod
    def new_cache() -> None:
        """Nothing needs to be remembered."""

    def forward(self, x: Tensor, cache: None = None) -> Tensor:
        """Activities ``(B, T, in_features)`` to ``(B, T, width)``."""
        del cache
        return F.relu(self.linear(rms_norm(x)))

    def pair(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams."""
        y, y_fake = self(torch.cat([real, fake])).chunk(2)
        return y, y_fake
