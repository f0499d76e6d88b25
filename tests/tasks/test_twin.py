"""The twin: the same blocks under the same recipe, by backprop."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ff_lightning as ff
from ff_lightning.data import ImageDataModule
from ff_lightning.networks import MLP, ConvNet, Lookahead
from tests.training import mlp, trainer, weights


def test_the_twin_learns_end_to_end_under_the_same_recipe(tmp_path: Path) -> None:
    network = mlp(2, 64)
    twin = ff.BackpropTwin(network, optimizer=partial(torch.optim.Adam, lr=3e-3), clip_norm=1.0, accumulate_batches=2)
    before = weights(network)
    run = trainer(tmp_path, max_epochs=8, num_sanity_val_steps=0)
    run.fit(twin, ImageDataModule("digits", batch_size=100))
    assert run.callback_metrics["val/accuracy"] > 0.93
    assert len(run.optimizers) == 1
    trained = [name for name, value in weights(network).items() if not torch.equal(value, before[name])]
    assert set(trained) == set(before) - {"blocks.0.layer.label.weight"}, "all but the label's columns"


def test_the_twin_of_a_network_that_looks_ahead_keeps_no_copies_and_leaves_them_to_the_network() -> None:
    def network(**parts: Any) -> ConvNet:
        return ConvNet((1, 8, 8), [4, 4, 4], pool_after=[1], num_classes=10, **parts)

    ahead = network(lookahead=Lookahead(refresh=10))
    own = set(ahead.state_dict())
    twins = (ff.BackpropTwin(ahead), ff.BackpropTwin(network()))
    assert twins[0].state_dict().keys() == twins[1].state_dict().keys()
    assert set(ahead.state_dict()) == own
    assert isinstance(ahead.lookahead, Lookahead)


def test_the_gradient_of_the_twin_is_that_of_plain_backprop() -> None:
    torch.manual_seed(0)
    network = MLP(6, [5, 4], num_classes=None).double()
    twin = ff.BackpropTwin(network, num_classes=3).double()
    x, y = torch.rand(7, 6, dtype=torch.float64), torch.randint(3, (7,))
    (step,) = twin.local_losses((x, y))
    step.loss.backward()
    first, second = network[0].layer[2].linear, network[1].layer.linear
    reference = [p.detach().clone().requires_grad_() for p in (first.weight, second.weight)]
    h = x
    for weight, bias in zip(reference, (first.bias, second.bias), strict=True):
        h = h / h.square().mean(1, keepdim=True).sqrt()
        h = (h @ weight.T + bias).relu()
    h = h / h.square().mean(1, keepdim=True).sqrt()
    nn.functional.cross_entropy(twin.network[0].goodness.linear(h), y).backward()
    torch.testing.assert_close(first.weight.grad, reference[0].grad)
    torch.testing.assert_close(second.weight.grad, reference[1].grad)
