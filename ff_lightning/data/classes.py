"""Classes that are numbers: how many there are, and whether a checkpoint was trained with the same."""

from collections.abc import Collection, Sequence
from itertools import zip_longest

from lightning.pytorch.utilities import rank_zero_info

from ff_lightning.errors import InputError

MANY, TIMES = 100, 10
"""Labels that would be more classes than the one, and so many times as many as occur, number something else."""


def count_classes(labels: Collection[int], source: str) -> int:
    """How many classes labels stand for that have no names: 0 to the highest. Those that do not occur are said.

    Args:
        labels: the different ones of the training.
        source: of them, in messages.

    Raises:
        InputError: hardly any of the classes occurs.
    """
    there = {label for label in labels if label >= 0}
    count = 1 + max(there, default=0)
    if count > max(MANY, TIMES * len(there)):
        some = ", ".join(str(label) for label in sorted(there)[:3])
        raise InputError(
            f"The labels of {source!r} would be {count} classes, and only {len(there)} occur, such as {some}: these "
            "are no classes. Number the classes from 0, as `numpy.unique(labels, return_inverse=True)[1]` does."
        )
    if len(there) < count:
        rank_zero_info(f"The labels of {source} go up to {count - 1}, and {count - len(there)} of them do not occur.")
    return count


def check_same_classes(
    trained: Sequence[str] | None, names: Sequence[str] | None, count: int | None, source: str
) -> None:
    """Check that a checkpoint was trained with the classes of data, as far as both know them.

    Args:
        trained: names of those of the checkpoint, in their order; None if it does not know them.
        names: names of those of the data; None if they have none.
        count: how many those of the data are; None for data without classes.
        source: of the data, in messages.

    Raises:
        InputError: it was not: its numbers stand for other classes.
    """
    if trained is None or (names is None and count in (None, len(trained))):
        return
    if names is not None and list(names) == list(trained):
        return
    now = count if names is None else len(names)
    said = f"The checkpoint was trained with {len(trained)} classes, {source!r} has {now}"
    if names is not None:
        pairs = [(_called(then), _called(this)) for then, this in zip_longest(trained, names)]
        place = next(place for place, (then, this) in enumerate(pairs) if then != this)
        said += f", and the first that differs, {place}, was {pairs[place][0]} and is {pairs[place][1]}"
    raise InputError(
        f"{said}. Pass data with the same classes, or begin another training with these weights: `--init_from`."
    )


def _called(name: str | None) -> str:
    return "none" if name is None else repr(name)
