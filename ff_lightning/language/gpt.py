"""A causal language model trained block by block."""

from __future__ import annotations

import copy

from ff_lightning.candidates import CandidateLoss, LinearContrast
from ff_lightning.errors import InputError
from ff_lightning.language.blocks import TokenBlock, TokenGoodness
from ff_lightning.language.stack import TokenStack, check_sizes, sequence_contrast, transformer_blocks


class GPT(TokenStack):
    """Stack of :class:`TokenBlock`: a small causal language model trained without backprop between blocks.

    Args:
        vocab_size: ``V``, number of tokens.
        width: of the residual stream.
        layers: transformer layers in all.
        layers_per_block: layers trained by one local loss; autograd runs inside these.
        heads: attention heads of each layer.
        context: largest number of tokens seen at once.
        loss: copied for every block; :class:`~ff_lightning.candidates.LinearContrast` by default.
        residual: every block corrects the prediction of the block below instead of predicting all by itself.
        dream_weight: of a loss that contrasts real sequences with those that the model made itself, beside the loss
            over tokens; 0 for none.
        average: predict with the mean of what all blocks say instead of with the last one alone.
        inherit: blocks above the first are read with a constant copy of its readout instead of their own.
        remind: blocks above the first read the embedding of the token again, beside the activities from below. A
            block that predicts one of many tokens loses sight of the one it stands on.
        expansion: hidden units of the MLP for each channel of the stream.
        taps: positions that the convolutions see.

    Raises:
        InputError: sizes that do not fit each other, a negative ``dream_weight``, or ``residual`` with ``inherit`` or
            ``average``.
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
        loss: CandidateLoss | None = None,
        residual: bool = False,
        dream_weight: float = 0.0,
        average: bool = False,
        inherit: bool = False,
        remind: bool = False,
        expansion: int = 4,
        taps: int = 4,
    ) -> None:
        sizes = {"vocab_size": vocab_size, "layers": layers, "layers_per_block": layers_per_block, "context": context}
        check_sizes("GPT", **sizes, width=width, expansion=expansion, taps=taps)
        if residual:
            _check_residual(average=average, inherit=inherit)
        blocks = transformer_blocks(
            vocab_size,
            width,
            layers,
            layers_per_block,
            heads,
            context,
            expansion=expansion,
            taps=taps,
            remind=remind,
        )
        super().__init__(
            [
                TokenBlock(
                    block,
                    TokenGoodness(width, vocab_size, inherit=inherit and index > 0),
                    copy.deepcopy(loss) or LinearContrast(),
                    residual=residual,
                    sequences=sequence_contrast(width, dream_weight),
                )
                for index, block in enumerate(blocks)
            ],
            vocab_size=vocab_size,
            context=context,
            average=average,
        )


def _check_residual(*, average: bool, inherit: bool) -> None:
    if average:
        raise InputError(
            "Passed `residual=True` with `average=True`. Blocks that correct the ones below predict with all of them "
            "already."
        )
    if inherit:
        raise InputError(
            "Passed `residual=True` with `inherit=True`. A block that corrects the one below needs a readout of its "
            "own."
        )
