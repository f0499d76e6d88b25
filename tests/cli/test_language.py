"""Language models on the command line: what is wrong costs one line, what is predicted can be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import ff_lightning as ff
from ff_lightning.cli import main
from ff_lightning.cli.parser import shorten
from ff_lightning.cli.train import prediction_lines
from ff_lightning.data import ByteTokenizer, CharacterTokenizer, TextDataModule
from tests.command_line import QUIET, SMALL, configs, error_of

NETWORK = "--model.network"
LOSS = [f"{NETWORK}.loss", "ff_lightning.candidates.LinearContrast", f"{NETWORK}.loss.negatives"]
SLEEP = ["--model.rollouts", "ff_lightning.language.rollouts.SleepBuffer", "--model.rollouts.prefix", "[2, 4]"]
BPE = ["--data.tokenizer", "ff_lightning.data.TiktokenTokenizer", "--data.tokenizer.name"]


TEXT = [*configs("pydoc_gpt", "with/smoke"), *SMALL, "--data.batch_size", "2"]


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def checkpoints(digits_run: Path, text_run: Path) -> dict[str, str]:
    """The checkpoint of a language model and that of a classifier."""
    return {"text": str(text_run / "last.ckpt"), "digits": str(digits_run / "last.ckpt")}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--data.source", "empty.txt"], "Passed `source='empty.txt'`. The train text of it is empty"),
        (["--data.source", "short.txt"], "A text of 4 tokens is shorter than a window of `context=24` tokens"),
        (
            ["--data.tokenizer", "words"],
            "Passed `tokenizer='words'`. It must be 'characters', 'bytes', 'bpe:N'",
        ),
        (["--data.tokenizer", "ff_lightning.data.Words"], "Passed `tokenizer='ff_lightning.data.Words'`. It must be"),
        ([*BPE, "gpt5"], "Passed `TiktokenTokenizer(name='gpt5')`. `name` must be one of gpt2, "),
        (
            ["--data.tokenizer", "ff_lightning.data.CharacterTokenizer", "--data.tokenizer.characters", "abc"],
            "(U+0054)",
        ),
        ([*LOSS, "0"], "Passed `negatives=0`. `negatives` must be a whole number, 1 or more."),
        ([*LOSS, "-3"], "Passed `negatives=-3`."),
        ([f"{NETWORK}.layers", "3", f"{NETWORK}.layers_per_block", "2"], "Passed `layers=3, layers_per_block=2`."),
        ([f"{NETWORK}.heads", "3"], "Passed `width=32, heads=3`."),
        ([f"{NETWORK}.dream_weight", "-1"], "Passed `dream_weight=-1.0`."),
        ([f"{NETWORK}.dream_weight", "0.1"], "Passed `rollouts=None` with a network that contrasts"),
        ([*SLEEP, "--model.rollouts.context", "24"], "Passed `rollouts` with a network that does not judge sequences."),
        (
            [*SLEEP, "--model.rollouts.context", "25", f"{NETWORK}.dream_weight", "0.1"],
            "Passed `rollouts` with `context=25` for a network of `context=24`.",
        ),
    ],
)
def test_what_cannot_work_is_said_in_one_line(args: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.txt").touch()
    Path("short.txt").write_text("three short words " * 2)
    assert says in error_of(capsys, "fit", *TEXT, *QUIET, *args)
    assert not list(Path().rglob("*.ckpt"))


def test_a_missing_encoding_names_the_variable_to_set(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")  # where nobody answers
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    assert "Set the environment variable TIKTOKEN_CACHE_DIR" in error_of(
        capsys, "fit", *TEXT, *QUIET, *BPE, "p50k_base"
    )


@pytest.mark.parametrize(
    ("checkpoint", "args", "says"),
    [
        ("text", [f"{NETWORK}.width", "16"], "It does not fit `FFLanguageModel` as the recipe builds it: "),
        ("text", [f"{NETWORK}.layers", "4"], "`network.blocks.2.layer.layers.0.attention_taps.weight` is missing"),
        ("text", configs("with/twin"), "It does not fit `TextTwin` as the recipe builds it: "),
        ("text", ["--data.source", "other.txt"], "for a vocabulary of 1"),
        ("text", ["--data.source", "same.txt"], "trained with another vocabulary than that of 'same.txt'"),
        ("digits", [], "`network.prior` is missing"),
    ],
)
@pytest.mark.parametrize("subcommand", ["fit", "validate"])
def test_a_checkpoint_of_something_else_is_refused(
    subcommand: str,
    checkpoint: str,
    args: list[str],
    says: str,
    checkpoints: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    size = TextDataModule().vocab_size
    Path("other.txt").write_text("words " * 100)
    Path("same.txt").write_text("".join(map(chr, range(200, 200 + size))) * 20)
    path = ["--ckpt_path", checkpoints[checkpoint]]
    assert says in error_of(capsys, subcommand, *TEXT, *QUIET, *path, *args)


@pytest.mark.parametrize(
    ("checkpoint", "args", "says"),
    [
        ("digits", [], "not of a language model that was trained on a text"),
        ("text", ["--prompt", "a" * 25], "It must be (B, T) with T, its tokens, from 1 to `context=24`"),
        ("text", ["--prompt", "ï"], "The text has 'ï' (U+00EF) at position 0"),
        ("text", ["--temperature", "0"], "Passed `temperature=0.0`. `temperature` must be positive"),
    ],
)
def test_what_cannot_be_continued_is_refused(
    checkpoint: str, args: list[str], says: str, checkpoints: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = ["--ckpt_path", checkpoints[checkpoint]]
    assert says in error_of(capsys, "generate", *path, *args)


def test_an_unknown_class_is_no_riddle() -> None:
    message = """Parser key "data":
  - Expected a path but words either not accessible
  - Expected a dot import path string: words"""
    assert shorten(message) == "`--data`: 'words' is not the dotted path of a class"


def predict(checkpoint: str, *args: str) -> Path:
    """The folder that predictions are written to."""
    words = ["--trainer.default_root_dir", "here", "--ckpt_path", checkpoint]
    assert main(["predict", *TEXT, *QUIET, *words, *args]) == 0
    return Path("here/predict")


def test_predict_writes_the_likeliest_tokens_as_text(
    checkpoints: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = predict(checkpoints["text"], "--trainer.precision", "32-true", "--data.eval_batch_size", "3")
    path = folder / "predictions.jsonl"
    assert f"Wrote {path}" in caplog.text
    written = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    data = TextDataModule(context=24, eval_batch_size=6)  # two batches of three windows
    data.setup("validate")
    model = ff.FFLanguageModel.load_from_checkpoint(checkpoints["text"]).eval()
    tokens = model.predict_step(next(iter(data.val_dataloader())), 0)
    assert written == [data.tokenizer.decode(row) for row in tokens]
    assert {len(text) for text in written} == {24}


def test_predict_without_windows_says_that_nothing_is_written(
    checkpoints: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.warns(UserWarning, match="across ranks is zero"):
        folder = predict(checkpoints["text"], "--data.validation", "0")
    assert "Wrote no predictions" in caplog.text
    assert not list(folder.glob("*.jsonl"))


def test_lines_of_predictions() -> None:
    classes, rows = torch.tensor([3, 1]), torch.tensor([[97, 10], [98, 34]])
    assert prediction_lines([classes, classes[:1]]) == ("csv", ["prediction", "3", "1", "3"])
    assert prediction_lines([rows, rows[:1]]) == ("jsonl", ["[97, 10]", "[98, 34]", "[97, 10]"])
    assert prediction_lines([rows], ByteTokenizer()) == ("jsonl", [r'"a\n"', r'"b\""'])
    assert prediction_lines([torch.tensor([[1, 0]])], CharacterTokenizer("☃é")) == ("jsonl", ['"é☃"'])
    for other in ([], [rows.float()], [rows, classes], [[classes]], [torch.zeros(2, 2, 2).long()]):
        assert prediction_lines(other) == ("", [])


def test_what_a_recipe_brings_prints_below_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    samples = ["--trainer.callbacks+=ff_lightning.callbacks.SampleText", "--trainer.callbacks.max_new_tokens", "5"]
    assert main(["fit", *TEXT, *samples]) == 0
    shown = capsys.readouterr().out
    assert shown.rindex("Epoch 0/0") < shown.index("After 2 updates") < shown.index("Validation after 2 updates")
    assert Path("runs/pydoc_gpt-smoke/samples.txt").read_text().startswith("=== after 2 updates ===")
