"""Pictures in folders: one folder a class, or a table that names their classes, or no classes at all."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ff_lightning.data.arguments import refuse_unused
from ff_lightning.data.decoding import Encoded, PictureSource
from ff_lightning.data.files import (
    SPLITS,
    endings,
    find_files,
    is_hidden,
    left_out,
    natural,
    split_names,
    split_of,
)
from ff_lightning.data.pictures import ENDINGS, Look, is_picture
from ff_lightning.data.rows import is_table, read_rows
from ff_lightning.data.targets import label_sets, names_of
from ff_lightning.errors import InputError

LABELS = ("label", "labels", "class", "target", "category", "y")
"""How a column of classes may be called; the first that a table has is taken."""
FILES = ("file_name", "filename", "file", "image", "path", "image_id", "id")
"""How a column of files may be called."""
TABLES = ("metadata", "labels", "annotations")
"""How a table of classes is called where there are folders of classes, too."""


class Picture(NamedTuple):
    """A picture of a folder, the name of its class or None, and the split that a table says, or None."""

    path: Path
    label: str | None
    split: str | None = None


class FolderSource(PictureSource):
    """Pictures of a folder.

    Folders called after a split (``train``, ``val``, ``test``, …) hold the splits; without such folders all is
    training. In a split, every folder is a class and all pictures below it are of that class. A table beside the
    pictures (``metadata.csv``, ``labels.csv``, …), with a column of files and one of classes, goes before that; so does
    its column ``split``, where it has a value. A split of pictures alone has no classes.

    Args:
        folder: where they are.
        source: what was asked for, in messages.
        image_column: of the files in a table of classes; ``None`` for the first that is called as those are.
        label_column: of a table of classes; ``None`` for the only one, or the one called ``label``.
        separator: what stands between the labels of a picture that may have several; ``None`` for one class each.
        look: what pictures are brought to.
        memory: see :class:`PictureSource`.
        workers: see :class:`PictureSource`.

    Raises:
        InputError: there are no training pictures, a table does not fit them, or a column is named and there is no
            table.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        separator: str | None = None,
        look: Look | None = None,
        memory: float = 4.0,
        workers: int = 4,
    ) -> None:
        super().__init__(source, look or Look(), memory=memory, workers=workers)
        self.image_column = image_column
        self.label_column = label_column
        self.separator = separator
        self._unused: list[Path] = []
        self._empty: list[Path] = []
        self._around = ""
        self._tables: list[Path] = []
        self._hidden = find_files(folder).hidden
        self._pictures: dict[str, list[Path]] = {}
        self._classes: dict[str, list[str | None]] = {}
        for split, picture in self._found(folder):
            self._pictures.setdefault(split, []).append(picture.path)
            self._classes.setdefault(split, []).append(picture.label)
        self.splits = [split for split in SPLITS if split in self._pictures]
        if "train" not in self._pictures:
            raise InputError(self._nothing(folder))
        if not self._tables:
            columns = {"image_column": image_column, "label_column": label_column}
            refuse_unused(source, "No table is beside its pictures", columns)
        self.class_names = self._names()
        self.num_classes = len(self.class_names or ())
        self._targets = {"train": self._target("train")}
        self._say()

    def size(self, split: str) -> int:
        """Number of pictures of a split."""
        return len(self._of(split))

    def labels(self, split: str) -> Tensor | None:
        """Classes of a split, (N,) int64; None for pictures without classes."""
        self._of(split)
        if split not in self._targets:
            self._targets[split] = self._target(split)
        return self._targets[split]

    def name(self, split: str, row: int) -> str:
        """The file of a picture."""
        return str(self._of(split)[row])

    def encoded(self, split: str, rows: Tensor) -> Iterator[Encoded]:
        """Give the files of some rows."""
        files = self._of(split)
        return (str(files[row]) for row in rows.tolist())

    def _of(self, split: str) -> list[Path]:
        if split not in self._pictures:
            raise InputError(
                f"{self.source!r} has no {split} split, only {', '.join(self.splits)}. Put its pictures into a folder "
                f"called {split!r}."
            )
        return self._pictures[split]

    def _found(self, folder: Path) -> Iterator[tuple[str, Picture]]:
        """Give every picture with its split."""
        inside = _folders(folder)
        while len(inside) == 1 and split_of(inside[0].name) is None and not any(map(_is_read, self._here(folder))):
            self._unused += self._here(folder)
            folder, inside = inside[0], _folders(inside[0])  # a folder in a folder, as archives have it
            self._around = folder.name
        splits = {place: split for place in inside if (split := split_of(place.name))}
        if self._table(folder, inside) is not None or not splits:
            yield from self._training(folder, inside)
            return
        if "train" not in splits.values():  # classes beside a folder of validation pictures
            yield from self._training(folder, [place for place in inside if place not in splits])
        else:
            self._unused += [file for place in inside if place not in splits for file in find_files(place).files]
            self._unused += self._here(folder)
        tables = {split_of(path.name): path for path in self._here(folder) if is_table(path)}
        for place, split in splits.items():
            inside = _folders(place)
            if split in tables and not inside and self._table(place, inside) is None:  # train/ beside train.csv
                self._unused.remove(tables[split])
                yield from ((picture.split or split, picture) for picture in self._by_table(place, tables[split]))
            else:
                yield from ((picture.split or split, picture) for picture in self._split(place, inside))

    def _training(self, folder: Path, inside: list[Path]) -> Iterator[tuple[str, Picture]]:
        """Give pictures that are for training, unless a table says something else, or names those of another split."""
        table = self._table(folder, inside)
        for picture in self._split(folder, inside):
            around = None if table is None else _split_around(picture.path, folder)
            yield picture.split or around or "train", picture

    def _split(self, place: Path, inside: list[Path]) -> Iterator[Picture]:
        """Give the pictures of one split, or of all."""
        table = self._table(place, inside)
        if table is not None:
            yield from self._by_table(place, table)
            return
        here = self._here(place)
        if not inside:
            self._unused += [file for file in here if not is_picture(file)]
            yield from (Picture(file, None) for file in here if is_picture(file))
            return
        self._unused += here
        self._empty += [
            path for path in place.iterdir() if path.is_dir() and path not in inside and not is_hidden(path)
        ]
        for folder in sorted(inside, key=lambda folder: natural(folder.name)):
            files = find_files(folder).files
            self._unused += [file for file in files if not is_picture(file)]
            yield from (Picture(file, folder.name) for file in files if is_picture(file))

    def _here(self, place: Path) -> list[Path]:
        """Files that lie there, and not in a folder below."""
        return sorted(path for path in place.iterdir() if path.is_file() and not is_hidden(path))

    def _table(self, place: Path, inside: list[Path]) -> Path | None:
        """The table that names the classes of the pictures there, if there is one."""
        tables = [path for path in self._here(place) if is_table(path)]
        called = [path for path in tables if path.name.lower().split(".")[0] in TABLES]
        if called or not tables:
            return called[0] if called else None
        pictures = any(is_picture(path) for path in self._here(place)) or len(inside) == 1
        return tables[0] if pictures and len(tables) == 1 else None

    def _by_table(self, place: Path, table: Path) -> Iterator[Picture]:
        """Give the pictures that a table names; others are left out."""
        rows = list(read_rows(table))
        if not rows:
            raise InputError(f"The table {str(table)!r} is empty.")
        self._tables.append(table)
        file_column = self._file_column(rows[0], table)
        label_column = self._label_column(rows[0], file_column, table)
        files = [file for file in find_files(place).files if file != table]
        by_name = _by_name(files, place)
        seen = set()
        for number, row in enumerate(rows, 2):
            asked = Path(str(row[file_column]))
            found = [place / asked] if (place / asked).is_file() else by_name.get(str(asked)) or by_name.get(asked.name)
            if not found:
                raise InputError(
                    f"Row {number} of {str(table)!r} names {row[file_column]!r}, and there is no such file."
                )
            if len(found) > 1:
                some = " and ".join(repr(str(path.relative_to(place))) for path in found[:2])
                raise InputError(
                    f"Row {number} of {str(table)!r} names {row[file_column]!r}, and {len(found)} files are called so, "
                    f"such as {some}. Write the path below {str(place)!r} in {file_column!r}."
                )
            path = found[0]
            label = None if label_column is None else row.get(label_column)
            if label_column is not None and label in (None, "") and self.separator is None:
                raise InputError(f"Row {number} of {str(table)!r} has no value in {label_column!r}.")
            seen.add(path)
            if isinstance(label, list) and self.separator is not None:
                label = self.separator.join(map(str, label))
            yield Picture(path, None if label is None else str(label), _split_said(row.get("split"), number, table))
        self._unused += [file for file in files if file not in seen]

    def _file_column(self, row: dict[str, Any], table: Path) -> str:
        if self.image_column is not None and self.image_column not in row:
            raise InputError(
                f"Passed `image_column={self.image_column!r}`. The columns of {str(table)!r} are {', '.join(row)}."
            )
        return self.image_column or self._named("file", row, FILES, table)

    def _label_column(self, row: dict[str, Any], file_column: str, table: Path) -> str | None:
        others = [name for name in row if name not in (file_column, "split")]
        if self.label_column is None and len(others) <= 1:
            return others[0] if others else None
        if self.label_column is not None and self.label_column not in others:
            raise InputError(
                f"Passed `label_column={self.label_column!r}`. The columns of {str(table)!r} are {', '.join(row)}."
            )
        return self.label_column or self._named("label", dict.fromkeys(others), LABELS, table)

    def _named(self, what: str, row: dict[str, Any], names: tuple[str, ...], table: Path) -> str:
        known = {column.lower(): column for column in reversed(list(row))}
        found = [known[name] for name in names if name in known]
        if found:
            return found[0]
        remedy = f"Name one of them with `{'label' if what == 'label' else 'image'}_column`."
        raise InputError(f"The columns of {str(table)!r} are {', '.join(row)}: which is that of the {what}s? {remedy}")

    def _names(self) -> list[str] | None:
        if self.separator is not None:
            self.stratified = False
            return names_of(self._classes["train"], self.separator, f"The pictures of {self.source!r}")
        classes = {name for name in self._classes["train"] if name is not None}
        return sorted(classes, key=natural) or None

    def _target(self, split: str) -> Tensor | None:
        if self.class_names is None:
            return None
        if self.separator is not None:
            what = f"The {split} split of {self.source!r}"
            return label_sets(self._classes[split], self.class_names, self.separator, what)
        numbers = {name: number for number, name in enumerate(self.class_names)}
        wrong = [index for index, name in enumerate(self._classes[split]) if name not in numbers]
        if wrong:
            name = self._classes[split][wrong[0]]
            of = "is of no class" if name is None else f"is of the class {name!r}, which no training picture has"
            raise InputError(f"The {split} picture {self._pictures[split][wrong[0]]} {of}; {len(wrong)} are like it.")
        return torch.tensor([numbers[name] for name in self._classes[split] if name is not None])

    def _nothing(self, folder: Path) -> str:
        files = find_files(folder).files
        found = f"It holds {endings(files)}. " if files else "It is empty. "
        only = f", only {', '.join(self.splits)}" if self.splits else ""
        return (
            f"Cannot load images from {str(folder)!r}: no training pictures{only}. {found}Read are pictures "
            f"({', '.join(ENDINGS)}) in one folder a class, with a metadata.csv, or without classes; Parquet files; "
            ".npz files; and .csv files of pixels."
        )

    def _say(self) -> None:
        counts = ", ".join(f"{len(self._pictures[split])} {split}" for split in self.splits)
        alone = f": all are in one folder, {self._around!r}" * bool(self._around)
        classes = f"{self.num_classes} classes" if self.class_names else f"no classes{alone}"
        said = left_out(self._hidden, self._unused)
        if self._empty and self.class_names:
            folders = ", ".join(sorted({path.name for path in self._empty if split_of(path.name) is None}))
            said += f"{' ' * bool(said)}No picture is in the folders {folders}." if folders else ""
        rank_zero_info(f"Read {self.source}: {counts} pictures of {classes}.{' ' * bool(said)}{said}")


def _split_said(value: Any, number: int, table: Path) -> str | None:
    """The split that a row of a table says, if it says one."""
    name = "" if value is None else str(value).strip()
    split = split_of(name)
    if name and split is None:
        raise InputError(
            f"Row {number} of {str(table)!r} has {name!r} in 'split'. It must be one of {split_names()}; or empty. "
            "Correct it, or leave out the row."
        )
    return split


def _split_around(path: Path, folder: Path) -> str | None:
    """The split that a folder around a file is called after, below a folder."""
    inside = path.relative_to(folder).parts[:-1] if path.is_relative_to(folder) else ()
    return next(filter(None, map(split_of, inside)), None)


def _by_name(files: Sequence[Path], place: Path) -> dict[str, list[Path]]:
    """Files by their names and their paths below a folder, with and without the endings of pictures."""
    found: dict[str, list[Path]] = {}
    for file in files:
        for name in dict.fromkeys((Path(file.name), file.relative_to(place))):
            found.setdefault(str(name), []).append(file)
            if is_picture(file):
                found.setdefault(str(name.with_suffix("")), []).append(file)
    return found


def _folders(place: Path) -> list[Path]:
    """Folders in a folder that hold a picture or a table somewhere."""
    found = sorted(path for path in place.iterdir() if path.is_dir() and not is_hidden(path))
    return [path for path in found if any(map(_is_read, find_files(path).files))]


def _is_read(file: Path) -> bool:
    return is_picture(file) or is_table(file)
