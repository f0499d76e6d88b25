"""Next-token Forward-Forward."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ff_lightning.errors import InputError
from ff_lightning.language.blocks import Dreams
from ff_lightning.language.hinton import CandidateStack
from ff_lightning.language.rollouts import SleepBuffer
from ff_lightning.language.stack import TokenStack
from ff_lightning.tasks.language_modelling import LanguageModelling

DREAMS = -2
"""Stream of randomness of the rollouts; the blocks have 0, 1, …"""


class FFLanguageModel(LanguageModelling):
    """Language model whose blocks each contrast the real next token with tokens of the model's own prediction.

    The network's parts decide the arm. :class:`~ff_lightning.candidates.LinearContrast` draws from the block's own
    prediction (tier T1, the default). :class:`~ff_lightning.candidates.LogisticContrast` with ``from_below=True`` and
    :class:`~ff_lightning.language.Residual` correct the prediction below (T1).
    :class:`~ff_lightning.candidates.Softmax` compares all tokens at once (T2).
    :class:`~ff_lightning.language.HintonGPT` judges the token in its input (T1). So do they decide how a ``GPT``
    predicts: with its last block alone, or with the mean of what all blocks say (``Independent(average=True)``).

    Args:
        network: such as :class:`~ff_lightning.language.GPT`.
        rollouts: keeps sequences that the model made itself, as negatives of a network that judges the token in its
            input, or of one with a goodness of sequences (``GPT(dream_weight=…)``); ``None`` for no such negatives.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.

    Raises:
        InputError: rollouts for a network that has no use for them, the reverse, or of another length.
    """

    def __init__(self, network: TokenStack, *, rollouts: SleepBuffer | None = None, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        judges = any(getattr(block, "sequences", None) is not None for block in network)
        candidates = isinstance(network, CandidateStack)
        if rollouts is not None and not (judges or candidates):
            raise InputError(
                "Passed `rollouts` with a network that does not judge sequences. Build it with `dream_weight`, or pass "
                "a network that judges the token in its input, such as `HintonGPT`."
            )
        if rollouts is None and (judges or (candidates and not network.teacher_forced)):
            raise InputError(
                "Passed `rollouts=None` with a network that contrasts real sequences with rollouts. Pass a "
                "`SleepBuffer`, or build the network without `dream_weight` and with `teacher_forced=True`."
            )
        if rollouts is not None and rollouts.tokens.shape[1] > network.context:
            raise InputError(
                f"Passed `rollouts` with `context={rollouts.tokens.shape[1]}` for a network of "
                f"`context={network.context}`. Rollouts must not be longer."
            )
        self.rollouts = rollouts

    def dreams(self, tokens: Tensor) -> Dreams | None:
        """Some of the rollouts, of which training makes part anew when that is due; ``None`` without rollouts."""
        if self.rollouts is None:
            return None
        generator = self.generator(DREAMS)
        rollouts = self.rollouts.ready(self.network, tokens, self.global_step, generator)
        return rollouts.draw(min(tokens.shape[1], rollouts.tokens.shape[1]), generator)
