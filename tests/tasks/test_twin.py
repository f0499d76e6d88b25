"""The twin: the same blocks under the same recipe, by backprop."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ff_lightning as ff
from ff_lightning.candidates import EachLabel
from ff_lightning.data import ImageDataModule
from ff_lightning.engine.restoring import build_module
from ff_lightning.negatives import MixedEntries
from ff_lightning.networks import MLP, ClassMLP, ConvNet, Lookahead
from tests.texts import gpt
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


def labelled(**parts: Any) -> ClassMLP:
    return ClassMLP(8, [6, 6], num_classes=2, loss=EachLabel(0.5, scale=3.0, weights=[1.0, 20.0]), **parts)


def test_the_twin_of_several_labels_weighs_them_as_its_network_does() -> None:
    network = labelled()
    twin = ff.BackpropTwin(network)
    loss = twin.network[0].loss
    assert (loss.theta, loss.scale, loss.weights.tolist()) == (0.5, 3.0, [1.0, 20.0])
    assert all(loss is not block.loss for block in network)
    x, y = torch.rand(5, 8), torch.tensor([[0, 1], [1, 0], [1, 1], [0, 0], [0, 1]])
    (step,) = twin.local_losses((x, y))
    goodness = twin.network.goodness(x)[0]
    expected = nn.functional.binary_cross_entropy_with_logits(
        3 * (goodness - 0.5), y.float(), pos_weight=torch.tensor([1.0, 20.0])
    )
    torch.testing.assert_close(step.loss.detach(), expected)


KINDS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "numbers": (lambda: ClassMLP(8, [6], num_classes=4), {"low": 0.0, "high": 1.0}, {"spread": 3.0}),
    "anomalies": (lambda: MLP(8, [6], num_classes=None), {"anomalies": MixedEntries()}, {"false_alarms": 0.3}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_twin_takes_what_its_kind_takes_and_is_built_again_with_it(kind: str) -> None:
    make, needed, own = KINDS[kind]
    ((name, value),) = own.items()
    usual = ff.BackpropTwin(make(), **needed)
    assert getattr(ff.BackpropTwin(make(), **needed, **{name: None}), name) == getattr(usual, name) != value
    told = ff.BackpropTwin(make(), **needed, **own)
    assert getattr(told, name) == value
    words = json.loads(json.dumps(dict(told.hparams)))
    assert getattr(build_module(words, "ckpt_path=x", type(told)), name) == value


def test_a_twin_is_one_block_and_says_that_none_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lightning.pytorch"):
        assert ff.BackpropTwin(labelled(), first_block=0).first_block == 0
        assert not caplog.messages
        assert ff.BackpropTwin(labelled(), first_block=1).first_block == 0
    assert caplog.messages == ["Left out of the twin, which is one block: `first_block=1`."]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ff.BackpropTwin(MLP(8, [6], num_classes=None), anomalies=MixedEntries(), num_classes=7),
            "Passed `num_classes=7` to a twin that tells normal samples from anomalies. Leave `num_classes` out.",
        ),
        (
            lambda: ff.BackpropTwin(gpt(), num_classes=7),
            "Passed `num_classes=7` to a twin that predicts the next of its tokens. Leave `num_classes` out.",
        ),
        *(
            (
                lambda given=given: ff.BackpropTwin(mlp(), **given),
                f"Passed `{next(iter(given))}` to the twin of a network that has no use for it. Leave it out.",
            )
            for given in ({"spread": 1.0}, {"false_alarms": 0.1}, {"first_block": 0})
        ),
    ],
)
def test_what_its_kind_has_no_use_for_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ff.InputError) as error:
        make()
    assert str(error.value) == message


def test_a_number_of_classes_that_says_the_same_is_taken() -> None:
    ff.BackpropTwin(MLP(8, [6], num_classes=None), anomalies=MixedEntries(), num_classes=2)
    ff.BackpropTwin(MLP(64, [6], num_classes=10), anomalies=MixedEntries(), num_classes=10)
    ff.BackpropTwin(gpt(), num_classes=gpt().vocab_size)
