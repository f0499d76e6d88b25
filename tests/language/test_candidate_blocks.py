"""CandidateBlock: its loss against loops written from Hinton's formula, what trains what, clear errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ff_lightning.errors import InputError
from ff_lightning.language.blocks import Dreams, TextSignal
from ff_lightning.language.hinton import HintonMLP
from ff_lightning.losses import MovingThresholdLoss, SymBa, ThresholdLoss
from ff_lightning.metrics import separation
from ff_lightning.normalization import settle
from tests import references
from tests.texts import CONTEXT, SEEDED, awake, hinton_gpt, hinton_mlp, windows

KINDS = pytest.mark.parametrize("kind", ["fakes", "dreams", "both"])
NETWORKS = pytest.mark.parametrize("make", [hinton_mlp, hinton_gpt])


def signal(network: Any, kind: str) -> TextSignal:
    """Real text, tokens of the network in it, and sequences that go on from text elsewhere, some all made up."""
    tokens, targets, other = windows(3)[:, :-1], windows(3)[:, 1:], windows(4, start=500)[:, :-1]
    dreams = Dreams(other, torch.arange(CONTEXT) >= torch.tensor([[5], [9], [0], [15]]))
    made = network.signal(tokens, targets, SEEDED, dreams)
    return replace(
        made, dreams=made.dreams if kind != "fakes" else None, fakes=made.fakes if kind != "dreams" else None
    )


def by_hand(network: HintonMLP, text: TextSignal, scale: float, batches: int) -> list[list[float]]:
    """Losses of all blocks on the same batch again and again, without updates, computed number by number."""
    window, size = network[0].layer.layers[0].window, network.vocab_size
    layers = [
        (block.layer.layers[0].linear.weight.tolist(), block.layer.layers[0].linear.bias.tolist()) for block in network
    ]

    def of(rows: list[list[int]], last: list[list[int]], keep: list[list[bool]] | None = None) -> list[Any]:
        """Activities of every position in turn, each a list of one row a block."""
        found = []
        for row, (tokens, ends) in enumerate(zip(rows, last, strict=True)):
            for at, end in enumerate(ends):
                if keep is None or keep[row][at]:
                    codes = references.window_codes(tokens, at, end, window, size)
                    found.append(references.stacked_activities(codes, layers))
        return found

    tokens, targets = text.h.tolist(), text.labels.flatten().tolist()
    real = of(tokens, tokens)
    negatives = [] if text.fakes is None else [of(tokens, text.fakes.tolist())]
    if text.dreams is not None:
        made = text.dreams.h.tolist()
        negatives.append(of(made, made, text.dreams.dreamed.tolist()))
    losses: list[list[float]] = []
    logits = [network.prior.tolist() for _ in targets]
    for index, block in enumerate(network):
        h_pos = [position[index] for position in real]
        kinds = [[position[index] for position in kind] for kind in negatives]
        weight, bias = block.readout.weight.tolist(), block.readout.bias.tolist()
        scores = [references.linear_readout(h, weight, bias, squared=False) for h in h_pos]
        logits = [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(logits, scores, strict=True)]
        goodness = [[references.mean_of_squares(h) for h in rows] for rows in (h_pos, *kinds)]
        thetas = references.moving_thresholds([[(goodness[0], g) for g in goodness[1:]]] * batches, 0.9)
        losses.append(
            [
                references.candidate_loss(h_pos, kinds, [theta] * len(kinds), scale, logits, targets)
                for theta in thetas[:-1]
            ]
        )
    return [list(batch) for batch in zip(*losses, strict=True)]


@KINDS
def test_the_loss_is_hintons_formula(kind: str) -> None:
    """Two blocks, from tokens to losses; the threshold moves once a batch, whatever the kinds of negatives."""
    small: dict[str, Any] = {"window": 3, "widths": [6, 5], "loss": MovingThresholdLoss(scale=2.0)}
    network = awake(hinton_mlp(**small)).double()
    text = signal(network, kind)
    expected = by_hand(network, text, 2.0, batches=3)
    for batch in expected:
        found = [step.loss.item() for step in network.local_losses(text)]
        settle(network)
        assert found == pytest.approx(batch, rel=1e-9)


@NETWORKS
@KINDS
def test_the_readout_gives_the_activities_no_gradient(make: Callable[..., Any], kind: str) -> None:
    network = awake(make(loss=ThresholdLoss(1.0))).double()
    text = signal(network, kind)
    for block in network:
        step, above = block.local_step(text)
        step.loss.backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in block.readout.parameters())
        found = {name: p.grad for name, p in block.layer.named_parameters()}
        block.zero_grad()
        h, fakes = block.layer.pair(text.h, text.fakes) if text.fakes is not None else (block.layer(text.h), None)
        g_neg = [] if fakes is None else [block.goodness(fakes)]
        if text.dreams is not None:
            g_neg.append(block.goodness(block.layer(text.dreams.h))[text.dreams.dreamed])
        torch.stack([block.loss(block.goodness(h), g) for g in g_neg]).mean().backward()
        for name, parameter in block.layer.named_parameters():
            assert bool(found[name].any()), name
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-12, atol=1e-15)
        text = above


@KINDS
def test_what_is_passed_on_is_normalised_and_detached(kind: str) -> None:
    network = awake(hinton_mlp())
    text = signal(network, kind)
    step, above = network[0].local_step(text)
    passed = [above.h, above.fakes, None if above.dreams is None else above.dreams.h]
    assert [x is not None for x in passed] == [True, kind != "dreams", kind != "fakes"]
    for x in (x for x in passed if x is not None):
        assert not x.requires_grad
        torch.testing.assert_close(x.square().mean(-1), torch.ones(x.shape[:2]))
    assert not above.below.requires_grad
    torch.testing.assert_close(above.below, next(iter(network.predictions(text.h))))
    made = (3 * CONTEXT if kind != "dreams" else 0) + (int(text.dreams.dreamed.sum()) if text.dreams else 0)
    assert (step.g_pos.shape, step.g_neg.shape) == ((3 * CONTEXT,), (made,))
    assert not step.g_pos.requires_grad
    assert not step.g_neg.requires_grad
    torch.testing.assert_close(step.g_pos, network.goodness(text.h)[0].flatten())


def test_real_tokens_of_a_dream_are_no_negatives() -> None:
    network = awake(hinton_mlp(window=1))
    text = signal(network, "dreams")
    loss, _ = network[0].local_step(text)
    changed = torch.where(text.dreams.dreamed, text.dreams.h, 0)
    network[0].loss.midpoint.value.fill_(torch.nan)
    network[0].loss.midpoint.forget()
    again, _ = network[0].local_step(replace(text, dreams=replace(text.dreams, h=changed)))
    assert torch.equal(loss.g_neg, again.g_neg)
    assert torch.equal(loss.loss, again.loss)


def test_blocks_learn_to_tell_real_tokens_from_others_in_their_place() -> None:
    """In one batch, with tokens as frequent as the real ones."""
    network = hinton_mlp(widths=[64, 64], loss=MovingThresholdLoss(scale=4.0))
    optimizers = [torch.optim.Adam(block.parameters(), lr=0.01) for block in network]
    real, other = windows(8), windows(8, start=30_000)
    text = replace(network.signal(real[:, :-1], real[:, 1:]), fakes=other[:, :-1])
    gaps = []
    for _ in range(60):
        for step in network.local_losses(text):
            gaps.append(separation(step.g_pos, step.g_neg).item())
            optimizers[step.block].zero_grad()
            step.loss.backward()
            optimizers[step.block].step()
    assert max(gaps[:2]) < 0.65
    assert min(gaps[-2:]) > 0.8


def test_a_pairwise_loss_compares_both_streams() -> None:
    network = awake(hinton_gpt(loss=SymBa(4.0)))
    text = signal(network, "fakes")
    step = next(network.local_losses(text))
    contrast = references.symba(step.g_pos.tolist(), step.g_neg.tolist(), 4.0)
    logits = next(iter(network.predictions(text.h)))
    readout = F.cross_entropy(logits.flatten(0, 1), text.labels.flatten()).item()
    assert step.loss.item() == pytest.approx(contrast + readout, rel=1e-5)
    with pytest.raises(InputError, match=r"loss=SymBa\(\)` with rollouts.*MovingThresholdLoss"):
        next(network.local_losses(signal(network, "both")))


def test_signals_without_negatives_or_targets_are_refused() -> None:
    network = hinton_mlp()
    text = signal(network, "fakes")
    wrong: list[Any] = [replace(text, fakes=None), replace(text, labels=None), Tensor()]
    for given in wrong:
        with pytest.raises(InputError, match="without next tokens or negatives"):
            network[0].local_step(given)
