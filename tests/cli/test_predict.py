"""`ff-lightning predict --folder`: a table of pictures, from a checkpoint alone."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_wine

import ff_lightning as ff
from ff_lightning.cli import main
from ff_lightning.data import ImageDataModule
from ff_lightning.pretrained import save_pretrained
from tests.command_line import QUIET, configs, error_of


@pytest.fixture
def checkpoint(digits_run: Path) -> str:
    return str(digits_run / "last.ckpt")


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Checkpoint of a twin of two updates."""
    folder = tmp_path_factory.mktemp("twin")
    words = [*configs("digits_mlp", "with/twin", "with/smoke"), *QUIET, "--trainer.default_root_dir", str(folder)]
    assert main(["fit", *words]) == 0
    return str(folder / "last.ckpt")


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, list[int]]:
    """A folder of 30 digits in several sizes and formats, and their classes in the order of their names."""
    folder, digits = tmp_path / "pictures", load_digits()
    (folder / "more").mkdir(parents=True)
    (folder / "readme.txt").write_text("digits")
    for index in range(30):
        image = Image.fromarray((digits.images[index] * 255 / 16).astype(np.uint8))
        if index >= 10:
            image = image.resize((80, 96), Image.Resampling.BICUBIC).convert("RGB")
        image.save(
            folder / ("more" if index >= 20 else "") / f"{index:02d}.{'png' if index % 2 else 'jpg'}", quality=95
        )
    return folder, digits.target[:30].tolist()


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_says_what_the_model_says(checkpoint: str, pictures: tuple[Path, list[int]], tmp_path: Path) -> None:
    folder, classes = pictures
    out = tmp_path / "new" / "out.csv"
    words = ["predict", "--folder", str(folder), "--ckpt_path", checkpoint, "--output", str(out)]
    assert main([*words, "--batch_size", "7"]) == 0
    rows = table(out)
    kinds = [f"{kind} {digit}" for kind in ("probability", "score") for digit in range(10)]
    assert list(rows[0]) == ["file", "label", "probability", "block", *kinds]
    assert [Path(row["file"]).stem for row in rows] == [f"{index:02d}" for index in range(30)]
    assert {row["block"] for row in rows} == {"2"}
    right = sum(int(row["label"]) == label for row, label in zip(rows, classes, strict=True))
    assert right >= 24
    model = ff.FFClassifier.load_from_checkpoint(checkpoint).eval()
    exact = torch.from_numpy(np.array(Image.open(folder / "01.png"))).float().view(1, 1, 8, 8) / 255
    scores = model(exact)[0]
    assert [float(rows[1][f"score {digit}"]) for digit in range(10)] == pytest.approx(scores.tolist(), rel=1e-4)
    assert int(rows[1]["label"]) == int(scores.argmax())
    assert float(rows[1]["probability"]) == pytest.approx(float(scores.softmax(0).max()), rel=1e-4)


def test_a_shared_folder_says_what_its_checkpoint_says(
    checkpoint: str, pictures: tuple[Path, list[int]], tmp_path: Path
) -> None:
    save_pretrained(checkpoint, tmp_path / "shared")
    tables = []
    for source in (checkpoint, str(tmp_path / "shared")):
        out = tmp_path / "out.csv"
        assert main(["predict", "--folder", str(pictures[0]), "--ckpt_path", source, "--output", str(out)]) == 0
        tables.append(out.read_bytes())
    assert tables[0] == tables[1]


def test_with_a_tolerance_easy_pictures_are_answered_below(
    checkpoint: str, pictures: tuple[Path, list[int]], tmp_path: Path
) -> None:
    folder, out = pictures[0], tmp_path / "out.csv"
    words = ["predict", f"--folder={folder}", "--ckpt_path", checkpoint, "--output", str(out)]
    assert main([*words, "--tolerance", "0.02"]) == 0
    blocks = [int(row["block"]) for row in table(out)]
    data = ImageDataModule("digits")
    data.setup("validate")
    model = ff.FFClassifier.load_from_checkpoint(checkpoint).eval()
    margins = model.exit_early(data.val_dataloader(), tolerance=0.02).margins
    assert len(margins) == 2
    assert min(blocks) < 2


def test_other_classifiers_predict_too(twin: str, pictures: tuple[Path, list[int]], tmp_path: Path) -> None:
    folder, out = pictures[0], tmp_path / "out.csv"
    words = ["predict", "--folder", str(folder), "--ckpt_path", twin, "--output", str(out)]
    assert main(words) == 0
    assert len(table(out)) == 30


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--folder", "nothing"], "Passed `folder=nothing`. There is no such folder."),
        (["--folder", __file__], "It is a file: name the folder around it."),
        (["--output", "out.txt"], "Passed `output=out.txt`. It must end in .csv."),
        (["--ckpt_path", "nothing.ckpt"], "Passed `ckpt_path=nothing.ckpt`. There is no such file."),
        (["--tolerance", "2"], "Passed `tolerance=2.0`. `tolerance` must be in [0, 1]."),
        (["--tolerence", "1"], "unrecognized arguments: --tolerence 1; did you mean '--tolerance'?"),
        (["--batch_size", "0"], "`--batch_size`"),
    ],
)
def test_what_makes_no_sense_is_named_and_nothing_is_written(
    args: list[str],
    says: str,
    checkpoint: str,
    pictures: tuple[Path, list[int]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.csv"
    words = ["predict", "--folder", str(pictures[0]), "--ckpt_path", checkpoint, "--output", str(out)]
    assert says in error_of(capsys, *words, *args)
    assert not out.exists()


def test_no_picture_and_no_checkpoint_becomes_a_table(
    checkpoint: str, pictures: tuple[Path, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures[0]
    (folder / "labels.csv").write_text("file,label\n")
    for output in (checkpoint, str(folder / "01.png"), str(folder / "labels.csv"), str(folder)):
        before = Path(output).read_bytes() if Path(output).is_file() else b""
        words = ["predict", "--folder", str(folder), "--ckpt_path", checkpoint, "--output", output]
        assert f"Passed `output={output}`" in error_of(capsys, *words)
        assert not before or Path(output).read_bytes() == before


def test_a_broken_picture_is_named(
    checkpoint: str, pictures: tuple[Path, list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = pictures[0], tmp_path / "out.csv"
    (folder / "15.png").write_bytes(b"no picture")
    words = ["predict", "--folder", str(folder), "--ckpt_path", checkpoint, "--output", str(out)]
    said = error_of(capsys, *words)
    assert "Cannot read the picture" in said
    assert "15.png" in said
    assert not out.exists()


def test_a_twin_does_not_stop_early(
    twin: str, pictures: tuple[Path, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", "--folder", str(pictures[0]), "--ckpt_path", twin, "--tolerance", "0.1"]
    assert "Only an FFClassifier stops" in error_of(capsys, *words)


def test_clear_answers_are_found_on_images_alone(
    checkpoint: str, pictures: tuple[Path, list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["datamodule_hyper_parameters"] = {"_class_path": "ff_lightning.data.TableDataModule", "source": "wine"}
    torch.save(content, tmp_path / "a.ckpt")
    words = ["predict", "--folder", str(pictures[0]), "--ckpt_path", str(tmp_path / "a.ckpt"), "--tolerance", "0.1"]
    assert "which is no ImageDataModule. Leave `tolerance` out." in error_of(capsys, *words)


def test_a_language_model_is_refused(
    text_run: Path, pictures: tuple[Path, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", "--folder", str(pictures[0]), "--ckpt_path", str(text_run / "last.ckpt")]
    assert "not of an image classifier" in error_of(capsys, *words)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["predict", "--folder", "x", "--help"])
    text = capsys.readouterr().out
    assert all(word in text for word in ("--folder", "--ckpt_path", "--tolerance", "--output"))


def test_rows_of_a_table_are_predicted_from_the_checkpoint_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    wine = load_wine()
    with (tmp_path / "wine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["note", *wine.feature_names], *(["x", *row] for row in wine.data.tolist())])
    run, out = tmp_path / "run", tmp_path / "out.csv"
    words = [*configs("wine_mlp"), *QUIET, "--trainer.max_epochs", "10", "--trainer.default_root_dir", str(run)]
    assert main(["fit", *words]) == 0
    words = ["predict", "--table", str(tmp_path / "wine.csv"), "--ckpt_path", str(run / "last.ckpt")]
    words += ["--output", str(out)]
    assert main(words) == 0
    rows = table(out)
    assert list(rows[0])[:5] == ["row", "label", "probability", "block", "probability class_0"]
    right = sum(row["label"] == wine.target_names[target] for row, target in zip(rows, wine.target, strict=True))
    assert right > 150
    source = (tmp_path / "wine.csv").read_text()
    assert "which is read here and would be lost" in error_of(capsys, *words[:-1], str(tmp_path / "wine.csv"))
    assert (tmp_path / "wine.csv").read_text() == source
    lines = source.splitlines()
    for wrong, says in (("inf", "holds inf in row 8"), ("1e200", "holds 1e200 in row 8"), ("nan", "no value in row 8")):
        lines[8] = ",".join(["x", wrong, *lines[8].split(",")[2:]])
        (tmp_path / "wine.csv").write_text("\n".join(lines))
        said = error_of(capsys, *words)
        assert "The column 'alcohol' of" in said
        assert says in said
    assert table(out) == rows, "as it was"
    (tmp_path / "wine.csv").write_text("alcohol\n1\n")
    assert "wine.csv' has no column 'malic_acid', only alcohol" in error_of(capsys, *words)
    assert "`table=nothing.csv`. There is no such file." in error_of(capsys, *words[:2], "nothing.csv", *words[3:])
    assert "It is a folder." in error_of(capsys, *words[:2], str(tmp_path), *words[3:])
    assert "It must be a file that ends in" in error_of(capsys, *words[:2], __file__, *words[3:])
    digits = [*words[:4], checkpoint, *words[5:]]
    assert "trained on a `TableDataModule`" in error_of(capsys, *digits)
