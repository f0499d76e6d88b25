"""Where images come from: the embedded digits, or anything that `datasets` can load.

Opening a source reads its columns; pixels are decoded once, when a split is asked for, and only those asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ff_lightning.data.loader import Images
from ff_lightning.data.tables import load_tables
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
    """Images of one shape, or recordings, with a label each."""

    class_names: list[str] | None
    num_classes: int

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height, width; before them frames, if there are some."""

    def size(self, split: str) -> int:
        """Number of images of "train" or "test"."""

    def read(self, split: str, rows: Tensor | None = None) -> Images:
        """Decode a split, or those of its images whose rows are given, (N,) int64, in rising order."""


class Digits:
    """scikit-learn's 1,797 handwritten digits; a fixed fifth of each class is the test split."""

    num_classes = 10
    image_shape = (1, 8, 8)

    def __init__(self) -> None:
        self.class_names: list[str] | None = [str(digit) for digit in range(10)]

    def size(self, split: str) -> int:
        """Number of images of "train" or "test"."""
        return len(self.read(split).labels)

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
        return images if rows is None else images.take(rows)


class TableSource:
    """An image column and a label column of a set that `datasets` loads.

    Args:
        source: A folder (Parquet files, or one folder of images a class), a Parquet file, or the id
            of a set on the hub.
        image_column: Name of the image column; None if there is only one.
        label_column: Name of the label column; None if there is only one.

    Raises:
        InputError: The set cannot be loaded or lacks a training split or one of the columns.
    """

    def __init__(
        self,
        source: str,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
    ) -> None:
        self.source = source
        self.tables = load_tables(source, "images", LOCAL_COPIES)
        features = self._table("train").features
        images = [_is_image, _is_encoded]
        self.image_column = self._column("image_column", image_column, features, images)
        labels = [_is_class, _is_integer]
        self.label_column = self._column("label_column", label_column, features, labels)
        names = getattr(features[self.label_column], "names", None)
        self.class_names: list[str] | None = names
        self.num_classes = self._count_classes()

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of the first training image."""
        height, width, channels = self._shape("train")
        return channels, height, width

    def size(self, split: str) -> int:
        """Number of images of a split, none of which is decoded for it."""
        return len(self._table(split))

    def read(self, split: str, rows: Tensor | None = None) -> Images:
        """Decode a split, or a part of it.

        Args:
            split: "train" or "test".
            rows: which images, (N,) int64, in rising order; None for all. No other is decoded.

        Raises:
            InputError: There is no such split, an image cannot be read or differs in shape from the
                first, or a label is not 0 to num_classes - 1.
        """
        labels = self._labels(split)
        return Images(self._pixels(split, rows), labels if rows is None else labels[rows])

    def _pixels(self, split: str, rows: Tensor | None) -> Tensor:
        numbers = range(self.size(split)) if rows is None else rows.tolist()
        shape = self._shape(split)
        pixels = np.empty((len(numbers), *shape), dtype=np.uint8)
        for index, (row, encoded) in enumerate(zip(numbers, self._encoded(split, rows), strict=True)):
            image = self._decode(split, row, encoded)
            if image.shape != shape:
                raise InputError(
                    f"Image {row} of the {split} split of {self.source!r} has (height, width, "
                    f"channels) {image.shape}, the first has {shape}. All must be alike."
                )
            pixels[index] = image
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def _shape(self, split: str) -> tuple[int, ...]:
        """Height, width, channels of the first image of a split."""
        return self._decode(split, 0, next(self._encoded(split))).shape

    def _labels(self, split: str) -> Tensor:
        table = self._table(split).select_columns([self.label_column]).with_format("arrow")[:]
        column = table.column(self.label_column)
        labels = np.array(column.fill_null(-1).to_numpy(), dtype=np.int64)
        wrong = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
        if len(wrong):
            raise InputError(
                f"Label {labels[wrong[0]]} of image {wrong[0]} in the {split} split of "
                f"{self.source!r} is not one of 0 to {self.num_classes - 1}; {len(wrong)} labels "
                "are missing or out of range."
            )
        return torch.from_numpy(labels)

    def _count_classes(self) -> int:
        if self.class_names is not None:
            return len(self.class_names)
        column = self._table("train").select_columns([self.label_column]).with_format("arrow")[:]
        return max(1, 1 + max(column.column(0).drop_null().to_pylist(), default=0))

    def _table(self, split: str) -> "datasets.Dataset":
        if split not in self.tables:
            raise InputError(
                f"{self.source!r} has no {split} split, only {', '.join(self.tables)}. Name the "
                f"files of a local folder after their splits, such as {split}.parquet."
            )
        if len(self.tables[split]) == 0:
            raise InputError(f"The {split} split of {self.source!r} is empty.")
        return self.tables[split]

    def _encoded(self, split: str, rows: Tensor | None = None) -> Iterator[dict[str, Any] | None]:
        """Give {"bytes", "path"} of each image; decoding here takes half the time of `datasets`."""
        import datasets

        table = self._table(split).select_columns([self.image_column])
        table = table.cast_column(self.image_column, datasets.Image(decode=False))
        if rows is not None:
            table = table.select(rows.numpy())
        for batch in table.with_format("arrow").iter(batch_size=1000):
            yield from batch.column(0).to_pylist()

    def _decode(self, split: str, row: int, encoded: dict[str, Any] | None) -> NDArray[np.uint8]:
        try:
            if encoded is None:
                raise ValueError("there is none")
            return _decoded(encoded)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on broken files
            raise InputError(f"Cannot read image {row} of the {split} split of {self.source!r}: {error}.") from error

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
        for kind in kinds:
            found = [column for column, feature in features.items() if kind(feature)]
            if len(found) == 1:
                return found[0]
            if found:
                raise InputError(f"{columns}. Name one of {', '.join(found)} with `{argument}`.")
        raise InputError(f"{columns}. None can be the `{argument}`.")


def open_source(source: str, *, image_column: str | None = None, label_column: str | None = None) -> Source:
    """Open "digits", a local folder or Parquet file, or a set on the hub.

    Args:
        source: "digits", a path, or the id of a set on the hub.
        image_column: Name of the image column; None if there is only one.
        label_column: Name of the label column; None if there is only one.

    Raises:
        InputError: The set cannot be loaded or lacks a training split or one of the columns.
    """
    if source == "digits":
        return Digits()
    return TableSource(source, image_column=image_column, label_column=label_column)


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


def _decoded(encoded: dict[str, Any]) -> NDArray[np.uint8]:
    """Return the image as (H, W, C), grey in one channel and anything else as RGB."""
    content = encoded["bytes"]
    image = opened(encoded["path"] if content is None else BytesIO(content))
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What is decoded, whatever a file is called: Pillow hands others, such as EPS, to programs that run them."""


def opened(file: str | BytesIO) -> Image.Image:
    """Open an encoded image and turn it upright.

    Raises:
        OSError, SyntaxError, ValueError: what Pillow raises on broken files, and on more than 8 bits a channel.
    """
    image: Image.Image = Image.open(file, formats=FORMATS)
    if image.mode.startswith(("I", "F")):
        raise ValueError("it has more than 8 bits a channel")
    return ImageOps.exif_transpose(image) if "exif" in image.info else image
