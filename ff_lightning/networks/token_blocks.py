"""Blocks that score every candidate for the next token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.blocks import Block, LocalStep, Signal
from ff_lightning.errors import InputError
from ff_lightning.goodness import Goodness, accumulation_dtype
from ff_lightning.language import TokenLoss
from ff_lightning.networks.attention import LayerCache, TransformerLayer
from ff_lightning.networks.functional import rms_norm

Readout = tuple[Tensor, Tensor]
"""Weight ``(V, width)`` and bias ``(V,)`` of a :class:`TokenGoodness`, constant."""


@dataclass(frozen=True, kw_only=True)
class TextSignal(Signal):
    """What travels between the blocks of a language model; ``labels`` are the next tokens, ``(B, T)`` int64.

    Attributes:
        below: ``(V,)`` or ``(B, T, V)`` float, the prediction that the next block starts from or corrects.
        readout: the readout of the first block as it was at the start of the step, for blocks that inherit it.
        draw: gives the source of randomness of a block, by its index.
    """

    below: Tensor
    readout: Readout | None = None
    draw: Callable[[int], torch.Generator | None] = lambda index: None


class TokenGoodness(Goodness):
    """Goodness of every candidate token: ``G(v) = Σ_j W[v, j] N(h)_j² + b[v]``, one matrix product.

    A token's goodness is the weighted energy of the activities that answer to it. ``N`` brings the activities to
    mean square 1; ``W`` and ``b`` start at 0. Computed in float32 whatever the autocast.

    Args:
        width: of the activities.
        vocab_size: ``V``, number of candidates.
        inherit: have no parameters, and read with those of the first block.

    Shape:
        ``(B, T, width)`` to ``(B, T, V)``.
    """

    def __init__(self, width: int, vocab_size: int, *, inherit: bool = False) -> None:
        super().__init__()
        self.weight = None if inherit else nn.Parameter(torch.zeros(vocab_size, width))
        self.bias = None if inherit else nn.Parameter(torch.zeros(vocab_size))

    def snapshot(self) -> Readout:
        """Copies of the parameters, which no later update changes."""
        assert self.weight is not None
        assert self.bias is not None
        return self.weight.detach().clone(), self.bias.detach().clone()

    def forward(self, h: Tensor, inherited: Readout | None = None) -> Tensor:
        """Goodness of all tokens; ``inherited`` is read if there are no own parameters."""
        readout = inherited if self.weight is None or self.bias is None else (self.weight, self.bias)
        if readout is None:
            raise InputError("Called a goodness that inherits its readout without one. Pass that of the first block.")
        with torch.autocast(h.device.type, enabled=False):
            h = h.to(accumulation_dtype(h))
            return F.linear(rms_norm(h).square(), *(part.to(h.dtype) for part in readout))


class TokenLayers(nn.Module):
    """What a block computes: transformer layers, in the first block behind the embedding of tokens.

    Args:
        layers: from the input upwards.
        embedding: of tokens, for a first block.
    """

    def __init__(self, layers: Sequence[TransformerLayer], embedding: nn.Embedding | None = None) -> None:
        super().__init__()
        self.embedding = embedding
        self.layers = nn.ModuleList(layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[TransformerLayer]:
        return iter(self.layers)  # type: ignore[arg-type]

    def forward(self, x: Tensor, caches: Sequence[LayerCache] | None = None) -> Tensor:
        """Tokens ``(B, T)`` or the residual stream ``(B, T, width)``, to the residual stream."""
        if self.embedding is not None:
            x = self.embedding(x)
        for index, layer in enumerate(self):
            x = layer(x, None if caches is None else caches[index])
        return x


class TokenBlock(Block):
    """Transformer layers, goodness of every candidate token, and a local loss on the next one.

    The raw residual stream is passed on, detached.

    Args:
        layer: the layers.
        goodness: own parameters, or inherited.
        loss: contrasts the real next token with negatives, or with all tokens.
        residual: correct the prediction of the block below instead of predicting from the unigram.
    """

    layer: TokenLayers
    goodness: TokenGoodness
    loss: TokenLoss  # type: ignore[assignment]

    def __init__(self, layer: TokenLayers, goodness: TokenGoodness, loss: TokenLoss, *, residual: bool = False) -> None:
        super().__init__(layer, goodness, loss, norm=nn.Identity())  # type: ignore[arg-type]
        self.residual = residual

    @property
    def threshold(self) -> Tensor | None:
        """``None``: goodness of tokens is compared in pairs."""
        return None

    def predict(self, h: Tensor, below: Tensor, readout: Readout | None) -> Tensor:
        """Prediction ``F`` of this block, ``(B, T, V)``, from its own activities ``h``.

        Args:
            h: ``(B, T, width)``.
            below: ``(B, T, V)`` or ``(V,)``, where the block starts from.
            readout: of the first block.
        """
        logits: Tensor = below + self.goodness(h, readout)
        return logits

    def local_step(self, index: int, signal: Signal) -> tuple[LocalStep, Signal]:
        """Forward pass and local loss of this block; the signal must be a :class:`TextSignal`."""
        if not isinstance(signal, TextSignal) or signal.labels is None:
            raise InputError("Passed a signal without next tokens. A `TokenBlock` needs a `TextSignal` with `labels`.")
        h = self(signal.h)
        logits = self.predict(h, signal.below, signal.readout)
        contrast = self.loss(logits, signal.below, signal.labels, signal.draw(index))
        below = self.loss.calibrated(logits, signal.below).detach() if self.residual else signal.below
        step = LocalStep(index, contrast.loss, contrast.g_pos, contrast.g_neg)
        return step, replace(signal, h=h.detach(), below=below)
