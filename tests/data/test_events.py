"""Recordings of event cameras: bytes to events to frames, splits, and what is said of damaged ones."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ff_lightning.data import EventDataModule
from ff_lightning.data.event_files import read_events, to_frames
from ff_lightning.errors import InputError

EVENTS = bytes([3, 5, 0b1000_0000, 0, 7, 33, 0, 0b0000_0100, 0x93, 0xE0])
"""At 7 µs (polarity 1) and at 300,000 µs (polarity 0)."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in range(6):
        (tmp_path / f"{name}.bs2").write_bytes(EVENTS)
    (tmp_path / "train5.txt").write_text("#sample #class\n0\t1\n1\t0\n2\t2\n3\t1\n4\t0\n")
    (tmp_path / "test1.txt").write_text("5 1\n")
    return tmp_path


def test_bytes_are_events_and_events_are_frames() -> None:
    events = read_events(EVENTS)
    assert events.tolist() == [[3, 5, 1, 7], [33, 0, 0, 300_000]]
    frames = to_frames(np.concatenate([events, events]), steps=3, milliseconds=310)
    assert frames.shape == (3, 2, 34, 34)
    assert frames.nonzero().tolist() == [[0, 1, 5, 3], [2, 0, 0, 33]]
    assert frames.max() == 1
    assert to_frames(events, steps=3, milliseconds=200).sum() == 1, "later events are left out"


def test_a_folder_and_an_archive_give_the_same(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "all.tar.xz", "w:xz") as archive:
        archive.add(folder, "set", filter=lambda member: None if "packed" in member.name else member)
    batches = []
    for source in (folder, tmp_path / "packed", tmp_path / "packed" / "all.tar.xz"):
        data = EventDataModule(str(source), steps=4, validation=2, batch_size=3)
        data.setup(None)
        assert (data.num_classes, data.image_shape) == (3, (4, 2, 34, 34))
        (test,) = data.test_dataloader()
        batches.append([*data.train_dataloader(), *data.val_dataloader(), test])
    for first, second, third in zip(*batches, strict=True):
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, second, third, strict=True))
    x = batches[0][0][0]
    assert (x.shape, x.dtype, float(x.sum())) == ((3, 4, 2, 34, 34), torch.float32, 6.0)
    assert batches[0][-1][1].tolist() == [1]


def test_a_limit_takes_the_recordings_that_are_first_without_it(folder: Path) -> None:
    for name in range(5):  # to tell them apart
        (folder / f"{name}.bs2").write_bytes(EVENTS[:5] * 2 + bytes([name, name, 0, 0, 0]))
    found = []
    for limit in (2, None):
        data = EventDataModule(str(folder), steps=4, validation=1, limit=limit)
        data.setup("fit")
        found.append(data._splits)
    some, everything = found
    assert len(some["train"].labels) == 2
    assert torch.equal(some["train"].pixels, everything["train"].pixels[:2])
    assert torch.equal(some["train"].labels, everything["train"].labels[:2])
    assert torch.equal(some["validation"].pixels, everything["validation"].pixels)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "2.bs2").write_bytes(EVENTS[:-1]), "'2.bs2' has 9 bytes"),
        (lambda folder: (folder / "2.bs2").write_bytes(bytes([34, 0, 0, 0, 0])), "event at x 34"),
        (lambda folder: (folder / "2.bs2").unlink(), "no file 2.bs2, which its train list names; 1 are missing"),
        (lambda folder: (folder / "test1.txt").unlink(), "0 lists of its test recordings"),
        (lambda folder: (folder / "train5.txt").write_text("0 one\n"), "must have lines of an id and a class"),
        (lambda folder: [file.unlink() for file in folder.glob("*.bs2")], "no file 0.bs2"),
    ],
)
def test_damage_is_named(folder: Path, damage: object, message: str) -> None:
    damage(folder)
    with pytest.raises(InputError, match=message):
        EventDataModule(str(folder)).setup("fit")


def test_what_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FF_LIGHTNING_DATA", raising=False)
    with pytest.raises(InputError, match=r"`source='nmnist'`\. It must be a folder or an archive"):
        EventDataModule().setup("fit")
    (tmp_path / "x.tar.xz").write_bytes(b"none")
    with pytest.raises(InputError, match="as a tar archive"):
        EventDataModule(str(tmp_path)).setup("fit")
    with pytest.raises(InputError, match="`steps` must be a whole number"):
        EventDataModule(steps=0)


def test_nmnist_is_read(shared_data: Path) -> None:
    data = EventDataModule("nmnist", steps=10, validation=200)
    data.setup(None)
    assert len(data.train_dataloader().images.labels) == 800
    (x, y) = next(iter(data.test_dataloader()))
    assert x.shape == (100, 10, 2, 34, 34)
    assert y.unique().tolist() == list(range(10))
    assert 0.02 < float(x.mean()) < 0.2
    assert bool((x.sum((2, 3, 4)) > 0).all()), "no frame is empty"
