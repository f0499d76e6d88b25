"""What is learned of rows and pictures beside one class each: numbers, several labels, and whether they are normal."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ff_lightning.data.files import natural
from ff_lightning.data.loader import Images, ImageSet, PicturesOnDisk
from ff_lightning.errors import InputError

NORMALITY = ["normal", "anomaly"]
"""Names of the classes where some classes are normal and all others are anomalies."""


def labels_of(value: Any, separator: str) -> list[str]:
    """The labels of one row or picture, each once: those of a list, or of a text with a separator in between.

    >>> labels_of("cat; dog", ";"), labels_of(["cat"], ";"), labels_of("", ";")
    (['cat', 'dog'], ['cat'], [])
    """
    parts = [] if value is None else value if isinstance(value, list | tuple) else str(value).split(separator)
    return list(dict.fromkeys(text for part in parts if (text := str(part).strip())))


def names_of(values: Sequence[Any], separator: str, what: str) -> list[str]:
    """Names of all labels of training rows, numbers in their order.

    Args:
        values: of the rows, see :func:`labels_of`.
        separator: see :func:`labels_of`.
        what: whose labels they are, in messages.

    Raises:
        InputError: there are fewer than two different labels.
    """
    names = sorted({name for value in values for name in labels_of(value, separator)}, key=natural)
    if len(names) < 2:
        raise InputError(
            f"{what} holds {len(names)} different labels, with {separator!r} in between. There must be two."
        )
    return names


def label_sets(values: Sequence[Any], names: Sequence[str], separator: str, what: str) -> Tensor:
    """Which labels rows have, (N, K) float32 of 0 and 1.

    Raises:
        InputError: a label that no training row has.
    """
    numbers = {name: index for index, name in enumerate(names)}
    found = torch.zeros(len(values), len(names))
    for row, value in enumerate(values):
        for name in labels_of(value, separator):
            if name not in numbers:
                raise InputError(
                    f"{what} has the label {name!r}, which no training row has. The labels are {', '.join(names[:20])}."
                )
            found[row, numbers[name]] = 1
    return found


def numbers_of(rows: Sequence[Mapping[str, Any]], target: str, source: str) -> Tensor:
    """Numbers of a column, (N,) float32.

    Raises:
        InputError: a value is missing or no finite number.
    """
    found = []
    for index, row in enumerate(rows, 1):
        try:
            number = float(row.get(target))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = torch.nan
        if not -torch.inf < number < torch.inf:
            raise InputError(
                f"The column {target!r} of {source!r} has {row.get(target)!r} in row {index}. With `target='number'` "
                "it must hold finite numbers: leave out the row, or name another column with `target_column`."
            )
        found.append(number)
    return torch.tensor(found)


def normal_classes(normal: Sequence[Any], names: Sequence[str], owner: str) -> Tensor:
    """Numbers of the classes that are normal, (M,) int64.

    Raises:
        InputError: there is no such class, or none is left that is an anomaly.
    """
    wanted = [str(name) for name in normal]
    unknown = [name for name in wanted if name not in names]
    if unknown or not 0 < len(set(wanted)) < len(names):
        raise InputError(
            f"Passed `{owner}(normal={wanted})`. It must name some of the classes {', '.join(names[:20])}, and not "
            "all of them."
        )
    return torch.tensor([names.index(name) for name in dict.fromkeys(wanted)])


def normal_rows(labels: Tensor, normal: Tensor) -> Tensor:
    """Training rows that are no anomalies, (M,) int64.

    Args:
        labels: (N,) int64, classes of the training rows.
        normal: those that are normal.

    Raises:
        InputError: there are none.
    """
    rows = torch.isin(labels, normal).nonzero()[:, 0]
    if not len(rows):
        raise InputError("No training row is of a class that `normal` names.")
    return rows


def only_normal(images: ImageSet, normal: Tensor) -> tuple[ImageSet, Tensor]:
    """Training data without anomalies, and the rows that are left, (M,) int64; what is left out is said in the log."""
    assert images.labels is not None
    rows = normal_rows(images.labels, normal)
    rank_zero_info(
        f"Left out of the training: {len(images) - len(rows)} anomalies; {len(rows)} normal samples are kept."
    )
    return as_anomalies(images.take(rows), normal), rows


def as_anomalies(images: ImageSet, normal: Tensor) -> ImageSet:
    """The same images with label 0 where their class is normal, else 1."""
    assert images.labels is not None
    labels = (~torch.isin(images.labels, normal)).long()
    if isinstance(images, PicturesOnDisk):
        return PicturesOnDisk(images.decode, images.rows, labels, images.threads)
    assert isinstance(images, Images)
    return Images(images.pixels, labels, images.peak)
