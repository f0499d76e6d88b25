from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

import ff_lightning as ff
from ff_lightning.callbacks import BlockTable
from ff_lightning.callbacks.table import block_table
from tests.training import ADAM, classifier, loader, mlp, trainer


def text(values: dict[str, float], stage: str = "val", blocks: int = 2) -> list[list[str]]:
    """Cells of the rows of a table, heading first."""
    table = block_table(values, stage, blocks=blocks, title="T")
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def test_rows_are_blocks_and_the_last_one_is_the_readout() -> None:
    values = {
        "val/accuracy": 0.975,
        "val/accuracy/block_1": 0.9,
        "val/accuracy/block_0": 0.8,
        "val/separation/block_0": 0.5,
        "val/separation/block_1": 0.75,
        "val/goodness_gap/block_0": 0.123456,
        "val/goodness_gap/block_1": 2.0,
        "train/loss/block_0": 0.5,
        "train/loss/block_1": 0.25,
        "train/loss": 0.75,
        "train/separation/block_0": 0.99,
        "lr-Adam": 0.1,
    }
    assert text(values) == [
        ["", "train loss", "separation", "goodness gap", "accuracy"],
        ["block 0", "0.5", "50.00 %", "0.1235", "80.00 %"],
        ["block 1", "0.25", "75.00 %", "2", "90.00 %"],
        ["readout", "", "", "", "97.50 %"],
    ]


def test_training_fills_in_where_blocks_are_not_evaluated() -> None:
    values = {
        "val/accuracy": 0.9,
        "train/separation/block_0": 0.7,
        "train/loss/block_0": 1.0,
        "train/loss/block_1": 2.0,
    }
    assert text(values, blocks=1) == [
        ["", "train loss", "train separation", "accuracy"],
        ["block 0", "1", "70.00 %", ""],
        ["readout", "2", "", "90.00 %"],
    ]


def test_a_network_without_local_losses_has_one_row() -> None:
    assert text({"val/accuracy": 0.9, "train/loss/block_0": 0.1}, blocks=0) == [
        ["", "train loss", "accuracy"],
        ["whole network", "0.1", "90.00 %"],
    ]


def test_other_values_of_a_task_get_a_column() -> None:
    assert text({"test/auroc": 0.5}, "test") == [["", "auroc"], ["whole network", "0.5"]]


def test_nothing_logged_gives_no_table() -> None:
    assert not block_table({"epoch": 3.0}, "val", blocks=2, title="T").columns


def test_it_is_shown_after_fit_validate_and_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, run = classifier(depth=2), trainer(tmp_path, callbacks=[BlockTable()])
    data = loader(200, 100)
    run.fit(module, data, data)
    fitted = capsys.readouterr().out
    run.validate(module, data, verbose=False)
    validated = capsys.readouterr().out
    run.test(module, data, verbose=False)
    tested = capsys.readouterr().out
    assert [out.count("block 1") for out in (fitted, validated, tested)] == [1, 1, 1]
    assert "Validation after epoch 1" in fitted
    assert "Validation" in validated
    assert "Test" in tested


def test_it_is_shown_for_a_twin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = loader(200, 100)
    trainer(tmp_path, callbacks=[BlockTable()]).fit(ff.BackpropTwin(mlp(), optimizer=ADAM), data, data)
    out = capsys.readouterr().out
    assert "whole network" in out
    assert "block" not in out


def test_it_fits_into_80_columns() -> None:
    names = ["train/loss", "val/separation", "val/goodness_gap", "val/accuracy"]
    values = {f"{name}/block_{index}": 0.123456 for name in names for index in range(3)} | {"val/accuracy": 0.5}
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(block_table(values, "val", blocks=3, title="T"))
    shown = console.export_text()
    assert "goodness gap" in shown
    assert "…" not in shown
