"""GPT: causality, one prediction whatever the path, locality, what a block reads, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ff_lightning.candidates import LinearContrast, LogisticContrast, Softmax
from ff_lightning.errors import InputError
from ff_lightning.language.attention import CausalConvolution, RotaryAttention, TransformerLayer
from ff_lightning.language.blocks import Dreams, TokenGoodness
from ff_lightning.language.channels import OwnChannels
from ff_lightning.language.combination import Independent, Residual
from ff_lightning.language.gpt import GPT
from ff_lightning.networks import Lookahead
from tests import references
from tests.texts import CONTEXT, SEEDED, awake, gpt, windows

ARMS: dict[str, dict[str, Any]] = {
    "own": {},
    "inherit": {"combination": Independent(inherit=True)},
    "channels": {"channels": OwnChannels()},
    "narrow channels": {"channels": OwnChannels(6)},
    "residual": {"combination": Residual(), "loss": LogisticContrast(4, from_below=True)},
    "logistic": {"loss": LogisticContrast(4)},
    "softmax": {"loss": Softmax()},
}
EVERY_ARM = pytest.mark.parametrize("arm", ARMS)


@EVERY_ARM
def test_a_later_token_changes_nothing_before_it(arm: str) -> None:
    network = awake(gpt(**ARMS[arm]))
    tokens = windows(4)[:, :-1]
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % network.vocab_size
    for before, after in zip(network.predictions(tokens), network.predictions(changed), strict=True):
        assert torch.equal(before[:, :9], after[:, :9])
        assert not torch.allclose(before[:, 9:], after[:, 9:])


@EVERY_ARM
def test_every_position_counts_for_the_last_prediction(arm: str) -> None:
    network = awake(gpt(**ARMS[arm]))
    tokens = windows(1)[:, :-1]
    answer = network(tokens)[:, -1]
    for position in range(CONTEXT):
        changed = tokens.clone()
        changed[:, position] = (changed[:, position] + 1) % network.vocab_size
        assert not torch.equal(network(changed)[:, -1], answer)


@EVERY_ARM
def test_cached_pieces_give_what_the_whole_gives(arm: str) -> None:
    network = awake(gpt(**ARMS[arm])).double()
    tokens = windows(3)[:, :-1]
    caches = network.new_caches()
    pieces = [network(piece, caches) for piece in tokens.split([5, 1, 1, 2, 7], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), network(tokens), rtol=1e-10, atol=1e-10)


@EVERY_ARM
def test_training_scores_as_evaluation_does(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = awake(gpt(**ARMS[arm]))
    tokens, targets = windows(3)[:, :-1], windows(3)[:, 1:]
    seen: list[Tensor] = []
    for block in network.token_blocks():
        forward = block.loss.forward

        def spy(
            logits: Tensor,
            targets: Tensor,
            generator: Any,
            below: Tensor,
            *,
            forward: Any = forward,
            loss: Any = block.loss,
        ) -> Any:
            seen.append(loss.calibrated(logits.detach(), below))
            return forward(logits, targets, generator, below)

        monkeypatch.setattr(block.loss, "forward", spy)
    list(network.local_losses(network.signal(tokens, targets)))
    for trained, evaluated in zip(seen, network.predictions(tokens), strict=True):
        torch.testing.assert_close(trained, evaluated)
    assert torch.equal(network(tokens), list(network.predictions(tokens))[-1])


@EVERY_ARM
def test_the_loss_of_a_block_reaches_its_own_parameters_alone(arm: str) -> None:
    network = awake(gpt(**ARMS[arm]))
    tokens, targets = windows(3)[:, :-1], windows(3)[:, 1:]
    for step in network.local_losses(network.signal(tokens, targets)):
        step.loss.backward()
        for index, block in enumerate(network.token_blocks()):
            for name, parameter in block.named_parameters():
                assert (parameter.grad is not None) == (index == step.block), (index, name)
        network.zero_grad(set_to_none=True)


def gradients(network: GPT) -> list[dict[str, Tensor]]:
    """Gradients of every block on one batch with the same draws."""
    tokens, targets = windows(3)[:, :-1], windows(3)[:, 1:]
    for step in network.local_losses(network.signal(tokens, targets), SEEDED):
        step.loss.backward()
    return [{n: p.grad.clone() for n, p in b.named_parameters() if p.grad is not None} for b in network.token_blocks()]


@EVERY_ARM
def test_what_lies_above_changes_no_gradient_below_by_a_bit(arm: str) -> None:
    reference = gradients(awake(gpt(**ARMS[arm])))
    network = awake(gpt(**ARMS[arm]))
    with torch.no_grad():
        for parameter in network[2].parameters():
            parameter.mul_(1.5)
    changed = gradients(network)
    for below in (0, 1):
        assert all(torch.equal(reference[below][name], changed[below][name]) for name in reference[below])
    assert any(not torch.equal(reference[2][name], changed[2][name]) for name in reference[2])


def test_an_inherited_readout_is_the_one_from_the_start_of_the_step() -> None:
    network = awake(gpt(combination=Independent(inherit=True)))
    tokens, targets = windows(3)[:, :-1], windows(3)[:, 1:]
    signal = network.signal(tokens, targets)
    reference = [step.loss.item() for step in network.local_losses(signal, SEEDED)]
    losses = []
    for step in network.local_losses(signal, SEEDED):
        losses.append(step.loss.item())
        with torch.no_grad():
            for parameter in network[step.block].goodness.parameters():
                parameter.fill_(7.0)  # an update, before the next block is computed
    assert losses == reference
    assert network[1].goodness.weight is None
    fresh = network.signal(tokens, targets)
    assert fresh.readout is not None
    assert bool((fresh.readout[0] == 7).all())


def test_a_new_network_predicts_the_unigram() -> None:
    network = gpt()
    counts = torch.bincount(windows(50).flatten(), minlength=network.vocab_size)
    network.set_unigram(counts)
    shares = (counts + 1) / (counts + 1).sum()
    for logits in network.predictions(windows(2)[:, :-1]):
        torch.testing.assert_close(logits.softmax(-1), shares.expand_as(logits))


def test_goodness_is_the_weighted_energy_of_normalised_activities() -> None:
    goodness = TokenGoodness(6, 4)
    torch.nn.init.normal_(goodness.weight)
    torch.nn.init.normal_(goodness.bias)
    h = torch.randn(2, 3, 6)
    for b, t, v in [(0, 0, 0), (1, 2, 3)]:
        energy = h[b, t] ** 2 / (h[b, t] ** 2).mean()
        torch.testing.assert_close(goodness(h)[b, t, v], (goodness.weight[v] * energy).sum() + goodness.bias[v])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(goodness(h), goodness(h.float()))
        assert goodness(h.bfloat16()).dtype == torch.float32


def test_rotary_attention_sees_distances_only() -> None:
    attention = RotaryAttention(8, 2, 20)
    q, k = torch.randn(2, 1, 1, 2, 2, 4)
    near = (attention._rotated(q, 5) * attention._rotated(k, 3)).sum()
    torch.testing.assert_close(near, (attention._rotated(q, 15) * attention._rotated(k, 13)).sum())
    assert not torch.allclose(near, (attention._rotated(q, 5) * attention._rotated(k, 4)).sum())


def test_the_convolution_sees_the_last_taps() -> None:
    convolution = CausalConvolution(3, 4)
    x = torch.randn(2, 7, 3)
    weight, padded = convolution.weight[:, 0], F.pad(x, (0, 0, 3, 0))
    expected = sum(padded[:, tap : tap + 7] * weight[:, tap] for tap in range(4))
    torch.testing.assert_close(convolution(x)[0], expected)


def test_one_block_is_the_same_function() -> None:
    network = awake(gpt())
    whole = network.as_one_block()
    tokens = windows(2)[:, :-1]
    assert len(whole) == 1
    assert torch.equal(whole(tokens), network(tokens))
    assert {id(p) for p in whole.parameters()}.isdisjoint(id(p) for p in network.parameters())
    for arm in (
        {"combination": Independent(inherit=True)},
        {"channels": OwnChannels()},
        {"channels": OwnChannels(6), "layers": 4, "layers_per_block": 2},
    ):
        other = awake(gpt(**arm))
        whole = other.as_one_block()
        assert torch.equal(whole(tokens), other(tokens))
        kept = {name.split(".tables.")[1]: value for name, value in whole.named_parameters() if ".tables." in name}
        assert len(kept) == len([name for name, _ in other.named_parameters() if ".tables." in name])


def test_a_block_reads_its_token_beside_the_stream_and_adds_nothing_to_it() -> None:
    """The first one its own embedding, at unit length, and those above a table of theirs."""
    network = awake(gpt(channels=OwnChannels()))
    tokens = windows(2)[:, :-1]
    first, second, third = network.token_blocks()
    h = e = first.layer.embedding(tokens)
    unit = e / e.square().mean(-1, keepdim=True).sqrt()
    own = [unit, second.layer.channels.tables[0](tokens), third.layer.channels.tables[0](tokens)]
    assert len(first.layer.channels.tables) == 0
    for block, read in zip((first, second, third), own, strict=True):
        layer = next(iter(block.layer))
        x = torch.cat([h / h.square().mean(-1, keepdim=True).sqrt(), read], -1)
        h = h + layer.attention(layer.attention_taps(x)[0])
        x = torch.cat([h / h.square().mean(-1, keepdim=True).sqrt(), read], -1)
        h = h + layer.down(layer.up(layer.mlp_taps(x)[0]).relu().square())
    torch.testing.assert_close(list(network.activities(tokens))[-1], h, rtol=1e-4, atol=1e-4)
    assert len(next(gpt(channels=OwnChannels(6)).token_blocks()).layer.channels.tables) == 1


def test_new_matrices_over_own_channels_have_the_variance_of_all_their_inputs() -> None:
    layer = TransformerLayer(64, 2, 16, channels=192)
    for matrix in (layer.attention.qkv.weight, layer.up.weight):
        assert matrix.shape[1] == 256
        assert matrix.std().item() == pytest.approx(256**-0.5, rel=0.02)
    assert not layer.down.weight.any()
    assert not layer.attention.out.weight.any()


def test_own_channels_without_tokens_are_refused() -> None:
    _, second, _ = gpt(channels=OwnChannels()).token_blocks()
    with pytest.raises(InputError, match=r"`tokens=None`.*\(B, T\)"):
        second(torch.zeros(2, CONTEXT, 16))
    for size in (0, True, 2.5):
        with pytest.raises(InputError, match=r"OwnChannels\(size=.*at least 1"):
            OwnChannels(size)  # type: ignore[arg-type]


def test_own_channels_of_dreams_read_the_tokens_of_the_dreams() -> None:
    """A block above the first gives of dreams what the network gives of the same tokens as a text."""
    network = awake(gpt(channels=OwnChannels(), dream_weight=0.3))
    for length in (CONTEXT, 12):
        dreams = dreamt(length)
        signal = network.signal(windows(3)[:, :-1], windows(3)[:, 1:], SEEDED, dreams)
        for block, expected in zip(network, network.activities(dreams.h), strict=True):
            _, signal = block.local_step(signal, SEEDED.at(0))
            torch.testing.assert_close(signal.dreams.h, expected, rtol=1e-4, atol=1e-4)


def test_goodness_of_every_block() -> None:
    network = awake(gpt(combination=Independent(inherit=True)))
    tokens = windows(2)[:, :-1]
    goodness = network.goodness(tokens)
    assert goodness.shape == (3, 2, CONTEXT, network.vocab_size)
    torch.testing.assert_close(goodness + network.prior, torch.stack(list(network.predictions(tokens))))
    assert len(network.goodness(tokens, blocks=2)) == 2


@EVERY_ARM
def test_bf16_is_close_to_float32(arm: str) -> None:
    network = awake(gpt(**ARMS[arm]))
    tokens = windows(2)[:, :-1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = network(tokens)
    assert low.dtype == torch.float32
    exact = network(tokens)
    assert (low - exact).abs().mean() < 0.05 * exact.std()
    assert not torch.equal(low, exact)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layers": 3, "layers_per_block": 2},
            "layers=3, layers_per_block=2.*`layers` must be a multiple of `layers_per_block`",
        ),
        ({"width": 18, "heads": 4}, "width=18, heads=4"),
        ({"heads": "a"}, "heads='a'.*whole number"),
        ({"heads": 2.0}, r"heads=2\.0"),
        ({"heads": 0}, "heads=0"),
        ({"context": 0}, "context=0"),
        ({"taps": 0}, "taps=0"),
        ({"dream_weight": -0.1}, r"`dream_weight=-0\.1`.*positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gpt(**arguments)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(1, CONTEXT + 1, dtype=torch.long), f"{CONTEXT + 1} tokens. With `context={CONTEXT}`"),
        (torch.zeros(1, 0, dtype=torch.long), r"shape \(1, 0\)"),
        (torch.zeros(CONTEXT, dtype=torch.long), r"must be \(B, T\)"),
        (torch.zeros(1, 4), "must be integers"),
        (torch.full((1, 4), -1), "tokens from -1 to -1"),
    ],
)
def test_tokens_that_it_cannot_read_are_refused(tokens: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        gpt()(tokens)


def test_counts_that_are_no_tensor_are_refused() -> None:
    with pytest.raises(InputError, match="counts as a list"):
        gpt().set_unigram([1, 2])


def test_one_block_looks_ahead_to_nothing_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.ff_lightning"):
        alone, two = (gpt(layers=2, layers_per_block=span, lookahead=Lookahead()) for span in (2, 1))
    assert (alone.lookahead, len(caplog.messages)) == (None, 1)
    assert "which is one block: `lookahead=Lookahead(…)`" in caplog.messages[0]
    assert two.lookahead is not None


def test_layers_per_block() -> None:
    network = gpt(layers=4, layers_per_block=2, loss=LinearContrast(3))
    assert len(network) == 2
    assert [len(block.layer) for block in network.token_blocks()] == [2, 2]
    assert next(network.token_blocks()).loss is not list(network.token_blocks())[1].loss


# A goodness of sequences beside that of tokens -----------------------------------------------------------------


def dreamt(length: int = CONTEXT) -> Dreams:
    """Other places of the text, of which different parts count as made up."""
    return Dreams(windows(4, start=900)[:, :length], torch.arange(length) >= torch.tensor([[3], [8], [0], [11]]))


@pytest.mark.parametrize("length", [CONTEXT, 12])
def test_dreams_add_hintons_loss_and_change_nothing_of_the_tokens(length: int) -> None:
    """Also where they are shorter than the text; the threshold is new in every block."""
    network = awake(gpt(dream_weight=0.3)).double()
    tokens, targets, dreams = windows(3)[:, :-1], windows(3)[:, 1:], dreamt(length)

    def losses(dreams: Dreams | None) -> list[Any]:
        return list(network.local_losses(network.signal(tokens, targets, dreams=dreams), SEEDED))

    h, made = tokens, dreams.h
    for block, step, alone in zip(network, losses(dreams), losses(None), strict=True):
        torch.testing.assert_close(step.g_pos, alone.g_pos, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(step.g_neg, alone.g_neg, rtol=1e-10, atol=1e-10)
        h, made = block.layer(h), block.layer(made)
        weight = block.sequences.map.weight.tolist()
        g_pos, g_neg = (
            [references.mean_of_squares(references.linear_readout(row, weight, 16 * [0.0], squared=False)) for row in x]
            for x in (h.flatten(0, 1).tolist(), made[dreams.dreamed].tolist())
        )
        theta = (references.mean(g_pos) + references.mean(g_neg)) / 2
        expected = 0.3 * references.threshold_loss(g_pos, g_neg, theta)
        assert step.loss.item() - alone.loss.item() == pytest.approx(expected, rel=1e-6)


def test_dreams_train_the_layers_and_leave_the_readout_alone() -> None:
    network = awake(gpt(dream_weight=0.3)).double()
    found = []
    for dreams in (dreamt(), None):
        network.zero_grad()
        signal = network.signal(windows(3)[:, :-1], windows(3)[:, 1:], dreams=dreams)
        for step in network.local_losses(signal, SEEDED):
            step.loss.backward()
        found.append({name: p.grad for name, p in network.named_parameters()})
    for name, grad in found[0].items():
        if ".goodness." in name:
            torch.testing.assert_close(grad, found[1][name], rtol=1e-10, atol=1e-12)
        elif ".sequences." in name:
            assert bool(grad.any())
        else:
            assert not torch.allclose(grad, found[1][name]), name
