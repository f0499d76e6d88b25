"""The table of a language model, after real short trainings and evaluations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from rich.table import Table

from ff_lightning.callbacks import BlockTable, LanguageTable
from ff_lightning.callbacks.language_table import COUNTED, describe, language_table
from ff_lightning.candidates import LogisticContrast, Softmax
from ff_lightning.data.corpora import read_documents
from ff_lightning.data.text import TextDataModule
from ff_lightning.errors import InputError
from ff_lightning.language.floors import nats_per_token
from ff_lightning.language.frozen import frozen_nats
from ff_lightning.language.gpt import GPT
from ff_lightning.tasks.language import FFLanguageModel
from ff_lightning.tasks.twin import BackpropTwin
from tests.texts import CONTEXT, FORMS, MUON, Batches, gpt, in_form, model
from tests.training import classifier, loader, trainer


def data(source: str = "pydoc", **options: Any) -> TextDataModule:
    sizes = {"context": CONTEXT, "batch_size": 8, "validation": 2000, "batches_per_epoch": 4}
    return TextDataModule(source, **sizes | options)


def module(text: TextDataModule, **parts: Any) -> FFLanguageModel:
    torch.manual_seed(0)
    return model(network=GPT(text.vocab_size, width=16, layers=2, heads=2, context=CONTEXT, **parts))


def rows(shown: str) -> dict[str, list[str]]:
    """Cells of the rows of a printed table, by name."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    return {name: cells for name, *cells in lines}


def cells(table: Table) -> list[list[str]]:
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def test_after_a_training_blocks_stand_below_the_floors_of_counting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = data()
    run = trainer(tmp_path, callbacks=[BlockTable(), LanguageTable()], max_epochs=2)
    run.fit(module(text), text)
    shown = capsys.readouterr().out
    found = rows(shown)
    counted = nats_per_token(text.tokens("train"), text.tokens("validation")[:1985], vocab_size=text.vocab_size)
    floors = [math.log(text.vocab_size), *counted.values()]
    assert list(found) == [
        *("uniform", "unigram", "bigram", "trigram", "4-gram", "5-gram"),
        *("block 0", "up to block 1"),
    ]
    expected = [[f"{nats:.4f}", f"{nats / math.log(2):.4f}", ""] for nats in floors]
    assert list(found.values())[:6] == expected
    values = run.callback_metrics
    assert found["up to block 1"] == [
        f"{values['val/loss']:.4f}",
        f"{values['val/bits']:.4f}",
        f"{100 * values['val/accuracy']:.2f} %",
    ]
    assert found["block 0"][0] == f"{values['val/loss/block_0']:.4f}"
    assert "Validation after 8 updates: 1,984 tokens" in shown
    assert "T1: 2 layers, 1 in a block" in shown
    assert shown.count("block 0") == 1


@pytest.mark.parametrize("split", ["validation", "test"])
def test_after_an_evaluation_there_are_frozen_layers_too(
    split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (raw,) = read_documents("pydoc")
    (folder / "a.txt").write_text(raw[:20_000])
    (folder / "test.txt").write_text(raw[18_000:20_000])
    text = data(str(folder))
    run = trainer(tmp_path, callbacks=[LanguageTable(frozen_steps=3)])
    model = module(text)
    (run.validate if split == "validation" else run.test)(model, text, verbose=False)
    shown = capsys.readouterr().out
    found = rows(shown)
    scored = text.tokens(split)[:1985]
    frozen = frozen_nats(model.network, text.tokens("train"), scored, steps=3, batch_size=8)
    assert found["frozen random layers, readout of 3 steps"][0] == f"{frozen:.4f}"
    counted = nats_per_token(text.tokens("train"), scored, vocab_size=text.vocab_size)
    assert found["5-gram"][0] == f"{counted[5]:.4f}"
    assert f"{split.capitalize()}: 1,984 tokens" in shown


def test_floors_are_of_the_tokens_that_the_blocks_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = data(eval_batch_size=4)
    run = trainer(tmp_path, callbacks=[LanguageTable(frozen_steps=0)], limit_val_batches=3)
    run.validate(module(text), text, verbose=False)
    shown = capsys.readouterr().out
    seen = 3 * 4 * CONTEXT
    (first, *_), scored = text.val_dataloader(), text.tokens("validation")[: seen + 1]
    assert torch.equal(first.flatten()[:CONTEXT], scored[:CONTEXT])
    counted = nats_per_token(text.tokens("train"), scored, vocab_size=text.vocab_size)
    assert rows(shown)["5-gram"][0] == f"{counted[5]:.4f}"
    assert f"Validation: {seen} tokens" in shown
    assert "frozen" not in shown


def test_large_texts_are_counted_in_part_and_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert COUNTED == 20_000_000
    monkeypatch.setattr("ff_lightning.callbacks.language_table.COUNTED", 100_000)
    text = data()
    trainer(tmp_path, callbacks=[LanguageTable()]).fit(module(text), text)
    counted = nats_per_token(
        text.tokens("train")[:100_000], text.tokens("validation")[:1985], vocab_size=text.vocab_size
    )
    assert rows(capsys.readouterr().out)["4-gram, first 0.1 M tokens"][0] == f"{counted[4]:.4f}"


def test_without_a_datamodule_there_are_the_blocks_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(tmp_path, callbacks=[LanguageTable()])
    run.fit(model(), Batches(8, 8), Batches(8, 8, 5000))
    fitted = rows(capsys.readouterr().out)
    assert list(fitted) == ["block 0", "up to block 1", "up to block 2"]
    run.validate(model(), Batches(8, 8, 5000), verbose=False)
    assert list(rows(capsys.readouterr().out)) == list(fitted)


@pytest.mark.parametrize("form", FORMS)
def test_batches_may_have_any_form_that_the_task_takes(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trainer(tmp_path, callbacks=[LanguageTable()])
    run.validate(model(), in_form(form, Batches(12, 4, 5000)), verbose=False)
    assert f"Validation: {12 * CONTEXT} tokens" in capsys.readouterr().out


def test_a_training_without_validation_and_other_tasks_show_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(tmp_path, callbacks=[LanguageTable()]).fit(model(), Batches(8, 8))
    images = loader(200, 100)
    run = trainer(tmp_path, callbacks=[LanguageTable()])
    run.fit(classifier(), images, images)
    run.test(classifier(), images, verbose=False)
    assert capsys.readouterr().out == ""


class Broken(pl.Callback):
    """Breaks a training off after its validation."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise RuntimeError("broken off")


def test_a_broken_run_leaves_nothing_for_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = LanguageTable()
    with pytest.raises(RuntimeError, match="broken off"):
        trainer(tmp_path, callbacks=[table, Broken()]).fit(model(), Batches(8, 8), Batches(8, 8))
    capsys.readouterr()
    trainer(tmp_path, callbacks=[table]).fit(model(), Batches(8, 8))
    assert capsys.readouterr().out == ""


def test_the_line_below_names_tier_and_span() -> None:
    four = {"layers": 4, "layers_per_block": 2}
    assert describe(model(network=gpt())) == "T1: 3 layers, 1 in a block"
    assert describe(model(network=gpt(loss=LogisticContrast(4), **four))) == "T1: 4 layers, 2 in a block"
    assert describe(model(network=gpt(loss=Softmax(), **four))) == "T2: 4 layers, 2 in a block"
    assert describe(BackpropTwin(gpt(loss=Softmax()), optimizer=MUON)) == "backprop end to end: 3 layers"
    assert describe(model(network=gpt(layers=1))) == "T1: 1 layer, 1 in a block"


def test_the_twin_is_one_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin = BackpropTwin(gpt(), optimizer=MUON)
    trainer(tmp_path, callbacks=[LanguageTable()]).validate(twin, Batches(8, 8), verbose=False)
    shown = capsys.readouterr().out
    assert list(rows(shown)) == ["whole network"]
    assert "backprop end to end: 3 layers" in shown


def test_floors_stand_above_a_line_and_the_prediction_is_bold() -> None:
    table = language_table([("uniform", math.log(8), None)], [("block 0", math.log(2), 0.5)], title="T", caption="C")
    assert cells(table) == [
        ["", "nats", "bits", "accuracy"],
        ["uniform", "2.0794", "3.0000", ""],
        ["block 0", "0.6931", "1.0000", "50.00 %"],
    ]
    assert [row.end_section for row in table.rows] == [True, False]
    assert [row.style for row in table.rows] == ["", "bold"]


@pytest.mark.parametrize("steps", [-1, True, 1.5])
def test_a_number_of_steps_that_makes_no_sense_is_refused(steps: Any) -> None:
    with pytest.raises(InputError, match=rf"frozen_steps={steps}.*whole number"):
        LanguageTable(frozen_steps=steps)
