"""Recordings from folders to a table: training, pictures and prediction by the command line."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ff_lightning.cli import main
from ff_lightning.cli.recordings import windows
from ff_lightning.pretrained import save_pretrained
from tests.command_line import QUIET, configs, error_of
from tests.data.sounds import WORDS, encoded, tone, word_folders

TWO_WORDS = [
    *("--data.test", "0.2", "--data.validation", "0.25", "--data.batch_size", "8"),
    *("--trainer.check_val_every_n_epoch", "8", "--trainer.max_epochs", "8"),
]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a small classifier of two tones."""
    root = tmp_path_factory.mktemp("classifier")
    args = [
        *(*configs("fsdd_conv"), "--data.source", str(word_folders(root / "words"))),
        *("--model.network.widths", "[8, 8]", "--model.network.pool_after", "[0]"),
        *("--trainer.default_root_dir", str(root / "run")),
    ]
    assert main(["fit", *args, *TWO_WORDS, *QUIET]) == 0
    return root / "run"


@pytest.fixture(scope="module")
def spotter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a small spotter of two tones."""
    root = tmp_path_factory.mktemp("spotter")
    args = [
        *(*configs("fsdd_spotting"), "--data.source", str(word_folders(root / "words"))),
        *("--model.network.widths", "[16, 16, 16]", "--trainer.default_root_dir", str(root / "run")),
        *("--data.seconds", "0.6", "--data.strung.gap", "[0.3, 0.6]", "--data.strung.noise", "[15, 30]"),
    ]
    assert main(["fit", *args, *TWO_WORDS, *QUIET, "--trainer.max_epochs", "16"]) == 0
    return root / "run"


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """One recording of each word, and a long one of silence, low, silence, high, silence, at another rate."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for word, frequency in WORDS.items():
        (folder / f"{word}.wav").write_bytes(encoded(tone(frequency, seed=50)))
    hush = np.random.default_rng(0).normal(0, 0.01, 16000).astype(np.float32)
    pieces = [hush, tone(WORDS["low"], 0.4, 16000, 51), hush, tone(WORDS["high"], 0.4, 16000, 52), hush]
    (folder / "long.flac").write_bytes(encoded(np.concatenate(pieces), 16000, "FLAC"))
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_classifier_says_the_words_of_a_folder_and_when(classifier: Path, recordings: Path, tmp_path: Path) -> None:
    output = tmp_path / "said.csv"
    last = str(classifier / "last.ckpt")
    assert main(["predict", "--folder", str(recordings), "--ckpt_path", last, "--output", str(output)]) == 0
    rows = table(output)
    short = {Path(row["file"]).stem: row for row in rows if "long" not in row["file"]}
    assert {name: row["label"] for name, row in short.items()} == {"high": "high", "low": "low"}
    assert all((row["start"], row["end"]) == ("0.000", "0.400") for row in short.values())
    long = [row for row in rows if "long" in row["file"]]
    starts = [float(row["start"]) for row in long]
    assert starts == sorted(starts)
    assert float(long[-1]["end"]) == pytest.approx(3.8, abs=0.01)
    (low,) = (row for row in long if row["start"] == "0.800")  # hears the low tone from 1.0 to 1.4 alone
    assert low["label"] == "low"


def test_a_spotter_says_when_words_end(spotter: Path, recordings: Path, tmp_path: Path) -> None:
    output = tmp_path / "said.csv"
    last = str(spotter / "last.ckpt")
    for name, wave in (("sample", np.full(1, 0.5)), ("silence", np.zeros(4000))):
        (recordings / f"{name}.wav").write_bytes(encoded(wave.astype(np.float32)))
    assert main(["predict", "--folder", str(recordings), "--ckpt_path", last, "--output", str(output)]) == 0
    found = [row for row in table(output) if "long" in row["file"]]
    said = {row["label"]: float(row["end"]) for row in found}
    assert said["low"] == pytest.approx(1.4, abs=0.3)
    assert said["high"] == pytest.approx(2.8, abs=0.3)
    assert not [row for row in table(output) if Path(row["file"]).stem in ("sample", "silence")]


@pytest.mark.parametrize("run", ["classifier", "spotter"])
def test_a_shared_folder_hears_what_its_checkpoint_hears(
    run: str, recordings: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    last = str(request.getfixturevalue(run) / "last.ckpt")
    save_pretrained(last, tmp_path / "shared")
    tables = []
    for source in (last, str(tmp_path / "shared")):
        output = tmp_path / "said.csv"
        assert main(["predict", "--folder", str(recordings), "--ckpt_path", source, "--output", str(output)]) == 0
        tables.append(output.read_bytes())
    assert tables[0] == tables[1]


def test_pictures_show_what_blocks_hear(classifier: Path, spotter: Path) -> None:
    assert (classifier / "pictures" / "heard.png").stat().st_size > 10_000
    assert (spotter / "pictures" / "spotted.png").stat().st_size > 10_000


def test_what_cannot_be_heard_is_said_in_one_line(
    classifier: Path,
    recordings: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    call = ["predict", "--ckpt_path", str(classifier / "last.ckpt"), "--folder"]
    (recordings / "bad.wav").write_text("no sound")
    assert "bad.wav" in error_of(capsys, *call, str(recordings))
    (tmp_path / "empty").mkdir()
    assert "holds no recording" in error_of(capsys, *call, str(tmp_path / "empty"))
    assert "tolerance" in error_of(capsys, *call, str(recordings), "--tolerance", "0.1")
    assert not (tmp_path / "predictions.csv").exists()


@pytest.mark.parametrize("length", [1, 99, 100, 101, 250, 1000])
def test_windows_cover_a_recording(length: int) -> None:
    import torch

    cut, starts = windows(torch.arange(1, length + 1), 100)
    assert cut.shape == (len(starts), 100)
    assert set(range(1, length + 1)) == set(cut.unique().tolist()) - {0}
    if length > 100:
        assert all(after - before <= 50 for before, after in pairwise(starts))
        assert [int(window[0]) - 1 for window in cut] == starts
