"""Samples of text during real short trainings: what is written, where it goes, and that nothing else changes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from torch import nn

from ff_lightning.callbacks import SampleText
from ff_lightning.callbacks.sample_text import JUDGED
from ff_lightning.data.text import TextDataModule
from ff_lightning.errors import InputError
from ff_lightning.language.floors import WittenBell
from ff_lightning.language.gpt import GPT
from ff_lightning.language.samples import distinct_n, ngram_loss
from ff_lightning.tasks.language import FFLanguageModel
from tests.texts import CONTEXT, FORMS, Batches, in_form, model
from tests.training import assert_same_weights, classifier, loader, trainer, weights

FIRST = CONTEXT // 2
NAMES = ["distinct_2", "distinct_4", "ngram_loss"]


def data() -> TextDataModule:
    return TextDataModule("pydoc", context=CONTEXT, batch_size=8, batches_per_epoch=3, validation=2000)


def train(tmp_path: Path, callback: SampleText | None, **flags: Any) -> tuple[FFLanguageModel, TextDataModule]:
    """Two epochs of three updates, each with dropout, which draws from torch's own randomness."""
    text = data()
    torch.manual_seed(0)
    network = GPT(text.vocab_size, width=16, layers=2, heads=2, context=CONTEXT)
    network[1].layer.layers[0].up = nn.Sequential(nn.Dropout(0.5), network[1].layer.layers[0].up)
    module = model(network=network)
    callbacks = [] if callback is None else [callback]
    trainer(tmp_path, **{"callbacks": callbacks, "max_epochs": 2} | flags).fit(module, text)
    return module, text


def test_the_training_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    ended = []
    for callback in (None, SampleText(max_new_tokens=20)):
        module, _ = train(tmp_path, callback)
        ended.append((weights(module), torch.get_rng_state()))
    assert (tmp_path / "samples.txt").is_file()
    assert_same_weights(ended[0][0], ended[1][0])
    assert torch.equal(ended[0][1], ended[1][1])


def test_samples_go_on_with_the_validation_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, text = train(tmp_path, SampleText(max_new_tokens=20, seed=3, temperature=0.9, top_k=5))
    kept = (tmp_path / "samples.txt").read_text()
    prompt = text.tokens("validation")[:FIRST]
    module.eval()
    tokens = module.generate(prompt.unsqueeze(0), 20, seed=3, temperature=0.9, top_k=5)[0]
    start, rest = (text.tokenizer.decode(part) for part in tokens.split([FIRST, 20]))
    assert kept.startswith(f"=== after 3 updates ===\n{start}|")
    assert kept.endswith(f"=== after 6 updates ===\n{start}|{rest}\n\n")
    assert kept.count("===\n") == 2
    shown = capsys.readouterr().out
    assert "After 6 updates" in shown
    assert start + rest in shown
    assert "After 3 updates" not in shown


def test_a_prompt_can_be_given(tmp_path: Path) -> None:
    module, text = train(tmp_path, SampleText("If the", max_new_tokens=5))
    module.eval()
    written = module.generate(text.tokenizer.encode("If the").unsqueeze(0), 5, seed=0)[0, 6:]
    assert (tmp_path / "samples.txt").read_text().endswith(f"If the|{text.tokenizer.decode(written)}\n\n")


def test_the_end_judges_samples_beside_real_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    module, text = train(tmp_path, SampleText(max_new_tokens=40, temperature=0.5), logger=logger)
    with (tmp_path / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["samples/ngram_loss"]]
    (row,) = logged
    assert row["step"] == "6"
    validation = text.tokens("validation")
    starts = torch.linspace(0, len(validation) - FIRST - 40, JUDGED).long()
    real = torch.stack([validation[start : start + FIRST + 40] for start in starts])
    module.eval()
    written = module.generate(real[:, :FIRST], 40, temperature=0.5, seed=0)
    counts = WittenBell(text.tokens("train"), order=4, vocab_size=text.vocab_size)
    shown = capsys.readouterr().out
    for name, rows in (("samples", written[:, FIRST:]), ("text", real[:, FIRST:])):
        values = distinct_n(rows, 2), distinct_n(rows, 4), ngram_loss(rows, counts)
        assert [float(row[f"{name}/{what}"]) for what in NAMES] == pytest.approx(values)
        assert f"{100 * values[0]:.2f} %" in shown
        assert f"{values[2]:.4f}" in shown
    assert float(row["samples/ngram_loss"]) > float(row["text/ngram_loss"]) + 0.5  # six updates teach little


def test_without_a_datamodule_samples_are_numbers_and_are_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = Batches(8, 8, 5000)
    trainer(tmp_path, callbacks=[SampleText(max_new_tokens=6)]).fit(model(), Batches(8, 8), batches)
    prompt, written = (tmp_path / "samples.txt").read_text().split("===\n")[1].split("|")
    assert prompt.split() == [str(int(token)) for token in next(iter(batches))[0, :FIRST]]
    assert len(written.split()) == 6
    assert "4-gram" not in capsys.readouterr().out


@pytest.mark.parametrize("form", FORMS)
def test_batches_may_have_any_form_that_the_task_takes(form: str, tmp_path: Path) -> None:
    batches = Batches(8, 8, 5000)
    run = trainer(tmp_path, callbacks=[SampleText(max_new_tokens=6)])
    run.fit(model(), Batches(8, 8), in_form(form, batches))
    prompt, _ = (tmp_path / "samples.txt").read_text().split("===\n")[1].split("|")
    assert prompt.split() == [str(int(token)) for token in next(iter(batches))[0, :FIRST]]


def test_a_resumed_training_appends_and_a_new_one_starts_afresh(tmp_path: Path) -> None:
    file = tmp_path / "samples.txt"
    file.write_text("of an earlier run")
    text = data()
    torch.manual_seed(0)
    module = model(network=GPT(text.vocab_size, width=16, layers=1, heads=2, context=CONTEXT))
    first = trainer(tmp_path, callbacks=[SampleText(max_new_tokens=5)])
    first.fit(module, text)
    first.save_checkpoint(tmp_path / "a.ckpt")
    assert file.read_text().startswith("=== after 3 updates ===")
    rest = trainer(tmp_path, callbacks=[SampleText(max_new_tokens=5)], max_epochs=2)
    rest.fit(module, data(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert [line for line in file.read_text().splitlines() if line.startswith("===")] == [
        "=== after 3 updates ===",
        "=== after 6 updates ===",
    ]


def test_nothing_is_written_of_sanity_checks_evaluations_and_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags: dict[str, Any] = {"callbacks": [SampleText(max_new_tokens=5)], "num_sanity_val_steps": 1}
    trainer(tmp_path, **flags, limit_train_batches=0).fit(model(), Batches(8, 8), Batches(8, 8))
    trainer(tmp_path, **flags).validate(model(), Batches(8, 8), verbose=False)
    images = loader(200, 100)
    trainer(tmp_path, **flags).fit(classifier(), images, images)
    assert not (tmp_path / "samples.txt").exists()
    assert capsys.readouterr().out == ""


def test_weights_and_biases_gets_a_table_that_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(project="test", save_dir=tmp_path, offline=True)
    train(tmp_path, SampleText(max_new_tokens=5), logger=logger)
    wandb.finish()
    tables = sorted(
        tmp_path.glob("wandb/offline-run-*/files/media/table/samples*.json"), key=lambda p: len(p.read_text())
    )
    rows = [json.loads(path.read_text()) for path in tables]
    assert [table["columns"] for table in rows] == [["step", "text"]] * 2
    assert [[step for step, _ in table["data"]] for table in rows] == [[3], [3, 6]]
    kept = (tmp_path / "samples.txt").read_text()
    assert all(written[:FIRST] + "|" + written[FIRST:] in kept for _, written in rows[1]["data"])


def test_tensorboard_gets_every_text(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="events")
    train(tmp_path, SampleText(max_new_tokens=5), logger=logger)
    logger.experiment.flush()
    written = b"".join(path.read_bytes() for path in (tmp_path / "events").glob("events*"))
    samples = (tmp_path / "samples.txt").read_text().split("===\n")[1:]
    texts = [sample.split("\n\n===")[0].replace("|", "", 1).rstrip("\n").encode() for sample in samples]
    assert len(texts) == 2
    assert all(text in written for text in texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0.*at least 1"),
        ({"max_new_tokens": True}, "max_new_tokens=True"),
        ({"temperature": 0.0}, r"temperature=0\.0"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 2.0}, r"top_p=2\.0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SampleText(**options)


@pytest.mark.parametrize(
    ("prompt", "message"), [("", r"\(1, 0\)"), (5 * "long", rf"\(1, 20\).*context={CONTEXT}"), ("\x00", "haracter")]
)
def test_a_bad_prompt_is_refused_before_the_first_update(prompt: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        train(tmp_path, SampleText(prompt))
    assert not (tmp_path / "samples.txt").exists()


def test_a_prompt_needs_a_tokenizer(tmp_path: Path) -> None:
    run = trainer(tmp_path, callbacks=[SampleText("The ")])
    with pytest.raises(InputError, match=r"prompt='The '.*without a datamodule that has a `tokenizer`"):
        run.fit(model(), Batches(8, 8))
