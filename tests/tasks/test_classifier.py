"""Supervised FF on real digits: it learns with any parts, reports, refuses what does not fit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import ff_lightning as ff
from ff_lightning.candidates import LogisticContrast, Softmax, WrongCandidate
from ff_lightning.data import ImageDataModule
from ff_lightning.goodness import ProjectedActivity, SumOfSquares
from ff_lightning.losses import MovingThresholdLoss, Swish, SymBa, ThresholdLoss
from ff_lightning.negatives import HardWrongLabel, UniformWrongLabel
from ff_lightning.networks import ConvNet
from ff_lightning.optim import MuonAdamW
from ff_lightning.readouts import (
    ChosenBlocks,
    GoodnessReadout,
    LastBlock,
    LinearReadout,
    MeanLogProbability,
    Readout,
)
from ff_lightning.tasks.evaluation import check_labels
from tests.training import mlp, trainer

FAST = partial(torch.optim.Adam, lr=3e-3)


def data() -> ImageDataModule:
    return ImageDataModule("digits", batch_size=100)


@pytest.mark.parametrize(
    ("network", "task"),
    [
        ({"loss": SymBa(20.0)}, {}),
        ({"loss": Swish(20.0)}, {"negatives": HardWrongLabel(0.05)}),
        ({"loss": SymBa(20.0)}, {"negatives": HardWrongLabel(0.05, candidates=3, blocks=2)}),
        ({"loss": MovingThresholdLoss(scale=10.0), "peer_weight": 0.03}, {}),
        ({"loss": ThresholdLoss(128.0, scale=0.05), "goodness": SumOfSquares()}, {}),
        ({"loss": SymBa(20.0)}, {"readout": LinearReadout(128, 10)}),
        ({"loss": SymBa(20.0), "overlay": True}, {"readout": GoodnessReadout(first_block=1)}),
    ],
    ids=["symba", "swish, hard", "candidates", "moving, peers", "hinton", "linear readout", "overlay, but first"],
)
def test_every_combination_learns_digits(tmp_path: Path, network: dict[str, Any], task: dict[str, Any]) -> None:
    module = ff.FFClassifier(mlp(2, 128, **network), optimizer=FAST, **task)
    run = trainer(tmp_path, max_epochs=8, num_sanity_val_steps=0)
    run.fit(module, data())
    assert run.callback_metrics["val/accuracy"] > 0.86
    for block in range(2):
        assert run.callback_metrics[f"val/separation/block_{block}"] > 0.7 or network["loss"].threshold is not None
        assert run.callback_metrics[f"val/accuracy/block_{block}"] > 0.6


def test_one_block_is_a_network_too(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_epochs=2)
    run.fit(ff.FFClassifier(mlp(1, 32), optimizer=FAST), data())
    assert run.callback_metrics["val/accuracy"] == run.callback_metrics["val/accuracy/block_0"]


def test_test_and_predict(tmp_path: Path) -> None:
    module = ff.FFClassifier(mlp(2, 64, loss=SymBa(20.0)), optimizer=FAST)
    run = trainer(tmp_path, max_epochs=4, num_sanity_val_steps=0)
    images = data()
    run.fit(module, images)
    run.test(module, images, verbose=False)
    tested = run.callback_metrics
    confusion = module.test_metrics.confusion.compute()
    assert confusion.sum() == 360
    assert tested["test/accuracy"] == pytest.approx(float(confusion.trace() / confusion.sum()))
    x, y = next(iter(images.test_dataloader()))
    predicted = torch.cat([batch.classes for batch in run.predict(module, images.test_dataloader())])
    assert torch.equal(predicted, module(images.test_dataloader().images.pixels / 16).argmax(1))
    alone, labelled = module.predict_step(x, 0), module.predict_step((x, y), 0)
    assert all(torch.equal(one, other) for one, other in zip(alone, labelled, strict=True))
    assert torch.equal(alone.probabilities, alone.scores.softmax(1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ff.FFClassifier(mlp(), readout=GoodnessReadout(first_block=3)), "`first_block=3`.*at most 2"),
        (lambda: ff.FFClassifier(mlp(), num_classes=12), r"`num_classes=12` with `MLP\(num_classes=10\)`"),
        (lambda: ff.BackpropTwin(mlp(num_classes=None), num_classes=1), "`num_classes=1`. .* whole number, at least 2"),
        (lambda: ff.FFClassifier(mlp(), num_classes=10.0), "`num_classes=10.0`. .* whole number, at least 2"),
        (lambda: check_labels(torch.tensor([0, 10]), 10), "labels from 0 to 10"),
    ],
)
def test_what_does_not_fit_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ff.InputError, match=message):
        build()


def test_negatives_of_a_classifier_are_wrong_labels() -> None:
    module = ff.FFClassifier(mlp(), negatives=UniformWrongLabel())
    seen: list[torch.Tensor] = []
    module.network[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].labels))
    x, y = torch.rand(50, 64), torch.arange(50) % 10
    module.may_look = lambda: True
    module.generator = lambda stream=0: torch.Generator().manual_seed(stream)
    list(module.local_losses((x, y)))
    (labels,) = seen
    assert torch.equal(labels[0], y)
    assert (labels[1] != y).all()


def test_running_values_move_once_a_batch_where_negatives_ask_the_blocks() -> None:
    network = mlp(2)
    network[1].layer = torch.nn.Sequential(network[1].layer, torch.nn.BatchNorm1d(16))
    module = ff.FFClassifier(network, negatives=HardWrongLabel(), readout=LinearReadout(16, 10))
    module.may_look = lambda: True
    module.generator = lambda stream=0: torch.Generator().manual_seed(stream)
    list(module.local_losses((torch.rand(50, 64), torch.arange(50) % 10)))
    assert int(network[1].layer[1].num_batches_tracked) == 1


@pytest.mark.parametrize(
    ("network", "readout"),
    [
        ({}, None),
        ({"loss": LogisticContrast()}, LastBlock()),
        ({"loss": WrongCandidate(SymBa())}, MeanLogProbability()),
        ({"loss": Softmax(), "goodness": ProjectedActivity()}, ChosenBlocks(2)),
        ({"loss": Softmax(), "overlapping": True}, GoodnessReadout(first_block=1)),
    ],
    ids=["own", "own, logistic", "wrong class", "softmax", "overlapping"],
)
def test_blocks_that_score_classes_learn_digits(
    tmp_path: Path, network: dict[str, Any], readout: Readout | None
) -> None:
    torch.manual_seed(0)
    stack = ConvNet((1, 8, 8), (16, 32), pool_after=(1,), **network)
    module = ff.FFClassifier(stack, readout=readout, optimizer=partial(MuonAdamW, lr=4e-3))
    run = trainer(tmp_path, max_epochs=5, num_sanity_val_steps=1, log_every_n_steps=5)
    run.fit(module, data())
    assert run.callback_metrics["val/accuracy"] > 0.85
    assert run.callback_metrics["val/accuracy/block_1"] > 0.85
    for name in ("loss", "separation", "goodness_gap"):
        assert {f"train/{name}/block_{index}" for index in range(2)} <= set(run.callback_metrics)


def test_blocks_that_score_classes_take_no_negatives() -> None:
    with pytest.raises(ff.InputError, match="Passed `negatives=UniformWrongLabel` with a network whose blocks"):
        ff.FFClassifier(ConvNet((1, 8, 8), (16,), pool_after=()), negatives=UniformWrongLabel())
