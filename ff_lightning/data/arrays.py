"""Images that lie as numbers in a file: arrays of NumPy, and tables with a column for every pixel."""

import re
import zipfile
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ff_lightning.data.classes import count_classes
from ff_lightning.data.files import SPLIT_OF, SPLITS
from ff_lightning.data.folders import LABELS
from ff_lightning.data.loader import Images
from ff_lightning.data.pictures import Look
from ff_lightning.data.rows import read_rows
from ff_lightning.errors import InputError

IMAGE_WORDS = ("x", "image", "images", "pixels", "data")
LABEL_WORDS = (*LABELS, "targets", "classes")


class ArraySource:
    """Images of a ``.npz`` file or of tables of pixels, in memory as they come.

    Args:
        source: what was asked for, in messages.
        splits: images by the name of their split.
        look: what images are brought to; only a size changes them.

    Raises:
        InputError: there is no training split, or a mode is asked for that they do not have.
    """

    stratified = True

    def __init__(self, source: str, splits: Mapping[str, Images], look: Look) -> None:
        self.source = source
        if "train" not in splits:
            raise InputError(f"{source!r} has no training split, only {', '.join(splits)}.")
        self._images = {split: resized(splits[split], look) for split in SPLITS if split in splits}
        self.splits = list(self._images)
        self.image_shape = tuple(self._images["train"].pixels.shape[1:])
        for split, images in self._images.items():
            if tuple(images.pixels.shape[1:]) != self.image_shape:
                raise InputError(
                    f"The {split} images of {source!r} are (channels, height, width) {tuple(images.pixels.shape[1:])}, "
                    f"training images {self.image_shape}. Pass `resize` to bring them to one size."
                )
        labels = self._images["train"].labels
        self.num_classes = 0 if labels is None else count_classes(set(labels.tolist()), source)
        self.class_names: list[str] | None = None
        counts = ", ".join(f"{len(images)} {split}" for split, images in self._images.items())
        rank_zero_info(f"Read {source}: {counts} images of shape {self.image_shape}, {self.num_classes} classes.")

    def size(self, split: str) -> int:
        """Number of images of a split."""
        return len(self.read(split))

    def labels(self, split: str) -> Tensor | None:
        """Classes of a split, (N,) int64."""
        return self.read(split).labels

    def name(self, split: str, row: int) -> str:
        """The number of an image."""
        return f"{split} {row}"

    def read(self, split: str, rows: Tensor | None = None) -> Images:
        """Return a split, or those of its images whose rows are given, (N,) int64.

        Raises:
            InputError: there is no such split, or it has labels that training does not have.
        """
        if split not in self._images:
            raise InputError(f"{self.source!r} has no {split} split, only {', '.join(self.splits)}.")
        images = self._images[split]
        if images.labels is not None and int(images.labels.max()) >= self.num_classes:
            raise InputError(
                f"Label {int(images.labels.max())} in the {split} split of {self.source!r} is not one of 0 to "
                f"{self.num_classes - 1}."
            )
        return images if rows is None else images.take(rows)


def resized(images: Images, look: Look) -> Images:
    """Bring images to the size that is asked for, averaging over what shrinks.

    Raises:
        InputError: a mode is asked for that they do not have.
    """
    channels, *size = images.pixels.shape[1:]
    if look.mode is not None and channels != (1 if look.mode == "grey" else 3):
        raise InputError(f"Passed `mode={look.mode!r}` for arrays of {channels} channels. Leave `mode` out.")
    if look.size in (None, tuple(size)):
        return images
    assert look.size is not None
    pixels = functional.interpolate(images.pixels.float(), look.size, mode="bilinear", antialias=True)
    pixels = pixels if images.pixels.is_floating_point() else pixels.round().clamp(0, images.peak).to(torch.uint8)
    return Images(pixels, images.labels, images.peak)


def read_npz(path: Path) -> dict[str, Images]:
    """Read images and labels from a file of NumPy arrays.

    Arrays are known by the words of their names: a split (none for training), and images or labels, as in ``x_train``
    and ``y_train``, ``test_images`` and ``test_labels``, or ``x`` and ``y``. Images are (N, H, W), (N, H, W, C) or (N,
    C, H, W), of 8 or 16 bits, or float in [0, 1]; labels (N,), (N, 1) or one-hot.

    Raises:
        InputError: it is no such file, or its arrays have other names or forms.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, NDArray[Any]] = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"Cannot read {str(path)!r} as arrays of NumPy: {str(error).splitlines()[0]}.") from error
    found: dict[str, dict[str, tuple[str, NDArray[Any]]]] = {}
    for name, array in arrays.items():
        words = re.split(r"[^a-z]+", name.lower())
        split = next((SPLIT_OF[word] for word in words if word in SPLIT_OF), "train")
        kinds = {"images": IMAGE_WORDS, "labels": LABEL_WORDS}
        kind = next((kind for kind, known in kinds.items() if any(word in known for word in words)), None)
        if kind is not None:
            found.setdefault(split, {}).setdefault(kind, (name, array))
    used = {name for split in found.values() for name, _ in split.values()}
    if unused := sorted(set(arrays) - used):
        rank_zero_info(f"Left out of {path}: the arrays {', '.join(unused)}.")
    splits = {split: _images(path, parts) for split, parts in found.items() if "images" in parts}
    if not splits:
        raise InputError(
            f"The arrays of {str(path)!r} are {', '.join(arrays) or 'none'}. Call images and labels `x_train`, "
            "`y_train`, `x_test`, `y_test`, or `train_images`, `train_labels` and so on."
        )
    return splits


def read_pixel_table(path: Path, *, label_column: str | None = None) -> Images:
    """Read a table with a row for each grey, square image: its class, and a column for each pixel.

    Values are whole numbers; the largest that can be is 255, or 16 if none is larger, as in scikit-learn's digits.

    Raises:
        InputError: the table has another form.
    """
    rows = list(read_rows(path))
    if not rows:
        raise InputError(f"The table {str(path)!r} is empty.")
    columns = list(rows[0])
    known = [name for name in columns if name.lower() in LABELS] if label_column is None else [label_column]
    if len(known) != 1 or known[0] not in columns:
        raise InputError(
            f"Passed `label_column={label_column!r}` for {str(path)!r}, whose columns are {', '.join(columns[:5])}, …. "
            f"It must be one of them; without it, one column is called {', '.join(LABELS)}."
        )
    pixels = [name for name in columns if name != known[0]]
    side = isqrt(len(pixels))
    if side * side != len(pixels) or side < 2:
        raise InputError(
            f"{str(path)!r} has {len(pixels)} columns beside {known[0]!r}, which is no square of pixels. A .csv file "
            "with images holds grey, square ones, a column a pixel. For other tables use "
            "`ff_lightning.data.TableDataModule`."
        )
    try:
        values = np.array([[int(row[name]) for name in pixels] for row in rows])
        labels = np.array([int(row[known[0]]) for row in rows])
    except ValueError as error:
        raise InputError(f"{str(path)!r} has a value that is no whole number: {error}.") from error
    if values.min() < 0 or values.max() > 255 or labels.min() < 0:
        raise InputError(f"{str(path)!r} has pixels from {values.min()} to {values.max()}. They must be 0 to 255.")
    tensor = torch.from_numpy(values.astype(np.uint8)).view(-1, 1, side, side)
    return Images(tensor, torch.from_numpy(labels).long(), 16 if values.max() <= 16 else 255)


def _images(path: Path, parts: Mapping[str, tuple[str, NDArray[Any]]]) -> Images:
    name, array = parts["images"]
    pixels = _pixels(path, name, array)
    if "labels" not in parts:
        return Images(pixels, None)
    label_name, labels = parts["labels"]
    if (
        labels.ndim == 2
        and labels.shape[1] > 1
        and (labels.sum(1) == 1).all()
        and ((labels == 0) | (labels == 1)).all()
    ):
        labels = labels.argmax(1)
    labels = labels.reshape(len(labels), -1)
    if labels.shape != (len(pixels), 1) or labels.dtype.kind not in "biu" or int(labels.min()) < 0:
        raise InputError(
            f"The array {label_name!r} of {str(path)!r} is {labels.dtype} {parts['labels'][1].shape}. Labels must be "
            f"one whole number, at least 0, for each of the {len(pixels)} images."
        )
    return Images(pixels, torch.from_numpy(labels[:, 0].astype(np.int64)))


def _pixels(path: Path, name: str, array: NDArray[Any]) -> Tensor:
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or not len(array):
        raise InputError(
            f"The array {name!r} of {str(path)!r} has shape {array.shape}. Images must be (N, H, W), (N, H, W, C) or "
            "(N, C, H, W), with 1 or 3 channels."
        )
    if array.dtype == np.uint16:
        array = ((array.astype(np.int64) + 128) // 257).astype(np.uint8)
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    raise InputError(
        f"The array {name!r} of {str(path)!r} is {array.dtype} from {array.min()} to {array.max()}. Images must be "
        "uint8, uint16, or float in [0, 1]."
    )
