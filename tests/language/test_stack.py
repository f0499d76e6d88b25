"""What every stack of token blocks promises, whatever its layers and its losses; GPT's own arms are in test_gpt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ff_lightning.errors import InputError
from ff_lightning.language.attention import CausalConvolution, RotaryAttention, TransformerLayer
from ff_lightning.language.generation import Sampler, continued, stream
from ff_lightning.language.stack import TokenStack, check_span
from tests.texts import CONTEXT, SEEDED, awake, gpt, hinton_gpt, hinton_mlp, window_mlp, windows

Make = Callable[..., Any]
NETWORKS: dict[str, Make] = {
    "gpt": gpt,
    "gpt, two layers a block": lambda: gpt(layers=4, layers_per_block=2),
    "hinton gpt": hinton_gpt,
    "hinton gpt, two layers a block": lambda: hinton_gpt(layers=4, layers_per_block=2),
    "hinton mlp": hinton_mlp,
    "window mlp": window_mlp,
}
EVERY_NETWORK = pytest.mark.parametrize("name", NETWORKS)
OTHERS = pytest.mark.parametrize("name", [name for name in NETWORKS if not name.startswith("gpt")])


def exact(name: str) -> Any:
    """A network of float64 in which every parameter matters."""
    return awake(NETWORKS[name]()).double()


def changed(tokens: Tensor, at: int, to: Tensor) -> Tensor:
    """The same tokens with others at one position."""
    return torch.cat([tokens[:, :at], to[:, at : at + 1], tokens[:, at + 1 :]], 1)


def text_and_fakes() -> tuple[Tensor, Tensor]:
    """A real text, and tokens of another place in it."""
    return windows(3)[:, :-1], windows(3, start=777)[:, :-1]


# Two streams ---------------------------------------------------------------------------------------------------


@EVERY_NETWORK
def test_a_position_of_the_second_stream_is_what_replacing_its_token_gives(name: str) -> None:
    """Through all blocks, each fed with what the one below passes on."""
    network = exact(name)
    real, fake = text_and_fakes()
    pair, one = (real, fake), real
    replaced: list[Tensor] = [changed(real, at, fake) for at in range(CONTEXT)]
    for block in network:
        pair, one = block.layer.pair(*pair), block.layer(one)
        torch.testing.assert_close(pair[0], one, rtol=1e-12, atol=1e-12)  # but for the order of sums
        replaced = [block.layer(x) for x in replaced]
        at_position = torch.stack([x[:, at] for at, x in enumerate(replaced)], 1)
        torch.testing.assert_close(pair[1], at_position, rtol=1e-10, atol=1e-12)
        assert not torch.allclose(pair[0], pair[1])
        pair, one = (block.norm(pair[0]), block.norm(pair[1])), block.norm(one)
        replaced = [block.norm(x) for x in replaced]


@EVERY_NETWORK
def test_the_second_stream_reaches_nothing_else(name: str) -> None:
    """Neither the real stream nor another of its own positions, in value and gradient."""
    network = exact(name)
    real, fake = text_and_fakes()
    first = network[0].layer
    other = first.pair(real, changed(fake, 5, real))
    same = first.pair(real, fake)
    assert torch.equal(other[0], same[0])
    before_and_after = [at for at in range(CONTEXT) if at != 5]
    torch.testing.assert_close(other[1][:, before_and_after], same[1][:, before_and_after], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(other[1][:, 5], same[1][:, 5])
    if "mlp" not in name:  # a layer above the window sees its own position alone
        h, h_fake = (x.detach().requires_grad_() for x in same)
        network[1].layer.pair(h, h_fake)[0].square().sum().backward()
        assert h_fake.grad is None or not bool(h_fake.grad.any())
        assert bool(h.grad.any())
        h.grad = None
        network[1].layer.pair(h, h_fake)[1][:, 5].square().sum().backward()
        assert bool(h.grad[:, :5].any())
        assert not bool(h.grad[:, 5:].any()), "the real token at the position, or a later one, is seen"
        assert bool(h_fake.grad[:, 5].any())
        assert not bool(h_fake.grad[:, before_and_after].any())


@pytest.mark.parametrize("part", [CausalConvolution(8, 4), RotaryAttention(8, 2, 9), TransformerLayer(8, 2, 9)])
def test_parts_of_a_transformer_layer_have_two_streams(part: Any) -> None:
    torch.manual_seed(0)
    for parameter in part.double().parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    real, fake = torch.randn(2, 2, 9, 8, dtype=torch.float64)

    def alone(x: Tensor) -> Tensor:
        y: Tensor = part(x)[0] if isinstance(part, CausalConvolution) else part(x)
        return y

    y, y_fake = part.pair(real, fake)
    torch.testing.assert_close(y, alone(real), rtol=1e-12, atol=1e-12)
    for at in range(9):
        torch.testing.assert_close(y_fake[:, at], alone(changed(real, at, fake))[:, at], rtol=1e-11, atol=1e-12)


@EVERY_NETWORK
def test_two_streams_in_bf16_are_close(name: str) -> None:
    network = awake(NETWORKS[name]())
    real, fake = text_and_fakes()
    exactly = network[0].layer.pair(real, fake)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = network[0].layer.pair(real, fake)
    for found, expected in zip(low, exactly, strict=True):
        assert (found - expected).abs().mean() < 0.02 * expected.std()


# One prediction, whatever the path -----------------------------------------------------------------------------


@OTHERS
def test_a_later_token_changes_nothing_before_it(name: str) -> None:
    network = exact(name)
    tokens, others = text_and_fakes()
    before, after = (list(network.predictions(x)) for x in (tokens, changed(tokens, 9, (others + 1) % 90)))
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one[:, :9], two[:, :9])
        assert not torch.allclose(one[:, 9], two[:, 9])


@OTHERS
def test_cached_pieces_give_what_the_whole_gives(name: str) -> None:
    network = exact(name)
    tokens, _ = text_and_fakes()
    caches = network.new_caches()
    pieces = [network(piece, caches) for piece in tokens.split([5, 1, 1, 2, 7], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), network(tokens), rtol=1e-10, atol=1e-10)
    assert torch.equal(network(tokens), list(network.predictions(tokens))[-1])


@OTHERS
@pytest.mark.parametrize("length", [1, CONTEXT])
def test_tokens_are_the_same_with_and_without_a_cache(name: str, length: int) -> None:
    """Also when the text outgrows the context."""
    network = awake(NETWORKS[name]())
    prompt = windows(4)[:, :length]
    cached, uncached = (
        continued(
            prompt,
            stream(network, prompt, CONTEXT + 4, Sampler(), torch.Generator().manual_seed(5), use_cache=use_cache),
        )
        for use_cache in (True, False)
    )
    assert torch.equal(cached, uncached)
    assert len(torch.unique(cached[:, length:])) > 5


# Locality ------------------------------------------------------------------------------------------------------


def gradients(network: TokenStack) -> list[dict[str, Tensor]]:
    """Gradients of every block on one batch with the same draws, and the same second stream if there is one."""
    tokens, fakes = text_and_fakes()
    signal = network.signal(tokens, windows(3)[:, 1:], SEEDED)
    if signal.fakes is not None:
        signal = replace(signal, fakes=fakes)
    for step in network.local_losses(signal, SEEDED):
        step.loss.backward()
    return [{n: p.grad.clone() for n, p in b.named_parameters() if p.grad is not None} for b in network.token_blocks()]


@OTHERS
def test_what_lies_above_changes_no_gradient_below_by_a_bit(name: str) -> None:
    reference, network = gradients(awake(NETWORKS[name]())), awake(NETWORKS[name]())
    last = len(network) - 1
    with torch.no_grad():
        for parameter in network[last].parameters():
            parameter.mul_(1.5)
    found = gradients(network)
    for below in range(last):
        assert reference[below].keys() == dict(network[below].named_parameters()).keys()
        assert all(torch.equal(reference[below][n], found[below][n]) for n in reference[below])
    assert any(not torch.equal(reference[last][n], found[last][n]) for n in reference[last])


@OTHERS
def test_the_loss_of_a_block_reaches_its_own_parameters_alone(name: str) -> None:
    network = awake(NETWORKS[name]())
    tokens, _ = text_and_fakes()
    for step in network.local_losses(network.signal(tokens, windows(3)[:, 1:])):
        step.loss.backward()
        for index, block in enumerate(network.token_blocks()):
            for parameter_name, parameter in block.named_parameters():
                assert (parameter.grad is not None) == (index == step.block), (index, parameter_name)
        network.zero_grad(set_to_none=True)


# The twin, and what does not fit -------------------------------------------------------------------------------


@EVERY_NETWORK
def test_the_twin_has_all_layers_and_one_readout(name: str) -> None:
    """Nothing but what passes between blocks is left out: the norm of a block that judges its input."""
    network = exact(name)
    network.set_unigram(torch.arange(network.vocab_size))
    whole = network.as_one_block().double()
    tokens, _ = text_and_fakes()
    x = tokens
    for block in network:
        x = block.layer(x)
    (*_, last) = network.token_blocks()
    torch.testing.assert_close(whole(tokens), network.prior + last.readout(x), rtol=1e-6, atol=1e-6)
    assert sum(len(block.layer) for block in network) == len(whole[0].layer)
    assert {id(p) for p in whole.parameters()}.isdisjoint(id(p) for p in network.parameters())
    (step,) = whole.local_losses(whole.signal(tokens, windows(3)[:, 1:]))
    step.loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in whole.parameters())


@EVERY_NETWORK
def test_a_new_network_predicts_the_unigram(name: str) -> None:
    network = NETWORKS[name]()
    counts = torch.bincount(windows(50).flatten(), minlength=network.vocab_size)
    network.set_unigram(counts)
    shares = (counts + 1) / (counts + 1).sum()
    for logits in network.predictions(windows(2)[:, :-1]):
        torch.testing.assert_close(logits.softmax(-1), shares.expand_as(logits))
    with pytest.raises(InputError, match="counts of 3 tokens"):
        network.set_unigram(torch.ones(3))


def test_sizes() -> None:
    check_span(4, 2)
    for name, value in (("layers", 0), ("width", -3), ("taps", 8.5)):
        with pytest.raises(InputError, match=rf"`GPT\({name}={value}\)`. `{name}` must be a whole number, at least 1"):
            gpt(**{name: value})
    with pytest.raises(InputError, match="layers=3, layers_per_block=2"):
        check_span(3, 2)
