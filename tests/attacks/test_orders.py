"""Methods of the Trainer in any order on one module, and Trainers that never log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from ff_lightning.data import ImageDataModule
from tests import texts
from tests.training import classifier, trainer

MAKE: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "images": lambda: (classifier(1), {"datamodule": ImageDataModule("digits", batch_size=100, limit=200)}),
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
