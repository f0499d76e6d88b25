"""Blocks that score every candidate for the next token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.blocks import ClassBlock
from ff_lightning.candidates import CandidateLoss
from ff_lightning.distributed import gathered
from ff_lightning.errors import InputError, positive
from ff_lightning.goodness import Goodness, MeanOfSquares, accumulation_dtype
from ff_lightning.language.attention import TransformerLayer, hidden_linear
from ff_lightning.language.channels import TokenTables
from ff_lightning.language.functional import rms_norm, unit_energy
from ff_lightning.language.window_layers import DenseLayer, WindowLayer
from ff_lightning.losses import MovingThresholdLoss
from ff_lightning.signals import BlockContext, Contrast, Signal, detached

Readout = tuple[Tensor, Tensor]
"""Weight ``(V, width)`` and bias ``(V,)`` of a :class:`TokenGoodness`, constant."""

MANY = 1024
"""Vocabularies from this size on are contrasted without a gradient for every token."""

Layer = TransformerLayer | WindowLayer | DenseLayer


@dataclass(frozen=True)
class Dreams:
    """Sequences that a model made itself, as they travel between its blocks.

    Attributes:
        h: ``(D, T)`` int64 tokens, or ``(D, T, width)`` activities.
        dreamed: ``(D, T)`` bool, where the token is the model's own; before that the sequence is real.
        tokens: ``(D, T)`` int64, for blocks that read them in channels of their own; ``None`` for others.
    """

    h: Tensor
    dreamed: Tensor
    tokens: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class TextSignal(Signal):
    """What travels between the blocks of a language model; ``labels`` are the next tokens, ``(B, T)`` int64.

    Attributes:
        below: ``(V,)`` or ``(B, T, V)`` float, the prediction that the next block starts from or corrects.
        readout: the readout of the first block as it was at the start of the step, for blocks that inherit it.
        fakes: ``(B, T)`` int64 tokens or ``(B, T, width)`` activities of a second stream, whose position ``t`` has a
            token of the model's own there and the real ones before; only for candidates in the input.
        dreams: sequences that the model made, for a goodness of sequences.
        tokens: ``(B, T)`` int64 of the real sequences, for blocks that read them in channels of their own; ``None``
            for others.
    """

    below: Tensor
    readout: Readout | None = None
    fakes: Tensor | None = None
    dreams: Dreams | None = None
    tokens: Tensor | None = None


class TokenGoodness(Goodness):
    """Goodness of every candidate token: ``G(v) = Σ_j W[v, j] N(h)_j² + b[v]``, one matrix product.

    A token's goodness is the weighted energy of the activities that answer to it. ``N`` brings the activities to
    mean square 1; ``W`` and ``b`` start at 0. Computed in float32 whatever the autocast.

    Args:
        width: of the activities; what travels behind them is not read.
        vocab_size: ``V``, number of candidates.
        inherit: have no parameters, and read with those of the first block.
        squared: read the squares of the activities; ``False`` reads the activities themselves, as a linear softmax.

    Shape:
        ``(B, T, width)`` to ``(B, T, V)``.
    """

    def __init__(self, width: int, vocab_size: int, *, inherit: bool = False, squared: bool = True) -> None:
        super().__init__()
        self.width = width
        self.squared = squared
        self.weight = None if inherit else nn.Parameter(torch.zeros(vocab_size, width))
        self.bias = None if inherit else nn.Parameter(torch.zeros(vocab_size))

    def snapshot(self) -> Readout:
        """Copies of the parameters, which no later update changes."""
        assert self.weight is not None
        assert self.bias is not None
        return gathered(self.weight.detach()).clone(), gathered(self.bias.detach()).clone()

    def forward(self, h: Tensor, inherited: Readout | None = None) -> Tensor:
        """Goodness of all tokens; ``inherited`` is read if there are no own parameters."""
        with torch.autocast(h.device.type, enabled=False):
            x = self.energies(h)
            return F.linear(x, *self.parameters_or(inherited, x.dtype))

    def energies(self, h: Tensor) -> Tensor:
        """What is weighed, ``(B, T, width)``, at least float32: the squares of the normalised activities."""
        x = h[..., : self.width].to(accumulation_dtype(h))
        return unit_energy(x) if self.squared else rms_norm(x)

    def parameters_or(self, inherited: Readout | None, dtype: torch.dtype) -> Readout:
        """The own weight and bias, or the inherited ones, in the type of the energies."""
        readout = inherited if self.weight is None or self.bias is None else (self.weight, self.bias)
        if readout is None:
            raise InputError("Called a goodness that inherits its readout without one. Pass that of the first block.")
        return readout[0].to(dtype), readout[1].to(dtype)


class SequenceContrast(nn.Module):
    """Goodness of whole sequences: real ones against those that the model made itself.

    The goodness of a position is the mean square of a linear map of its normalised activities. Hinton's logistic loss
    around a moving threshold wants it high where a real text has come this far, low where the model has gone on by
    itself. It judges contexts and says nothing of candidate tokens: a made-up context has no true next token.

    Args:
        width: of the activities; what travels behind them is not read.
        weight: of this loss beside the loss over tokens; positive.
    """

    def __init__(self, width: int, *, weight: float = 0.1) -> None:
        super().__init__()
        self.width = width
        self.weight = positive("weight", weight)
        self.map = hidden_linear(width, width)
        self.goodness = MeanOfSquares()
        self.loss = MovingThresholdLoss()

    def forward(self, h: Tensor, dreams: Tensor, dreamed: Tensor) -> Tensor:
        """Weighted loss of real ``(B, T, width)`` against made-up activities ``(D, T, width)``; ``dreamed (D, T)``."""
        g_pos, g_neg = (self.goodness(self.map(rms_norm(x[..., : self.width]))) for x in (h, dreams))
        loss: Tensor = self.weight * self.loss(g_pos, g_neg[dreamed])
        return loss


class TokenLayers(nn.Module):
    """What a block computes: its layers. In the first block of a transformer they stand behind an embedding of tokens.

    Args:
        layers: from the input upwards.
        embedding: of tokens, for a first block.
        channels: in which the layers read the tokens beside the stream; ``None`` for none.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        embedding: nn.Embedding | None = None,
        *,
        channels: TokenTables | None = None,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.layers = nn.ModuleList(layers)
        self.channels = channels

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)  # type: ignore[arg-type]

    def new_caches(self) -> list[Any]:
        """Empty caches of what the layers remember, one a layer."""
        return [layer.new_cache() for layer in self]

    def forward(self, x: Tensor, caches: Sequence[Any] | None = None, tokens: Tensor | None = None) -> Tensor:
        """Activities ``(B, T, width)``.

        Args:
            x: tokens ``(B, T)`` where there is an embedding, else activities ``(B, T, width)``.
            caches: of the tokens before, one a layer.
            tokens: ``(B, T)`` int64, what the channels read; a block with an embedding has them in ``x``.

        Raises:
            InputError: there are channels, and no tokens.
        """
        embedded = None if self.embedding is None else self.embedding(x)
        if embedded is not None:
            x, tokens = embedded, x
        own = self._own(tokens, embedded)
        for index, layer in enumerate(self):
            x = layer(x, None if caches is None else caches[index], *own[index])
        return x

    def _own(self, tokens: Tensor | None, embedded: Tensor | None) -> list[tuple[Tensor, ...]]:
        """What every layer reads beside the stream."""
        if self.channels is None:
            return [()] * len(self)
        if tokens is None:
            raise InputError(
                "Passed `tokens=None` to layers that read them in channels of their own. Pass the tokens (B, T) that "
                "the activities stand for."
            )
        return [(read,) for read in self.channels(tokens, embedded)]

    def pair(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams at once: position ``t`` of the second has ``fake[t]`` there and ``real`` before it.

        Args:
            real: as in :meth:`forward`; not for layers with channels of their own.
            fake: the same shape.

        Returns:
            Activities of both, each ``(B, T, width)``; those of the real stream are what :meth:`forward` gives.
        """
        if self.embedding is not None:
            real, fake = self.embedding(real), self.embedding(fake)
        for layer in self:
            real, fake = layer.pair(real, fake)
        return real, fake


class TokenBlock(ClassBlock):
    """Layers, goodness of every candidate token, and a local loss on the next one.

    The raw activities are passed on, detached.

    Args:
        layer: the layers.
        goodness: own parameters, or inherited.
        loss: contrasts the real next token with negatives, or with all tokens.
        residual: correct the prediction of the block below instead of predicting from the unigram.
        sequences: also contrasts real sequences with those that the model made itself.
    """

    layer: TokenLayers
    goodness: TokenGoodness

    def __init__(
        self,
        layer: TokenLayers,
        goodness: TokenGoodness,
        loss: CandidateLoss,
        *,
        residual: bool = False,
        sequences: SequenceContrast | None = None,
    ) -> None:
        super().__init__(layer, goodness, loss, norm=nn.Identity())
        self.residual = residual
        self.sequences = sequences

    def forward(self, x: Tensor, caches: list[Any] | None = None, tokens: Tensor | None = None) -> Tensor:
        """Activities of the block, as :meth:`TokenLayers.forward` gives them."""
        h: Tensor = self.layer(x, caches, tokens)
        return h

    @property
    def readout(self) -> TokenGoodness:
        """What turns activities into goodness of every token."""
        return self.goodness

    def predict(self, h: Tensor, below: Tensor, readout: Readout | None) -> Tensor:
        """Prediction ``F`` of this block, ``(B, T, V)``, from its own activities ``h``.

        Args:
            h: ``(B, T, width)``.
            below: ``(B, T, V)`` or ``(V,)``, where the block starts from.
            readout: of the first block.
        """
        logits: Tensor = below + self.goodness(h, readout)
        return logits

    def answer(self, h: Tensor, below: Tensor, readout: Readout | None) -> Tensor:
        """What :meth:`predict` stands for as log-probability, up to a constant; the same arguments."""
        return self.loss.calibrated(self.predict(h, below, readout), below)

    def local_step(
        self, signal: Signal, context: BlockContext = BlockContext(), *, cut: bool = True
    ) -> tuple[Contrast, Signal]:
        """Forward pass and local loss of this block; the signal must be a :class:`TextSignal`."""
        if not isinstance(signal, TextSignal) or signal.labels is None:
            raise InputError("Passed a signal without next tokens. A `TokenBlock` needs a `TextSignal` with `labels`.")
        h, dreams = self._activities(signal)
        contrast = self.judge(h, signal, context)
        if self.sequences is not None and dreams is not None:
            contrast = contrast._replace(loss=contrast.loss + self.sequences(h, dreams.h, dreams.dreamed))
        return contrast, self._passed(signal, *(detached((h, dreams)) if cut else (h, dreams)))

    def judge(self, h: Tensor, signal: Signal, context: BlockContext) -> Contrast:
        """Local loss on the next tokens, of the activities ``(B, T, width)`` of real sequences."""
        assert isinstance(signal, TextSignal)
        assert signal.labels is not None
        if signal.below.shape[-1] < MANY or self.residual:
            logits = self.predict(h, signal.below, signal.readout)
            contrast: Contrast = self.loss(logits, signal.labels, context.generator, signal.below)
            return contrast
        with torch.autocast(h.device.type, enabled=False):
            energies = self.goodness.energies(h)
            readout = self.goodness.parameters_or(signal.readout, energies.dtype)
            return self.loss.among_many(energies, readout, signal.labels, context.generator, signal.below)

    @torch.no_grad()
    def rest(self, signal: Signal) -> Signal:
        """Pass activities on, and where the block corrects predictions the corrected one, without learning."""
        assert isinstance(signal, TextSignal)
        h, dreams = self._activities(signal)
        return self._passed(signal, h, dreams)

    def _passed(self, signal: TextSignal, h: Tensor, dreams: Dreams | None) -> TextSignal:
        below = signal.below
        if self.residual:
            with torch.no_grad():
                below = self.answer(h.detach(), below, signal.readout)
        return replace(signal, h=h, below=below, dreams=dreams)

    def _activities(self, signal: TextSignal) -> tuple[Tensor, Dreams | None]:
        """Activities of the real sequences, and of the dreams, in one pass if they are equally long."""
        if signal.dreams is None:
            return self(signal.h, None, signal.tokens), None
        real, made, tokens = signal.h, signal.dreams.h, (signal.tokens, signal.dreams.tokens)
        if real.shape[1] == made.shape[1]:
            both = None if tokens[0] is None or tokens[1] is None else torch.cat([tokens[0], tokens[1]])
            h, dreams = self(torch.cat([real, made]), None, both).split([len(real), len(made)])
        else:
            h, dreams = self(real, None, tokens[0]), self(made, None, tokens[1])
        return h, replace(signal.dreams, h=dreams)
