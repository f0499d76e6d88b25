"""Which rows are trained on, which validate and which test: by class, or by group, so that no group is in two parts."""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ff_lightning.data.arguments import check_counts, count_of
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
        chosen = _rows_of(groups, wanted)
    else:
        if groups is not None and str(asked) in groups:
            raise InputError(
                f"Passed `{argument}={asked}`. This is a number of recordings, and there is a group called "
                f"{str(asked)!r}, too: name the group in a list, `{argument}=['{asked}']`, or pass a share."
            )
        count = count_of(asked, len(labels))
        if asked:
            check_counts(f"{argument}={asked}", {argument: count}, len(labels), rows="recordings")
        if groups is not None:
            chosen = _rows_of(groups, _some_groups(groups, count, seed))
        else:
            order = torch.randperm(len(labels), generator=_generator(seed))
            chosen = torch.zeros(len(labels), dtype=torch.bool)
            chosen[stratified(labels, len(labels), count, order)] = True
    if chosen.all():
        raise InputError(f"Passed `{argument}={asked!r}`. It takes all {len(labels)} recordings.")
    return (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]


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


def _some_groups(groups: Sequence[str], count: int, seed: int) -> set[str]:
    """Names of groups, in an order drawn from the seed, that together have about so many rows."""
    sizes = Counter(groups)
    names = sorted(sizes)
    names = [names[index] for index in torch.randperm(len(names), generator=_generator(seed)).tolist()]
    total = list(accumulate(sizes[name] for name in names))
    taken = 0 if not count else 1 + min(range(len(names)), key=lambda index: abs(total[index] - count))
    return set(names[:taken])


def _rows_of(groups: Sequence[str], wanted: Collection[str]) -> Tensor:
    return torch.tensor([group in wanted for group in groups])


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
