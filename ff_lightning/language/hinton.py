"""Language models whose blocks take the candidate token as part of their input: the arm ``hinton``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ff_lightning.candidates import draw_tokens
from ff_lightning.errors import InputError, check_sizes
from ff_lightning.goodness import MeanOfSquares
from ff_lightning.language.blocks import Dreams, TextSignal, TokenGoodness, TokenLayers
from ff_lightning.language.candidate_blocks import CandidateBlock
from ff_lightning.language.stack import TokenStack, transformer_blocks
from ff_lightning.language.window_mlp import window_layers
from ff_lightning.losses import ContrastiveLoss, MovingThresholdLoss
from ff_lightning.signals import Labelled, StepContext
from ff_lightning.stacks import BlockStack


class CandidateStack(TokenStack):
    """Stack of :class:`CandidateBlock`: goodness of a token in its context is the mean square of the activities.

    Teacher-forced negatives need one more forward pass, in which the network predicts every position; the token drawn
    there (the true one among them) takes the place of the real one in the second stream, for all positions at once.

    Args:
        layers: of every block, from the tokens upwards.
        widths: of the activities of every block.
        vocab_size: ``V``.
        context: largest number of tokens seen at once.
        loss: copied for every block; :class:`~ff_lightning.losses.MovingThresholdLoss` by default.
        teacher_forced: whether tokens drawn in real contexts are negatives. Without them there must be dreams.
        squared: whether readouts read the squares of the activities.
    """

    def __init__(
        self,
        layers: Sequence[TokenLayers],
        widths: Sequence[int],
        *,
        vocab_size: int,
        context: int,
        loss: ContrastiveLoss | None = None,
        teacher_forced: bool = True,
        squared: bool = False,
    ) -> None:
        blocks = [
            CandidateBlock(
                layer,
                MeanOfSquares(),
                copy.deepcopy(loss) or MovingThresholdLoss(),
                TokenGoodness(width, vocab_size, squared=squared),
            )
            for layer, width in zip(layers, widths, strict=True)
        ]
        super().__init__(blocks, vocab_size=vocab_size, context=context)
        self.teacher_forced = teacher_forced

    def signal(
        self, tokens: Tensor, targets: Tensor, context: StepContext = StepContext(), dreams: Dreams | None = None
    ) -> TextSignal:
        """What the first block receives in training; see :meth:`TokenStack.signal`."""
        if not self.teacher_forced and dreams is None:
            raise InputError(
                "Passed no dreams to a network built with `teacher_forced=False`, which has no other negatives. Pass "
                "`rollouts` to the `FFLanguageModel`."
            )
        signal = super().signal(tokens, targets, context, dreams)
        return replace(signal, fakes=self.fakes(tokens, context.generator(len(self))) if self.teacher_forced else None)

    @torch.no_grad()
    def fakes(self, tokens: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw a token for every position of ``(B, T)`` from what the network predicts there; the same shape."""
        first = self.prior.expand(len(tokens), 1, -1)
        predicted = first if tokens.shape[1] == 1 else torch.cat([first, self(tokens[:, :-1])], 1)
        return draw_tokens(predicted, 1, generator).squeeze(-1)

    def goodness(self, x: Tensor | Labelled, *, blocks: int | None = None) -> Tensor:
        """Goodness that every block gives to every token of ``(B, T)`` in its context, ``(L, B, T)``."""
        return BlockStack.goodness(self, x, blocks=blocks)


class HintonGPT(CandidateStack):
    """Transformer whose blocks judge a token in their input; the sizes of :class:`~ff_lightning.language.GPT`.

    Goodness is the mean square of the residual stream, which enters a block with mean square 1.

    Args:
        vocab_size: ``V``.
        width: of the residual stream.
        layers: transformer layers in all.
        layers_per_block: layers trained by one local loss.
        heads: attention heads of each layer.
        context: largest number of tokens seen at once.
        loss: see :class:`CandidateStack`.
        teacher_forced: see :class:`CandidateStack`.
        squared: see :class:`CandidateStack`.

    Raises:
        InputError: sizes that do not fit each other.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        width: int = 128,
        layers: int = 4,
        layers_per_block: int = 1,
        heads: int = 4,
        context: int = 64,
        loss: ContrastiveLoss | None = None,
        teacher_forced: bool = True,
        squared: bool = True,
    ) -> None:
        sizes = {"vocab_size": vocab_size, "layers": layers, "layers_per_block": layers_per_block, "context": context}
        check_sizes(self, **sizes, width=width)
        blocks = transformer_blocks(vocab_size, width, layers, layers_per_block, heads, context)
        super().__init__(
            blocks,
            [width] * len(blocks),
            vocab_size=vocab_size,
            context=context,
            loss=loss,
            teacher_forced=teacher_forced,
            squared=squared,
        )


class HintonMLP(CandidateStack):
    """Hinton's network for characters: ReLU layers over a window of tokens, a linear softmax over all of them.

    (The FF algorithm's first draft, section 4.1: windows of 10 of 30 symbols, three layers of 2,000.)

    Args:
        vocab_size: ``V``.
        window: tokens that the network sees at once.
        widths: units of every block.
        context: largest number of tokens in a sequence.
        loss: see :class:`CandidateStack`.
        teacher_forced: see :class:`CandidateStack`.

    Raises:
        InputError: a size is below 1.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        window: int = 10,
        widths: Sequence[int] = (2000, 2000, 2000),
        context: int = 100,
        loss: ContrastiveLoss | None = None,
        teacher_forced: bool = True,
    ) -> None:
        check_sizes(self, context=context)
        super().__init__(
            window_layers(vocab_size, window, widths),
            widths,
            vocab_size=vocab_size,
            context=context,
            loss=loss,
            teacher_forced=teacher_forced,
        )
