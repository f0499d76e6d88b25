"""Where images come from: the embedded digits, a folder, arrays, or anything that `datasets` can load.

Opening a source reads its columns or the names of its files; pixels are decoded once, when a split is asked for, and
only those asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ff_lightning.data.arguments import refuse_unused
from ff_lightning.data.arrays import ArraySource, read_npz, read_pixel_table, resized
from ff_lightning.data.classes import count_classes
from ff_lightning.data.decoding import Encoded, PictureSource
from ff_lightning.data.files import SPLIT_OF, by_split, ends_with, find_files, left_out, natural
from ff_lightning.data.folders import LABELS, FolderSource
from ff_lightning.data.loader import Images, ImageSet
from ff_lightning.data.pictures import Look, is_picture
from ff_lightning.data.tables import load_tables, local_path
from ff_lightning.errors import InputError

if TYPE_CHECKING:
    import datasets

LOCAL_COPIES = {
    "ylecun/mnist": "mnist",
    "uoft-cs/cifar10": "cifar10_jpeg",
    "zalando-datasets/fashion_mnist": "fashion_mnist",
}
"""Hub ids, and the folders in `FF_LIGHTNING_DATA` that hold the same images."""


class Source(Protocol):
    """Images of one shape, or recordings, with a label each or with none."""

    class_names: list[str] | None
    num_classes: int
    stratified: bool
    """Whether a validation split that is cut from its training images has the same share of every class."""

    @property
    def splits(self) -> Sequence[str]:
        """The splits that there are, of "train", "validation" and "test"."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height, width; before them frames, if there are some."""

    def size(self, split: str) -> int:
        """Number of images of a split."""

    def labels(self, split: str) -> Tensor | None:
        """Classes of a split, (N,) int64; None for images without classes."""

    def name(self, split: str, row: int) -> str:
        """What to call an image: its file, or its row."""

    def read(self, split: str, rows: Tensor | None = None) -> ImageSet:
        """Decode a split, or those of its images whose rows are given, (N,) int64, in rising order."""


class Digits:
    """scikit-learn's 1,797 handwritten digits; a fixed fifth of each class is the test split."""

    num_classes = 10
    image_shape = (1, 8, 8)
    splits = ("train", "test")
    stratified = False

    def __init__(self, look: Look | None = None) -> None:
        self.look = look or Look()
        self.class_names: list[str] | None = [str(digit) for digit in range(10)]
        self.image_shape = (1, *(self.look.size or (8, 8)))

    def size(self, split: str) -> int:
        """Number of images of "train" or "test"."""
        return len(self.read(split))

    def labels(self, split: str) -> Tensor:
        """Classes of "train" or "test", (N,) int64."""
        labels = self.read(split).labels
        assert labels is not None
        return labels

    def name(self, split: str, row: int) -> str:
        """The number of a digit."""
        return f"{split} {row}"

    def read(self, split: str, rows: Tensor | None = None) -> Images:
        """Return "train", 1,437 images, or "test", 360, or those of them whose rows are given, (N,) int64."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)
        train, test = train_test_split(
            np.arange(len(labels)),
            test_size=0.2,
            stratify=labels,
            random_state=0,
        )
        chosen = np.sort(test if split == "test" else train)
        images = Images(
            torch.from_numpy(pixels[chosen]).to(torch.uint8).view(-1, 1, 8, 8),
            torch.from_numpy(labels[chosen]).long(),
            peak=16,
        )
        return resized(images if rows is None else images.take(rows), self.look)


class TableSource(PictureSource):
    """An image column and a label column of a set that `datasets` loads.

    Args:
        source: A folder of Parquet files, a Parquet file, or the id of a set on the hub.
        image_column: Name of the image column; None if there is only one.
        label_column: Name of the label column; None if there is only one, or one called `label`.
        look: What pictures are brought to.
        memory: See `PictureSource`.
        workers: See `PictureSource`.

    Raises:
        InputError: The set cannot be loaded or lacks a training split or one of the columns.
    """

    stratified = False  # as when the results in the documentation were made

    def __init__(
        self,
        source: str,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        look: Look | None = None,
        memory: float = 4.0,
        workers: int = 4,
    ) -> None:
        super().__init__(source, look or Look(), memory=memory, workers=workers)
        self.tables = self._load()
        self.splits = list(self.tables)
        features = self._table("train").features
        images = [_is_image, _is_encoded]
        self.image_column = self._column("image_column", image_column, features, images)
        labels = [_is_class, _is_integer, _is_text]
        self.label_column = self._column("label_column", label_column, features, labels)
        self.class_names = self._names(features[self.label_column])
        self.num_classes = self._count_classes()

    def size(self, split: str) -> int:
        """Number of images of a split, none of which is decoded for it."""
        return len(self._table(split))

    def name(self, split: str, row: int) -> str:
        """The number of an image, and its file if the table says it."""
        table = self._table(split).select([row]).select_columns([self.image_column])
        first = table.with_format("arrow")[:].column(0).to_pylist()[0]
        path = first.get("path") if isinstance(first, dict) else None
        return f"image {row} of the {split} split of {self.source!r}" + (f" ({path})" if path else "")

    def labels(self, split: str) -> Tensor:
        """Classes of a split, (N,) int64.

        Raises:
            InputError: There is no such split, or a label is none of the classes of training.
        """
        column = self._label_values(split)
        if self.class_names is not None and not _is_class(self._table(split).features[self.label_column]):
            numbers = {name: number for number, name in enumerate(self.class_names)}
            labels = np.array([numbers.get(str(name), -1) for name in column.to_pylist()], dtype=np.int64)
        else:
            signed = column.cast("int64", safe=False)  # what is too large becomes negative, and is refused below
            labels = np.array(signed.fill_null(-1).to_numpy(), dtype=np.int64)
        wrong = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
        if len(wrong):
            raise InputError(
                f"Label {column[int(wrong[0])]} of image {wrong[0]} in the {split} split of "
                f"{self.source!r} is not one of {self._allowed()}; {len(wrong)} labels "
                "are missing or out of range."
            )
        return torch.from_numpy(labels)

    def encoded(self, split: str, rows: Tensor) -> Iterator[Encoded]:
        """Give what is encoded; decoding it here takes half the time of `datasets`."""
        import datasets

        table = self._table(split).select_columns([self.image_column])
        table = table.cast_column(self.image_column, datasets.Image(decode=False))
        if len(rows) != len(table) or not torch.equal(rows, torch.arange(len(table))):
            table = table.select(rows.numpy())
        for batch in table.with_format("arrow").iter(batch_size=1000):
            yield from map(_file_of, batch.column(0).to_pylist())

    def _load(self) -> "dict[str, datasets.Dataset]":
        """Tables by split, whatever the set calls it."""
        tables = load_tables(self.source, "images", LOCAL_COPIES)
        known = {SPLIT_OF[name.lower()]: table for name, table in tables.items() if name.lower() in SPLIT_OF}
        unknown = [name for name in tables if name.lower() not in SPLIT_OF]
        if known and unknown:
            rank_zero_info(f"Left out of {self.source}: the splits {', '.join(unknown)}.")
        return known or dict(tables)

    def _allowed(self) -> str:
        if self.class_names is None or _is_class(self._table("train").features[self.label_column]):
            return f"0 to {self.num_classes - 1}"
        return ", ".join(self.class_names[:20]) + (", …" if self.num_classes > 20 else "")

    def _label_values(self, split: str) -> Any:
        table = self._table(split).select_columns([self.label_column]).with_format("arrow")[:]
        return table.column(self.label_column).combine_chunks()

    def _names(self, feature: Any) -> list[str] | None:
        if _is_text(feature):
            return sorted(set(self._label_values("train").drop_null().to_pylist()), key=natural)
        names: list[str] | None = getattr(feature, "names", None)
        return names

    def _count_classes(self) -> int:
        if self.class_names is not None:
            return len(self.class_names)
        return count_classes(self._label_values("train").drop_null().unique().to_pylist(), self.source)

    def _table(self, split: str) -> "datasets.Dataset":
        if split not in self.tables:
            raise InputError(
                f"{self.source!r} has no {split} split, only {', '.join(self.tables)}. Name the "
                f"files of a local folder after their splits, such as {split}.parquet."
            )
        if len(self.tables[split]) == 0:
            raise InputError(f"The {split} split of {self.source!r} is empty.")
        return self.tables[split]

    def _column(
        self,
        argument: str,
        name: str | None,
        features: "dict[str, Any]",
        kinds: Sequence[Callable[[Any], bool]],
    ) -> str:
        """Return the named column or the only one of the first kind that occurs."""
        columns = f"The columns of {self.source!r} are {', '.join(features)}"
        if name is not None:
            if name in features and any(kind(features[name]) for kind in kinds):
                return name
            raise InputError(f"Passed `{argument}={name!r}`. {columns}; it must be a fitting one.")
        fitting = [column for column, feature in features.items() if any(kind(feature) for kind in kinds)]
        called = [column for column in fitting if column.lower() in LABELS]
        if argument == "label_column" and len(called) == 1:
            return called[0]
        for kind in kinds:
            found = [column for column, feature in features.items() if kind(feature)]
            if len(found) == 1:
                return found[0]
            if found:
                raise InputError(f"{columns}. Name one of {', '.join(found)} with `{argument}`.")
        raise InputError(f"{columns}. None can be the `{argument}`.")


def open_source(
    source: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    separator: str | None = None,
    look: Look | None = None,
    memory: float = 4.0,
    workers: int = 4,
) -> Source:
    """Open "digits", a local folder or file, or a set on the hub.

    Args:
        source: "digits", a path, or the id of a set on the hub.
        image_column: Name of the image column, or of that of files in the table of a folder; None if there is only one.
        label_column: Name of the label column; None if there is only one.
        separator: What stands between the labels of a picture that may have several; None for one class each.
        look: What pictures are brought to.
        memory: Gigabytes of decoded pictures of a split that are kept in memory; more are decoded as needed.
        workers: Threads that decode then.

    Raises:
        InputError: The set cannot be loaded or lacks a training split or one of the columns, has no columns, or has
            one class each.
    """
    path = None if source == "digits" else local_path(source, LOCAL_COPIES)
    opened = _opened(path, source, image_column, label_column, separator, look or Look(), memory, workers)
    if separator is not None and not isinstance(opened, FolderSource):
        raise InputError(
            f"Passed `separator={separator!r}` with `source={source!r}`. Several labels are read from the "
            "metadata.csv of a folder of pictures; here every image has one class: leave it out."
        )
    return opened


def _opened(
    path: Path | None,
    source: str,
    image_column: str | None,
    label_column: str | None,
    separator: str | None,
    look: Look,
    memory: float,
    workers: int,
) -> Source:
    columns = {"image_column": image_column, "label_column": label_column}
    if source == "digits":
        refuse_unused(source, "These images have no columns", columns)
        return Digits(look)
    tables = find_files(path).files if path is not None and path.is_dir() else [path] if path else []
    if path is None or any(file.suffix.lower() == ".parquet" for file in tables):
        return TableSource(
            source, image_column=image_column, label_column=label_column, look=look, memory=memory, workers=workers
        )
    if path.is_file() and path.suffix.lower() == ".npz":
        refuse_unused(source, "Arrays have no columns", columns)
        return ArraySource(source, read_npz(path), look)
    splits = _pixel_tables(path, tables)
    if splits:
        refuse_unused(source, "It has a column for each pixel, and none of images", {"image_column": image_column})
        read = {split: read_pixel_table(file, label_column=label_column) for split, file in splits.items()}
        return ArraySource(source, read, look)
    if path.is_file():
        raise InputError(
            f"Passed `source={source!r}`. Images are read from a folder, a Parquet file, a .npz file of arrays, or a "
            ".csv file of pixels."
        )
    return FolderSource(path, source, **columns, separator=separator, look=look, memory=memory, workers=workers)


def _pixel_tables(path: Path, files: Sequence[Path]) -> dict[str, Path]:
    """The .csv file of each split, where there are such and no pictures."""
    tables = [file for file in files if ends_with(".csv")(file)]
    if not tables or any(map(is_picture, files)):
        return {}
    if path.is_file():
        return {"train": path}
    splits, unnamed = by_split(tables, path)
    if unnamed:
        rank_zero_info(f"Reading {path}. {left_out(0, unnamed=unnamed)}")
    several = next((split for split, some in splits.items() if len(some) > 1), None)
    if several is not None:
        raise InputError(
            f"{str(path)!r} has {len(splits[several])} .csv files for its {several} split. Name one as `source`, or "
            "call them train.csv, validation.csv and test.csv."
        )
    return {split: some[0] for split, some in splits.items()}


def _is_image(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Image)


def _is_encoded(feature: Any) -> bool:
    fields = feature.keys() if isinstance(feature, dict) else ()
    return set(fields) == {"bytes", "path"} or getattr(feature, "dtype", None) == "binary"


def _is_class(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.ClassLabel)


def _is_integer(feature: Any) -> bool:
    return str(getattr(feature, "dtype", "")).startswith(("int", "uint"))


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _file_of(encoded: Any) -> Encoded:
    """What can be opened of {"bytes", "path"}."""
    if encoded is None:
        return None
    content = encoded["bytes"] if isinstance(encoded, dict) else encoded
    return BytesIO(content) if content is not None else encoded["path"]
