"""From the columns of a table to numbers: standardised numbers, categories as one-hot, and texts as their words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ff_lightning.data.files import natural
from ff_lightning.errors import InputError

MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
"""How tables write that a value is missing, in any case."""
MEND = "Pass `missing='mean'`, leave the column out with `leave_out`, or leave out the rows."
MEND_NEW = "Fill them in, leave out the rows, or train with `missing='mean'`."
"""What to do about values that are missing, in a training and after it."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """What a column of the training rows says of how its values become numbers.

    Attributes:
        name: of the column.
        mean: of its numbers.
        deviation: standard deviation of its numbers; 1 if all are the same.
        categories: its texts, each of which becomes a number that is 0 or 1; None for a column of numbers.
        words: of longer texts, each of which becomes a number: how often it occurs, damped by a logarithm, times its
            weight, over the norm of the row (TF-IDF); None for other columns.
        weights: of the words, smaller for those that many texts have.
    """

    name: str
    mean: float = 0.0
    deviation: float = 1.0
    categories: list[str] | None = None
    words: list[str] | None = None
    weights: list[float] | None = None

    @property
    def width(self) -> int:
        """How many numbers it becomes."""
        return len(self.words or self.categories or "1")


@dataclass(frozen=True)
class Columns:
    """All columns that a network sees.

    Attributes:
        columns: in their order.
        fill: whether a missing number becomes the mean, and a missing category none; they are refused otherwise.
        unseen: how many texts were met that no training row has, by column.
        mixed: what to say of columns of texts that hold numbers, too.
    """

    columns: list[Column]
    fill: bool = False
    unseen: dict[str, int] = field(default_factory=dict, compare=False)
    mixed: list[str] = field(default_factory=list, compare=False)

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        names: Sequence[str],
        *,
        training: Sequence[int] | None = None,
        most_categories: int,
        fill: bool,
        source: str,
        texts: Sequence[str] = (),
        most_words: int = 2000,
    ) -> "Columns":
        """Look at the rows of a table.

        Args:
            rows: of the table that training rows are of. Values that cannot be used are refused in all of them.
            names: of the columns to use.
            training: which of the rows are for training; None for all.
            most_categories: more different texts in a column are refused.
            fill: see the class.
            source: of the rows, in messages.
            texts: the columns that are read as words.
            most_words: how many of the most frequent words of such a column count.

        Raises:
            InputError: a column holds neither numbers nor few enough texts, or values are missing.
        """
        found: list[Column] = []
        mixed: list[str] = []
        for name in names:
            values = [row.get(name) for row in rows]
            chosen = values if training is None else [values[row] for row in training]
            if name in texts:
                found.append(_words(name, [text or "" for text in chosen], most_words, source))
                continue
            if not fill:
                _refuse_missing(values, name, source, MEND)
            present = [value for value in chosen if not _is_missing(value)]
            if not present:
                raise InputError(f"The column {name!r} of {source!r} is empty. Leave it out with `leave_out`.")
            if _numbers([value for value in values if not _is_missing(value)]) is None:
                mixed += _mixed(name, values, most_categories, source)
                found.append(_categories(name, present, most_categories, source))
            else:
                _refuse_infinite(name, values, source)
                found.append(_standard(name, _numbers(present) or [], source))
        return cls(found, fill, mixed=mixed)

    @property
    def in_features(self) -> int:
        """Numbers of a row."""
        return sum(column.width for column in self.columns)

    def features(self, rows: Sequence[Row], source: str) -> Tensor:
        """Turn rows into numbers.

        Args:
            rows: with all columns.
            source: of the rows, in messages.

        Returns:
            (N, in_features) float32. A text that no training row has is none of its categories, and counted.

        Raises:
            InputError: a column is missing, or a value is no number.
        """
        parts = [self._one(column, [row.get(column.name) for row in rows], source, rows) for column in self.columns]
        return torch.cat(parts, dim=1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"columns": [asdict(column) for column in self.columns], "fill": self.fill}

    @staticmethod
    def from_dict(state: Mapping[str, Any]) -> "Columns":
        """Make it again of what :meth:`to_dict` returned."""
        return Columns([Column(**column) for column in state["columns"]], bool(state["fill"]))

    def _one(self, column: Column, values: list[Any], source: str, rows: Sequence[Row]) -> Tensor:
        if rows and not any(column.name in row for row in rows):
            raise InputError(f"{source!r} has no column {column.name!r}, only {', '.join(rows[0])}.")
        if column.words is not None:
            return _word_numbers(column, [str(value or "") for value in values])
        if not self.fill:
            _refuse_missing(values, column.name, source, MEND_NEW)
        if column.categories is not None:
            numbers = {name: index for index, name in enumerate(column.categories)}
            places = [-1 if _is_missing(value) else numbers.get(str(value), -2) for value in values]
            if places.count(-2):
                self.unseen[column.name] = self.unseen.get(column.name, 0) + places.count(-2)
            return (torch.tensor(places)[:, None] == torch.arange(len(numbers))).float()
        present = [column.mean if _is_missing(value) else value for value in values]
        found = _numbers(present)
        if found is None:
            row, wrong = next((row, value) for row, value in enumerate(present, 1) if _numbers([value]) is None)
            raise InputError(
                f"The column {column.name!r} of {source!r} holds {wrong!r} in row {row}, and its training values are "
                "numbers. Correct it, or leave out the row."
            )
        scaled = (np.array(found) - column.mean) / column.deviation
        finite = torch.from_numpy(scaled).float()
        if not bool(finite.isfinite().all()):
            row = int(finite.isfinite().int().argmin())
            raise InputError(
                f"The column {column.name!r} of {source!r} holds {values[row]} in row {row + 1}, which is infinite, or "
                "too large for float32. Correct it, or leave out the row."
            )
        return finite[:, None]


def classes_of(rows: Sequence[Row], target: str, source: str) -> list[str]:
    """Names of the classes of training rows, numbers in their order.

    Raises:
        InputError: a value is missing, or they are measurements and no classes.
    """
    values = [row.get(target) for row in rows]
    _refuse_missing(values, target, source, "Leave out the rows, or name another column with `target_column`.")
    names = sorted({str(value) for value in values}, key=natural)
    numbers = _numbers(values)
    if numbers is not None and (
        any(not number.is_integer() for number in numbers)
        or 2 * len(names) > len(values) > 20
        or (len(names) > 100 and 4 * len(names) > len(values))
    ):
        raise InputError(
            f"The column {target!r} of {source!r} holds {len(names)} different numbers, such as {values[0]}: these are "
            "no classes. Name a column of classes with `target_column`, or predict numbers: `target='number'`."
        )
    if len(names) < 2:
        raise InputError(f"The column {target!r} of {source!r} holds one class alone, {names[0]!r}.")
    return names


def targets_of(rows: Sequence[Row], target: str, names: Sequence[str], source: str) -> Tensor:
    """Classes of rows, (N,) int64.

    Raises:
        InputError: a class that no training row has.
    """
    numbers = {name: index for index, name in enumerate(names)}
    values = [str(row.get(target)) for row in rows]
    wrong = [row for row, value in enumerate(values) if value not in numbers]
    if wrong:
        raise InputError(
            f"{source!r} has {values[wrong[0]]!r} in {target!r} in row {wrong[0] + 1}, which no training row has; "
            f"{len(wrong)} rows are like it. The classes are {', '.join(names[:20])}."
        )
    return torch.tensor([numbers[value] for value in values])


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def _refuse_missing(values: Sequence[Any], name: str, source: str, remedy: str) -> None:
    missing = [index for index, value in enumerate(values) if _is_missing(value)]
    if missing:
        raise InputError(
            f"The column {name!r} of {source!r} has no value in row {missing[0] + 1}; {len(missing)} of {len(values)} "
            f"are missing. {remedy}"
        )


def _refuse_infinite(name: str, values: Sequence[Any], source: str) -> None:
    """Refuse infinity among numbers, some of which may be missing."""
    wrong = [row for row, value in enumerate(values) if not _is_missing(value) and not math.isfinite(float(value))]
    if wrong:
        raise InputError(
            f"The column {name!r} of {source!r} holds {values[wrong[0]]} in row {wrong[0] + 1}, which is no finite "
            f"number; {len(wrong)} rows are like it. Correct it, or leave out the row."
        )


def _mixed(name: str, values: Sequence[Any], most: int, source: str) -> list[str]:
    """What to say of a column of texts some of which are numbers.

    Raises:
        InputError: most are numbers, and so many different ones that they are measured: the others are mistakes.
    """
    present = [(row, value) for row, value in enumerate(values, 1) if not _is_missing(value)]
    texts = [(row, value) for row, value in present if _numbers([value]) is None]
    numbers = len(present) - len(texts)
    if not numbers:
        return []
    row, text = texts[0]
    said = f"{numbers} of {len(present)} values of {name!r} are numbers, row {row} is {text!r}"
    different = len({str(value) for _, value in present})
    if 2 * numbers > len(present) and (2 * different > len(present) > 20 or different > most):
        raise InputError(
            f"The column {name!r} of {source!r} holds numbers and texts: {said}; {len(texts)} rows are like it. "
            "Correct it, leave out the row, or leave the column out with `leave_out`."
        )
    return [f"{said}: all are read as texts."]


def _numbers(values: Sequence[Any]) -> list[float] | None:
    """Values as numbers, or None if one is none; yes and no count as 1 and 0."""
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        return None


def _standard(name: str, numbers: Sequence[float], source: str) -> Column:
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = float(np.std(numbers))
    if not math.isfinite(deviation):
        raise InputError(
            f"The column {name!r} of {source!r} holds numbers up to {max(map(abs, numbers))}, too large to be "
            "standardised. Give them in another unit, or leave the column out with `leave_out`."
        )
    return Column(name, float(np.mean(numbers)), deviation or 1.0)


def _categories(name: str, values: Sequence[Any], most: int, source: str) -> Column:
    if not all(isinstance(value, str | int | float) for value in values):
        raise InputError(
            f"The column {name!r} of {source!r} holds {type(values[0]).__name__}. Columns of numbers and texts are "
            "read: leave it out with `leave_out`."
        )
    texts = sorted({str(value) for value in values}, key=natural)
    if len(texts) > most:
        raise InputError(
            f"The column {name!r} of {source!r} holds {len(texts)} different texts, such as {texts[0]!r}. Leave it out "
            f"with `leave_out`, or raise `most_categories={most}`."
        )
    return Column(name, categories=texts)


def _words(name: str, texts: Sequence[Any], most: int, source: str) -> Column:
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"The column {name!r} of {source!r} holds no texts. Leave it out of `text_columns`.")
    counter = TfidfVectorizer(max_features=most)
    try:
        counter.fit(texts)
    except ValueError as error:
        raise InputError(f"The column {name!r} of {source!r} holds no words of two letters or more.") from error
    return Column(name, words=[str(word) for word in counter.get_feature_names_out()], weights=counter.idf_.tolist())


def _word_numbers(column: Column, texts: Sequence[str]) -> Tensor:
    from sklearn.feature_extraction.text import TfidfVectorizer

    counter = TfidfVectorizer(vocabulary=column.words, sublinear_tf=True)
    counter.idf_ = np.array(column.weights)
    return torch.from_numpy(counter.transform(texts).toarray()).float()
