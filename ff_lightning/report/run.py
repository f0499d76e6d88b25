"""What a run folder holds, read for a report."""

from __future__ import annotations

import base64
import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ff_lightning.errors import InputError
from ff_lightning.report.records import read_record

Curve = list[tuple[int, float]]
"""Updates done, and the value logged then."""

PNG = b"\x89PNG\r\n\x1a\n"
"""How a PNG file begins."""

HEAD = 24
"""Bytes until its size is known."""

LARGEST = 1e300
"""Larger values are not drawn: their differences overflow."""

PICTURES = {
    "validation": "Goodness of validation images with right and wrong labels, and what is taken for what",
    "test": "Goodness of test images with right and wrong labels, and what is taken for what",
    "labels": "Goodness that every block gives to every label: the clearest and the hardest image of a batch",
    "heard": "A recording, and what every block thinks once it has heard so much of it",
    "spotted": "A running recording, and what every block thinks at every frame",
    "fields": "What units of the first block look at",
    "goodness": "Goodness of positives and negatives in the last logged batch",
}
"""Captions of the pictures that we draw, in the order in which they are shown; any others come after."""


@dataclass(frozen=True)
class Picture:
    """A picture as part of the page.

    Attributes:
        name: of its file, without ending.
        caption: what it shows.
        data: address that holds the whole picture.
        size: width and height, pixels.
    """

    name: str
    caption: str
    data: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Sample:
    """Text that a language model wrote.

    Attributes:
        updates: done by then.
        prompt: what it went on with.
        written: what it wrote.
    """

    updates: int
    prompt: str
    written: str


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: of its folder.
        folder: as it was passed.
        record: ``run.json``; empty if the command line has not made the run.
        curves: logged values by name.
        pictures: PNG files of ``pictures/``.
        samples: texts of ``samples.txt``.
        config: ``config.yaml``.
    """

    name: str
    folder: str
    record: dict[str, Any]
    curves: dict[str, Curve]
    pictures: list[Picture]
    samples: list[Sample]
    config: str


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: it is none, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"Passed `run_dirs={folder}`. There is no such folder.")
    config = folder / "config.yaml"
    if not any(folder.glob("metrics*.csv")) and not config.is_file():
        raise InputError(
            f"Passed `run_dirs={folder}`. It is no run folder: neither `metrics.csv` nor `config.yaml` is in it."
        )
    refuse_links(folder)
    try:
        return Run(
            name=folder.resolve().name,
            folder=str(folder),
            record=read_record(folder, strict=True),
            curves=_curves(folder),
            pictures=_pictures(folder / "pictures"),
            samples=_samples(folder / "samples.txt"),
            config=_read(config) if config.is_file() else "",
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"Passed `run_dirs={folder}`. A file in it is damaged: {error}.") from error


def refuse_links(folder: Path) -> None:
    """Refuse a run folder that leads elsewhere: a page is given to others, and holds nothing else of this machine.

    Raises:
        InputError: names the file.
    """
    home = folder.resolve()
    for path in [*folder.iterdir(), *(folder / "pictures").glob("*")]:
        try:
            leads_out = not path.resolve().is_relative_to(home)
        except (OSError, RuntimeError):  # a link to itself
            leads_out = True
        if leads_out:
            raise InputError(f"Passed `run_dirs={folder}`. Its `{path.name}` leads out of the folder.")


def _curves(folder: Path) -> dict[str, Curve]:
    """Values of ``metrics_1.csv`` and so on, which resumed runs left, and of ``metrics.csv``; the later ones count."""
    values: dict[str, dict[int, float]] = {}
    numbered = sorted(folder.glob("metrics_*.csv"), key=lambda path: (len(path.name), path.name))
    for path in [*numbered, *folder.glob("metrics.csv")]:
        lines = _read(path).splitlines(keepends=True)
        for row in csv.DictReader(line for line in lines if line.endswith("\n")):  # a kill leaves half a line
            _take(values, row)
    return {name: sorted(by_step.items()) for name, by_step in values.items()}


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"`{path.name}` is no text ({error.reason})") from error


def _take(values: dict[str, dict[int, float]], row: dict[str, str]) -> None:
    if not re.fullmatch(r"[0-9]{1,18}", row.get("step") or ""):
        return
    for name, text in row.items():
        try:
            value = float(text)
        except (TypeError, ValueError):
            continue
        if name not in ("step", "epoch") and abs(value) < LARGEST:
            # A step is named by its index: 0 has done one update.
            values.setdefault(name, {})[int(row["step"]) + 1] = value


def _pictures(folder: Path) -> list[Picture]:
    rank = {name: index for index, name in enumerate(PICTURES)}
    paths = sorted(folder.glob("*.png"), key=lambda path: (rank.get(path.stem, len(rank)), path.stem))
    pictures = []
    for path in paths:
        content = path.read_bytes() if path.is_file() else b""
        if not content.startswith(PNG) or len(content) < HEAD:
            raise ValueError(f"`{path.name}` is no PNG")
        data = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        size = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
        pictures.append(Picture(path.stem, PICTURES.get(path.stem, path.stem.replace("_", " ")), data, size))
    return pictures


def _samples(path: Path) -> list[Sample]:
    if not path.is_file():
        return []
    parts = re.split(r"^=== after (\d+) updates ===\n", _read(path), flags=re.MULTILINE)[1:]
    samples = []
    for updates, text in zip(parts[::2], parts[1::2], strict=True):
        prompt, _, written = text.removesuffix("\n\n").partition("|")
        samples.append(Sample(int(updates), prompt, written))
    return samples
