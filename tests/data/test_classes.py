"""Classes that are numbers: how many labels stand for, and those of a checkpoint beside those of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ff_lightning.data import AudioDataModule, ImageDataModule
from ff_lightning.data.classes import check_same_classes, count_classes
from ff_lightning.errors import InputError
from tests.data.sounds import encoded, tone
from tests.data.test_sources import PICTURES, write


def arrays(folder: Path, labels: list[int]) -> None:
    np.savez(folder / "set.npz", x=np.zeros((len(labels), 8, 8), np.uint8), y=np.array(labels))
    ImageDataModule(str(folder / "set.npz")).num_classes  # noqa: B018 - reads the labels


def table(folder: Path, labels: list[int]) -> None:
    ImageDataModule(str(write(folder / "set.parquet", names=False, img=PICTURES[: len(labels)], label=labels))).setup()


def sounds(folder: Path, labels: list[int]) -> None:
    import datasets

    audio = [{"bytes": encoded(tone(400.0)), "path": None} for _ in labels]
    datasets.Dataset.from_dict({"audio": audio, "label": labels}).to_parquet(str(folder / "set.parquet"))
    AudioDataModule(str(folder / "set.parquet")).num_classes  # noqa: B018 - reads the labels


@pytest.mark.parametrize("read", [arrays, table, sounds])
def test_numbers_of_something_else_are_no_classes(read: Callable[[Path, list[int]], None], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2000000001 classes, and only 3 occur, such as 0, 1000000000, 2000000000: "):
        read(tmp_path, [0, 10**9, 2 * 10**9] * 3)


def test_gaps_are_said_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert count_classes({0, 1, 2}, "digits") == 3
        assert not caplog.text
        assert count_classes(set(range(1, 27)), "letters") == 27
        assert count_classes(set(range(0, 1000, 10)), "a tenth of ImageNet") == 991
    assert "The labels of letters go up to 26, and 1 of them do not occur." in caplog.text


@pytest.mark.parametrize(
    ("trained", "names", "count"),
    [
        (["a", "b"], ["a", "b"], 2),
        (["a", "b"], None, 2),  # numbers alone, as of arrays
        (["a", "b"], None, None),  # pictures without classes, to be predicted
        (None, ["a", "b"], 2),
    ],
)
def test_what_both_know_is_compared(trained: list[str] | None, names: list[str] | None, count: int | None) -> None:
    check_same_classes(trained, names, count, "set")


@pytest.mark.parametrize(
    ("names", "count", "says"),
    [
        (["1", "2", "zero"], 3, "3 classes, 'set' has 3, and the first that differs, 0, was '0' and is '1'. Pass data"),
        (["0", "1"], 2, "3 classes, 'set' has 2, and the first that differs, 2, was '2' and is none"),
        (["0", "1", "2", "3"], 4, "the first that differs, 3, was none and is '3'"),
        (None, 4, "3 classes, 'set' has 4. Pass data with the same classes, or .*`--init_from`"),
    ],
)
def test_other_classes_are_refused(names: list[str] | None, count: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_same_classes(["0", "1", "2"], names, count, "set")
