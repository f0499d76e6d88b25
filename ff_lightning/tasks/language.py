"""Next-token Forward-Forward, and its twin."""

from __future__ import annotations

from typing import Any

from ff_lightning.networks.gpt import TokenStack
from ff_lightning.tasks.language_modelling import LanguageModelling


class FFLanguageModel(LanguageModelling):
    """Language model whose blocks each contrast the real next token with tokens of the model's own prediction.

    The network's parts decide the arm: :class:`~ff_lightning.language.LinearContrast` draws from the block's own
    prediction (tier T1, the default), :class:`~ff_lightning.language.LogisticContrast` with ``from_below=True``
    and ``residual=True`` corrects the prediction below (T1), :class:`~ff_lightning.language.TokenSoftmax` compares
    all tokens at once (T2). The last block alone predicts.

    Args:
        network: such as :class:`~ff_lightning.networks.GPT`.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.
    """


class LanguageTwin(LanguageModelling):
    """The same network trained end to end by backprop: all layers are one block, under one softmax over tokens.

    Args:
        network: the network that FF would train; its layers are copied.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.
    """

    def __init__(self, network: TokenStack, **kwargs: Any) -> None:
        super().__init__(network.as_one_block(), **kwargs)
