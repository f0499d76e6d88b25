"""Numbers, several labels and normality, of tables and of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits

from ff_lightning.data import ImageDataModule, TableDataModule
from ff_lightning.errors import InputError


def rows_of(loader: Any) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
    return x, y


def test_numbers_are_those_of_the_column_and_their_range_that_of_the_training() -> None:
    data = TableDataModule("diabetes", target="number", validation=42, test=100, batch_size=300)
    data.setup()
    assert (data.in_features, data.num_classes, data.class_names) == (10, None, [])
    _, y = rows_of(data.train_dataloader())
    assert (y.dtype, len(y)) == (torch.float32, 300)
    assert (data.low, data.high) == (float(y.min()), float(y.max()))
    _, tested = rows_of(data.test_dataloader())
    numbers = [int(name.split()[1]) - 1 for name in data.row_names("test", range(100))]
    assert np.allclose(tested, load_diabetes().target[numbers])
    assert TableDataModule("wine").low is None


def test_several_labels_are_lists_or_texts_with_a_separator(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sets = [["b", "a"], "a", None, "c; a;a", ""]
    lines = [json.dumps({"size": index, "tags": some}) + "\n" for index, some in enumerate(sets * 20)]
    (tmp_path / "t.jsonl").write_text("".join(lines))
    options = {"target_column": "tags", "target": "labels", "validation": 20, "test": 20, "batch_size": 60}
    data = TableDataModule(str(tmp_path / "t.jsonl"), **options)
    with caplog.at_level("INFO"):
        data.setup()
    assert data.class_names == ["a", "b", "c"]
    assert "rows of 3 labels, 1 numbers each." in caplog.text
    _, y = rows_of(data.val_dataloader())
    places = [int(name.split()[1]) - 1 for name in data.row_names("validation", range(20))]
    expected = [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert y.tolist() == [expected[place % 5] for place in places]


def test_normal_data_alone_is_trained_on(caplog: pytest.LogCaptureFixture) -> None:
    wine = TableDataModule("wine", normal=["class_0", "class_1"], batch_size=20)
    digits = ImageDataModule("digits", normal=[3, 8], batch_size=100)
    with caplog.at_level("INFO"):
        for data in (wine, digits):
            data.setup()
            assert (data.num_classes, data.class_names) == (None, ["normal", "anomaly"])
            assert not rows_of(data.train_dataloader())[1].any()
            assert {*rows_of(data.test_dataloader())[1].tolist()} == {0, 1}
    assert "Left out of the training: 33 anomalies; 91 normal samples are kept." in caplog.text
    x, y = rows_of(digits.test_dataloader())
    plain = ImageDataModule("digits")
    plain.setup("test")
    images, labels = rows_of(plain.test_dataloader())
    assert torch.equal(x, images)
    assert torch.equal(y == 0, (labels == 3) | (labels == 8))
    name = digits.row_names("train", [0])[0]
    pixels = digits._splits["train"].pixels_of(slice(0, 1))
    number = int(name.split()[1])
    plain.setup("fit")
    place = plain._rows["train"].tolist().index(number)
    assert torch.equal(plain._splits["train"].pixels_of(slice(place, place + 1)), pixels)


def test_the_test_may_be_read_before_the_training() -> None:
    data = ImageDataModule("digits", normal=["0"])
    data.setup("test")
    before = rows_of(data.test_dataloader())[1]
    data.setup("fit")
    assert torch.equal(rows_of(data.test_dataloader())[1], before)


def pictures(folder: Path, labels: list[Any]) -> str:
    """Real digits, and a table of their labels, some of which the training does not combine."""
    folder.mkdir()
    images = load_digits().images
    rows = []
    for index, label in enumerate(labels):
        Image.fromarray((images[index] * 15).astype(np.uint8)).save(folder / f"{index}.png")
        rows.append(json.dumps({"file_name": f"{index}.png", "label": label, "split": ["train", "test"][index >= 6]}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return str(folder)


def test_pictures_with_several_labels(tmp_path: Path) -> None:
    source = pictures(tmp_path / "p", ["a", "b", ["a", "c"], "", "c;b", "a", "a;b;c", None])
    data = ImageDataModule(source, separator=";", validation=0, batch_size=6)
    data.setup()
    assert (data.num_classes, data.class_names) == (3, ["a", "b", "c"])
    _, y = rows_of(data.test_dataloader())
    assert y.tolist() == [[1, 1, 1], [0, 0, 0]]
    _, y = rows_of(data.train_dataloader())
    assert sorted(y.tolist()) == sorted([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 1, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda _: TableDataModule("diabetes").setup(), "these are no classes.*`target='number'`"),
        (lambda _: TableDataModule("wine", target="number").setup(), r"'class_0' in row 1.*must hold finite numbers"),
        (lambda _: TableDataModule("wine", target="many"), "`target='many'`"),
        (lambda _: TableDataModule("diabetes", target="number", balance=True), "`balance` with `target='number'`"),
        (lambda _: TableDataModule("wine", normal=["red"]).setup(), r"normal=\['red'\].*class_0, class_1, class_2"),
        (lambda _: ImageDataModule("digits", normal=range(10)).setup(), "not all of them"),
        (lambda _: ImageDataModule("digits", separator=";").setup(), "`separator=';'` with `source='digits'`"),
        (lambda _: ImageDataModule("digits", separator=";", balance=True), "one class each"),
        (
            lambda path: ImageDataModule(
                pictures(path / "q", ["a", "b", "a", "b", "a", "b", "z"]), separator=";"
            ).setup(),
            "test split.*'z', which no training row has",
        ),
        (
            lambda path: ImageDataModule(pictures(path / "r", ["a"] * 7), separator=";").setup(),
            "holds 1 different labels",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        build(tmp_path)
