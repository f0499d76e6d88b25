"""Recordings of event cameras: the files of N-MNIST, and frames of what they hold.

An event is five bytes: x, y, then one bit of polarity and 23 bits of microseconds, big-endian (Orchard et al. 2015,
N-MNIST). A set is a folder, or a tar archive of one, with a file `<id>.bs2` for each recording and lists called
`train*.txt` and `test*.txt`, whose lines are `<id> <class>`.
"""

import tarfile
from functools import cached_property
from pathlib import PurePath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ff_lightning.data.classes import count_classes
from ff_lightning.data.loader import Images
from ff_lightning.data.tables import local_path
from ff_lightning.errors import InputError

SIDE = 34
"""Rows and columns of an N-MNIST recording."""
LOCAL_COPIES = {"nmnist": "nmnist"}
"""Names of sets, and the folders in `FF_LIGHTNING_DATA` that hold them."""


def read_events(recording: bytes, name: str = "recording") -> NDArray[np.int64]:
    """Read the events of a recording.

    Args:
        recording: What its file holds.
        name: What to call it in messages.

    Returns:
        (N, 4): x, y, polarity (0 or 1) and microseconds.

    Raises:
        InputError: It is empty or cut short, or an event lies outside 34 x 34 pixels.
    """
    if not recording or len(recording) % 5:
        raise InputError(
            f"{name!r} has {len(recording)} bytes. Events have five bytes each, and there must be at least one."
        )
    x, y, high, middle, low = np.frombuffer(recording, np.uint8).reshape(-1, 5).astype(np.int64).T
    if max(x.max(), y.max()) >= SIDE:
        raise InputError(f"{name!r} has an event at x {x.max()}, y {y.max()}. Both must be below {SIDE}.")
    return np.stack([x, y, high >> 7, (high & 127) << 16 | middle << 8 | low], axis=1)


def to_frames(events: NDArray[np.int64], *, steps: int, milliseconds: float) -> Tensor:
    """Put events into frames of equal time.

    Args:
        events: (N, 4), as `read_events` gives them.
        steps: Number of frames, T.
        milliseconds: What they cover; later events are left out.

    Returns:
        (T, 2, 34, 34) uint8: 1 where a pixel had an event of a polarity, however many.
    """
    x, y, polarity, time = events.T
    step = (time * steps / (1000 * milliseconds)).astype(np.int64)
    frames = np.zeros((steps, 2, SIDE, SIDE), np.uint8)
    kept = step < steps
    frames[step[kept], polarity[kept], y[kept], x[kept]] = 1
    return torch.from_numpy(frames)


class EventSource:
    """Recordings of a folder or archive, as frames.

    Args:
        source: "nmnist" from `FF_LIGHTNING_DATA`, or the path of a folder or tar archive; a folder without recordings
            may hold one archive.
        steps: Number of frames of a recording, T.
        milliseconds: What they cover.

    Raises:
        InputError: There is no such set, or no list of it.
    """

    stratified = False  # as when the results in the documentation were made

    def __init__(self, source: str, *, steps: int, milliseconds: float) -> None:
        self.source = source
        self.steps = steps
        self.milliseconds = milliseconds
        self.image_shape = (steps, 2, SIDE, SIDE)
        self.splits = ("train", "test")
        self.class_names: list[str] | None = None
        path = local_path(source, LOCAL_COPIES)
        if path is None:
            raise InputError(
                f"Passed `source={source!r}`. It must be a folder or an archive of recordings, or 'nmnist' if the "
                "environment variable FF_LIGHTNING_DATA names a folder with nmnist in it."
            )
        archives = sorted(path.glob("*.tar*")) if path.is_dir() and not any(path.rglob("*.bs2")) else []
        self.path = archives[0] if len(archives) == 1 else path
        self.lists = {split: self._list(split) for split in ("train", "test")}
        self.num_classes = count_classes({label for rows in self.lists.values() for label in rows.values()}, source)

    def size(self, split: str) -> int:
        """Number of recordings that a split's list names."""
        return len(self.lists[split])

    def labels(self, split: str) -> Tensor:
        """Classes of the recordings of a split, (N,) int64."""
        return torch.tensor(list(self.lists[split].values()))

    def name(self, split: str, row: int) -> str:
        """The file of a recording."""
        return f"{list(self.lists[split])[row]}.bs2"

    def read(self, split: str, rows: Tensor | None = None) -> Images:
        """Read the recordings of a split, "train" or "test".

        Args:
            split: Which.
            rows: Places in its list, (N,) int64; None for all. Frames are made of no other recording.

        Raises:
            InputError: One is missing or damaged.
        """
        names = list(self.lists[split])
        missing = [name for name in names if f"{name}.bs2" not in self._files]
        if missing:
            raise InputError(
                f"{self.source!r} has no file {missing[0]}.bs2, which its {split} list names; {len(missing)} are "
                "missing."
            )
        frames = [
            to_frames(
                read_events(self._files[f"{name}.bs2"], f"{name}.bs2"), steps=self.steps, milliseconds=self.milliseconds
            )
            for name in (names if rows is None else [names[row] for row in rows.tolist()])
        ]
        labels = self.labels(split)
        return Images(torch.stack(frames), labels if rows is None else labels[rows], peak=1)

    @cached_property
    def _files(self) -> dict[str, bytes]:
        """Contents of all recordings and lists, by name. Archives are read from end to end, so all at once."""
        if self.path.is_dir():
            files = [file for suffix in ("bs2", "txt") for file in sorted(self.path.rglob(f"*.{suffix}"))]
            return {file.name: file.read_bytes() for file in files}
        try:
            with tarfile.open(self.path) as archive:
                members = [member for member in archive if PurePath(member.name).suffix in (".bs2", ".txt")]
                return {PurePath(member.name).name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"Cannot read {str(self.path)!r} as a tar archive: {error}.") from error

    def _list(self, split: str) -> dict[str, int]:
        """Classes of the recordings of a split, by their id, in the order of its list."""
        names = [name for name in self._files if name.startswith(split) and name.endswith(".txt")]
        if len(names) != 1:
            raise InputError(
                f"{self.source!r} has {len(names)} lists of its {split} recordings. There must be one, called "
                f"{split}*.txt, beside the files of the recordings."
            )
        lines = self._files[names[0]].decode(errors="replace").splitlines()
        rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
        if not rows or any(len(row) != 2 or not row[1].isdecimal() for row in rows):
            raise InputError(f"{names[0]!r} of {self.source!r} must have lines of an id and a class, such as `1 5`.")
        return {name: int(label) for name, label in rows}
