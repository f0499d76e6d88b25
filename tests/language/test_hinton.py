"""HintonGPT and HintonMLP: which negatives, what is judged, errors; what all stacks share is in test_token_stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ff_lightning.errors import InputError
from ff_lightning.language.blocks import Dreams
from ff_lightning.language.hinton import HintonGPT, HintonMLP
from ff_lightning.losses import SymBa
from ff_lightning.signals import StepContext
from tests import references
from tests.texts import CONTEXT, awake, hinton_gpt, hinton_mlp, text, windows

BOTH = pytest.mark.parametrize("make", [hinton_gpt, hinton_mlp])
Make = Callable[..., Any]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@BOTH
def test_negatives_are_drawn_from_what_the_network_predicts_there(make: Make) -> None:
    """The same text in many rows; the first position from the prior. Compared by chi-square, 99.9 % of true draws."""
    network = awake(make(context=6))
    network.set_unigram(torch.bincount(text()[0], minlength=network.vocab_size))
    row = windows(1)[:, :6]
    fakes = network.fakes(row.expand(6000, -1), seeded())
    assert fakes.shape == (6000, 6)
    predicted = torch.cat([network.prior.expand(1, 1, -1), network(row)[:, :-1]], 1)[0].softmax(-1).tolist()
    for at, shares in enumerate(predicted):
        expected = [6000 * share for share in shares]
        often = [v for v, count in enumerate(expected) if count >= 5]
        counts = torch.bincount(fakes[:, at], minlength=network.vocab_size).tolist()
        bound = len(often) + 4 * (2 * len(often)) ** 0.5 + 8
        assert references.chi_square([counts[v] for v in often], [expected[v] for v in often]) < bound, at
        assert references.chi_square([counts[v] for v in often], [expected[v] for v in reversed(often)]) > 3 * bound


@BOTH
def test_negatives_of_a_sure_network_are_what_it_is_sure_of(make: Make) -> None:
    """As in training: the second stream of the signal, with randomness of its own beside that of the blocks."""
    network = awake(make())
    with torch.no_grad():
        for block in network:
            block.readout.weight.mul_(1000)
        network.prior.fill_(-50)[7] = 0
    asked: list[int] = []
    tokens = windows(3)[:, :-1]
    context = StepContext(lambda index: asked.append(index) or seeded(index))
    signal = network.signal(tokens, windows(3)[:, 1:], context)
    assert asked == [3]
    assert bool((signal.fakes[:, 0] == 7).all())
    sure = network(tokens).softmax(-1).amax(-1)[:, :-1] > 1 - 1e-6
    assert sure.double().mean() > 0.9
    assert torch.equal(signal.fakes[:, 1:][sure], network(tokens).argmax(-1)[:, :-1][sure])
    assert not signal.fakes.requires_grad


@BOTH
def test_a_text_of_one_token(make: Make) -> None:
    network = awake(make())
    tokens, targets = windows(4)[:, :1], windows(4)[:, 1:2]
    network.prior.fill_(-50)[7] = 0
    assert network.fakes(tokens, seeded()).tolist() == 4 * [[7]]
    assert len(list(network.local_losses(network.signal(tokens, targets)))) == 3


@BOTH
def test_goodness_of_a_token_in_its_context(make: Make) -> None:
    network = awake(make()).double()
    tokens = windows(2)[:, :-1]
    goodness = network.goodness(tokens)
    assert goodness.shape == (3, 2, CONTEXT)
    x = tokens
    for index, block in enumerate(network):
        h = block.layer(x)
        assert goodness[index, 1, 4].item() == pytest.approx(references.mean_of_squares(h[1, 4].tolist()))
        x = h * h.square().mean(-1, keepdim=True).rsqrt()
    assert len(network.goodness(tokens, blocks=2)) == 2


@BOTH
def test_without_teacher_forcing_negatives_are_dreams_alone(make: Make) -> None:
    network = make(teacher_forced=False)
    tokens, targets = windows(3)[:, :-1], windows(3)[:, 1:]
    with pytest.raises(InputError, match=r"no dreams .*`teacher_forced=False`.*`rollouts`"):
        network.signal(tokens, targets)
    dreams = Dreams(windows(2, 500)[:, :-1], torch.ones(2, CONTEXT, dtype=torch.bool))
    signal = network.signal(tokens, targets, None, dreams)
    assert signal.fakes is None
    for step in network.local_losses(signal):
        assert (step.g_pos.numel(), step.g_neg.numel()) == (3 * CONTEXT, 2 * CONTEXT)


@BOTH
def test_every_block_has_a_loss_of_its_own(make: Make) -> None:
    network = make(loss=SymBa(2.0))
    assert [block.loss.alpha for block in network] == [2, 2, 2]
    assert len({id(block.loss) for block in network}) == 3


def test_sizes_of_blocks() -> None:
    assert [len(block.layer) for block in hinton_gpt(layers=4, layers_per_block=2)] == [2, 2]
    hinton = HintonMLP(30)
    assert [block.readout.weight.shape for block in hinton] == [(30, 2000)] * 3
    assert hinton[0].layer.layers[0].linear.weight.shape == (2000, 300)
    assert [block.readout.squared for block in (*hinton, *hinton_gpt())] == 3 * [False] + 3 * [True]


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (HintonGPT, {"layers": 3, "layers_per_block": 2}, "layers=3, layers_per_block=2"),
        (HintonGPT, {"width": 18, "heads": 4}, "width=18, heads=4"),
        (HintonGPT, {"context": 0}, r"HintonGPT\(context=0\)"),
        (HintonGPT, {"vocab_size": 0}, r"HintonGPT\(vocab_size=0\)"),
        (HintonGPT, {"layers_per_block": 0}, r"HintonGPT\(layers_per_block=0\)"),
        (HintonGPT, {"width": 0}, r"HintonGPT\(width=0\)"),
        (HintonMLP, {"window": 0}, "`window=0`"),
        (HintonMLP, {"widths": [5, 0]}, r"`widths=\[5, 0\]`"),
        (HintonMLP, {"widths": []}, r"`widths=\[\]`"),
        (HintonMLP, {"widths": 8}, "`widths=8`"),
        (HintonMLP, {"context": 0}, r"HintonMLP\(context=0\)"),
        (HintonMLP, {"vocab_size": -1}, "`vocab_size=-1`"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make: Make, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**{"vocab_size": 30} | arguments)
