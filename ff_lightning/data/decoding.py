"""What every source of encoded pictures shares: it finds their common shape and decodes them, now or when needed."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from io import BytesIO
from statistics import median_high

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from ff_lightning.data.loader import Images, ImageSet, PicturesOnDisk
from ff_lightning.data.pictures import UNREADABLE, Look, Mode, glance, open_picture, shaped
from ff_lightning.errors import InputError

LOOKED_AT = 64
"""Training pictures whose beginnings say what size and mode most have."""
Encoded = str | BytesIO | None
"""An encoded picture: its path, its bytes, or nothing where a table has a hole."""


class PictureSource(ABC):
    """Encoded pictures in splits, with a class each or with none.

    Args:
        source: what was asked for, in messages.
        look: what pictures are brought to.
        memory: gigabytes of decoded pictures of a split that are kept; larger splits are decoded as needed.
        workers: threads that decode then.

    Attributes:
        splits: names of the splits that there are.
        class_names: a name for each class; ``None`` if they have none.
        num_classes: how many there are; 0 for pictures without classes.
        stratified: whether a validation split that is cut from training has the same share of every class.
    """

    splits: Sequence[str]
    class_names: list[str] | None
    num_classes: int
    stratified = True

    def __init__(self, source: str, look: Look, *, memory: float = 4.0, workers: int = 4) -> None:
        self.source = source
        self.look = look
        self.memory = memory
        self.workers = workers

    @abstractmethod
    def size(self, split: str) -> int:
        """Number of pictures of a split, none of which is decoded for it."""

    @abstractmethod
    def labels(self, split: str) -> Tensor | None:
        """Classes of a split, (N,) int64; None for pictures without classes."""

    @abstractmethod
    def name(self, split: str, row: int) -> str:
        """What to call a picture: its file, or its row."""

    @abstractmethod
    def encoded(self, split: str, rows: Tensor) -> Iterator[Encoded]:
        """Give encoded pictures of some rows, (M,) int64."""

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width that all pictures are brought to, from the beginnings of some training pictures."""
        if self.look.size and self.look.mode:
            return (1 if self.look.mode == "grey" else 3, *self.look.size)
        glances = self._glances()
        mode = self.look.mode or ("rgb" if any(mode == "rgb" for mode, _ in glances.values()) else "grey")
        size = self.look.size or self._size({row: size for row, (_, size) in glances.items()})
        return (1 if mode == "grey" else 3, *size)

    def read(self, split: str, rows: Tensor | None = None) -> ImageSet:
        """Decode a split, or a part of it, or prepare to.

        Args:
            split: "train", "validation" or "test".
            rows: which pictures, (N,) int64, in rising order; None for all. No other is decoded.

        Raises:
            InputError: There is no such split, a picture cannot be read, or a label is none of the classes.
        """
        rows = torch.arange(self.size(split)) if rows is None else rows
        labels = self.labels(split)
        labels = None if labels is None else labels[rows]
        if len(rows) * float(np.prod(self.image_shape)) <= self.memory * 1e9:
            return Images(self._decoded(split, rows, say=True), labels)
        rank_zero_info(
            f"The {len(rows)} {split} pictures of {self.source!r} are decoded as they are needed, by {self.workers} "
            f"threads: they would take more than `memory={self.memory}` gigabytes."
        )
        self._check(split, rows)  # now, and not when a batch needs them
        return PicturesOnDisk(lambda some: self._decoded(split, some), rows, labels, self.workers)

    def _decoded(self, split: str, rows: Tensor, *, say: bool = False) -> Tensor:
        """Return pixels of some rows, (M, C, H, W) uint8."""
        channels, height, width = self.image_shape
        pixels = np.empty((len(rows), height, width, channels), dtype=np.uint8)
        changes: Counter[str] = Counter()
        for index, (row, file) in enumerate(zip(rows.tolist(), self.encoded(split, rows), strict=True)):
            pixels[index], changed = self._decode(split, row, file)
            changes.update(changed)
        if say and changes:
            done = " and ".join(f"{count} were {change}" for change, count in changes.items())
            rank_zero_info(
                f"Of {len(rows)} {split} pictures of {self.source!r} {done}. Choose with `resize` and `mode`."
            )
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def _decode(self, split: str, row: int, file: Encoded) -> tuple[NDArray[np.uint8], list[str]]:
        """Pixels of a picture, and what was done to it that nobody asked for."""
        try:
            if file is None:
                raise ValueError("there is none")
            image = open_picture(file, self.look.ground)
            pixels = shaped(image, self.image_shape)
        except UNREADABLE as error:
            raise self._unreadable(split, row, error) from error
        height, width = self.image_shape[1:]
        changed = []
        if image.size != (width, height) and self.look.size is None:
            if self.look.resize is None:
                raise self._differs(self.name(split, row), (image.height, image.width), (height, width))
            changed.append(f"resized to {height}x{width}")
        if image.mode == "RGB" and self.image_shape[0] == 1 and self.look.mode is None:
            changed.append("made grey")
        return pixels, changed

    def _check(self, split: str, rows: Tensor) -> None:
        """Refuse pictures that are broken or of another size than in training, as far as beginnings and ends say."""
        height, width = self.image_shape[1:]
        for row, (_, size) in self._glances_at(split, rows, all_of_them=True).items():
            if size != (height, width) and self.look.resize is None:
                raise self._differs(self.name(split, row), size, (height, width))

    def _glances(self) -> dict[int, tuple[Mode, tuple[int, int]]]:
        """Mode and size of some training pictures by their row; unreadable ones are refused when they are needed."""
        total = self.size("train")
        rows = torch.linspace(0, total - 1, min(total, LOOKED_AT), dtype=torch.float64).round().long()
        return self._glances_at("train", rows)

    def _glances_at(
        self, split: str, rows: Tensor, *, all_of_them: bool = False
    ) -> dict[int, tuple[Mode, tuple[int, int]]]:
        """Mode and size of pictures by their row; one that cannot be read is refused if all must be, or none can."""
        found, wrong = {}, None
        for row, file in zip(rows.tolist(), self.encoded(split, rows), strict=True):
            try:
                if file is None:
                    raise ValueError("there is none")
                found[row] = glance(file, to_the_end=all_of_them)
            except UNREADABLE as error:
                wrong = wrong or self._unreadable(split, row, error)
        if wrong is not None and (all_of_them or not found):
            raise wrong
        return found

    def _unreadable(self, split: str, row: int, error: Exception) -> InputError:
        return InputError(f"Cannot read {self.name(split, row)}: {error}. Replace it, or take it out of the set.")

    def _size(self, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
        """The size of more than half of the pictures, or the median height and width."""
        (most, count), *_ = Counter(sizes.values()).most_common(1)
        if self.look.resize is None and count < len(sizes):
            row, other = next((row, size) for row, size in sizes.items() if size != most)
            raise self._differs(self.name("train", row), other, most)
        if 2 * count > len(sizes):
            return most
        return median_high(height for height, _ in sizes.values()), median_high(width for _, width in sizes.values())

    def _differs(self, name: str, found: tuple[int, int], expected: tuple[int, int]) -> InputError:
        return InputError(
            f"{name} has (height, width) {found}, others of {self.source!r} have {expected}. A network takes one size: "
            f"pass `resize={list(expected)}`, in a command `--data.resize \"{list(expected)}\"`, or 'most' for the "
            "size of most of them."
        )
