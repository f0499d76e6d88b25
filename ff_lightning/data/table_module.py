"""`TableDataModule`: rows of a table as standardised numbers, with a class, a number or several labels each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ff_lightning.data.arguments import (
    check_counts,
    check_encoding,
    check_source,
    check_validation,
    check_whole,
    count_of,
)
from ff_lightning.data.columns import Columns, Row, classes_of, targets_of
from ff_lightning.data.files import by_split, find_files, left_out
from ff_lightning.data.folders import LABELS
from ff_lightning.data.loader import Images, MemoryLoader, ShuffledLoader
from ff_lightning.data.order import mixed_once, rank_of
from ff_lightning.data.rows import ENDINGS, is_table, read_rows
from ff_lightning.data.splits import stratified
from ff_lightning.data.tables import local_path
from ff_lightning.data.targets import (
    NORMALITY,
    as_anomalies,
    label_sets,
    names_of,
    normal_classes,
    normal_rows,
    numbers_of,
    only_normal,
)
from ff_lightning.errors import InputError, check_seeds

EMBEDDED = ("wine", "breast_cancer", "iris", "diabetes")
"""Sets of scikit-learn that need no download; the last has a number for each row, the others a class."""
TARGET = "class"
"""What their column of classes is called here."""
NUMBER = "target"
"""What that of numbers is called."""


class TableDataModule(LightningDataModule):
    """Rows of a table, with a class, a number or several labels each: CSV, JSON, Parquet, or a set of scikit-learn.

    Columns of numbers are standardised by mean and standard deviation of the training rows; columns of few texts become
    one number, 0 or 1, for each text; columns of longer texts, if they are named, a number for each word. All of this
    is learned of training rows alone, of normal ones where anomalies are to be found. Splits are files called after
    them, and where one is called after the training, files called after no split are left out; without a test or
    validation file, rows are kept for it, with the same share of every class. What is left out is said in the log.

    Args:
        source: "wine", "breast_cancer", "iris" or "diabetes" (scikit-learn's, nothing is downloaded); a table
            (.csv, .tsv, .jsonl, .json, .parquet, also .gz and .xz); or a folder of tables called after their splits.
        target_column: Column of what is to be predicted; None for the one called label, class or target.
        target: What it holds: a "class", text or whole number; a "number"; or "labels", any number of them, as a list
            or a text with a separator in between.
        separator: What stands between several labels.
        normal: Names of the classes that are normal, if anomalies are to be found: rows of all others are left out of
            the training, and are anomalies elsewhere, label 1 beside 0.
        leave_out: Columns that the network does not see, such as names and numbers of rows.
        text_columns: Columns of longer texts, such as reviews: every frequent word becomes a number (TF-IDF).
        most_words: How many of the most frequent words of such a column count.
        missing: "refuse" values that are missing, or put the "mean" of the training rows there, and no category.
        most_categories: A column with more different texts is refused.
        encoding: Of text tables, as Python names it.
        batch_size: Training rows in a batch of one device.
        eval_batch_size: Largest number of rows in a batch of one device elsewhere.
        validation: Share (a float) or number (an int) of rows for validation, where there is no such file; 0 for none.
        test: The same for the test.
        split_seed: Seed of the choice of validation and test rows.
        balance: Draw every class equally often in training, for classes of unequal size.
        shuffle_seed: Seed of the order of training.

    Attributes:
        in_features: Numbers of a row.
        num_classes: Number of classes or labels; None for numbers and anomalies, of which a network knows nothing.
        class_names: Their names; none for numbers.
        low: The lowest number of the training rows; None for classes.
        high: The highest.

    Shape:
        Batches are (x, y): (B, in_features) float32 and (B,) int64; (B,) float32 for numbers; for several labels
        (B, num_classes) float32, 1 where one is there.

    Raises:
        InputError: A number is out of range.

    Example:
        >>> data = TableDataModule("wine")
        >>> data.setup("fit")
        >>> data.in_features, data.num_classes, next(iter(data.train_dataloader()))[0].shape
        (13, 3, torch.Size([32, 13]))
    """

    def __init__(
        self,
        source: str = "wine",
        *,
        target_column: str | None = None,
        target: Literal["class", "number", "labels"] = "class",
        separator: str = ";",
        normal: Sequence[str | int] = (),
        leave_out: Sequence[str] = (),
        text_columns: Sequence[str] = (),
        most_words: int = 2000,
        missing: Literal["refuse", "mean"] = "refuse",
        most_categories: int = 50,
        encoding: str = "utf-8",
        batch_size: int = 32,
        eval_batch_size: int = 1000,
        validation: int | float = 0.1,
        test: int | float = 0.2,
        split_seed: int = 0,
        balance: bool = False,
        shuffle_seed: int = 0,
    ) -> None:
        super().__init__()
        source = check_source(
            self, source, instead="Write a DataFrame with `to_csv('table.csv', index=False)`, and pass that path."
        )
        check_encoding(encoding)
        for name, value in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            check_whole(self, name, value, least=1)
        check_whole(self, "most_words", most_words, least=1)
        check_seeds(self, split_seed=split_seed, shuffle_seed=shuffle_seed)
        check_validation(self, validation, rows="rows")
        check_validation(self, test, rows="rows", name="test")
        if missing not in ("refuse", "mean"):
            raise InputError(f"Passed `missing={missing!r}`. `missing` must be 'refuse' or 'mean'.")
        if target not in ("class", "number", "labels") or not separator:
            raise InputError(
                f"Passed `target={target!r}` with `separator={separator!r}`. `target` must be 'class', 'number' or "
                "'labels', and the separator not empty."
            )
        if (normal or balance) and target != "class":
            name = "normal" if normal else "balance"
            raise InputError(f"Passed `{name}` with `target={target!r}`. It is for rows with one class each.")
        normal = [normal] if isinstance(normal, str) else [str(name) for name in normal]
        self.save_hyperparameters()
        self.source = source
        self.target_column = target_column
        self.target = target
        self.separator = separator
        self.normal = normal
        self.leave_out = [leave_out] if isinstance(leave_out, str) else list(leave_out)
        self.text_columns = [text_columns] if isinstance(text_columns, str) else list(text_columns)
        self.most_words = most_words
        self.missing = missing
        self.most_categories = most_categories
        self.encoding = encoding
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.validation = validation
        self.test = test
        self.split_seed = split_seed
        self.balance = balance
        self.shuffle_seed = shuffle_seed
        self._columns: Columns | None = None
        self._classes: list[str] = []
        self._range: tuple[float, float] | None = None
        self._target = ""
        self._numbers: dict[str, list[int]] = {}
        self._splits: dict[str, Images] = {}

    @property
    def in_features(self) -> int:
        """Numbers of a row."""
        return self.columns.in_features

    @property
    def num_classes(self) -> int | None:
        """Number of classes or labels; None for numbers and anomalies."""
        return None if self.normal else len(self.class_names) or None

    @property
    def low(self) -> float | None:
        """The lowest number of the training rows; None for classes."""
        self.setup()
        return None if self._range is None else self._range[0]

    @property
    def high(self) -> float | None:
        """The highest number of the training rows; None for classes."""
        self.setup()
        return None if self._range is None else self._range[1]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        self.setup()
        return self._classes

    @property
    def columns(self) -> Columns:
        """What turns rows into numbers."""
        self.setup()
        assert self._columns is not None
        return self._columns

    def setup(self, stage: str | None = None) -> None:
        """Read the table and cut it.

        Raises:
            InputError: It cannot be read, or does not hold numbers and classes.
        """
        del stage
        if self._columns is not None:
            return
        rows = self._read()
        names = self._named_columns(rows)
        self._classes = self._names_of(rows["train"])
        for split in [split for split, some in rows.items() if self._target not in some[0]]:
            del rows[split]
            rank_zero_info(
                f"Left out of {self.source}: the {split} table, which has no column {self._target!r}. "
                "`predict --table` takes it."
            )
        cut = self._cut(rows)
        targets = {split: self._targets(some) for split, some in cut.items()}
        learned = self._numbers["train"]
        if self.normal:
            normal = normal_classes(self.normal, self._classes, type(self).__name__)
            learned = [learned[row] for row in normal_rows(targets["train"], normal).tolist()]
        self._columns = Columns.of(
            rows["train"],
            [name for name in names if name != self._target and name not in self.leave_out],
            training=learned,
            most_categories=self.most_categories,
            fill=self.missing == "mean",
            source=self.source,
            texts=self.text_columns,
            most_words=self.most_words,
        )
        if not self._columns.columns:
            raise InputError(f"{self.source!r} has no column beside {self._target!r}, and those that are left out.")
        for split, some in cut.items():
            self._splits[split] = Images(self._columns.features(some, self.source), targets[split])
        if self.target == "number":
            numbers = self._splits["train"].labels
            assert numbers is not None
            self._range = (float(numbers.min()), float(numbers.max()))
        self._say()
        if self.normal:
            self._call_normal(normal)

    def _named_columns(self, rows: Mapping[str, Sequence[Row]]) -> list[str]:
        """Names of the columns of training rows, of which those that arguments name must be some."""
        names = list(rows["train"][0])
        self._target = self._named_target(names)
        for argument, named in {"leave_out": self.leave_out, "text_columns": self.text_columns}.items():
            if unknown := [name for name in named if name not in names]:
                raise InputError(
                    f"Passed `{argument}={unknown}`. The columns of {self.source!r} are {', '.join(names)}."
                )
        others = dict.fromkeys(name for some in rows.values() for name in some[0] if name not in names)
        if others:
            rank_zero_info(f"Left out of {self.source}: the columns {', '.join(others)}, which no training row has.")
        return names

    def _names_of(self, rows: Sequence[Row]) -> list[str]:
        """Names of the classes or labels of training rows."""
        if self.target == "number":
            return []
        if self.target == "class":
            return classes_of(rows, self._target, self.source)
        what = f"The column {self._target!r} of {self.source!r}"
        return names_of([row.get(self._target) for row in rows], self.separator, what)

    def _targets(self, rows: Sequence[Row]) -> Tensor:
        """What is to be predicted of rows."""
        if self.target == "number":
            return numbers_of(rows, self._target, self.source)
        if self.target == "class":
            return targets_of(rows, self._target, self._classes, self.source)
        what = f"The column {self._target!r} of {self.source!r}"
        return label_sets([row.get(self._target) for row in rows], self._classes, self.separator, what)

    def _call_normal(self, normal: Tensor) -> None:
        """Make anomalies of the classes that are not normal, and leave them out of the training."""
        splits: dict[str, Any] = {split: as_anomalies(images, normal) for split, images in self._splits.items()}
        splits["train"], left = only_normal(self._splits["train"], normal)
        self._numbers["train"] = [self._numbers["train"][row] for row in left.tolist()]
        self._splits = splits
        self._classes = NORMALITY

    def train_dataloader(self) -> MemoryLoader | ShuffledLoader:
        """Give the training rows in a new order in every epoch; in one order with the trainer's `overfit_batches`."""
        images, trainer = self._splits["train"], self.trainer
        rank, world_size = rank_of(trainer)
        if trainer is not None and trainer.overfit_batches:  # type: ignore[attr-defined]
            images = images.take(mixed_once(len(images), self.shuffle_seed))
            return MemoryLoader(images, batch_size=self.batch_size, rank=rank, world_size=world_size)
        return ShuffledLoader(
            images,
            batch_size=self.batch_size,
            seed=self.shuffle_seed,
            balance=self.balance,
            limit_batches=1.0 if trainer is None else trainer.limit_train_batches,
            rank=rank,
            world_size=world_size,
        )

    def val_dataloader(self) -> MemoryLoader | list[MemoryLoader]:
        """Give the validation rows in order; no loader if there are none."""
        return self._sequential("validation") if "validation" in self._splits else []

    def test_dataloader(self) -> MemoryLoader:
        """Give the test rows in order."""
        if "test" not in self._splits:
            raise InputError(f"Passed `TableDataModule(test={self.test})`, and {self.source!r} has no test file.")
        return self._sequential("test")

    def predict_dataloader(self) -> MemoryLoader | list[MemoryLoader]:
        """Give the validation rows in order; no loader if there are none."""
        return self.val_dataloader()

    def row_names(self, split: str, rows: Sequence[int]) -> list[str]:
        """What to call rows of a split: their number in the file of the split, from 1; after `setup`."""
        return [f"row {self._numbers[split][row] + 1}" for row in rows]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that it alone can read tables: how columns become numbers, and the classes."""
        return {"columns": self.columns.to_dict(), "class_names": self.class_names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint was trained with the same columns and classes.

        Raises:
            InputError: It was not.
        """
        if state_dict["class_names"] != self.class_names or state_dict["columns"] != self.columns.to_dict():
            raise InputError(
                "The checkpoint was trained with other columns, classes or training rows than those of "
                f"{self.source!r} as it is read now. Pass the same `source` and options."
            )

    def _read(self) -> dict[str, list[Row]]:
        """Rows of the splits that there are."""
        if self.source in EMBEDDED:
            return {"train": _embedded(self.source)}
        path = local_path(self.source, {})
        if path is None:
            raise InputError(
                f"Passed `source={self.source!r}`. It must be a table ({', '.join(ENDINGS)}), a folder of tables, or "
                f"one of {', '.join(EMBEDDED)}."
            )
        splits = {split: self._rows_of(files) for split, files in self._files(path).items()}
        empty = [split for split, rows in splits.items() if not rows]
        if empty or "train" not in splits:
            wrong = f"the {empty[0]} table is empty" if empty else f"there are only {', '.join(splits)}"
            raise InputError(f"{self.source!r} has no rows to train or evaluate on: {wrong}.")
        return splits

    def _files(self, path: Path) -> dict[str, list[Path]]:
        files, hidden = find_files(path) if path.is_dir() else ([path], 0)
        tables = [file for file in files if is_table(file)]
        if not tables:
            raise InputError(f"Passed `source={self.source!r}`. It holds no table: {', '.join(ENDINGS)}.")
        splits, unnamed = by_split(tables, path) if path.is_dir() else ({"train": tables}, [])
        if said := left_out(hidden, [file for file in files if not is_table(file)], unnamed=unnamed):
            rank_zero_info(f"Reading {self.source}. {said}")
        return splits

    def _rows_of(self, files: Sequence[Path]) -> list[Row]:
        """Rows of tables, each with all of their columns: of JSON a row may lack some, whose value is missing then."""
        rows = [row for file in files for row in read_rows(file, encoding=self.encoding)]
        names = dict.fromkeys(name for row in rows for name in row)
        return [row if len(row) == len(names) else {**names, **row} for row in rows]

    def _named_target(self, names: Sequence[str]) -> str:
        found = (
            [name for name in names if name.lower() in LABELS] if self.target_column is None else [self.target_column]
        )
        if len(found) == 1 and found[0] in names:
            return found[0]
        raise InputError(
            f"Passed `target_column={self.target_column!r}`. The columns of {self.source!r} are {', '.join(names)}. It "
            f"must be the one that holds the classes; without it, one is called {', '.join(LABELS)}."
        )

    def _cut(self, rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
        """Keep training rows for the splits that are asked for and have no file."""
        total = len(rows["train"])
        order = torch.randperm(total, generator=torch.Generator().manual_seed(self.split_seed))
        targets = self._targets(rows["train"])
        left, places = order, {}
        wanted = {"test": self.test, "validation": self.validation}
        for split in [split for split, asked in wanted.items() if split in rows and asked]:
            rank_zero_info(f"The {split} rows are those of {self.source!r}; `{split}={wanted[split]}` is unused.")
        wanted = {split: asked for split, asked in wanted.items() if split not in rows and asked}
        counts = {split: count_of(asked, total) for split, asked in wanted.items()}
        if counts:
            passed = ", ".join(f"{split}={asked}" for split, asked in wanted.items())
            check_counts(f"TableDataModule({passed})", counts, total, rows="rows")
        for split, count in counts.items():
            classes = targets[left] if self.target == "class" else None
            places[split] = left[stratified(classes, len(left), count, torch.arange(len(left)))].sort().values
            left = left[~torch.isin(left, places[split])]
        places["train"] = left.sort().values
        self._numbers = {split: list(range(len(some))) for split, some in rows.items()}
        self._numbers |= {split: some.tolist() for split, some in places.items()}
        kept = {
            split: some
            for split, some in rows.items()
            if split != "train" and (split != "validation" or self.validation)
        }
        return kept | {split: [rows["train"][row] for row in some.tolist()] for split, some in places.items()}

    def _say(self) -> None:
        counts = ", ".join(f"{len(images)} {split}" for split, images in sorted(self._splits.items()))
        kinds = {
            "class": f"{len(self._classes)} classes",
            "labels": f"{len(self._classes)} labels",
            "number": "a number",
        }
        said = f"Read {self.source}: {counts} rows of {kinds[self.target]}, {self.in_features} numbers each."
        labels = self._splits["train"].labels
        assert labels is not None
        there = set(labels.tolist() if labels.dim() == 1 else labels.any(0).nonzero()[:, 0].tolist())
        lacking = [name for number, name in enumerate(self._classes) if number not in there]
        notes = [f"Left out: the columns {', '.join(self.leave_out)}."] if self.leave_out else []
        notes += [f"No training row is of {', '.join(lacking)}."] if lacking else []
        notes += self.columns.mixed
        unseen = self.columns.unseen
        notes += [f"{count} values of {name!r} occur in no training row." for name, count in unseen.items()]
        rank_zero_info(" ".join([said, *notes]))

    def _sequential(self, split: str) -> MemoryLoader:
        rank, world_size = rank_of(self.trainer)
        return MemoryLoader(self._splits[split], batch_size=self.eval_batch_size, rank=rank, world_size=world_size)


def _embedded(name: str) -> list[Row]:
    """Rows of a set of scikit-learn, with the names of its classes."""
    from sklearn import datasets

    if name == "diabetes":
        numbers = datasets.load_diabetes(scaled=False)
        columns = [*map(str, numbers.feature_names), NUMBER]
        rows = zip(numbers.data.tolist(), numbers.target.tolist(), strict=True)
        return [dict(zip(columns, [*values, number], strict=True)) for values, number in rows]
    bunch = getattr(datasets, f"load_{name}")()
    names = [str(feature) for feature in bunch.feature_names]
    classes = [str(label) for label in bunch.target_names]
    return [
        {**dict(zip(names, values, strict=True)), TARGET: classes[label]}
        for values, label in zip(bunch.data.tolist(), bunch.target.tolist(), strict=True)
    ]
