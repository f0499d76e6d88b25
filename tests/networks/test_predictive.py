"""The two circuits against the paper written out, and what must hold of any training of them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ff_lightning.errors import InputError
from ff_lightning.networks import PredictiveCircuits
from ff_lightning.networks.predictions import LatentPrior
from ff_lightning.networks.predictive_layers import Rivalry
from ff_lightning.normalization import frozen_statistics, settle
from ff_lightning.signals import Labelled, Signal
from tests import references_predictive as reference
from tests.training import digits

RATE = 0.05
LATENT_RATE = 0.4


def circuits(**kwargs: Any) -> PredictiveCircuits:
    """Small circuits with the same weights at every call."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "latents": 3,
        "steps": 3,
        "group": 2,
        "threshold": 1.0,
        "noise": 0.0,
        "latent_rate": LATENT_RATE,
    }
    return PredictiveCircuits(64, [6, 4], **sizes | kwargs)


def signal(count: int = 5, dtype: torch.dtype = torch.float32) -> Signal:
    x, y = digits(count, dtype)
    return Signal(Labelled(x, torch.stack([y, (y + 1 + torch.arange(count)) % 10])), labels=y)


def trained_module(network: PredictiveCircuits, index: int) -> nn.Module:
    return [*network, *network.predictions][index]


def parameters(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters())


class Paper:
    """The same circuits, sample by sample and synapse by synapse, with plain gradient descent at every step."""

    def __init__(self, network: PredictiveCircuits) -> None:
        self.network = network
        layers = [network.layer(index) for index in range(len(network))]
        self.layers = [
            reference.Layer(*(p.tolist() for p in (m.below.weight, m.below.bias, m.above.weight, m.rivalry.weight)))
            for m in layers
        ]
        self.predictions = [
            reference.Prediction(p.linear.weight.tolist(), p.linear.bias.tolist(), p.ceiling)
            for p in (block.layer for block in network.predicting())
        ]

    def train(self, x: Labelled) -> None:
        net, images = self.network, x.image.tolist()
        samples = [(image, int(y), s == 0) for s in range(2) for image, y in zip(images, x.labels[s], strict=True)]
        states = [self.upwards(image) for image, *_ in samples]
        for step_number in range(net.steps):
            after, changes = [], []
            for (image, y, is_positive), z in zip(samples, states, strict=True):
                label = [net.label_scale * (c == y) for c in range(net.num_classes)]
                seen = [reference.unit_length(v) for v in (image, *z)] + [label]
                new, change = [], []
                for index, layer in enumerate(self.layers):
                    around = (seen[index], seen[index + 2], z[index])
                    h = reference.settled(layer, *around, net[0].layer.damping)
                    pushed = reference.stirred(h, is_positive, 1.0, net[0].layer.damping)
                    change.append(reference.layer_gradients(layer, *around, [-v for v in pushed]))
                    new.append(h)
                after.append(new)
                changes.append(change)
            states = after
            for index, layer in enumerate(self.layers):
                for name in ("below", "bias", "above", "rivals"):
                    gradients = torch.tensor([getattr(change[index], name) for change in changes]).double()
                    # Positives and negatives are averaged each on its own.
                    step = RATE * gradients.sum(0) / len(images)
                    setattr(layer, name, (torch.tensor(getattr(layer, name)).double() - step).tolist())
            if step_number == 0:
                self.train_predictions(images, states)

    def train_predictions(self, images: list[reference.Row], states: list[list[reference.Row]]) -> None:
        raw = self.predictions[-1].weights
        self.predictions[-1].weights = reference.unit_columns(raw)
        latents = [[0.0] * len(raw[0]) for _ in images]
        for n in [*range(len(images))] * self.network.steps:
            latents[n] = reference.inferred(self.predictions[-1], states[n][-1], latents[n], LATENT_RATE)
        for level, prediction in enumerate(self.predictions):
            found = []
            for image, z, latent in zip(images, states, latents, strict=False):
                ladder = [image, *z]
                above = latent if level == len(self.layers) else reference.unit_rms(z[level])
                weights, bias = reference.prediction_gradient(prediction, above, ladder[level])
                if level == len(self.layers):
                    weights = reference.along_directions(raw, weights)
                found.append((weights, bias))
            if level == len(self.layers):
                prediction.weights = raw
            for name, gradients in zip(("weights", "bias"), zip(*found, strict=True), strict=True):
                step = RATE * torch.tensor(gradients).double().mean(0)
                setattr(prediction, name, (torch.tensor(getattr(prediction, name)).double() - step).tolist())

    def upwards(self, image: reference.Row) -> list[reference.Row]:
        states, h = [], image
        for layer in self.layers:
            drive = reference.product(layer.below, reference.unit_length(h))
            h = [max(w + b, 0.0) for w, b in zip(drive, layer.bias, strict=True)]
            states.append(h)
        return states


def test_latent_states_stay_finite_however_long_synapses_grow() -> None:
    """Steps along the error overshot when the synapses had doubled in length."""
    prediction = circuits().top_prediction
    top = torch.rand(5, prediction.linear.out_features)
    expected = prediction.infer(top, 50)
    prediction.linear.weight.data.mul_(10.0)
    torch.testing.assert_close(prediction.infer(top, 50), expected)
    assert expected.abs().max() < 10


def test_every_update_of_every_synapse_is_the_papers() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        network = circuits()
        for prediction in network.predicting():
            prediction.layer.linear.weight.data.uniform_(-0.5, 1.5)  # so that both bounds of a prediction are met
        paper = Paper(network)
        given = signal(dtype=torch.float64)
        assert isinstance(given.h, Labelled)
        for step in network.local_losses(given):
            module = trained_module(network, step.block)
            for p, gradient in zip(parameters(module), torch.autograd.grad(step.loss, parameters(module)), strict=True):
                p.data -= RATE * gradient
        paper.train(given.h)
    finally:
        torch.set_default_dtype(torch.float32)
    for index, expected in enumerate(paper.layers):
        layer = network.layer(index)
        found = (layer.below.weight, layer.below.bias, layer.above.weight, layer.rivalry.weight)
        values = (expected.below, expected.bias, expected.above, expected.rivals)
        for p, value in zip(found, values, strict=True):
            torch.testing.assert_close(p.data, torch.tensor(value, dtype=torch.float64))
    for prediction, known in zip(network.predicting(), paper.predictions, strict=True):
        torch.testing.assert_close(
            prediction.layer.linear.weight.data, torch.tensor(known.weights, dtype=torch.float64)
        )
        torch.testing.assert_close(prediction.layer.linear.bias.data, torch.tensor(known.bias, dtype=torch.float64))


def test_no_loss_reaches_a_synapse_of_another_module() -> None:
    network = circuits()
    seen = set()
    for step in network.local_losses(signal()):
        step.loss.backward()
        reached = {name for name, p in network.named_parameters() if p.grad is not None}
        place = f"blocks.{step.block}." if step.block < 2 else f"predictions.{step.block - 2}."
        assert reached
        assert all(name.startswith(place) for name in reached)
        network.zero_grad(set_to_none=True)
        seen.add(step.block)
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("index", range(5))
def test_a_module_learns_the_same_bit_for_bit_whatever_the_others_would_learn_from_it(index: int) -> None:
    """The gradient of one step depends on activities alone: other modules' graphs may as well not exist."""
    network = circuits()
    own = parameters(trained_module(network, index))
    alone = circuits()
    for p in alone.parameters():
        p.requires_grad_(False)
    for p in parameters(trained_module(alone, index)):
        p.requires_grad_(True)
    both = zip(network.local_losses(signal()), alone.local_losses(signal()), strict=True)
    for first, second in both:
        if first.block == index:
            expected = torch.autograd.grad(first.loss, own)
            found = torch.autograd.grad(second.loss, parameters(trained_module(alone, index)))
            assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_goodness_is_that_of_the_middle_of_settling() -> None:
    network = circuits(steps=6)
    x, _ = digits(4)
    labels = torch.arange(10).unsqueeze(1).expand(10, 4)
    settling = network.settling(Labelled(x, labels))
    states = [next(settling) for _ in range(4)]
    expected = torch.stack([torch.stack([-h.square().sum(1) for h in state]) for state in states[2:]]).mean(0)
    torch.testing.assert_close(network.goodness(Labelled(x, labels)), expected)


def test_labels_settle_apart_as_they_do_together() -> None:
    network = circuits()
    x, y = digits(4)
    together = network.goodness(Labelled(x, torch.stack([y, (y + 1) % 10])))
    alone = network.goodness(Labelled(x, y.unsqueeze(0)))
    torch.testing.assert_close(together[:, :4], alone)


def test_rivals_inhibit_each_other_and_excite_themselves() -> None:
    rivalry = Rivalry(4, 2)
    rivalry.weight.data = torch.tensor([[[1.0, 2.0], [-3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]])
    taken = rivalry(torch.tensor([[1.0, 10.0, 0.0, 0.0]]))
    assert taken.tolist() == [[-1.0, 2.0 - 40.0, 0.0, 0.0]]


def test_the_prior_draws_the_moments_of_each_class() -> None:
    torch.manual_seed(0)
    prior = LatentPrior(3, 2)
    labels = torch.arange(2).repeat(500)
    spread = torch.tensor([[1.0, 0.0], [1.0, 0.5]])
    latent = torch.randn(1000, 2) @ spread.T + labels.unsqueeze(1) * 5.0
    prior.note(latent, labels)
    settle(prior)
    drawn = prior.sample(torch.ones(4000, dtype=torch.long), torch.Generator().manual_seed(0))
    given = latent[labels == 1]
    torch.testing.assert_close(drawn.mean(0), given.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(drawn.T.cov(), given.T.cov(), rtol=0.1, atol=0.1)
    with pytest.raises(InputError, match="no training image had"):
        prior.sample(torch.tensor([2]))


def test_the_prior_remembers_in_proportion_to_its_momentum() -> None:
    prior = LatentPrior(2, 1, momentum=0.5)
    for value in (1.0, 4.0):
        prior.note(torch.tensor([[value]]), torch.tensor([0]))
        settle(prior)
    assert prior.counts.value.tolist() == [0.75, 0.0]
    assert prior.sums.value[0].item() / prior.counts.value[0].item() == pytest.approx(3.0)


def test_images_come_back_in_their_shape_and_range() -> None:
    network = circuits()
    x: Tensor = digits(4)[0].view(4, 1, 8, 8)
    y = digits(4)[1]
    back = network.reconstruct(x, y)
    assert back.shape == x.shape
    assert bool((back == back.clamp(0, 1)).all())
    list(network.local_losses(signal(50)))
    settle(network)
    drawn = network.sample(y, torch.Generator().manual_seed(1))
    assert drawn.shape == (4, 64)
    assert bool((drawn == drawn.clamp(0, 1)).all())
    assert torch.equal(drawn, network.sample(y, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 0}, "`steps` must be a whole number, at least 1"),
        ({"damping": 1.0}, r"`damping` must be in \[0, 1\)"),
        ({"group": 4}, "`group` must divide them"),
        ({"noise": -1.0}, "`noise` must not be negative"),
        ({"threshold": 0.0}, "threshold"),
    ],
)
def test_impossible_circuits_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        circuits(**change)


def test_plain_images_are_no_signal() -> None:
    with pytest.raises(InputError, match="learn from both"):
        next(circuits().local_losses(Signal(digits(4)[0])))


def test_a_look_at_the_losses_leaves_the_prior_alone() -> None:
    network = circuits()
    for looked in (True, False):
        with frozen_statistics(network) if looked else nullcontext():
            list(network.local_losses(signal()))
        settle(network)
        assert bool(network.prior.counts.value.any()) is not looked
