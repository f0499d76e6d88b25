"""Which rows are trained on, which validate and which test: by class, or by group, so that no group is in two parts."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ff_lightning.errors import InputError

Part = int | float | str | list[str]
"""A part of the rows: a share, a number, or the names of groups."""


def check_part(owner: object, name: str, asked: Part | None, *, grouped: bool) -> None:
    """Check that a part of the rows makes sense by itself.

    Args:
        owner: Whose argument it is, for the message.
        name: Name of the argument.
        asked: What was passed.
        grouped: Whether the rows belong to groups.

    Raises:
        InputError: It does not.
    """
    passed = f"Passed `{type(owner).__name__}({name}={asked!r})`."
    if isinstance(asked, (str, list)):
        if not grouped:
            raise InputError(f"{passed} Names are those of groups: say with `group_column` which column has them.")
    elif isinstance(asked, bool) or (isinstance(asked, float) and not 0 <= asked < 1) or (asked or 0) < 0:
        raise InputError(f"{passed} It must be a share, at least 0 and below 1, a whole number, or names of groups.")


def parted(
    labels: Tensor, groups: Sequence[str] | None, asked: Part, *, seed: int, argument: str
) -> tuple[Tensor, Tensor]:
    """Cut a part from rows.

    Args:
        labels: (N,) int64, classes. Without groups every class keeps its share in both parts.
        groups: Of each row; whole groups go into one part then.
        asked: How many rows, at most all but one class's; or which groups. Of a share or a number of rows in groups,
            as many whole groups are taken, in an order drawn from the seed, as come nearest, at least one.
        seed: Of the choice.
        argument: Its name, for messages.

    Returns:
        The rows that stay and those of the part, each in rising order, int64.

    Raises:
        InputError: There are no such groups, or one of the parts would be empty.
    """
    if isinstance(asked, (str, list)):
        assert groups is not None
        wanted = [asked] if isinstance(asked, str) else asked
        unknown = sorted(set(wanted) - set(groups))
        if unknown:
            known = ", ".join(sorted(set(groups))[:20])
            raise InputError(f"Passed `{argument}={asked!r}`. There is no group {unknown[0]!r} among {known}.")
        chosen = np.isin(np.array(groups), wanted)
    else:
        count = round(len(labels) * asked) if isinstance(asked, float) else asked
        if asked and not 0 < count < len(labels):
            raise InputError(
                f"Passed `{argument}={asked}`. Of {len(labels)} recordings this leaves {max(0, len(labels) - count)} "
                f"and takes {min(count, len(labels))}."
            )
        chosen = _whole_groups(groups, count, seed) if groups is not None else _stratified(labels, count, seed)
    if chosen.all():
        raise InputError(f"Passed `{argument}={asked!r}`. It takes all {len(labels)} recordings.")
    rows = torch.from_numpy(chosen)
    return (~rows).nonzero()[:, 0], rows.nonzero()[:, 0]


def stratified(labels: Tensor | None, total: int, count: int, order: Tensor) -> Tensor:
    """Choose rows so that every class has its share of them.

    Args:
        labels: (total,) classes; None to choose without regard to them.
        total: how many rows there are.
        count: how many to choose.
        order: (total,) the rows in a random order; the first of each class are taken.

    Returns:
        (count,) int64, in rising order.
    """
    if labels is None or not count:
        return order[:count].sort().values
    shuffled = labels[order]
    classes, sizes = torch.unique(shuffled, return_counts=True)
    exact = sizes.double() * count / total
    counts = exact.floor().long()
    # Those that lost most by rounding get the rest; equal ones in the order of their classes.
    for index in (counts - exact).sort(stable=True).indices[: count - int(counts.sum())].tolist():
        counts[index] += 1
    chosen = [order[shuffled == label][:number] for label, number in zip(classes, counts.tolist(), strict=True)]
    return torch.cat(chosen).sort().values


def _stratified(labels: Tensor, count: int, seed: int) -> np.ndarray:
    from sklearn.model_selection import train_test_split

    chosen = np.zeros(len(labels), dtype=bool)
    classes = labels.bincount()
    classes = classes[classes > 0]
    if count:
        # scikit-learn refuses what cannot be stratified: classes of one row, or fewer rows than classes.
        possible = int(classes.min()) > 1 and len(classes) <= min(count, len(labels) - count)
        _, part = train_test_split(
            np.arange(len(labels)), test_size=count, random_state=seed, stratify=labels.numpy() if possible else None
        )
        chosen[part] = True
    return chosen


def _whole_groups(groups: Sequence[str], count: int, seed: int) -> np.ndarray:
    names, sizes = np.unique(np.array(groups), return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    total = np.cumsum(sizes[order])
    taken = 0 if not count else 1 + int(np.abs(total - count).argmin())
    return np.isin(np.array(groups), names[order[:taken]])
