"""Arguments that the data modules share."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ff_lightning.data import (
    AudioDataModule,
    EventDataModule,
    ImageDataModule,
    SpottingDataModule,
    StringsDataModule,
    TableDataModule,
    TextDataModule,
)
from ff_lightning.data.arguments import check_counts, check_encoding
from ff_lightning.errors import InputError


def _seeds(module: Any) -> list[str]:
    return [name for name in inspect.signature(module).parameters if "seed" in name]


MODULES: list[Any] = [
    AudioDataModule,
    EventDataModule,
    ImageDataModule,
    SpottingDataModule,
    StringsDataModule,
    TableDataModule,
    TextDataModule,
]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("source", "said"), [(np.zeros((2, 8, 8)), "ndarray"), (["a text"], "list"), (None, "None"), ("", "''")]
)
def test_data_in_memory_are_no_source(module: Any, source: Any, said: str) -> None:
    with pytest.raises(InputError, match=rf"Passed `{module.__name__}\(source={said}\)`. .* path or a name. \w+"):
        module(source)


@pytest.mark.parametrize(("module", "seed"), [(module, seed) for module in MODULES for seed in _seeds(module)])
def test_a_seed_is_a_whole_number(module: Any, seed: str) -> None:
    for wrong in ("a", 0.5, -1, 2**32, True):
        with pytest.raises(
            InputError, match=rf"Passed `{module.__name__}\({seed}={wrong!r}\)`. .* from 0 to 4294967295"
        ):
            module("place", **{seed: wrong})


def test_a_path_is_kept_as_text() -> None:
    """A checkpoint may hold no object."""
    data = ImageDataModule(Path("pictures"))  # type: ignore[arg-type]
    assert data.source == data.hparams["source"] == "pictures"


@pytest.mark.parametrize("encoding", ["nope", "", "rot13", None])
def test_encodings_that_python_does_not_know(encoding: Any) -> None:
    check_encoding("Latin 1")
    with pytest.raises(InputError, match=f"Passed `encoding={encoding!r}`. It must be one that Python knows"):
        check_encoding(encoding)


@pytest.mark.parametrize(
    ("counts", "total", "says"),
    [
        (
            {"validation": 0},
            3,
            r"3 for training and 0 for validation. Pass a number, such as `--data.validation 1`",
        ),
        ({"test": 57, "validation": 6}, 60, r"0 for training, 57 for test and 6 .* share, such as `--data.test 0.1`."),
        ({"test": 1, "validation": 0}, 3, r"2 for training, 1 for test and 0 for validation. .*`--data.validation 1`"),
        ({"validation": 0}, 1, "Pass `--data.validation 0` for none."),
        ({"validation": 5}, 5, "Pass `--data.validation 0` for none."),
    ],
)
def test_what_is_said_of_parts_can_be_done(counts: dict[str, int], total: int, says: str) -> None:
    check_counts("x", dict.fromkeys(counts, 1), 3, rows="rows")
    with pytest.raises(InputError, match=f"Passed `x`. Of {total} rows this leaves .*{says}"):
        check_counts("x", counts, total, rows="rows")
