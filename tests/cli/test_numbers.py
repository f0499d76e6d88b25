"""A word that may be a whole number is one."""

import typing
from typing import Optional, Union

import jsonargparse
import lightning.pytorch as pl
import pytest

from ff_lightning.cli.numbers import whole_numbers_first
from ff_lightning.cli.probe import ProbeData


@pytest.fixture
def other_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an import of a library that wrote the union in the other order, before Lightning did."""
    for forget in typing._cleanups:  # type: ignore[attr-defined]
        forget()
    assert typing.get_args(Optional[Union[float, int]])[0] is float  # noqa: UP007, UP045
    annotations = dict(pl.Trainer.__init__.__wrapped__.__annotations__)  # type: ignore[attr-defined]
    annotations["limit_train_batches"] = Optional[Union[int, float]]  # noqa: UP007, UP045
    assert typing.get_args(annotations["limit_train_batches"])[0] is float
    monkeypatch.setattr(pl.Trainer.__init__.__wrapped__, "__annotations__", annotations)  # type: ignore[attr-defined]


def parsed(*words: str) -> jsonargparse.Namespace:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(pl.Trainer, "trainer")
    parser.add_argument("--data", type=ProbeData)
    return parser.parse_args(list(words))


@pytest.mark.usefixtures("other_order")
def test_one_batch_is_no_share_of_them_whatever_was_imported_before() -> None:
    words = "--trainer.limit_train_batches=1", "--data.validation=100"
    assert isinstance(parsed(*words).trainer.limit_train_batches, float)  # what happens without
    whole_numbers_first(pl.Trainer.__init__)
    found = parsed(*words)
    assert isinstance(found.trainer.limit_train_batches, int)
    assert isinstance(found.data.validation, int)
    assert parsed("--trainer.limit_train_batches=0.5").trainer.limit_train_batches == 0.5
    assert parsed("--trainer.val_check_interval=1h").trainer.val_check_interval == "1h"
