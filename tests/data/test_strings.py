"""Strings of a real text: which ones, in which order, on any number of ranks, after a stop."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ff_lightning.data import StringsDataModule
from ff_lightning.data.corpora import read_documents
from ff_lightning.data.strings import SYMBOLS, OrderedRows, ShuffledRows, cleaned
from ff_lightning.errors import InputError
from tests.readers import SaveAt, read


def ready(source: str = "pydoc", **options: Any) -> StringsDataModule:
    data = StringsDataModule(source, **options)
    data.setup("fit")
    return data


def text_of(data: StringsDataModule, split: str) -> str:
    return data.tokenizer.decode(data.rows(split).flatten())


def hintons_text(text: str) -> str:
    """Lower case, one blank for white space, 30 symbols; character by character."""
    kept = ""
    for character in text.lower():
        character = " " if character.isspace() else character
        if character in SYMBOLS and not (character == " " and kept[-1:] in ("", " ")):
            kept += character
    return kept.strip()


def test_hintons_sizes_are_the_defaults() -> None:
    data = ready()
    assert (data.rows("train").shape, data.rows("train").dtype) == ((248, 100), torch.int64)
    assert data.rows("validation").shape == (248, 100)
    assert (data.vocab_size, data.context, len(SYMBOLS), len(set(SYMBOLS))) == (30, 99, 30, 30)
    assert "".join(data.tokenizer.characters) == SYMBOLS


def test_what_is_held_out_follows_what_is_learned() -> None:
    data, (text,) = ready(strings=30, held_out=7, length=50), read_documents("pydoc")
    whole = hintons_text(text)
    assert text_of(data, "train") == whole[: 30 * 50]
    assert text_of(data, "validation") == whole[30 * 50 : 37 * 50]
    assert data.unigram.dtype == torch.float64
    assert data.unigram.tolist() == [whole[:1500].count(symbol) for symbol in SYMBOLS]


@pytest.mark.usefixtures("shared_data")
def test_aesop() -> None:
    data = ready("aesop")
    assert text_of(data, "train").startswith("the wolf and the kid there was once a little kid whose growing horns")
    assert len(data.rows("validation").unique(dim=0)) == 248
    assert int((data.unigram > 0).sum()) >= 28


@pytest.mark.usefixtures("shared_data")
def test_what_stands_around_a_book_of_project_gutenberg_is_left_out() -> None:
    for name in ("pg21_townsend.txt", "pg28_jacobs.txt"):
        text = Path(os.environ["FF_LIGHTNING_DATA"], "aesop", name).read_text("utf-8-sig")
        book = cleaned(text, SYMBOLS)
        assert "project gutenberg" not in book
        assert 0.5 * len(text) < len(book) < len(text)
        assert text_of(ready(str(Path(os.environ["FF_LIGHTNING_DATA"], "aesop", name))), "train") == book[:24_800]


@pytest.mark.parametrize(
    ("text", "book"),
    [
        ("The FOX\n  and\tthe\r\nGrapes!", "the fox and the grapes"),
        ("before\n*** START OF THE BOOK ***\nfox\n*** END OF THE BOOK ***\nafter", "fox"),
        ("before\n   ***START OF IT\nfox\n  \t*** END OF IT\nafter", "fox"),
        ("fox\n *** END OF THE BOOK\nafter", "fox"),
        ("*** START OF THE BOOK\nfox *** END of it", "fox end of it"),
        ("fox - 12 crows, a crow;  (a) crow.", "fox crows, a crow; a crow."),
    ],
)
def test_cleaning(text: str, book: str) -> None:
    assert cleaned(text, SYMBOLS) == book


def test_text_that_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("Fox! " * 100)
    with pytest.raises(InputError, match=r"has 399 characters .*`strings=3` and `held_out=1` of `length=100` need 400"):
        ready(str(tmp_path / "some.txt"), strings=3, held_out=1)
    assert len(ready(str(tmp_path / "some.txt"), strings=3, held_out=1, length=99).rows("train")) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 1}, r"StringsDataModule\(length=1\).*at least 2"),
        ({"strings": 0}, "strings=0.*at least 1"),
        ({"held_out": 0}, "held_out=0.*at least 1"),
        ({"batch_size": 2.5}, "batch_size=2.5.*whole number"),
    ],
)
def test_numbers_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StringsDataModule("pydoc", **options)


# Batches -------------------------------------------------------------------------------------------------------


def test_an_epoch_has_every_string_once_in_a_new_order() -> None:
    data = ready(strings=20, batch_size=8)
    loader = data.train_dataloader()
    first, second = (torch.cat(list(loader)) for _ in range(2))
    assert [len(batch) for batch in loader] == [8, 8, 4]
    for epoch in (first, second):
        assert torch.equal(epoch.unique(dim=0), data.rows("train").unique(dim=0))
    assert not torch.equal(first, second)
    assert torch.equal(torch.cat(list(data.train_dataloader())), first)
    assert not torch.equal(torch.cat(list(ready(strings=20, batch_size=8, seed=1).train_dataloader())), first)
    assert torch.equal(torch.cat(list(data.val_dataloader())), data.rows("validation"))


@pytest.mark.parametrize("size", [24, 21])
def test_two_ranks_share(size: int) -> None:
    rows = torch.arange(size).unsqueeze(1)
    whole = list(ShuffledRows(rows, batch_size=8))
    shares = [list(ShuffledRows(rows, batch_size=4, rank=rank, world_size=2)) for rank in (0, 1)]
    assert len(whole) == len(shares[0]) == len(shares[1]) == 3
    for together, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat(parts), together[: 2 * len(parts[0])])
        assert len(together) - 2 * len(parts[0]) == len(together) % 2
    seen = [
        row
        for step in zip(*(OrderedRows(rows, batch_size=4, rank=r, world_size=2) for r in (0, 1)), strict=True)
        for row in step
    ]
    assert torch.equal(torch.cat(seen), rows)


def test_more_processes_than_strings() -> None:
    with pytest.raises(InputError, match="split of 2 strings cannot be shared by 3"):
        ShuffledRows(torch.zeros(2, 5), batch_size=1, world_size=3)


# Under the Trainer ---------------------------------------------------------------------------------------------


def test_overfitting_repeats_the_same_batches() -> None:
    data = StringsDataModule("pydoc", strings=24, length=20, batch_size=8)
    batches = read(data, overfit_batches=1).train_batches
    assert len(batches) == 3
    assert all(torch.equal(batch, data.rows("train")[:8]) for batch in batches)


def fit(checkpoint: Path | None = None, callbacks: Any = None, **options: Any) -> list[Tensor]:
    data = StringsDataModule("pydoc", **{"strings": 24, "length": 20, "batch_size": 8} | options)
    return read(data, checkpoint, callbacks=callbacks).train_batches


@pytest.mark.parametrize("step", [2, 3, 7])
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_trainer_resumes_at_the_next_batch(step: int, tmp_path: Path) -> None:
    full = torch.stack(fit(callbacks=[SaveAt(step, tmp_path / "at.ckpt")]))
    assert len(full) == 9
    assert torch.equal(torch.stack(fit(tmp_path / "at.ckpt")), full[step:])
    with pytest.raises(InputError, match="other symbols"):
        fit(tmp_path / "at.ckpt", symbols=SYMBOLS[:-1] + "!")
