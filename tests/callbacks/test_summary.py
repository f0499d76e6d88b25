"""What is said of a network before its training, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonargparse import Namespace
from rich.table import Table

import ff_lightning as ff
from ff_lightning.callbacks.summary import BlockSummary, summary_table
from ff_lightning.cli import main
from ff_lightning.cli.callbacks import default_callbacks
from ff_lightning.engine.costs import counted
from ff_lightning.networks import MLP
from ff_lightning.readouts import LinearReadout
from tests.texts import gpt
from tests.training import assert_same_weights, classifier, loader, trainer, weights

RECIPES = Path(__file__).parents[2] / "recipes"


def cells(table: Table) -> list[tuple[str, ...]]:
    return list(zip(*(map(str, column.cells) for column in table.columns), strict=True))


def test_every_local_module_has_a_row() -> None:
    network = MLP(64, [20, 10], num_classes=10)
    module = ff.FFClassifier(network, readout=LinearReadout(30, 10))
    rows = cells(summary_table(module))
    assert rows[0] == ("block 0", "LabelledReLU", "MeanOfSquares", "SymBa", "1.3 K")
    assert [row[0] for row in rows] == ["block 0", "block 1", "", "all"]
    assert rows[2] == ("", "LinearReadout", "", "", "310  ")
    assert rows[-1][-1] == "1.8 K"


def test_what_a_step_costs_is_counted_and_changes_nothing(tmp_path: Path) -> None:
    module, plain = classifier(depth=2), classifier(depth=2)
    with counted(module.local_modules()) as costs:
        trainer(tmp_path, max_steps=1).fit(module, loader(50, 50))
    trainer(tmp_path, max_steps=1).fit(plain, loader(50, 50))
    assert_same_weights(weights(module), weights(plain))
    cost, layer = costs[1], module.network[1].layer.linear
    rows, activations = 2 * 50, layer.out_features * 2 * 50 * 4
    assert cost.operations == 2 * rows * layer.in_features * layer.out_features, "positives and negatives"
    image = module.network[0].layer.image
    assert costs[0].operations == 2 * 50 * image.in_features * image.out_features, "of an image once, for all labels"
    assert "image_part" not in vars(module.network[0].layer)
    assert activations <= cost.kept_bytes <= 4 * activations
    table = summary_table(module, costs)
    assert [str(column.header) for column in table.columns][-2:] == ["FLOPs", "kept"]


def test_a_twin_is_one_row() -> None:
    rows = cells(summary_table(ff.BackpropTwin(MLP(64, [20, 10], num_classes=10))))
    assert len(rows) == 2
    assert rows[0][0] == ""


def test_a_language_model_names_its_contrast() -> None:
    rows = cells(summary_table(ff.FFLanguageModel(gpt())))
    assert [row[3] for row in rows] == 3 * ["LinearContrast"] + [""]


def test_the_command_line_shows_it_and_no_advertisement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = ["fit", "--config", str(RECIPES / "digits_mlp.yaml"), "--config", str(RECIPES / "with/smoke.yaml")]
    assert main([*words, "--trainer.default_root_dir", str(tmp_path)]) == 0
    out = capsys.readouterr()
    assert "what learns by itself" in out.out
    assert "GPU available" in caplog.text, "Lightning's messages are heard at all"
    assert not any(part in caplog.text + out.out + out.err for part in ("litlogger", "TPU available"))
    assert out.out.count("what learns by itself") == 1
    assert "bytes of activations" in out.out


@pytest.mark.parametrize("given", [None, True, False])
def test_it_is_left_out_where_something_is_said_of_summaries(given: bool | None) -> None:
    trainer = Namespace(
        callbacks=None, enable_progress_bar=False, logger=False, enable_checkpointing=False, enable_model_summary=given
    )
    assert any(isinstance(callback, BlockSummary) for callback in default_callbacks(trainer)) == (given is None)
