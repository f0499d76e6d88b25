"""The floor of layers that never learn: what is random, what learns, and what is left alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ff_lightning.candidates import LogisticContrast
from ff_lightning.errors import InputError
from ff_lightning.language.combination import Independent, Residual
from ff_lightning.language.floors import nats_per_token
from ff_lightning.language.frozen import frozen_nats, random_layers
from ff_lightning.language.gpt import GPT
from tests.texts import CONTEXT, awake, gpt, text
from tests.training import assert_same_weights, weights

TOKENS, VOCABULARY = text()
TRAIN, VALIDATION = TOKENS[:60_000], TOKENS[60_000:64_000]


def nats(network: GPT | None = None, **options: Any) -> float:
    return frozen_nats(network or gpt(), TRAIN, VALIDATION, **{"steps": 60, "batch_size": 8} | options)


def test_the_readout_learns_to_use_the_layers() -> None:
    """After no more than 120 small steps it is well below what frequencies of tokens say."""
    unigram = nats_per_token(TRAIN, VALIDATION, order=1, vocab_size=VOCABULARY)[1]
    few, many = (nats(gpt(width=96, layers=1), steps=steps) for steps in (20, 120))
    assert many < few < unigram < math.log(VOCABULARY)
    assert many < unigram - 0.3


def test_it_is_reproducible_and_leaves_the_network_and_the_randomness_alone() -> None:
    network = awake(gpt())
    before, state = weights(network), torch.get_rng_state()
    network.train()
    first = nats(network, steps=5)
    assert first == nats(network, steps=5) != nats(network, steps=5, seed=1)
    assert_same_weights(weights(network), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_a_trained_network_gives_the_same_floor_as_a_new_one() -> None:
    new, trained = gpt(), awake(gpt())
    trained.set_unigram(torch.rand(VOCABULARY))
    assert nats(trained, steps=5) == nats(new, steps=5)


@pytest.mark.parametrize(
    "parts", [{}, {"combination": Independent(inherit=True)}, {"combination": Residual(), "loss": LogisticContrast(4)}]
)
def test_all_layers_are_random_and_only_the_readout_learns(parts: dict[str, Any]) -> None:
    stack = random_layers(gpt(**parts), seed=0)
    (block,) = stack.token_blocks()
    assert len(block.layer) == 3
    for name, parameter in block.layer.named_parameters():
        fan_in = 1 if "embedding" in name else parameter[0].numel()
        assert parameter.square().mean().item() * fan_in == pytest.approx(1, rel=0.5), name
        assert not parameter.requires_grad
    readout = list(block.readout.parameters())
    assert readout
    assert all(p.requires_grad and not p.any() for p in readout)
    assert not stack.training


def test_it_is_scored_on_windows_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a step the frequencies of tokens are left, whose score is known."""
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    counts = (TRAIN.bincount(minlength=VOCABULARY) + 1).double()
    predicted = VALIDATION[1 : (len(VALIDATION) - 1) // CONTEXT * CONTEXT + 1]
    expected = F.nll_loss((counts / counts.sum()).log().expand(len(predicted), -1), predicted).item()
    assert nats(steps=2) == pytest.approx(expected, rel=1e-5)


def test_it_learns_where_gradients_are_off_as_in_an_evaluation() -> None:
    expected = nats(steps=3)
    with torch.inference_mode():
        assert nats(steps=3) == expected


@pytest.mark.parametrize(
    ("train", "validation", "options", "message"),
    [
        (TRAIN, VALIDATION, {"steps": 0}, "steps=0"),
        (TRAIN, VALIDATION, {"batch_size": True}, "batch_size=True"),
        (TRAIN[:CONTEXT], VALIDATION, {}, rf"train_tokens.*\({CONTEXT},\).*context={CONTEXT}"),
        (TRAIN, VALIDATION[:5], {}, r"validation_tokens.*\(5,\)"),
        (TRAIN, VALIDATION.view(2, -1), {}, "one row"),
        (TRAIN + VOCABULARY, VALIDATION, {}, "vocab_size="),
    ],
)
def test_bad_input_is_refused(train: torch.Tensor, validation: torch.Tensor, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        frozen_nats(gpt(), train, validation, **options)
