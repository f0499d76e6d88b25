"""Names: their order, and the splits that they say."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from ff_lightning.data.files import by_split, left_out, natural


@pytest.mark.parametrize("names", [("A", "a", "B"), ("01", "1", "2"), ("a01b", "a1b", "A1b"), ("x", "10²", "9²")])
def test_names_have_one_order_however_they_come(names: tuple[str, ...]) -> None:
    """A set gives its names in an order that differs from process to process."""
    orders = {tuple(sorted(some, key=natural)) for some in permutations(names)}
    assert len(orders) == 1


def test_numbers_in_names_are_in_their_order_however_long() -> None:
    long = "9" * 5000
    assert sorted([long + "9", "10", long, "9", "٣", "x2"], key=natural) == ["٣", "9", "10", long, long + "9", "x2"]


def test_names_of_no_split_are_for_training_only_without_one_called_so() -> None:
    root = Path("set")
    files = [root / name for name in ("train-0.csv", "val.csv", "holdout.csv", "more/other.csv", "more/test/a.csv")]
    splits, unnamed = by_split(files, root)
    assert splits == {"train": files[:1], "validation": files[1:2], "test": files[4:]}
    assert unnamed == files[2:4]
    assert by_split(files[1:], root).files["train"] == files[2:4]
    assert by_split(files, root, all_of_them=True).files["train"] == [files[0], *files[2:4]]
    said = "Left out: 2 called after no split, beside those called train (holdout.csv, other.csv); 1 hidden."
    assert left_out(1, unnamed=unnamed) == said
