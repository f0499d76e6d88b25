"""Language model over a fixed window of tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

from ff_lightning.candidates import CandidateLoss, LinearContrast
from ff_lightning.errors import check_sizes, whole, whole_numbers
from ff_lightning.language.blocks import TokenBlock, TokenGoodness, TokenLayers
from ff_lightning.language.stack import TokenStack, sequence_contrast
from ff_lightning.language.window_layers import DenseLayer, WindowLayer


class WindowMLP(TokenStack):
    """ReLU layers over a window of tokens, each scoring every candidate for the next one.

    The network of :class:`~ff_lightning.language.HintonMLP` with the objective of :class:`~ff_lightning.language.GPT`.

    Args:
        vocab_size: ``V``.
        window: tokens that the network sees at once.
        widths: units of every block.
        context: largest number of tokens in a sequence.
        loss: copied for every block; :class:`~ff_lightning.candidates.LinearContrast` by default.
        dream_weight: see :class:`~ff_lightning.language.GPT`.

    Raises:
        InputError: a size is below 1, or ``dream_weight`` negative.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        window: int = 10,
        widths: Sequence[int] = (2000, 2000, 2000),
        context: int = 100,
        loss: CandidateLoss | None = None,
        dream_weight: float = 0.0,
    ) -> None:
        check_sizes(self, context=context)
        layers = window_layers(vocab_size, window, widths)
        super().__init__(
            [
                TokenBlock(
                    layer,
                    TokenGoodness(width, vocab_size),
                    copy.deepcopy(loss) or LinearContrast(),
                    sequences=sequence_contrast(width, dream_weight),
                )
                for layer, width in zip(layers, widths, strict=True)
            ],
            vocab_size=vocab_size,
            context=context,
        )


def window_layers(vocab_size: int, window: int, widths: Sequence[int]) -> list[TokenLayers]:
    """One ReLU layer a block, the first over a window of tokens."""
    whole("vocab_size", vocab_size, least=1)
    whole("window", window, least=1)
    whole_numbers("widths", widths, least=1)
    first = TokenLayers([WindowLayer(vocab_size, window, widths[0])])
    return [first] + [TokenLayers([DenseLayer(*pair)]) for pair in pairwise(widths)]
