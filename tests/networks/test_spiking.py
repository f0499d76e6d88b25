"""Spiking networks learn locally in layers and time, as in loops straight from the paper, with flat memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ff_lightning.errors import InputError
from ff_lightning.networks import LIF, FrameEncoding, LatencyEncoding, RateEncoding, SpikingMLP
from ff_lightning.signals import Labelled, Signal
from tests import references_spiking as references
from tests.spiking import descend, network
from tests.training import assert_same_weights, digits, weights

sys.path.append(str(Path(__file__).parents[2] / "recipes" / "benchmarks"))

IMAGES, CLASSES = digits(6, torch.float64)
RIGHT_AND_WRONG = torch.stack([CLASSES, (CLASSES + 3) % 10])
SIGNAL = Signal(Labelled(IMAGES, RIGHT_AND_WRONG))


def reference(stack: SpikingMLP) -> list[references.Layer]:
    return [
        references.Layer(
            block.layer.synapses.weight.tolist(),
            block.layer.synapses.bias.tolist(),
            block.layer.context.tolist(),
            block.layer.competition.tolist(),
            label_scale=block.layer.label_scale,
        )
        for block in stack
    ]


def test_learning_equals_the_loops_of_the_paper() -> None:
    stack = network(label_scale=1.5).double()
    slow = references.Stack(reference(stack), rate=3.0, alpha=60.0)
    frames = [frame.tolist() for frame in stack.frames(IMAGES)]
    slow.learn(frames, (CLASSES.tolist(), RIGHT_AND_WRONG[1].tolist()))
    before = weights(stack)
    losses = descend(stack.local_losses(SIGNAL), stack, 3.0)
    assert losses == pytest.approx(slow.losses, rel=1e-12)
    for layer, block in zip(slow.layers, stack, strict=True):
        for name, ours in (
            ("weight", block.layer.synapses.weight),
            ("bias", block.layer.synapses.bias),
            ("context", block.layer.context),
            ("competition", block.layer.competition),
        ):
            torch.testing.assert_close(
                ours.data, torch.tensor(getattr(layer, name), dtype=torch.float64), rtol=1e-9, atol=1e-12
            )
    assert all(not torch.equal(value, before[name]) for name, value in stack.named_parameters())


def test_goodness_is_the_mean_over_time_of_that_of_the_loops() -> None:
    stack = network().double().eval()
    layers = reference(stack)
    expected = []
    for image, label in zip(IMAGES, RIGHT_AND_WRONG[1].tolist(), strict=True):
        memory = [references.Memory.rest(len(layer.bias)) for layer in layers]
        total = [0.0, 0.0]
        for frame in stack.frames(image[None]):
            below = frame[0].tolist()
            for index, layer in enumerate(layers):
                memory[index] = references.time_step(layer, below, label, memory[index])
                below = memory[index].spikes
                total[index] += references.mean_of_squares(memory[index].trace) / 4
        expected.append(total)
    goodness = stack.goodness(Labelled(IMAGES, RIGHT_AND_WRONG))
    torch.testing.assert_close(goodness[:, len(IMAGES) :], torch.tensor(expected, dtype=torch.float64).T)
    assert torch.equal(stack.goodness(Labelled(IMAGES, RIGHT_AND_WRONG), blocks=1), goodness[:1])


def test_no_gradient_crosses_a_layer_or_a_time_step() -> None:
    stack = network(encoding=RateEncoding(5))
    x = IMAGES.float().requires_grad_()
    steps = []
    for number, step in enumerate(stack.local_losses(Signal(Labelled(x, RIGHT_AND_WRONG)))):
        reached = torch.autograd.grad(step.loss, [*stack.parameters(), x], allow_unused=True)
        names = {
            name.split(".")[1] for (name, _), g in zip(stack.named_parameters(), reached, strict=False) if g is not None
        }
        assert names == {str(step.block)}
        assert reached[-1] is None
        assert step.block == number % 2
        depth, node = 0, step.loss.grad_fn
        while node is not None and node.next_functions:
            depth, node = depth + 1, node.next_functions[0][0]
        steps.append(depth)
    assert len(steps) == 10
    assert len(set(steps[2:])) <= 2, "the graph of a late step is no deeper than that of the second"


def test_locality_bit_for_bit() -> None:
    plain, changed = network(), network(widths=(16, 12, 8))
    with torch.no_grad():
        changed[1].layer.synapses.weight.mul_(-3.0)
    signal = Signal(Labelled(IMAGES.float(), RIGHT_AND_WRONG))
    for stack in (plain, changed):
        descend(stack.local_losses(signal), stack, 1.0)
    assert_same_weights(weights(plain[0]), weights(changed[0]))
    assert not torch.equal(plain[1].layer.synapses.weight, changed[1].layer.synapses.weight)


def test_memory_does_not_grow_with_time() -> None:
    from meter import allocated_peak, saved_peak

    peaks, saved = [], []
    for steps in (5, 50):
        stack = network(encoding=RateEncoding(steps))
        signal = Signal(Labelled(IMAGES.float(), RIGHT_AND_WRONG))
        descend(stack.local_losses(signal), stack, 0.1)
        with allocated_peak() as peak:
            descend(stack.local_losses(signal), stack, 0.1)
        with saved_peak(stack.parameters()) as kept:
            descend(stack.local_losses(signal), stack, 0.1)
        peaks.append(peak.bytes)
        saved.append(kept.bytes)
    assert peaks[1] <= 1.02 * peaks[0]
    assert saved[1] == saved[0]


def test_the_twin_learns_through_time() -> None:
    """Backprop sees the first frame in what the network says at the end, if nothing reaches it in between."""
    stack = network(widths=(16,), encoding=FrameEncoding(4))
    frames = torch.zeros(6, 4, 64)
    frames[:, 0] = IMAGES.float()
    frames.requires_grad_()
    (stack(frames)[:, 0].sum()).backward()
    assert frames.grad is not None
    assert frames.grad[:, 0].abs().sum() > 0


def test_learning_at_every_other_step_gives_half_of_the_losses() -> None:
    stack = network(learn_every=2)
    assert [step.block for step in stack.local_losses(Signal(Labelled(IMAGES.float(), RIGHT_AND_WRONG)))] == [0, 1] * 2


def test_evaluation_repeats_itself_and_training_does_not() -> None:
    stack = network(encoding=RateEncoding(5))
    first, second = stack(IMAGES.float()), stack(IMAGES.float())
    assert not torch.equal(first, second)
    stack.eval()
    assert torch.equal(stack(IMAGES.float()), stack(IMAGES.float()))
    rates = list(stack.activities(IMAGES.float()))
    assert torch.equal(rates[1], stack(IMAGES.float()))
    assert [tuple(rate.shape) for rate in rates] == [(6, 16), (6, 12)]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: network(widths=()), r"`widths=\(\)`"),
        (lambda: network(widths=8), "Passed `widths=8`. `widths` must be a list of one or more whole numbers"),
        (lambda: network(learn_every=5), "`learn_every=5`. With 4 time steps"),
        (lambda: network(lateral=-1.0), "`lateral` must be finite and not negative"),
        (lambda: LIF(decay=1.0), r"`decay` must be in \[0, 1\)"),
        (lambda: LIF(slope=0.0), "`slope` must be a positive"),
        (lambda: RateEncoding(0), r"`RateEncoding\(steps=0\)`"),
        (lambda: RateEncoding(rate=1.5), r"`rate` must be in \(0, 1\]"),
        (lambda: list(network().frames(torch.rand(3, 65))), "`in_features=64`"),
        (lambda: list(FrameEncoding(4).frames(torch.rand(3, 5, 64))), r"needs \(B, 4, …\)"),
        (lambda: next(network().local_losses(Signal(IMAGES))), "without right and wrong labels"),
    ],
)
def test_what_cannot_work_is_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


def test_encodings_say_what_they_should() -> None:
    x = torch.tensor([[0.0, 0.25, 1.0]]).expand(20_000, 3)
    torch.manual_seed(0)
    rate = torch.stack(list(RateEncoding(3, rate=0.8).frames(x)))
    assert rate.unique().tolist() == [0.0, 1.0]
    torch.testing.assert_close(rate.mean((0, 1)), torch.tensor([0.0, 0.2, 0.8]), atol=0.01, rtol=0.0)
    for frame in RateEncoding(3, rate=0.8).frames(x, torch.Generator().manual_seed(0)):
        assert (frame == frame[0]).all(), "one draw serves all samples of an evaluation"
    latency = torch.stack(list(LatencyEncoding(5).frames(x[:1])))
    assert latency[:, 0].T.tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0]]


@pytest.mark.filterwarnings("ignore")
def test_units_are_those_of_snntorch() -> None:
    snn = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    currents = torch.randn(8, 3, 5)
    theirs = snn.Leaky(beta=0.8, spike_grad=snn.surrogate.fast_sigmoid(slope=7.0))
    ours = LIF(decay=0.8, slope=7.0)
    results = []
    for name in ("theirs", "ours"):
        leaf = currents.clone().requires_grad_()
        membrane, state, spikes = torch.zeros(3, 5), None, []
        for current in leaf:
            if name == "theirs":
                spike, membrane = theirs(current, membrane)
            else:
                state = ours(current, state)
                spike = state.spikes
            spikes.append(spike)
        (torch.stack(spikes) * torch.arange(8).view(8, 1, 1)).sum().backward()
        results.append((torch.stack(spikes).detach(), leaf.grad))
    assert 0.05 < results[0][0].mean() < 0.5
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)
