"""WindowMLP: sees its window alone, learns a real text block by block, errors; the rest is in test_token_stack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ff_lightning.candidates import LinearContrast, Softmax
from ff_lightning.errors import InputError
from ff_lightning.language.window_mlp import WindowMLP
from ff_lightning.signals import StepContext
from tests.texts import awake, text, window_mlp, windows


def test_a_prediction_depends_on_the_window_alone() -> None:
    network = awake(window_mlp()).double()
    tokens = windows(2)[:, :-1]
    answer = network(tokens)[:, 12]
    for at in range(13):
        changed = tokens.clone()
        changed[:, at] = (changed[:, at] + 1) % network.vocab_size
        assert torch.equal(network(changed)[:, 12], answer) == (at < 8)


def test_training_scores_as_evaluation_does() -> None:
    network = awake(window_mlp(loss=Softmax())).double()
    tokens, targets = windows(3)[:, :-1], windows(3)[:, 1:]
    steps = network.local_losses(network.signal(tokens, targets))
    for step, logits in zip(steps, network.predictions(tokens), strict=True):
        torch.testing.assert_close(step.loss, F.cross_entropy(logits.flatten(0, 1), targets.flatten()))


def test_own_negatives_learn_a_real_text_in_every_block() -> None:
    """Far below the unigram after 120 steps of plain Adam."""
    tokens, size = text()
    unigram = (torch.bincount(tokens[:20_000], minlength=size) + 1.0).log()
    unigram = unigram - unigram.logsumexp(0)
    network = window_mlp(widths=[64, 64], loss=LinearContrast(16))
    network.set_unigram(torch.bincount(tokens[:20_000], minlength=size))
    optimizers = [torch.optim.Adam(block.parameters(), lr=5e-3) for block in network]
    train, held_out = windows(120 * 24), windows(64, start=60_000)
    for step, batch in enumerate(train.split(24)):
        draws = [torch.Generator().manual_seed(2 * step + block) for block in range(2)]
        signal, context = network.signal(batch[:, :-1], batch[:, 1:]), StepContext(draws.__getitem__)
        for local in network.local_losses(signal, context):
            optimizers[local.block].zero_grad()
            local.loss.backward()
            optimizers[local.block].step()
    floor = -unigram[held_out[:, 1:]].mean().item()
    for logits in network.predictions(held_out[:, :-1]):
        assert F.cross_entropy(logits.flatten(0, 1), held_out[:, 1:].flatten()).item() < floor - 0.4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "Passed `window=0`. `window` must be a whole number, at least 1"),
        ({"widths": []}, r"Passed `widths=\[\]`. `widths` must be a list of one or more whole numbers"),
        ({"widths": 8}, "Passed `widths=8`"),
        ({"context": 0}, r"WindowMLP\(context=0\)"),
        ({"vocab_size": 0}, "Passed `vocab_size=0`"),
        ({"dream_weight": -1.0}, r"`dream_weight=-1\.0`.*positive"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WindowMLP(**{"vocab_size": 30, "widths": [4]} | arguments)
