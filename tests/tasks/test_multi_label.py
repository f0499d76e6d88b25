"""Several labels at once, on pictures of two real digits, and what does not fit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot
from torch.utils.data import DataLoader, TensorDataset

import ff_lightning as ff
from ff_lightning.callbacks.classes import by_class
from ff_lightning.candidates import EachLabel
from ff_lightning.goodness import ProjectedActivity
from ff_lightning.networks import ClassMLP, ConvNet
from ff_lightning.stacks import BlockStack
from tests.training import digits, trainer, weights


def pairs(count: int, first: int = 0) -> TensorDataset:
    """Two digits side by side, (N, 1, 8, 16), and which of the ten are there, (N, 10)."""
    images, classes = digits()
    rows = torch.arange(first, first + count)
    left, right = rows, (rows + 7) % len(images)
    both = torch.cat([images[left].view(-1, 1, 8, 8), images[right].view(-1, 1, 8, 8)], 3)
    return TensorDataset(both, one_hot(torch.stack([classes[left], classes[right]]), 10).amax(0))


def network(**options: Any) -> ConvNet:
    torch.manual_seed(0)
    return ConvNet((1, 8, 16), (16, 32), pool_after=(1,), loss=EachLabel(), **options)


@pytest.mark.parametrize("kind", [ff.FFMultiLabel, ff.BackpropTwin])
def test_it_and_its_twin_see_both_digits(tmp_path: Path, kind: Any) -> None:
    module = kind(network(), optimizer=partial(torch.optim.Adam, lr=5e-3))
    run = trainer(tmp_path, max_epochs=5, num_sanity_val_steps=1, check_val_every_n_epoch=5)
    rest = DataLoader(pairs(300, 1400), batch_size=150)
    run.fit(module, DataLoader(pairs(1400), batch_size=100, shuffle=True), rest)
    found = run.callback_metrics
    assert found["val/f1"] > 0.6
    assert found["val/accuracy/block_0"] > 0.85
    (said, more) = run.predict(module, rest)
    there = torch.cat([said.there, more.there])
    truth = pairs(300, 1400).tensors[1].bool()
    assert float(found["val/exact"]) == pytest.approx(float((there == truth).all(1).float().mean()))
    confusion = module.val_metrics.confusion.compute()
    assert float(by_class(confusion)["f1"].mean()) == pytest.approx(float(found["val/f1"]), abs=1e-5)
    name, *probabilities = next(said.lines([f"n{digit}" for digit in range(10)]))
    assert name == ";".join(f"n{digit}" for digit in said.there[0].nonzero()[:, 0].tolist())
    assert probabilities == said.probabilities[0].tolist()


def test_the_loss_is_hintons_with_real_samples_as_negatives() -> None:
    loss = EachLabel(0.3, scale=2.0, weights=[1.0, 3.0])
    goodness = torch.tensor([[1.0, -0.5], [0.2, 0.9]], dtype=torch.float64)
    found = loss.double()(goodness, torch.tensor([[1, 0], [0, 1]])).loss

    def softplus(z: float) -> float:
        return -float(logsigmoid(torch.tensor(-z, dtype=torch.float64)))

    expected = [
        softplus(2 * (0.3 - 1.0)),
        softplus(2 * (-0.5 - 0.3)),
        softplus(2 * (0.2 - 0.3)),
        3 * softplus(2 * -0.6),
    ]
    assert float(found) == pytest.approx(sum(expected) / 4)
    weakest, strongest = loss.compared(goodness, torch.tensor([[1, 1], [0, 0]]))
    assert torch.allclose(weakest, torch.tensor([-0.5, 0.3], dtype=torch.float64))
    assert torch.allclose(strongest, torch.tensor([0.3, 0.9], dtype=torch.float64))


def test_no_gradient_crosses_a_block() -> None:
    module = ff.FFMultiLabel(network())
    module.may_look = lambda: True
    x, y = (part[:8] for part in pairs(8).tensors)
    for step in module.local_losses((x, y)):
        step.loss.backward()
        assert {name.split(".")[1] for name, p in module.network.named_parameters() if p.grad is not None} == {
            str(step.block)
        }
        module.zero_grad()


def wrong(y: Tensor) -> Any:
    module = ff.FFMultiLabel(network())
    module.may_look = lambda: True
    return module.checked((pairs(4).tensors[0], y))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ff.FFMultiLabel(ConvNet((1, 8, 8), (4,), pool_after=())), r"`LinearContrast`.*pass `loss=EachLabel"),
        (lambda: ff.FFMultiLabel(network(), num_classes=4), "`num_classes=4`"),
        (lambda: ff.FFMultiLabel(network(), first_block=2), "`first_block=2`.*0 to 1"),
        (lambda: wrong(torch.zeros(4, 9)), r"shape \(4, 9\).*must be \(4, 10\)"),
        (lambda: wrong(torch.full((4, 10), 0.5)), "neither 0 nor 1"),
        (lambda: EachLabel(weights=[1.0, -1.0]), r"`EachLabel\(weights=\[1.0, -1.0\]\)`"),
        (lambda: EachLabel(weights=[1.0])(torch.zeros(2, 3), torch.zeros(2, 3)), "1 numbers for 3 labels"),
        (lambda: EachLabel()(torch.zeros(2, 3), torch.zeros(2)), r"labels of shape \(2,\)"),
    ],
)
def test_what_does_not_fit_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ff.InputError, match=message):
        build()


def test_a_class_mlp_gives_every_class_a_goodness(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stack = ClassMLP(64, [64, 64], goodness=ProjectedActivity(10), dropout=0.1)
    assert (stack.num_classes, stack.gives_classes, stack.out_features) == (10, True, 64)
    assert isinstance(stack, BlockStack)
    module = ff.FFClassifier(stack, optimizer=partial(torch.optim.Adam, lr=5e-3))
    before = weights(stack)
    x, y = digits()
    run = trainer(tmp_path, max_epochs=4, check_val_every_n_epoch=4)
    run.fit(
        module,
        DataLoader(TensorDataset(x[:1400], y[:1400]), batch_size=50),
        DataLoader(TensorDataset(x[1400:], y[1400:]), 200),
    )
    assert run.callback_metrics["val/accuracy"] > 0.85
    assert not any(torch.equal(value, before[name]) for name, value in weights(stack).items())
    with pytest.raises(ff.InputError, match=r"`num_classes=3`.*must be equal"):
        ClassMLP(4, [4], num_classes=3, goodness=ProjectedActivity(2))
