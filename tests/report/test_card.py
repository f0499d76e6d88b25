"""The tier that a card gives to a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

import ff_lightning as ff
from ff_lightning.candidates import Softmax
from ff_lightning.goodness import LocalPrediction
from ff_lightning.language import GPT
from ff_lightning.losses import SimilarityMatching
from ff_lightning.networks import MLP, ConvNet, Lookahead
from ff_lightning.report.card import tier_of

small = partial(ConvNet, (1, 8, 8), [8, 8, 8], pool_after=[0])


@pytest.mark.parametrize(
    ("make", "tier"),
    [
        (lambda: ff.FFClassifier(MLP(64, [16, 16])), "T1"),
        (lambda: ff.FFClassifier(small()), "T1"),
        (lambda: ff.FFClassifier(small(loss=Softmax())), "T2"),
        (lambda: ff.FFClassifier(MLP(64, [16, 16], goodness=LocalPrediction(10), loss=Softmax())), "T2"),
        (lambda: ff.FFClassifier(small(matching=SimilarityMatching())), "T2"),
        (lambda: ff.FFClassifier(small(loss=Softmax(), overlapping=True)), "T3"),
        (lambda: ff.FFClassifier(small(lookahead=Lookahead())), "T1 with lookahead"),
        (
            lambda: ff.FFClassifier(small(lookahead=Lookahead(horizon=2))),
            "T1 with lookahead, a horizon of 2 blocks",
        ),
        (lambda: ff.FFLanguageModel(GPT(20, width=16, layers=2, loss=Softmax())), "T2"),
        (lambda: ff.BackpropTwin(small()), "backprop"),
    ],
)
def test_a_tier_is_that_of_the_parts(make: Callable[[], ff.FFLightningModule], tier: str) -> None:
    assert tier_of(make()) == tier
