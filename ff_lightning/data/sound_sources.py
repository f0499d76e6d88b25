"""Where recordings come from: folders of classes, or anything that `datasets` can load.

Opening a source lists recordings and reads their labels; they are decoded when asked for, and only those asked for.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ff_lightning.data.classes import count_classes
from ff_lightning.data.files import find_files, is_hidden, left_out, natural, split_of
from ff_lightning.data.recordings import ENDINGS, is_recording, read_recording
from ff_lightning.data.tables import load_tables, local_path
from ff_lightning.errors import InputError

if TYPE_CHECKING:
    import datasets

COPIES = {"google/speech_commands": "speech_commands"}
"""Hub ids, and the folders in `FF_LIGHTNING_DATA` that hold the same recordings."""
Below = list[tuple[Path, tuple[str, ...]]]
"""Recordings, and the parts of their paths below the folder of their split."""


@dataclass(frozen=True)
class Rows:
    """Recordings of one split, not yet decoded.

    Attributes:
        names: What each is called in messages.
        labels: (N,) int64.
        groups: Who or what each belongs to, such as its speaker; None where nobody asked.
        contents: A file each, or a column of encoded recordings.
    """

    names: Sequence[str]
    labels: Tensor
    groups: Sequence[str] | None
    contents: "list[Path] | datasets.Dataset"

    def take(self, rows: Tensor) -> "Rows":
        """Some of the rows, (M,) int64, in their order."""
        chosen = rows.tolist()
        contents = self.contents
        return Rows(
            [self.names[row] for row in chosen],
            self.labels[rows],
            None if self.groups is None else [self.groups[row] for row in chosen],
            [contents[row] for row in chosen] if isinstance(contents, list) else contents.select(chosen),
        )

    def called(self, rows: Tensor) -> list[str]:
        """What recordings of some rows, (M,) int64, are called: their files, or their numbers and what a table says."""
        names = [self.names[row] for row in rows.tolist()]
        if isinstance(self.contents, list) or not names:
            return names
        table = self.contents.select(rows.numpy()).with_format("arrow")
        files = [
            encoded and encoded["path"]
            for batch in table.iter(batch_size=500)
            for encoded in batch.column(0).to_pylist()
        ]
        return [f"recording {name}" + f" ({file})" * bool(file) for name, file in zip(names, files, strict=True)]

    def decoded(self, rows: Tensor, rate: int) -> Iterator[Tensor]:
        """Decode the recordings of some rows, (M,) int64, one after the other; see `read_recording`."""
        if isinstance(self.contents, list):
            for row in rows.tolist():
                yield read_recording(self.contents[row], rate, self.names[row])
            return
        table = self.contents.select(rows.numpy()).with_format("arrow")
        numbers = iter(rows.tolist())
        for batch in table.iter(batch_size=500):
            for encoded in batch.column(0).to_pylist():
                name = self.names[next(numbers)]
                if encoded is None or (encoded["bytes"] is None and encoded["path"] is None):
                    raise InputError(f"Cannot read the recording {name}: there is none.")
                content = encoded["bytes"]
                yield read_recording(Path(encoded["path"]) if content is None else content, rate, name)


def joined(parts: Sequence[Rows]) -> Rows:
    """All rows of several splits of one set."""
    import datasets

    contents = [part.contents for part in parts]
    files = [path for content in contents if isinstance(content, list) for path in content]
    return Rows(
        [name for part in parts for name in part.names],
        torch.cat([part.labels for part in parts]),
        None if parts[0].groups is None else [group for part in parts for group in part.groups or ()],
        files if isinstance(contents[0], list) else datasets.concatenate_datasets(contents),
    )


@dataclass(frozen=True)
class SoundSource:
    """All splits of a set of recordings.

    Attributes:
        splits: By name, "train" first; "validation" and "test" where the set has them.
        class_names: One each class.
        named: Whether the names are more than their numbers.
    """

    splits: dict[str, Rows]
    class_names: list[str]
    named: bool = True


def open_sounds(
    source: str,
    *,
    audio_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
) -> SoundSource:
    """Open a folder of class folders, Parquet, or a set on the hub.

    Args:
        source: A folder with one folder of recordings a class, or with folders `train`, `validation` and `test` of
            such; a folder with Parquet files named after their splits; a Parquet file; or the id of a set on the hub.
        audio_column: Name of the column of recordings; None if there is only one.
        label_column: Name of the column of labels, numbers or words; None for "label", or the only one.
        group_column: Name of the column of groups; None for no groups. Class folders have one column, "folder": the
            folder below the class folder.

    Raises:
        InputError: The set cannot be loaded or lacks what is asked for.
    """
    path = local_path(source, COPIES)
    if path is not None and path.is_dir() and not any(path.rglob("*.parquet")):
        given = {"audio_column": audio_column, "label_column": label_column}
        for name, value in given.items():
            if value is not None:
                raise InputError(f"Passed `{name}={value!r}`. The folder {path} has class folders and no columns.")
        if group_column not in (None, "folder"):
            raise InputError(
                f"Passed `group_column={group_column!r}`. Of class folders it can only be 'folder': recordings of one "
                "group lie in a folder of the group's name within their class folder."
            )
        return _open_folders(path, grouped=group_column is not None)
    return _open_tables(source, audio_column, label_column, group_column)


def _open_folders(root: Path, *, grouped: bool) -> SoundSource:
    found = _recordings_by_split(root)
    names = sorted({parts[0] for _, parts in found["train"] if len(parts) > 1}, key=natural)
    if not names:
        raise InputError(
            f"Passed `source={str(root)!r}`. It needs one folder a class with recordings in it: files that end in "
            f"{', '.join(ENDINGS)}."
        )
    return SoundSource({split: _rows_of_folders(rows, names, grouped=grouped) for split, rows in found.items()}, names)


def _recordings_by_split(root: Path) -> dict[str, Below]:
    """Recordings below a folder by the splits that folders in it are called after; all are for training without such.

    A folder called after another split, beside folders of classes, is that split if it has folders of these classes in
    it; else it is a class of that name.
    """
    places = [path for path in sorted(root.iterdir()) if path.is_dir() and not is_hidden(path)]
    by_split = {path: split for path in places if (split := split_of(path.name)) is not None}
    if "train" not in by_split.values():
        classes = {path.name for path in places if path not in by_split}
        by_split = {path: split for path, split in by_split.items() if _has_only(path, classes)}
        held = {path.name for path in by_split}
        found = {"train": [(path, parts) for path, parts in _recordings_of(root) if parts[0] not in held]}
    else:
        found = {"train": []}
        others = [path for path in sorted(root.iterdir()) if path not in by_split and not is_hidden(path)]
        if others:
            rank_zero_info(f"{root}: Left out: {', '.join(path.name for path in others)}, called after no split.")
    for path, split in by_split.items():
        found.setdefault(split, []).extend(_recordings_of(path))
    return {split: some for split, some in found.items() if some or split == "train"}


def _has_only(place: Path, classes: Collection[str]) -> bool:
    """Whether there are folders in a folder, and all are called after classes."""
    names = {path.name for path in place.iterdir() if path.is_dir() and not is_hidden(path)}
    return bool(names) and names <= set(classes)


def _recordings_of(folder: Path) -> Below:
    """Recordings below a folder, and the parts of their paths below it."""
    found = find_files(folder)
    others = [path for path in found.files if not is_recording(path)]
    if others or found.hidden:
        rank_zero_info(f"{folder}: {left_out(found.hidden, others)}")
    return [(path, path.relative_to(folder).parts) for path in found.files if is_recording(path)]


def _rows_of_folders(found: Below, names: list[str], *, grouped: bool) -> Rows:
    number = {name: index for index, name in enumerate(names)}
    for path, parts in found:
        if len(parts) == 1 or parts[0] not in number:
            raise InputError(
                f"The recording {path} lies in none of the class folders {', '.join(names)} of the training recordings."
            )
        if grouped and len(parts) == 2:
            raise InputError(
                f"The recording {path} lies in no folder of a group within its class folder, which "
                "`group_column='folder'` asks for."
            )
    return Rows(
        [str(path) for path, _ in found],
        torch.tensor([number[parts[0]] for _, parts in found], dtype=torch.int64),
        [parts[1] for _, parts in found] if grouped else None,
        [path for path, _ in found],
    )


def _open_tables(
    source: str, audio_column: str | None, label_column: str | None, group_column: str | None
) -> SoundSource:
    import datasets

    tables = load_tables(source, "recordings", COPIES)
    if "train" not in tables:
        raise InputError(f"{source!r} has no train split, only {', '.join(tables)}.")
    features = tables["train"].features
    audio = _column(source, "audio_column", audio_column, [n for n, f in features.items() if _is_audio(f)], features)
    labels = [n for n, f in features.items() if isinstance(f, datasets.ClassLabel) or _dtype(f).startswith(_LABELS)]
    classes = [name for name in labels if isinstance(features[name], datasets.ClassLabel) or name == "label"]
    label = _column(source, "label_column", label_column, labels if label_column else classes or labels, features)
    if group_column is not None and group_column not in features:
        raise InputError(
            f"Passed `group_column={group_column!r}`. The columns of {source!r} are {', '.join(features)}."
        )
    names = _class_names(source, label, features[label], tables["train"])
    splits = {}
    for split, table in tables.items():
        if not len(table):
            raise InputError(f"The {split} split of {source!r} is empty.")
        groups = None if group_column is None else [str(group) for group in table[group_column]]
        contents = table.select_columns([audio]).cast_column(audio, datasets.Audio(decode=False))
        called = [f"{row} of the {split} split of {source!r}" for row in range(len(table))]
        splits[split_of(split) or split] = Rows(called, _labels(source, split, table, label, names), groups, contents)
    named = isinstance(features[label], datasets.ClassLabel) or not _dtype(features[label]).startswith(_NUMBERS)
    return SoundSource(splits, names, named)


_NUMBERS = ("int", "uint")
_LABELS = (*_NUMBERS, "string", "large_string")


def _dtype(feature: Any) -> str:
    return str(getattr(feature, "dtype", ""))


def _is_audio(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Audio) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _column(source: str, argument: str, asked: str | None, found: list[str], features: dict[str, Any]) -> str:
    """The column that was asked for, or the only one that fits."""
    columns = f"The columns of {source!r} are {', '.join(features)}"
    if asked is not None and asked not in found:
        raise InputError(f"Passed `{argument}={asked!r}`. {columns}; it must be a fitting one.")
    if asked is None and len(found) != 1:
        which = f"Name one of {', '.join(found)} with `{argument}`." if found else f"None can be the `{argument}`."
        raise InputError(f"{columns}. {which}")
    return asked or found[0]


def _class_names(source: str, label: str, feature: Any, table: "datasets.Dataset") -> list[str]:
    names = getattr(feature, "names", None)
    if names is not None:
        return list(names)
    values = {value for value in table[label] if value is not None}
    if _dtype(feature).startswith(_NUMBERS):
        return [str(number) for number in range(count_classes(values, source))]
    return sorted(values)


def _labels(source: str, split: str, table: "datasets.Dataset", label: str, names: list[str]) -> Tensor:
    known = {name: number for number, name in enumerate(names)}
    values = list(table[label])
    numbers = [known.get(value, -1) if isinstance(value, str) else -1 if value is None else value for value in values]
    wrong = [row for row, number in enumerate(numbers) if not 0 <= number < len(names)]
    if wrong:
        raise InputError(
            f"Label {values[wrong[0]]!r} of recording {wrong[0]} in the {split} split of {source!r} is none of the "
            f"{len(names)} classes of the training split; {len(wrong)} labels are missing or unknown."
        )
    return torch.tensor(numbers, dtype=torch.int64)
