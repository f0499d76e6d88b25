"""What all image classifiers share: the number of classes, said once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ff_lightning as ff
from ff_lightning.candidates import EachLabel
from ff_lightning.data import ImageDataModule
from ff_lightning.errors import InputError
from ff_lightning.goodness import ChannelGroups, WeightedEnergy
from ff_lightning.losses import TwoThresholdLoss
from ff_lightning.networks import MLP, ConvNet, ResNet, SelfContrastConv
from ff_lightning.readouts import LinearReadout, NestedReadout
from ff_lightning.tasks.evaluation import SampleTask
from tests.training import assert_same_weights, classifier, conv, digits, mlp, trainer, weights


def small_conv(**kwargs: object) -> ConvNet:
    return ConvNet((1, 8, 8), [6], pool_after=[], **kwargs)


TOLD = LinearReadout(12, 5, first_block=0)


@pytest.mark.parametrize(
    ("make", "classes"),
    [
        (lambda: ff.FFClassifier(mlp(num_classes=3)), 3),
        (lambda: ff.FFClassifier(small_conv(num_classes=4)), 4),
        (lambda: ff.FFClassifier(small_conv(goodness=WeightedEnergy(5))), 5),
        (lambda: ff.FFClassifier(small_conv()), 10),
        (lambda: ff.FFClassifier(conv()), 10),  # a stack that does not say it, of blocks that do
        (lambda: ff.BackpropTwin(mlp(num_classes=3)), 3),
        (lambda: ff.BackpropTwin(mlp(num_classes=None), num_classes=3), 3),
        (lambda: ff.FFRepresentation(MLP(64, [12], num_classes=None), TOLD), 5),
        (lambda: ff.FFRepresentation(MLP(64, [12], num_classes=None), LinearReadout(first_block=0), num_classes=6), 6),
    ],
)
def test_the_number_of_classes_is_taken_from_who_knows_it(make: Callable[[], ff.FFClassifier], classes: int) -> None:
    model = make().eval()
    assert model.num_classes == classes
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, classes)


X = torch.arange(128, dtype=torch.uint8).view(2, 1, 8, 8)
TASKS = [
    lambda: ff.FFClassifier(mlp()),
    lambda: ff.FFClassifier(small_conv()),
    lambda: ff.BackpropTwin(mlp()),
    lambda: ff.FFRepresentation(MLP(64, [12], num_classes=None), LinearReadout(12, 10, first_block=0)),
    lambda: ff.FFRegressor(small_conv(), low=0, high=1),
    lambda: ff.FFMultiLabel(small_conv(loss=EachLabel())),
    lambda: ff.FFAnomalyDetector(MLP(64, [12], num_classes=None)),
    lambda: ff.FFClassifier(
        ff.convert(nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU()), num_classes=10, example=X[:1] / 255)
    ),
]


@pytest.mark.parametrize("make", TASKS)
def test_samples_of_any_precision_arrays_and_lists_are_taken_as_in_training(make: Callable[[], SampleTask]) -> None:
    module = make().eval()
    expected = module(X.float() / 255)
    for x in (X, X.numpy(), X.double() / 255, (X.double() / 255).numpy(), (X.double() / 255).tolist()):
        torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)
        for one, two in zip(module.predicted(x), module.predicted(X.float() / 255), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    for x in (X.half() / 255, X.bfloat16() / 255):
        assert torch.equal(module(x), module(x.float()))
        assert torch.equal(module.predict_step(x, 0)[0], module.predicted(x.float())[0])
    for x, says in (
        (X.long(), "images of dtype torch.int64"),
        ("text", "samples as a str"),
        ([[1.0], []], "samples as a list"),
    ):
        with pytest.raises(InputError, match=f"Passed {says}"):
            module(x)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_loader_of_any_precision_trains_and_is_judged(kind: torch.dtype, tmp_path: Path) -> None:
    x, y = digits(40)
    batches: DataLoader[Any] = DataLoader(TensorDataset(x.to(kind), y), batch_size=20)
    module, same = classifier(), classifier()
    for one, data in ((module, batches), (same, DataLoader(TensorDataset(x.to(kind).float(), y), batch_size=20))):
        run = trainer(tmp_path)
        run.fit(one, data, data)
        run.predict(one, data)
    assert_same_weights(weights(module), weights(same))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ff.FFClassifier(mlp(num_classes=3), num_classes=4), r"`num_classes=4` with `MLP\(num_classes=3\)`"),
        (lambda: ff.BackpropTwin(mlp(num_classes=3), num_classes=4), r"`num_classes=4` with `MLP\(num_classes=3\)`"),
        (lambda: ff.FFRepresentation(mlp(num_classes=3), TOLD), r"`MLP\(num_classes=3\)` with `LinearReadout\(num_cla"),
        (lambda: ff.BackpropTwin(mlp(num_classes=None)), "Passed no `num_classes`, and `network=MLP`"),
        (lambda: ff.FFClassifier(mlp(num_classes=None), num_classes=3), "built for `num_classes=None`"),
        (lambda: small_conv(num_classes=3, goodness=WeightedEnergy(5)), r"`num_classes=3` with `goodness=WeightedEn"),
        (lambda: ResNet(num_classes=5, goodness=ChannelGroups(10)), r"`num_classes=5` with `goodness=ChannelGroups"),
    ],
)
def test_who_says_something_else_is_named(make: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


@pytest.mark.parametrize("task", [ff.FFClassifier, ff.BackpropTwin])
@pytest.mark.parametrize("classes", [8, 12])
def test_data_of_other_classes_is_refused_before_training(
    task: type[ff.FFClassifier], classes: int, tmp_path: Path
) -> None:
    model = task(mlp(num_classes=classes))
    before = [parameter.clone() for parameter in model.parameters()]
    for run in (trainer(tmp_path).fit, trainer(tmp_path).validate):
        with pytest.raises(InputError, match=rf"`num_classes={classes}` with a ImageDataModule of `num_classes=10`"):
            run(model, datamodule=ImageDataModule("digits", limit=20))
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def pairs_net() -> SelfContrastConv:
    torch.manual_seed(0)
    return SelfContrastConv((1, 8, 8), [6, 8], losses=[TwoThresholdLoss(1.0, 1.0)] * 2)


@pytest.mark.parametrize(
    ("network", "sizes", "pool"),
    [
        (lambda: mlp(depth=3, width=16, num_classes=None), [16, 16], 1),
        (lambda: small_conv(dropout=0.5), [6 * 16], 2),
        (pairs_net, [8], 2),
    ],
)
@pytest.mark.parametrize("kind", [LinearReadout, NestedReadout])
def test_a_readout_counts_the_units_that_it_reads(
    kind: type[LinearReadout], network: Callable[[], ff.BlockStack], sizes: list[int], pool: int
) -> None:
    first = 0 if len(sizes) == 1 and pool == 2 and not isinstance(network(), SelfContrastConv) else 1
    built, told = network(), kind(sum(sizes) if kind is LinearReadout else sizes, 10, first_block=first, pool=pool)
    kept = {key: value.clone() for key, value in built.state_dict().items()}
    torch.manual_seed(1)
    counted = kind(first_block=first, pool=pool)
    counted.attach(built, 10)
    after = torch.rand(1)
    assert counted.units(built) == sizes
    assert {key: value.shape for key, value in counted.state_dict().items()} == {
        key: value.shape for key, value in told.state_dict().items()
    }
    torch.manual_seed(1)
    kind(sum(sizes) if kind is LinearReadout else sizes, 10, first_block=first, pool=pool)
    assert torch.equal(torch.rand(1), after)  # what is drawn after it is the same
    assert built.training
    assert all(torch.equal(value, kept[key]) for key, value in built.state_dict().items())


def test_a_readout_that_cannot_count_says_what_to_pass() -> None:
    with pytest.raises(InputError, match="Passed `readout=NestedReadout` without `widths` to `network=BlockStack`"):
        ff.FFRepresentation(conv(), NestedReadout(first_block=0))


def test_a_counted_readout_comes_back_from_a_checkpoint(tmp_path: Path) -> None:
    data = ImageDataModule("digits", batch_size=100, limit=200)
    model = ff.FFRepresentation(mlp(num_classes=None), LinearReadout(), num_classes=10)
    run = trainer(tmp_path)
    run.fit(model, datamodule=data)
    assert model.readout.linear.weight.abs().sum() > 0
    run.save_checkpoint(tmp_path / "m.ckpt")
    again = ff.FFRepresentation.load_from_checkpoint(
        tmp_path / "m.ckpt", network=mlp(num_classes=None), readout=LinearReadout()
    )
    assert torch.equal(again.readout.linear.weight, model.readout.linear.weight)
