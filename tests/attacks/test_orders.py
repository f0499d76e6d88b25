"""Methods of the Trainer in any order on one module, and Trainers that never log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

import ff_lightning as ff
from ff_lightning.data import ImageDataModule, TableDataModule
from ff_lightning.losses import TwoThresholdLoss
from ff_lightning.networks import MLP, ClassMLP, ConvNet, PredictiveCircuits, RecurrentMLP, SelfContrastMLP
from ff_lightning.readouts import LinearReadout
from tests import spiking, texts
from tests.training import classifier, trainer


def digits(**kwargs: Any) -> dict[str, Any]:
    return {"datamodule": ImageDataModule("digits", batch_size=100, limit=200, **kwargs)}


def table(source: str, **kwargs: Any) -> dict[str, Any]:
    return {"datamodule": TableDataModule(source, batch_size=50, **kwargs)}


def pairs() -> SelfContrastMLP:
    return SelfContrastMLP(64, [8, 8], losses=2 * [TwoThresholdLoss(2.0, 3.0)], own_pairs=[True, True])


MAKE: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "images": lambda: (classifier(1), digits()),
    "classes": lambda: (ff.FFClassifier(ConvNet((1, 8, 8), [4], pool_after=())), digits()),
    "recurrent": lambda: (ff.FFClassifier(RecurrentMLP(64, [8, 8], iterations=3, judged=(2, 3))), digits()),
    "without labels": lambda: (ff.FFRepresentation(MLP(64, [8, 8], num_classes=None), LinearReadout(8, 10)), digits()),
    "pairs of images": lambda: (ff.FFSelfContrast(pairs(), LinearReadout(8, 10)), digits()),
    "predictive": lambda: (ff.FFPredictive(PredictiveCircuits(64, [20, 20], steps=2, latents=4)), digits()),
    "spiking": lambda: (spiking.classifier(), digits()),
    "anomalies": lambda: (
        ff.FFAnomalyDetector(MLP(64, [8], num_classes=None)),
        digits(normal=[0, 1, 2, 3, 4], validation=60),
    ),
    "numbers": lambda: (ff.FFRegressor(ClassMLP(10, [8]), low=25.0, high=350.0), table("diabetes", target="number")),
    "twin": lambda: (ff.BackpropTwin(ConvNet((1, 8, 8), [4], pool_after=())), digits()),
    "text": lambda: (texts.model(), {}),
}


@pytest.mark.parametrize("order", [("validate", "fit", "test"), ("test", "fit", "validate")], ids="-".join)
@pytest.mark.parametrize("task", MAKE)
def test_any_order_of_a_trainers_methods_works(task: str, order: tuple[str, ...], tmp_path: Path) -> None:
    module, data = MAKE[task]()
    for method in (*order, *(["predict"] if data else []), "fit"):
        run = trainer(tmp_path, max_steps=2, **dict.fromkeys(("limit_val_batches", "limit_test_batches"), 1))
        given: Any = (texts.Batches(16, 8),) * (2 if method == "fit" else 1) if task == "text" else ()
        getattr(run, method)(module, *given, **data)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("option", [{"log_every_n_steps": 0}, {"barebones": True}])
def test_a_trainer_that_never_logs_trains(option: dict[str, Any]) -> None:
    module, data = MAKE["images"]()
    run = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=2, logger=False if "barebones" not in option else None, **option
    )
    run.fit(module, **data)
    assert run.global_step == 2
