"""Folders of pictures as users have them: splits, classes, tables of classes, and what is left out."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ff_lightning.data import ImageDataModule
from ff_lightning.data.loader import Images, PicturesOnDisk
from ff_lightning.data.sources import Digits, open_source
from ff_lightning.errors import InputError

DIGITS = Digits().read("train")


def draw(path: Path, index: int = 0, size: tuple[int, int] | None = None) -> Path:
    """Write a real digit."""
    image = Image.fromarray(DIGITS.pixels[index][0].numpy() * 15)
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if size is None else image.resize(size)).save(path)
    return path


@pytest.mark.parametrize("name", ["validation", "val", "Valid", "dev"])
def test_validation_folders_are_used(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index, place in enumerate(["train/a", "train/b", "train/a", f"{name}/b", "test/a"]):
        draw(tmp_path / place / f"{index}.png", index)
    data = ImageDataModule(str(tmp_path))
    with caplog.at_level("INFO"):
        data.setup("fit")
    ((x, y),) = data.val_dataloader()
    assert torch.equal((x * 255).round().byte(), DIGITS.pixels[3:4] * 15)
    assert y.tolist() == [1]
    assert data.row_names("validation", [0]) == [str(tmp_path / name / "b/3.png")]
    assert f"Read {tmp_path}: 3 train, 1 validation, 1 test pictures of 2 classes." in caplog.text


def test_validation_beside_the_classes_is_no_class(tmp_path: Path) -> None:
    for index, place in enumerate(["a", "b", "validation/a"]):
        draw(tmp_path / place / f"{index}.png", index)
    source = open_source(str(tmp_path))
    assert (source.class_names, source.size("train"), source.size("validation")) == (["a", "b"], 2, 1)


def test_classes_come_in_the_order_of_their_numbers_and_none_is_dropped(tmp_path: Path) -> None:
    names = [*map(str, range(12)), "__background__"]
    for index, name in enumerate(names):
        draw(tmp_path / name / "0.png", index)
    source = open_source(str(tmp_path))
    assert source.class_names == [*map(str, range(12)), "__background__"]
    assert source.labels("train").tolist() == list(range(13))


def test_hidden_files_are_left_out_and_all_that_is_left_out_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a/0.png", "b/0.png", "a/.ipynb_checkpoints/0-checkpoint.png", "b/._0.png", "__MACOSX/a/0.png"):
        draw(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    with caplog.at_level("INFO"):
        assert open_source(str(tmp_path)).size("train") == 2
    assert "2 train pictures of 2 classes. Left out: 1 other files (1 .txt); 3 hidden." in caplog.text


def test_links_are_followed_and_brackets_are_names(tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere/x.png", 1)
    draw(tmp_path / "my [set]" / "a [1]" / "0.png", 0)
    (tmp_path / "my [set]" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "my [set]" / "b" / "round").symlink_to(tmp_path / "elsewhere")  # a circle ends
    source = open_source(str(tmp_path / "my [set]"))
    assert source.class_names == ["a [1]", "b"]
    assert torch.equal(source.read("train").pixels, DIGITS.pixels[:2] * 15)


def test_parquet_files_in_a_folder_with_brackets(tmp_path: Path) -> None:
    import datasets

    folder = tmp_path / "x[1]"
    folder.mkdir()
    for split, index in (("train", 0), ("valid", 1)):
        image = Image.fromarray(DIGITS.pixels[index][0].numpy() * 15)
        table = datasets.Dataset.from_dict({"image": [image] * 2, "label": ["seven", "two"]})
        table.cast_column("image", datasets.Image()).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    source = open_source(str(folder))
    assert (list(source.splits), source.class_names) == (["train", "validation"], ["seven", "two"])
    assert torch.equal(source.read("validation").pixels[0], DIGITS.pixels[1] * 15)


def test_the_table_beside_pictures_says_their_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(5):
        draw(tmp_path / "images" / f"{index}.png", index)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = [(f"images/{index}.png", name, "x") for index, name in enumerate(["cat", "dog", "cat", "ant"])]
        csv.writer(file).writerows([("file_name", "label", "by"), *rows])
    with caplog.at_level("INFO"):
        source = open_source(str(tmp_path))
    assert source.class_names == ["ant", "cat", "dog"]
    assert source.labels("train").tolist() == [1, 2, 1, 0]
    assert "4 train pictures of 3 classes. Left out: 1 other files (1 .png)." in caplog.text
    assert open_source(str(tmp_path), label_column="by").class_names == ["x"]
    with pytest.raises(InputError, match=r"Passed `label_column='kind'`. The columns of .*labels.csv.* are file_name"):
        open_source(str(tmp_path), label_column="kind")
    (tmp_path / "images" / "2.png").unlink()
    with pytest.raises(InputError, match=r"Row 4 of .*labels.csv' names 'images/2.png', and there is no such file"):
        open_source(str(tmp_path))


def test_pictures_without_classes_serve_without_labels(tmp_path: Path) -> None:
    for index in range(20):
        draw(tmp_path / f"{index:02}.png", index)
    data = ImageDataModule(str(tmp_path), validation=5, batch_size=15)
    data.setup("fit")
    (x,) = data.train_dataloader()
    assert (x.shape, data.num_classes, data.class_names) == ((15, 1, 8, 8), None, None)
    assert next(iter(data.val_dataloader())).shape == (5, 1, 8, 8)


@pytest.mark.parametrize("memory", [4.0, 0.0])
def test_sizes_and_modes_become_those_of_most(memory: float, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(6):
        draw(tmp_path / "ab"[index % 2] / f"{index}.png", index, (12, 10) if index == 4 else None)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a" / "red.png")
    data = ImageDataModule(str(tmp_path), validation=0, batch_size=7, memory=memory, resize="most")
    with caplog.at_level("INFO"):
        data.setup("fit")
    assert data.image_shape == (3, 8, 8)
    ((x, _),) = data.train_dataloader()
    assert x.shape == (7, 3, 8, 8)
    assert ("1 were resized to 8x8. Choose with `resize`" in caplog.text) == bool(memory)
    grey = ImageDataModule(str(tmp_path), validation=0, mode="grey", resize=[9, 5])
    assert (grey.image_shape, grey.in_features) == ((1, 9, 5), 45)


@pytest.mark.parametrize("memory", [4.0, 0.0])
@pytest.mark.parametrize("odd", [0, 150])
def test_pictures_of_other_sizes_are_refused_before_training(odd: int, memory: float, tmp_path: Path) -> None:
    """Also one that is not among the pictures of which the beginnings are read to find out their size."""
    for index in range(200):
        draw(tmp_path / "ab"[index % 2] / f"{index:03}.png", index, (12, 10) if index == odd else None)
    data = ImageDataModule(str(tmp_path), validation=0, memory=memory)
    with pytest.raises(InputError, match=rf"a/{odd:03}.png has \(height, width\) \(10, 12\).*pass `resize=\[8, 8\]`"):
        data.setup("fit")
    resized = ImageDataModule(str(tmp_path), validation=0, memory=memory, resize=[8, 8])
    resized.setup("fit")
    assert resized.image_shape == (1, 8, 8)


@pytest.mark.parametrize("memory", [4.0, 0.0])
def test_test_pictures_must_have_the_size_of_training_pictures(memory: float, tmp_path: Path) -> None:
    for split, size in (("train", 8), ("test", 9)):
        for index in range(2):
            draw(tmp_path / split / "ab"[index] / "0.png", index, (size, size))
    data = ImageDataModule(str(tmp_path), validation=0, memory=memory)
    data.setup("fit")
    with pytest.raises(InputError, match=r"test/a/0.png has \(height, width\) \(9, 9\).*pass `resize=\[8, 8\]`"):
        data.setup("test")


def test_sets_beyond_memory_give_the_same_batches(tmp_path: Path) -> None:
    for index in range(30):
        draw(tmp_path / "ab"[index % 2] / f"{index}.png", index)
    batches = []
    for memory in (4.0, 0.0):
        data = ImageDataModule(str(tmp_path), batch_size=7, shift=1, mix=0.4, crop=0.5, memory=memory, workers=3)
        data.setup("fit")
        assert isinstance(data._splits["train"], Images if memory else PicturesOnDisk)
        loader = data.train_dataloader()
        batches.append([*loader, *loader, *data.val_dataloader()])
    for (x, y), (same_x, same_y) in zip(*batches, strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(y, same_y)


def test_a_lazy_epoch_goes_on_where_it_stopped(tmp_path: Path) -> None:
    for index in range(30):
        draw(tmp_path / "ab"[index % 2] / f"{index}.png", index)
    data = ImageDataModule(str(tmp_path), batch_size=5, validation=0, memory=0)
    data.setup("fit")
    whole = [x for x, _ in data.train_dataloader()]
    loader = data.train_dataloader()
    first = [x for _, (x, _) in zip(range(2), loader, strict=False)]
    resumed = data.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert torch.equal(torch.cat([*first, *(x for x, _ in resumed)]), torch.cat(whole))


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "webp"])
@pytest.mark.parametrize("memory", [4.0, 0.0])
def test_a_picture_that_is_cut_off_is_refused_before_the_training(ending: str, memory: float, tmp_path: Path) -> None:
    for index in range(100):
        draw(tmp_path / "ab"[index % 2] / f"{index:02}.{ending}", index, (64, 64))
    for resize in (None, 8):  # with a size, nothing else is looked at before
        data = ImageDataModule(str(tmp_path), validation=0, memory=memory, resize=resize)
        data.setup("fit")
    whole = (tmp_path / "a" / f"02.{ending}").read_bytes()
    (tmp_path / "a" / f"02.{ending}").write_bytes(whole[: len(whole) // 2])
    for resize in (None, 8):
        data = ImageDataModule(str(tmp_path), validation=0, memory=memory, resize=resize)
        with pytest.raises(InputError, match=rf"Cannot read .*a/02.{ending}: .*Replace it, or take it out of the set"):
            data.setup("fit")


def test_a_picture_with_something_behind_its_end_is_read(tmp_path: Path) -> None:
    for index in range(4):
        path = draw(tmp_path / "ab"[index % 2] / f"{index}.jpg", index)
        path.write_bytes(path.read_bytes() + b"what a camera adds")
    data = ImageDataModule(str(tmp_path), validation=0, memory=0)
    data.setup("fit")
    ((x, _),) = data.train_dataloader()
    assert len(x) == 4


def test_one_class_is_refused_and_a_folder_around_all_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw(tmp_path / "set" / "train" / "cat" / "0.png")
    with pytest.raises(InputError, match=r"set' has one class, 'cat'. A classifier needs two or more"):
        ImageDataModule(str(tmp_path / "set")).num_classes  # noqa: B018 - which a network is built with
    draw(tmp_path / "all" / "cat" / "0.png")
    with caplog.at_level("INFO"):
        assert ImageDataModule(str(tmp_path / "all")).num_classes is None
    assert "1 train pictures of no classes: all are in one folder, 'cat'." in caplog.text


def test_a_validation_cut_has_every_class(tmp_path: Path) -> None:
    for index in range(40):
        draw(tmp_path / ("rare" if index < 4 else "often") / f"{index}.png", index)
    for seed in range(5):
        data = ImageDataModule(str(tmp_path), validation=10, split_seed=seed)
        data.setup("fit")
        ((_, y),) = data.val_dataloader()
        assert y.bincount().tolist() == [9, 1]
    data = ImageDataModule(str(tmp_path), validation=10, split_seed=0, stratified=False)
    data.setup("fit")
    assert data._rows["validation"].tolist() == at_random(40)[:10].sort().values.tolist()


def at_random(total: int) -> Tensor:
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))


def test_sets_with_published_results_keep_the_validation_images_of_these() -> None:
    plain, even = ImageDataModule("digits", validation=100), ImageDataModule("digits", validation=100, stratified=True)
    for data in (plain, even):
        data.setup("fit")
    order = at_random(1437)
    assert torch.equal(plain._rows["validation"], order[:100].sort().values)
    assert torch.equal(plain._rows["train"], order[100:])
    labels = even._splits["validation"].labels
    assert labels is not None
    assert set(labels.bincount().tolist()) == {10}


def test_balanced_drawing_gives_every_class_as_often(tmp_path: Path) -> None:
    for index in range(24):
        draw(tmp_path / ("rare" if index < 4 else "often") / f"{index}.png", index)
    data = ImageDataModule(str(tmp_path), validation=0, balance=True, batch_size=24)
    data.setup("fit")
    loader = data.train_dataloader()
    seen = set()
    for _ in range(10):
        ((x, y),) = loader
        assert y.bincount().tolist() == [12, 12]
        seen |= {tuple(image.flatten().tolist()) for image in x}
    assert len(seen) == 24  # over some epochs all of the large class come


def all_of(folder: Path) -> None:
    source = open_source(str(folder))
    source.read("train")
    source.labels("test")


def only_test(folder: Path) -> None:
    draw(folder / "test/a/0.png")


def other_files(folder: Path) -> None:
    (folder / "a.eps").write_text("%!PS")


def other_class(folder: Path) -> None:
    draw(folder / "train/a/0.png")
    draw(folder / "test/b/0.png")


def program(folder: Path) -> None:
    draw(folder / "a/0.png")
    (folder / "b").mkdir()
    (folder / "b/0.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (only_test, "no training pictures, only test. It holds 1 .png. Read are pictures"),
        (other_files, r"no training pictures. It holds 1 .eps. Read are pictures \(.png"),
        (other_class, "The test picture .*test/b/0.png is of the class 'b', which no training picture has"),
        (program, "Cannot read .*b/0.png: cannot identify"),
    ],
)
def test_folders_that_cannot_work(make: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=says):
        all_of(tmp_path)


def test_arrays_of_numpy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x, y = DIGITS.pixels[:20, 0].numpy(), DIGITS.labels[:20].numpy()
    np.savez(tmp_path / "set.npz", x_train=x, y_train=y[:, None], x_val=x[:4], y_val=y[:4], ids=y)
    with caplog.at_level("INFO"):
        source = open_source(str(tmp_path / "set.npz"))
    assert list(source.splits) == ["train", "validation"]
    assert torch.equal(source.read("train").pixels, DIGITS.pixels[:20])
    assert torch.equal(source.labels("validation"), DIGITS.labels[:4])
    assert "Left out of" in caplog.text
    assert "the arrays ids." in caplog.text
    np.savez(tmp_path / "deep.npz", images=x.astype(np.uint16) * 4000, labels=np.eye(10)[y])
    deep = open_source(str(tmp_path / "deep.npz"), look=ImageDataModule(resize=4).look)
    assert (deep.image_shape, int(deep.read("train").pixels.max()) in range(150, 250)) == ((1, 4, 4), True)
    assert torch.equal(deep.labels("train"), DIGITS.labels[:20])


def test_tables_of_pixels(tmp_path: Path) -> None:
    for split, rows in (("train", range(20)), ("test", range(20, 25))):
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["label", *(f"pixel{n}" for n in range(64))])
            writer.writerows([int(DIGITS.labels[n]), *DIGITS.pixels[n].flatten().tolist()] for n in rows)
    source = open_source(str(tmp_path))
    assert (source.image_shape, list(source.splits)) == ((1, 8, 8), ["train", "test"])
    train = source.read("train")
    assert torch.equal(train.scaled(train.pixels), DIGITS.scaled(DIGITS.pixels[:20]))
    alone = open_source(str(tmp_path / "test.csv"))
    assert torch.equal(alone.labels("train"), DIGITS.labels[20:25])


def objects(path: Path) -> None:
    np.savez(path, x_train=np.array([{"a": 1}], dtype=object), y_train=np.array([0]))


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("a.npz", objects, "Cannot read .*a.npz' as arrays of NumPy: Object arrays cannot be loaded"),
        ("a.npz", lambda path: path.write_bytes(b"no zip"), "Cannot read .*a.npz' as arrays"),
        ("a.npz", lambda path: np.savez(path, q=np.zeros(3)), "arrays of .* are q. Call images and labels `x_train`"),
        (
            "a.npz",
            lambda path: np.savez(path, x=np.zeros((2, 8, 8), np.int64) + 900, y=np.zeros(2, int)),
            "The array 'x' of .* is int64 from 900 to 900. Images must be uint8",
        ),
        ("a.csv", lambda path: path.write_text("label,a,b\n1,2,3\n"), "2 columns beside 'label', which is no square"),
        ("a.csv", lambda path: path.write_text("a,b,c,d\n1,2,3,4\n"), r"Passed `label_column=None` .* a, b, c, d"),
        ("a.bin", lambda path: path.write_bytes(b"x"), "Images are read from a folder, a Parquet file, a .npz file"),
    ],
)
def test_files_that_cannot_work(name: str, make: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises(InputError, match=says):
        open_source(str(tmp_path / name))


def test_a_table_beside_the_folder_of_its_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As competitions give them: train.csv beside train/, and test pictures without classes."""
    for index in range(6):
        draw(tmp_path / ("train" if index < 4 else "test") / f"p{index}.png", index)
    (tmp_path / "train.csv").write_text("id,label\n" + "".join(f"p{n},{'ab'[n % 2]}\n" for n in range(4)))
    data = ImageDataModule(str(tmp_path), validation=0)
    data.setup("fit")
    assert data.class_names == ["a", "b"]
    assert data._splits["train"].labels.sort().values.tolist() == [0, 0, 1, 1]
    with pytest.raises(InputError, match=r"The test picture .*p4.png is of no class; 2 are like it"):
        data.setup("test")


def test_folders_without_a_picture_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        draw(tmp_path / name / "0.png")
    (tmp_path / "c").mkdir()
    with caplog.at_level("INFO"):
        assert open_source(str(tmp_path)).class_names == ["a", "b"]
    assert "No picture is in the folders c." in caplog.text


def table_of(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["file_name,label,split", *rows]) + "\n")
    return path


@pytest.mark.parametrize("value", ["holdout", "test set", "eval"])
def test_a_split_that_a_table_says_must_be_known(value: str, tmp_path: Path) -> None:
    for index in range(4):
        draw(tmp_path / f"{index}.png", index)
    table = table_of(tmp_path / "metadata.csv", "0.png,a,train", "1.png,b,", "2.png,a, Val ", f"3.png,b,{value}")
    says = rf"Row 5 of .*metadata.csv' has '{value}' in 'split'. It must be one of train, training; validation, .*empty"
    with pytest.raises(InputError, match=says):
        open_source(str(tmp_path))
    table.write_text(table.read_text().replace(value, "test"))
    source = open_source(str(tmp_path))
    assert {split: source.size(split) for split in source.splits} == {"train": 2, "validation": 1, "test": 1}


def test_what_a_table_says_of_splits_goes_before_folders(tmp_path: Path) -> None:
    """And where it says nothing, its pictures are of the splits that folders around them are called after."""
    for index, place in enumerate(["train", "train", "train", "test"]):
        draw(tmp_path / place / f"{index}.png", index)
    table_of(tmp_path / "metadata.csv", "train/0.png,a,", "train/1.png,b,", "train/2.png,a,val", "3,b,")
    beside = open_source(str(tmp_path))
    (tmp_path / "metadata.csv").unlink()
    table_of(tmp_path / "train/metadata.csv", "0.png,a,", "1.png,b,train", "2.png,a,val")
    table_of(tmp_path / "test/metadata.csv", "3.png,b,")
    within = open_source(str(tmp_path))
    for source in (beside, within):
        assert {split: source.size(split) for split in source.splits} == {"train": 2, "validation": 1, "test": 1}


def test_a_name_of_two_files_is_refused_and_a_path_is_not(tmp_path: Path) -> None:
    for index, place in enumerate(["x/0.png", "y/0.png", "x/1.png"]):
        draw(tmp_path / place, index)
    for name in ("0.png", "0"):
        table_of(tmp_path / "metadata.csv", f"{name},a,", "1.png,b,")
        says = (
            rf"Row 2 of .*metadata.csv' names '{name}', and 2 files are called so, such as 'x/0.png' and 'y/0.png'. W"
        )
        with pytest.raises(InputError, match=says):
            open_source(str(tmp_path))
    table_of(tmp_path / "metadata.csv", "x/0,a,", "y/0.png,b,", "1,a,")
    source = open_source(str(tmp_path))
    names = [source.name("train", row) for row in range(3)]
    assert names == [str(tmp_path / place) for place in ("x/0.png", "y/0.png", "x/1.png")]


def arrays(folder: Path) -> str:
    np.savez(folder / "a.npz", x=DIGITS.pixels[:4, 0].numpy(), y=DIGITS.labels[:4].numpy())
    return str(folder / "a.npz")


def classes(folder: Path) -> str:
    for name in ("a", "b"):
        draw(folder / name / "0.png")
    return str(folder)


def pixels(folder: Path) -> str:
    (folder / "a.csv").write_text("label,a,b,c,d\n1,2,3,4,5\n")
    return str(folder / "a.csv")


@pytest.mark.parametrize(
    ("make", "argument", "why"),
    [
        (lambda folder: "digits", "label_column", "These images have no columns"),
        (lambda folder: "digits", "image_column", "These images have no columns"),
        (arrays, "label_column", "Arrays have no columns"),
        (classes, "label_column", "No table is beside its pictures"),
        (classes, "image_column", "No table is beside its pictures"),
        (pixels, "image_column", "It has a column for each pixel, and none of images"),
    ],
)
def test_columns_of_what_has_none_are_refused(
    make: Callable[[Path], str], argument: str, why: str, tmp_path: Path
) -> None:
    source = make(tmp_path)
    assert ImageDataModule(source, image_column=None, label_column=None).num_classes
    says = rf"Passed `{argument}='label'` with `source=.*`. {why}: leave it out, or add `--data.{argument} null`"
    with pytest.raises(InputError, match=says):
        ImageDataModule(source, **{argument: "label"}).num_classes  # noqa: B018 - opens it


def test_the_column_of_files_can_be_named(tmp_path: Path) -> None:
    for index in range(4):
        draw(tmp_path / f"{index}.png", index)
    rows = [f"{n}.png,{3 - n}.png,{'ab'[n % 2]}" for n in range(3)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,other,label", *rows]) + "\n")
    source = open_source(str(tmp_path), image_column="other", label_column="label")
    assert source.name("train", 0) == str(tmp_path / "3.png")
    with pytest.raises(
        InputError, match=r"Passed `image_column='img'`. The columns of .*metadata.csv' are file_name, "
    ):
        open_source(str(tmp_path), image_column="img")


def test_a_table_of_pixels_called_after_no_split_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train", "holdout"):
        (tmp_path / f"{name}.csv").write_text("label,a,b,c,d\n1,2,3,4,5\n")
    with caplog.at_level("INFO"):
        assert open_source(str(tmp_path)).size("train") == 1
    assert "Left out: 1 called after no split, beside those called train (holdout.csv)." in caplog.text
