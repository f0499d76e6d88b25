"""Tables of numbers and categories, as users have them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, load_wine

import ff_lightning as ff
from ff_lightning.data import TableDataModule
from ff_lightning.data.columns import Columns
from ff_lightning.errors import InputError
from ff_lightning.losses import SymBa
from ff_lightning.networks import MLP

IRIS = load_iris()


def write(path: Path, rows: range | list[int] = range(150), **columns: Callable[[int], Any]) -> Path:
    """Write flowers, with more columns if asked for."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["length", "width", "kind", *columns])
        for row in rows:
            own = [of(row) for of in columns.values()]
            table.writerow([*IRIS.data[row][:2], IRIS.target_names[IRIS.target[row]], *own])
    return path


def ready(source: Path | str, **options: Any) -> TableDataModule:
    data = TableDataModule(str(source), **options)
    data.setup()
    return data


def test_numbers_are_standardised_by_the_training_rows() -> None:
    data = ready("wine", validation=18, test=36, batch_size=124)
    ((x, y),) = data.train_dataloader()
    assert (x.shape, x.dtype, y.dtype) == ((124, 13), torch.float32, torch.int64)
    assert torch.allclose(x.mean(0), torch.zeros(13), atol=1e-5)
    assert torch.allclose(x.std(0, unbiased=False), torch.ones(13), atol=1e-5)
    column = data.columns.columns[3]
    rows = [int(name.split()[1]) - 1 for name in data.row_names("test", range(36))]
    ((test, classes),) = data.test_dataloader()
    expected = (load_wine().data[rows, 3] - column.mean) / column.deviation
    assert np.allclose(test[:, 3], expected, atol=1e-5)
    assert classes.tolist() == load_wine().target[rows].tolist()
    shares = classes.bincount().numpy() / np.bincount(load_wine().target)
    assert shares.max() - shares.min() < 0.03  # every class has its share


def test_texts_become_categories_and_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "a.csv", colour=lambda row: ["red", "blue", "10", "9"][row % 4], name=lambda row: f"n{row}")
    with caplog.at_level("INFO"):
        data = ready(file, target_column="kind", leave_out=["name"])
    assert data.in_features == 2 + 4
    assert data.columns.columns[2].categories == ["9", "10", "blue", "red"]
    assert data.class_names == sorted(IRIS.target_names)
    (_, *_, (x, _)) = data.train_dataloader()
    assert (x[:, 2:].sum(1) == 1).all()
    assert "rows of 3 classes, 6 numbers each. Left out: the columns name." in caplog.text


def test_splits_are_files_called_after_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    order = np.random.default_rng(0).permutation(150).tolist()
    write(tmp_path / "t/train.csv", order[:100], spot=lambda row: "a")
    write(tmp_path / "t/dev.csv", order[100:120], spot=lambda row: "b")
    write(tmp_path / "t/test.csv", order[120:], spot=lambda row: "a")
    with caplog.at_level("INFO"):
        data = ready(tmp_path / "t", target_column="kind")
    sizes = {split: len(images) for split, images in data._splits.items()}
    assert sizes == {"train": 100, "validation": 20, "test": 30}
    assert "20 values of 'spot' occur in no training row" in caplog.text
    assert data.row_names("validation", [0, 19]) == ["row 1", "row 20"]


def test_missing_values_are_refused_or_become_the_mean(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", height=lambda row: ["", "1", "3", "NA"][row % 4])
    with pytest.raises(InputError, match=r"column 'height' of .* has no value in row 1; 75 of 150 are missing. Pass"):
        ready(file, target_column="kind")
    data = ready(file, target_column="kind", missing="mean", batch_size=1000)
    ((x, _),) = data.train_dataloader()
    assert data.columns.columns[2].mean == pytest.approx(2, abs=0.2)
    assert x[:, 2].unique().numel() == 3
    assert (x[:, 2] == 0).any()


def test_what_is_kept_makes_the_same_numbers() -> None:
    data = ready("iris")
    rows = [dict(zip(IRIS.feature_names, values, strict=True)) for values in IRIS.data[:5].tolist()]
    again = Columns.from_dict(data.columns.to_dict())
    assert torch.equal(again.features(rows, "x"), data.columns.features(rows, "x"))
    data.load_state_dict(data.state_dict())
    with pytest.raises(InputError, match="trained with other columns, classes or training rows"):
        ready("iris", split_seed=1).load_state_dict(data.state_dict())


def test_parquet_and_json_lines_say_the_same(tmp_path: Path) -> None:
    import datasets

    with write(tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = datasets.Dataset.from_list([{**row, "length": float(row["length"])} for row in rows])
    table.to_parquet(tmp_path / "b.parquet")
    table.to_json(tmp_path / "c.jsonl")
    found = [ready(tmp_path / name, target_column="kind", batch_size=999) for name in ("a.csv", "b.parquet", "c.jsonl")]
    batches = [next(iter(data.train_dataloader()))[0] for data in found]
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[2])


@pytest.mark.parametrize(
    ("columns", "options", "says"),
    [
        ({}, {}, r"Passed `target_column=None`. The columns of .* are length, width, kind. It must be the one"),
        ({}, {"target_column": "class"}, "Passed `target_column='class'`"),
        (
            {},
            {"target_column": "length"},
            r"column 'length' of .* different numbers, such as [\d.]+: these are no classes",
        ),
        ({"n": lambda row: f"n{row}"}, {"target_column": "kind"}, r"'n' of .* holds \d+ different texts, such as 'n0'"),
        ({}, {"target_column": "kind", "leave_out": ["nothing"]}, r"Passed `leave_out=\['nothing'\]`. The columns"),
        ({}, {"target_column": "kind", "leave_out": ["length", "width"]}, "has no column beside 'kind'"),
        (
            {},
            {"target_column": "kind", "test": 150},
            r"Passed `TableDataModule\(test=150, validation=0.1\)`. Of 150 rows this leaves 0 for training, 150",
        ),
        (
            {},
            {"target_column": "kind", "test": 140, "validation": 20},
            r"Of 150 rows .* 0 for training, 140 for test and 20",
        ),
        ({"one": lambda row: "same"}, {"target_column": "one"}, "holds one class alone, 'same'"),
    ],
)
def test_tables_that_cannot_work(columns: dict[str, Any], options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        ready(write(tmp_path / "a.csv", **columns), **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"source": "vine"}, "Passed `source='vine'`. It must be a table"),
        ({"test": 1.5}, "Passed `TableDataModule.test=1.5.`. `test` must be a share"),
        ({"missing": "drop"}, "Passed `missing='drop'`"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"encoding": "nope"}, "Passed `encoding='nope'`. It must be one that Python knows"),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        TableDataModule(**options).setup()


def paragraphs() -> list[dict[str, str]]:
    """Paragraphs of four pages of the language reference, with the page that they are of."""
    pages = ("specialnames", "compound", "formatstrings", "import")
    return [
        {"text": text, "page": page} for page in pages for text in topics[page].split("\n\n") if len(text.split()) > 8
    ]


def test_labelled_texts_are_classified_by_their_words(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in paragraphs()))
    options: dict[str, Any] = {"target_column": "page", "text_columns": ["text"], "most_words": 300}
    data = ready(tmp_path / "texts.jsonl", **options)
    assert (data.in_features, data.num_classes) == (300, 4)
    pl.seed_everything(0)
    network = MLP(300, [64, 64], num_classes=4, overlay=False, label_scale=3.0, loss=SymBa(4.0))
    module = ff.FFClassifier(network, num_classes=4, optimizer=partial(torch.optim.Adam, lr=3e-3))
    run = pl.Trainer(
        max_epochs=15, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    run.fit(module, data)
    ((_, y),) = data.test_dataloader()
    assert run.test(module, data, verbose=False)[0]["test/accuracy"] > float(y.bincount().max() / len(y)) + 0.1
    rows = [{"text": row["text"]} for row in paragraphs()[:3]]
    again = Columns.from_dict(json.loads(json.dumps(data.columns.to_dict())))
    assert torch.equal(again.features(rows, "x"), data.columns.features(rows, "x"))
    assert again.features([{"text": ""}], "x").abs().sum() == 0
    with pytest.raises(InputError, match=r"Passed `text_columns=\['words'\]`. The columns of .* are text, page"):
        ready(tmp_path / "texts.jsonl", target_column="page", text_columns=["words"])


def test_a_test_table_without_classes_is_left_to_predict(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "t/train.csv")
    (tmp_path / "t/test.csv").write_text("length,width\n1,2\n")
    with caplog.at_level("INFO"):
        data = ready(tmp_path / "t", target_column="kind")
    assert "the test table, which has no column 'kind'. `predict --table` takes it" in caplog.text
    assert len(data._splits["test"]) == 30  # cut from the training rows instead


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", r"has no value in row 8; 1 of 150 are missing. Pass `missing='mean'`"),
        ("inf", "holds inf in row 8, which is no finite number; 1 rows are like it. Correct it"),
        ("oops", "holds numbers and texts: 149 of 150 values of 'x' are numbers, row 8 is 'oops'"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_wrong_value_is_named_by_its_row_of_the_file(value: str, says: str, seed: int, tmp_path: Path) -> None:
    """Whether it is drawn for the training or for the test."""
    file = write(tmp_path / "a.csv", x=lambda row: value if row == 7 else row / 7)
    with pytest.raises(InputError, match=f"The column 'x' of .* {says}"):
        ready(file, target_column="kind", test=0.5, split_seed=seed)


def test_a_wrong_value_of_another_file_is_named_by_its_row(tmp_path: Path) -> None:
    write(tmp_path / "t/train.csv", x=lambda row: row)
    write(tmp_path / "t/test.csv", x=lambda row: "oops" if row == 3 else row)
    with pytest.raises(InputError, match=r"'x' of .* holds 'oops' in row 4, and its training values are numbers"):
        ready(tmp_path / "t", target_column="kind")
    write(tmp_path / "t/test.csv", x=lambda row: "" if row == 3 else row)
    with pytest.raises(InputError, match=r"'x' of .* no value in row 4; .* Fill them in, .* or train with `missing="):
        ready(tmp_path / "t", target_column="kind")


def test_a_column_of_texts_that_holds_numbers_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "a.csv", rooms=lambda row: "5+" if row % 5 == 4 else row % 5)
    with caplog.at_level("INFO"):
        assert ready(file, target_column="kind").in_features == 2 + 5
    assert (
        "numbers each. 120 of 150 values of 'rooms' are numbers, row 5 is '5+': all are read as texts." in caplog.text
    )


def test_columns_of_later_rows_count(tmp_path: Path) -> None:
    rows = [{"a": row, "kind": "yes" if row % 2 else "no"} | ({"b": row} if row > 2 else {}) for row in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=r"'b' of .* has no value in row 1; 3 of 40 are missing"):
        ready(tmp_path / "a.jsonl", target_column="kind")
    data = ready(tmp_path / "a.jsonl", target_column="kind", missing="mean", validation=1)
    assert [column.name for column in data.columns.columns] == ["a", "b"]
    found = data.columns.features([{"a": 1}, {"a": 2, "b": 3}], "x")
    assert found[0, 1] == 0  # the mean


def test_columns_that_training_rows_lack_are_left_out_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "t/train.csv")
    write(tmp_path / "t/test.csv", note=lambda row: "x")
    with caplog.at_level("INFO"):
        assert ready(tmp_path / "t", target_column="kind").in_features == 2
    assert "the columns note, which no training row has." in caplog.text


def test_missing_classes_are_not_filled(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", grade=lambda row: "" if row == 7 else "ab"[row % 2])
    for missing in ("refuse", "mean"):
        with pytest.raises(InputError, match=r"'grade' of .* row 8; 1 of 150 are missing. Leave out the rows, or name"):
            ready(file, target_column="grade", missing=missing)


def parquet_of(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table([[1, 2], [3, 4], [5, 6]], names=["a", "b", "a"]), path)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("x.csv", lambda path: path.write_text("a,b,a\n1,2,3\n")),
        ("x.jsonl", lambda path: path.write_text('{"a": 1, "b": 2, "a": 3}\n')),
        ("x.json", lambda path: path.write_text('[{"a": 1, "b": 2, "a": 3}]')),
        ("x.parquet", parquet_of),
    ],
)
def test_two_columns_of_one_name_are_refused(name: str, make: Callable[[Path], Any], tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises(InputError, match=f"Cannot read the table .*{name}'.* 2 columns are called 'a'; give each a"):
        ready(tmp_path / name, target_column="b")


def test_numbers_beyond_a_deviation_are_refused_without_a_warning(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", x=lambda row: row * 1e300)
    with pytest.raises(InputError, match=r"'x' of .* holds numbers up to 1.4\d+e\+302, too large"):
        ready(file, target_column="kind")


def test_files_called_after_no_split_are_left_out_beside_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train", "holdout", "gender_submission"):
        write(tmp_path / "t" / f"{name}.csv")
    with caplog.at_level("INFO"):
        data = ready(tmp_path / "t", target_column="kind", validation=0, test=0)
    assert len(data._splits["train"]) == 150
    said = "Left out: 2 called after no split, beside those called train (gender_submission.csv, holdout.csv)."
    assert f"Reading {tmp_path / 't'}. {said}" in caplog.text
    (tmp_path / "t" / "train.csv").unlink()
    assert len(ready(tmp_path / "t", target_column="kind", validation=0, test=0)._splits["train"]) == 300


def test_a_share_of_a_split_with_a_file_is_said_to_be_unused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train", "dev", "test"):
        write(tmp_path / "t" / f"{name}.csv")
    with caplog.at_level("INFO"):
        data = ready(tmp_path / "t", target_column="kind", validation=0.3, test=0.5)
    assert {split: len(images) for split, images in data._splits.items()} == dict.fromkeys(data._splits, 150)
    assert f"The test rows are those of {str(tmp_path / 't')!r}; `test=0.5` is unused." in caplog.text
    assert f"The validation rows are those of {str(tmp_path / 't')!r}; `validation=0.3` is unused." in caplog.text


def test_columns_are_learned_of_normal_rows_alone(tmp_path: Path) -> None:
    data = ready("wine", normal=["class_0"], batch_size=1000)
    ((x, y),) = data.train_dataloader()
    assert not y.any()
    assert torch.allclose(x.mean(0), torch.zeros(13), atol=1e-5)
    assert torch.allclose(x.std(0, unbiased=False), torch.ones(13), atol=1e-5)
    kinds: dict[str, Any] = {
        "colour": lambda row: "red" if row < 50 else "blue",
        "note": lambda row: "small petals" if row < 50 else "large leaves",
    }
    file = write(tmp_path / "a.csv", **kinds)
    flowers = ready(file, target_column="kind", normal=["setosa"], text_columns=["note"])
    assert flowers.columns.columns[2].categories == ["red"]
    assert flowers.columns.columns[3].words == ["petals", "small"]


def test_overfitting_repeats_the_same_batches() -> None:
    data = ready("wine", batch_size=8)
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    data.trainer = pl.Trainer(overfit_batches=1, **options)
    first, again = (next(iter(data.train_dataloader())) for _ in range(2))
    assert len(first[0]) in (7, 8)
    assert len(first[1].unique()) > 1  # the file is sorted by class
    assert torch.equal(first[0], again[0])
    data.trainer = pl.Trainer(**options)
    loader = data.train_dataloader()
    assert not torch.equal(next(iter(loader))[0], next(iter(loader))[0])
