"""Texts and images as rows of tokens: what is padded, one vector of many positions, one norm for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ff_lightning.errors import InputError
from ff_lightning.goodness import Goodness
from ff_lightning.signals import UNJUDGED

PADDING = UNJUDGED
"""Stands in a row of tokens where there is none: a mask and the tokens are one tensor, from the data to a program."""


@dataclass(frozen=True)
class Tokens:
    """Activities of a text, and where it has tokens.

    Attributes:
        h: ``(B, T, D)``.
        mask: ``(B, T)`` bool, false at padding, which no attention, no goodness and no readout looks at.
    """

    h: Tensor
    mask: Tensor

    @property
    def shape(self) -> torch.Size:
        """Of the activities."""
        return self.h.shape

    def detach(self) -> Tokens:
        """The same, cut off its graph."""
        return replace(self, h=self.h.detach())


def vector_of(h: Any) -> Tensor:
    """One vector a sample: the mean over positions ``(B, T, D)``, of a text over its tokens alone.

    Args:
        h: :class:`Tokens`, or a tensor ``(B, …)``; what has no positions, as ``(B, D)`` and ``(B, C, H, W)``, stays.
    """
    if isinstance(h, Tokens):
        return masked_mean(h.h, h.mask)
    assert isinstance(h, Tensor)
    return h.mean(1) if h.dim() == 3 else h


def masked_mean(h: Tensor, mask: Tensor) -> Tensor:
    """Mean ``(B, …)`` over the positions of ``h``, ``(B, T, …)``, at which ``mask``, ``(B, T)``, is true."""
    kept = mask.view(*mask.shape, *[1] * (h.dim() - 2)).to(h.dtype)
    return (h * kept).sum(1) / kept.sum(1).clamp(min=1)


class OfTokens(Goodness):
    """A goodness of rows of tokens: of every class by their mean, or else the mean of every position's own.

    Args:
        goodness: judges ``(B, D)``.

    Shape:
        - Input: ``(B, T, D)``, or :class:`Tokens`.
        - Output: ``(B, C)`` for a goodness of classes, else ``(B,)``.
    """

    def __init__(self, goodness: Goodness) -> None:
        super().__init__()
        self.goodness = goodness
        self.by_class = hasattr(goodness, "num_classes")
        if self.by_class:
            self.num_classes = int(goodness.num_classes)  # type: ignore[arg-type]

    def forward(self, h: Any) -> Tensor:  # noqa: D102
        if self.by_class:
            of_classes: Tensor = self.goodness(vector_of(h))
            return of_classes
        g: Tensor = self.goodness(h.h if isinstance(h, Tokens) else h)
        return masked_mean(g, h.mask) if isinstance(h, Tokens) else g.mean(1)


class OfLastChannels(Goodness):
    """A goodness of maps whose channels stand last, ``(B, H, W, C)``.

    Args:
        goodness: judges maps ``(B, C, H, W)``.

    Shape:
        - Input: ``(B, H, W, C)``.
        - Output: that of the goodness.
    """

    def __init__(self, goodness: Goodness) -> None:
        super().__init__()
        self.goodness = goodness
        if hasattr(goodness, "num_classes"):
            self.num_classes = int(goodness.num_classes)  # type: ignore[arg-type]

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        g: Tensor = self.goodness(h.movedim(-1, 1))
        return g


class OnTokens(nn.Module):
    """A layer of positions that is told nothing of padding, such as a norm.

    Args:
        layer: ``(B, T, D)`` to ``(B, T, D)``.
        alone: show it every position as a sample of its own, ``(B * T, D)``.
    """

    def __init__(self, layer: nn.Module, *, alone: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.alone = alone

    def forward(self, x: Any) -> Any:  # noqa: D102
        if isinstance(x, Tokens):
            return replace(x, h=self(x.h))
        return self.layer(x.flatten(0, 1)).view_as(x) if self.alone else self.layer(x)


class TextStem(nn.Module):
    """The lowest layer of a text model: tokens to activities, padding told apart.

    Args:
        embedding: ``(B, T)`` int64 to ``(B, T, D)``.
        padding: token that stands in for padding while it is embedded.
        context: largest number of tokens; ``None`` for any.

    Shape:
        ``(B, T)`` int64, :data:`PADDING` where there is no token, to :class:`Tokens`.
    """

    def __init__(self, embedding: nn.Module, *, padding: int = 0, context: int | None = None) -> None:
        super().__init__()
        self.embedding = embedding
        self.padding = padding
        self.context = context

    def forward(self, x: Tensor) -> Tokens:  # noqa: D102
        if x.dim() != 2 or x.is_floating_point():
            raise InputError(f"Passed texts of shape {tuple(x.shape)}, {x.dtype}. They must be (B, T) whole numbers.")
        if self.context is not None and x.shape[1] > self.context and not torch.compiler.is_compiling():
            raise InputError(
                f"Passed texts of {x.shape[1]} tokens to a model of {self.context} positions. Cut them, or build it "
                "with more."
            )
        mask = x != PADDING
        return Tokens(self.embedding(torch.where(mask, x, self.padding)), mask)


class TextLayer(nn.Module):
    """A transformer layer of transformers, with its mask and its positions.

    Args:
        layer: takes activities and ``attention_mask``.
        causal: no position looks at those behind it.
        additive: the mask is added to the scores of attention, as ``eager`` wants it; else it is bool.
        rotary: makes position embeddings that the layer asks for; it has no parameters.
        windows: a configuration whose ``sliding_window`` says how many tokens a position looks at, itself among them;
            ``None`` for all.
    """

    def __init__(
        self,
        layer: nn.Module,
        *,
        causal: bool = False,
        additive: bool = False,
        rotary: nn.Module | None = None,
        windows: Any = None,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.causal = causal
        self.additive = additive
        self.rotary = rotary
        self.windows = windows

    def forward(self, x: Tokens) -> Tokens:  # noqa: D102
        length = x.h.shape[1]
        seen = x.mask[:, None, None, :].expand(-1, 1, length, -1)
        if self.causal:
            near = torch.ones(length, length, dtype=torch.bool, device=seen.device).tril()
            seen = seen & (near if self.windows is None else near.triu(1 - int(self.windows.sliding_window)))
            # A row of padding before a text sees itself, for attention to nothing is not a number.
            seen = seen | torch.eye(length, dtype=torch.bool, device=seen.device)
        mask = seen
        if self.additive:
            mask = torch.zeros_like(seen, dtype=x.h.dtype).masked_fill(~seen, torch.finfo(x.h.dtype).min)
        more: dict[str, Any] = {}
        if self.rotary is not None:
            places = torch.arange(length, device=x.h.device).unsqueeze(0)
            more = {"position_embeddings": self.rotary(x.h, position_ids=places), "position_ids": places}
        h = self.layer(x.h, attention_mask=mask, **more)
        return replace(x, h=h[0] if isinstance(h, tuple) else h)
