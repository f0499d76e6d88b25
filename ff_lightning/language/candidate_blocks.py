"""Blocks that judge a token as part of their input, as in Hinton's own experiments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.blocks import ContrastiveBlock
from ff_lightning.errors import InputError
from ff_lightning.goodness import Goodness
from ff_lightning.language.blocks import Dreams, Readout, TextSignal, TokenGoodness, TokenLayers
from ff_lightning.language.functional import rms_norm
from ff_lightning.losses import ContrastiveLoss
from ff_lightning.signals import BlockContext, Contrast, Signal


class PositionRMS(nn.Module):
    """Scale the activities of every position to mean square 1, so that none tells of its goodness or of later ones.

    Shape:
        ``(B, T, width)`` to the same.
    """

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        return rms_norm(h)


@dataclass(frozen=True)
class Streams:
    """Activities of a block that judges tokens in its input.

    Attributes:
        real: ``(B, T, width)`` of the real sequences.
        fakes: ``(B, T, width)``, with a token of the model's own at every position; ``None`` without such negatives.
        dreams: of sequences that the model made itself; ``None`` without them.
    """

    real: Tensor
    fakes: Tensor | None
    dreams: Dreams | None


class CandidateBlock(ContrastiveBlock):
    """Layers, goodness of the token at each position in its context, a contrastive loss, and a readout.

    Positives are the real tokens. Negatives are the tokens of the model's own: of the second stream (*teacher-forced*:
    real context, own token), of dreams (*rollouts*: the context is the model's own, too), or of both. The readout
    predicts the next token from the activities of the real stream, and no gradient of it reaches them; it adds to
    the readouts below. What is passed on is normalised at every position and detached.

    Args:
        layer: the layers.
        goodness: judges the activities, ``(B, T, width)`` to ``(B, T)``.
        loss: contrasts positives with negatives; a pairwise one takes teacher-forced negatives only.
        readout: reads the activities.
    """

    layer: TokenLayers
    residual = True

    def __init__(self, layer: TokenLayers, goodness: Goodness, loss: ContrastiveLoss, readout: TokenGoodness) -> None:
        super().__init__(layer, goodness, loss, norm=PositionRMS())
        self.readout = readout

    def forward(self, x: Tensor, caches: list[Any] | None = None) -> Tensor:
        """Activities of the block, as :meth:`~ff_lightning.language.blocks.TokenLayers.forward` gives them."""
        h: Tensor = self.layer(x, caches)
        return h

    def pair(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Activities of two streams, as :meth:`~ff_lightning.language.blocks.TokenLayers.pair` gives them."""
        return self.layer.pair(real, fake)

    def answer(self, h: Tensor, below: Tensor, readout: Readout | None) -> Tensor:
        """Prediction of this block and those below, ``(B, T, V)``, log-probability up to a constant.

        Args:
            h: ``(B, T, width)``.
            below: ``(B, T, V)`` or ``(V,)``, what the readouts below predict.
            readout: unused, since every block has its own.
        """
        del readout
        logits: Tensor = below + self.readout(h)
        return logits

    def local_step(
        self, signal: Signal, context: BlockContext = BlockContext(), *, cut: bool = True
    ) -> tuple[Contrast, Signal]:
        """Forward pass and local loss; the signal must be a :class:`TextSignal` with fakes, dreams or both."""
        self._check(signal)
        assert isinstance(signal, TextSignal)
        h = self._streams(signal)
        return self.judge(h, signal, context), self._passed(signal, h)

    def judge(self, h: Streams, signal: Signal, context: BlockContext) -> Contrast:
        """Contrast of the real tokens with the model's own, and the readout's loss on the next tokens."""
        del context
        assert isinstance(signal, TextSignal)
        assert signal.labels is not None
        g_pos = self.goodness(h.real)
        negatives = [] if h.fakes is None else [self.goodness(h.fakes)]
        negatives += [] if h.dreams is None else [self.goodness(h.dreams.h)[h.dreams.dreamed]]
        loss = torch.stack([self.loss(g_pos, g_neg) for g_neg in negatives]).mean()
        logits = self.answer(h.real.detach(), signal.below, None)
        loss = loss + F.cross_entropy(logits.flatten(0, -2), signal.labels.flatten())
        return Contrast(loss, g_pos.detach().flatten(), torch.cat([g.detach().flatten() for g in negatives]))

    @torch.no_grad()
    def rest(self, signal: Signal) -> Signal:
        """Pass all streams and the prediction on, without learning."""
        assert isinstance(signal, TextSignal)
        return self._passed(signal, self._streams(signal))

    def _check(self, signal: Signal) -> None:
        if not isinstance(signal, TextSignal) or signal.labels is None or (signal.fakes is None and not signal.dreams):
            raise InputError(
                "Passed a signal without next tokens or negatives. A `CandidateBlock` needs a `TextSignal` with "
                "`labels`, and `fakes` or `dreams`."
            )
        if signal.dreams is not None and self.threshold is None:
            raise InputError(
                f"Passed `loss={type(self.loss).__name__}()` with rollouts, which are in no pair with real sequences. "
                "Use a loss with a threshold, such as `MovingThresholdLoss`."
            )

    def _streams(self, signal: TextSignal) -> Streams:
        if signal.fakes is None:
            h, fakes = self(signal.h), None
        else:
            h, fakes = self.pair(signal.h, signal.fakes)
        return Streams(h, fakes, None if signal.dreams is None else replace(signal.dreams, h=self(signal.dreams.h)))

    @torch.no_grad()
    def _passed(self, signal: TextSignal, h: Streams) -> TextSignal:
        return replace(
            signal,
            h=self.norm(h.real),
            below=self.answer(h.real, signal.below, None),
            fakes=None if h.fakes is None else self.norm(h.fakes),
            dreams=None if h.dreams is None else replace(h.dreams, h=self.norm(h.dreams.h)),
        )
