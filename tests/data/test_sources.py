from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ff_lightning.data.sources import Digits, TableSource, open_source
from ff_lightning.errors import InputError

DIGITS = Digits().read("train")
PICTURES = [Image.fromarray(pixels[0].numpy() * 15) for pixels in DIGITS.pixels[:30]]
CLASSES = DIGITS.labels[:30].tolist()
NAMES = [f"digit {digit}" for digit in range(10)]


def write(path: Path, *, names: bool = True, split: slice = slice(None), **columns: list[Any]) -> Path:
    """Write a Parquet file with the hub's kinds of columns; `img` and `label` unless others are given."""
    import datasets

    columns = columns or {"img": PICTURES, "label": CLASSES}
    kinds = {
        name: datasets.Image() if isinstance(values[0], Image.Image) else datasets.ClassLabel(names=NAMES)
        for name, values in columns.items()
        if isinstance(values[0], Image.Image) or names
    }
    table = datasets.Dataset.from_dict({name: values[split] for name, values in columns.items()})
    path.parent.mkdir(exist_ok=True)
    table.cast(datasets.Features({**table.features, **kinds})).to_parquet(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the first 20 digits for training and 10 for testing."""
    write(tmp_path / "digits/train.parquet", split=slice(20))
    write(tmp_path / "digits/test.parquet", split=slice(20, 30))
    return tmp_path / "digits"


def test_digits_are_cut_by_class_without_overlap() -> None:
    train, test = Digits().read("train"), Digits().read("test")
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    assert train.pixels.shape[1:] == test.pixels.shape[1:] == Digits.image_shape
    assert set(test.labels.bincount().tolist()) <= {35, 36, 37}
    drawn = [{tuple(image.flatten().tolist()) for image in split.pixels} for split in (train, test)]
    assert not drawn[0] & drawn[1]
    assert train.pixels.max() == train.peak
    assert torch.equal(test.pixels, Digits().read("test").pixels)


def test_folder_of_parquet_files(folder: Path) -> None:
    source = open_source(str(folder))
    assert (source.num_classes, source.class_names, source.image_shape) == (10, NAMES, (1, 8, 8))
    train, test = source.read("train"), source.read("test")
    assert torch.equal(train.pixels, DIGITS.pixels[:20] * 15)
    assert torch.equal(test.pixels, DIGITS.pixels[20:30] * 15)
    assert torch.equal(train.labels, DIGITS.labels[:20])
    assert (train.pixels.dtype, train.labels.dtype, train.peak) == (torch.uint8, torch.int64, 255)


def test_only_the_rows_that_are_asked_for_are_decoded(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {"img": [*PICTURES[:5], None, *PICTURES[6:]], "label": CLASSES}
    source = open_source(str(write(tmp_path / "some.parquet", **columns)))
    rows = torch.tensor([2, 3, 7, 29])
    some = source.read("train", rows)
    assert source.size("train") == 30
    assert torch.equal(some.pixels, DIGITS.pixels[rows] * 15)
    assert torch.equal(some.labels, DIGITS.labels[rows])
    with pytest.raises(InputError, match="Cannot read image 5 of the train split"):
        source.read("train", torch.tensor([2, 5]))
    assert torch.equal(Digits().read("train", rows).pixels, DIGITS.pixels[rows])


def test_parquet_file_is_the_training_split(tmp_path: Path) -> None:
    source = open_source(str(write(tmp_path / "some.parquet")))
    assert len(source.read("train").labels) == 30
    with pytest.raises(InputError, match="has no test split, only train"):
        source.read("test")


def test_folders_of_image_files(tmp_path: Path) -> None:
    for n, (picture, digit) in enumerate(zip(PICTURES, CLASSES, strict=True)):
        place = tmp_path / ("train" if n < 20 else "test") / str(digit)
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{n:02}.png")
    source = open_source(str(tmp_path))
    train = source.read("train")
    assert source.class_names == [str(digit) for digit in range(10)]
    assert torch.equal(train.labels, DIGITS.labels[:20].sort().values)
    assert sorted(train.pixels.flatten(1).tolist()) == sorted((DIGITS.pixels[:20] * 15).flatten(1).tolist())


def test_whole_numbers_serve_as_labels_and_bytes_as_images(tmp_path: Path) -> None:
    import datasets

    files = [tmp_path / f"{n}.png" for n in range(30)]
    for file, picture in zip(files, PICTURES, strict=True):
        picture.save(file)
    columns = {"png": [file.read_bytes() for file in files], "digit": CLASSES, "note": ["a"] * 30}
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "plain.parquet")
    source = open_source(str(tmp_path / "plain.parquet"))
    assert (source.num_classes, source.class_names) == (1 + max(CLASSES), None)
    assert torch.equal(source.read("train").pixels, DIGITS.pixels[:30] * 15)


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("LA", 1), ("P", 3), ("RGBA", 3), ("RGB", 3)])
def test_modes_become_grey_or_colour(mode: str, channels: int, tmp_path: Path) -> None:
    pictures = [picture.convert(mode) for picture in PICTURES]
    source = open_source(str(write(tmp_path / "some.parquet", img=pictures, label=CLASSES)))
    pixels = source.read("train").pixels
    assert source.image_shape == (channels, 8, 8)
    expected = np.asarray(pictures[0].convert("L" if channels == 1 else "RGB")).reshape(8, 8, channels)
    assert np.array_equal(pixels[0].permute(1, 2, 0), expected)


def test_columns_can_be_named(tmp_path: Path) -> None:
    file = write(tmp_path / "some.parquet", a=PICTURES, b=PICTURES[::-1], coarse=[0] * 30, fine=CLASSES)
    source = TableSource(str(file), image_column="b", label_column="fine")
    assert torch.equal(source.read("train").pixels[0], DIGITS.pixels[29] * 15)
    assert torch.equal(source.read("train").labels, DIGITS.labels[:30])
    with pytest.raises(InputError, match="Name one of a, b with `image_column`"):
        open_source(str(file), label_column="fine")
    with pytest.raises(InputError, match="Name one of coarse, fine with `label_column`"):
        open_source(str(file), image_column="a")
    with pytest.raises(InputError, match=r"Passed `label_column='a'`\. The columns .* a, b, coarse, fine"):
        open_source(str(file), image_column="b", label_column="a")


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        ({"img": PICTURES, "label": [0, -1] * 15}, False, "Label -1 of image 1 .* not one of 0 to 0; 15 "),
        ({"img": PICTURES, "label": [0, None] * 15}, True, "Label None of image 1 .* 0 to 9; 15 "),
        ({"img": PICTURES}, False, "columns of .* are img. None can be the `label_column`"),
        ({"words": ["a"], "label": [1]}, False, "columns of .* are words, label. None can be the `image_column`"),
        ({"img": [PICTURES[0], None], "label": [0, 1]}, False, "Cannot read image 1 of the train split"),
        ({"img": PICTURES[:2], "label": ["a", None]}, False, "Label None of image 1 .* is not one of a; 1 labels"),
        ({"img": [b"no image"], "label": [0]}, False, "Cannot read image 0 of the train split"),
    ],
)
def test_sets_that_cannot_work(columns: dict[str, Any], names: bool, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "some.parquet", names=names, **columns)
    with pytest.raises(InputError, match=message):
        open_source(str(file)).read("train")


def test_test_labels_must_be_classes_of_training(tmp_path: Path) -> None:
    write(tmp_path / "set/train.parquet", names=False, img=PICTURES[:2], digit=[0, 1])
    write(tmp_path / "set/test.parquet", names=False, img=PICTURES[:2], digit=[1, 2])
    with pytest.raises(InputError, match=r"Label 2 of image 1 in the test split .* not one of 0 to 1"):
        open_source(str(tmp_path / "set")).read("test")


def test_empty_split_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "some.parquet", split=slice(0))
    with pytest.raises(InputError, match=r"corresponds to no data|is empty"):
        open_source(str(file))


@pytest.mark.parametrize("source", ["./digits", "/nowhere/digits", "digits.parquet", "~/nowhere", "a/b/c"])
def test_missing_path_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"Passed `source='.*'`\. There is no such file or folder"):
        open_source(source)


def test_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Cannot load images from .* no training pictures. It is empty. Read are"):
        open_source(str(tmp_path))


def test_unreachable_hub_is_told_in_a_sentence() -> None:
    with pytest.raises(InputError, match=r"Cannot load 'ylecun/no_such' from the hub: .*FF_LIGHTNING_DATA") as error:
        open_source("ylecun/no_such")
    assert isinstance(error.value.__cause__, ConnectionError)
    assert "\n" not in str(error.value)


def test_a_folder_that_was_read_does_not_answer_to_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, `datasets` would load the latest folder of that name which it ever read."""
    monkeypatch.delenv("FF_LIGHTNING_DATA", raising=False)
    folder.rename(folder.parent / "some_digits")
    open_source(str(folder.parent / "some_digits"))
    with pytest.raises(InputError, match=r"Passed `source='some_digits'`\. There is no such .*'ylecun/mnist'"):
        open_source("some_digits")


@pytest.mark.parametrize("source", ["ylecun/mnist", "mnist"])
def test_known_hub_id_reads_the_local_copy(
    source: str, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder.rename(folder.parent / "mnist")
    monkeypatch.setenv("FF_LIGHTNING_DATA", str(folder.parent))
    with caplog.at_level("INFO"):
        assert len(open_source(source).read("train").labels) == 20
    assert f"Reading {source} from" in caplog.text


@pytest.mark.parametrize("kind", ["uint8", "uint64", "int8", "int64"])
def test_labels_of_every_whole_type_are_read(kind: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    write(tmp_path / "some.parquet", names=False)
    table = pq.read_table(tmp_path / "some.parquet")
    place = table.schema.get_field_index("label")
    for name, missing in (("whole", False), ("holes", True)):
        labels = pa.array([None if missing and n == 3 else label for n, label in enumerate(CLASSES)], kind)
        plain = table.set_column(place, "label", labels).replace_schema_metadata()
        pq.write_table(plain, tmp_path / f"{name}.parquet")
    source = open_source(str(tmp_path / "whole.parquet"), image_column="img")
    assert torch.equal(source.labels("train"), DIGITS.labels[:30])
    with pytest.raises(InputError, match=r"Label None of image 3 .* 0 to 9; 1 labels are missing or out of range"):
        open_source(str(tmp_path / "holes.parquet"), image_column="img").labels("train")


def test_files_called_after_no_split_are_left_out_beside_the_training(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder / "holdout.parquet", split=slice(20, 30))
    with caplog.at_level("INFO"):
        source = open_source(str(folder))
    assert {split: source.size(split) for split in source.splits} == {"train": 20, "test": 10}
    assert "Left out: 1 called after no split, beside those called train (holdout.parquet)." in caplog.text
