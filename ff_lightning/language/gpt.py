"""A causal language model trained block by block."""

from __future__ import annotations

import copy

from ff_lightning.candidates import CandidateLoss, LinearContrast
from ff_lightning.errors import check_sizes
from ff_lightning.language.blocks import TokenBlock, TokenGoodness
from ff_lightning.language.channels import OwnChannels
from ff_lightning.language.combination import Combination, Independent
from ff_lightning.language.stack import TokenStack, sequence_contrast, transformer_blocks
from ff_lightning.networks.lookahead import Lookahead


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
        combination: how the predictions of the blocks belong together: each by itself and the last one asked
            (:class:`~ff_lightning.language.Independent`, the default), or each correcting the one below
            (:class:`~ff_lightning.language.Residual`).
        lookahead: let every block answer for the next one; see :class:`~ff_lightning.networks.Lookahead`.
        dream_weight: of a loss that contrasts real sequences with those that the model made itself, beside the loss
            over tokens; 0 for none.
        channels: in which every block reads the token it stands on, beside the activities from below
            (:class:`~ff_lightning.language.OwnChannels`); with many tokens every block then improves on the one below.
            ``None`` for none.
        expansion: hidden units of the MLP for each channel of the stream.
        taps: positions that the convolutions see.

    Raises:
        InputError: sizes that do not fit each other, or a negative ``dream_weight``.
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
        combination: Combination | None = None,
        dream_weight: float = 0.0,
        channels: OwnChannels | None = None,
        lookahead: Lookahead | None = None,
        expansion: int = 4,
        taps: int = 4,
    ) -> None:
        sizes = {"vocab_size": vocab_size, "layers": layers, "layers_per_block": layers_per_block, "context": context}
        check_sizes(self, **sizes, width=width, expansion=expansion, taps=taps)
        combination = Independent() if combination is None else combination
        blocks = transformer_blocks(
            vocab_size,
            width,
            layers,
            layers_per_block,
            heads,
            context,
            expansion=expansion,
            taps=taps,
            channels=channels,
        )
        super().__init__(
            [
                TokenBlock(
                    block,
                    TokenGoodness(width, vocab_size, inherit=combination.inherit and index > 0),
                    copy.deepcopy(loss) or LinearContrast(),
                    residual=combination.residual,
                    sequences=sequence_contrast(width, dream_weight),
                )
                for index, block in enumerate(blocks)
            ],
            vocab_size=vocab_size,
            context=context,
            average=combination.average,
            lookahead=lookahead,
        )
