"""Precision, recall and F1 by class, in the log, in a table, and in the record."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support, top_k_accuracy_score

import ff_lightning as ff
from ff_lightning.callbacks import ClassTable
from ff_lightning.callbacks.classes import by_class, class_table
from ff_lightning.data import ImageDataModule
from ff_lightning.report.records import add_to_record, read_record
from tests.training import ADAM, mlp, trainer


def test_a_test_logs_what_scikit_learn_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, data = ff.FFClassifier(mlp(1, 64), optimizer=ADAM), ImageDataModule("digits")
    run = trainer(tmp_path, max_epochs=2, callbacks=[ClassTable()])
    run.fit(module, data)
    assert 0 < run.callback_metrics["val/f1"] < 1
    assert "val/f1/3" not in run.callback_metrics
    add_to_record(tmp_path, "run", {})
    run.test(module, data, verbose=False)
    logged = run.callback_metrics
    ((x, y),) = data.test_dataloader()
    with torch.no_grad():
        scores = module.eval()(x)
    expected = precision_recall_fscore_support(y, scores.argmax(1), zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        assert [float(logged[f"test/{name}/{digit}"]) for digit in range(10)] == pytest.approx(
            values.tolist(), abs=1e-5
        )
        assert float(logged[f"test/{name}"]) == pytest.approx(values.mean(), abs=1e-5)
    assert float(logged["test/top_5"]) == pytest.approx(top_k_accuracy_score(y, scores, k=5), abs=1e-5)
    assert "Test, by class" in capsys.readouterr().out


def test_the_table_is_kept_in_the_record_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"run": {}}')
    run = trainer(tmp_path, callbacks=[ClassTable()])
    run.test(ff.FFClassifier(mlp(1, 8)), ImageDataModule("digits"), verbose=False)
    table = read_record(tmp_path)["tables"]["classes"]
    assert table["columns"] == ["", "count", "precision", "recall", "f1"]
    assert sum(int(row[1]) for row in table["rows"]) == 360


def test_of_many_classes_the_weakest_are_shown() -> None:
    confusion = torch.diag(torch.arange(1, 31))
    confusion[7, 8] = 100
    table = class_table([f"c{n}" for n in range(30)], by_class(confusion), confusion.sum(1), title="Test")
    assert len(table.rows) == 20
    assert next(iter(table.columns[0].cells)) == "c7"
    assert "the 20 weakest of 30 classes" in str(table.title)


def test_a_class_that_does_not_occur_has_zeros() -> None:
    values = by_class(torch.tensor([[3, 1], [0, 0]]))
    assert values["recall"].tolist() == [0.75, 0.0]
    assert values["precision"].tolist() == [1.0, 0.0]
