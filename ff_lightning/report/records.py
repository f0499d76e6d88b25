"""``run.json`` in a run folder: how the run was made, and what came out. A report is written from it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.table import Table

from ff_lightning.engine.folder import RECORD, RECORD_LOCK, by_one
from ff_lightning.engine.integrity import replace_file
from ff_lightning.errors import InputError

PACKAGES = ("ff-lightning", "torch", "lightning", "torchmetrics", "numpy")


def start_record(folder: Path, values: dict[str, Any]) -> None:
    """Begin the record of a run, in place of any earlier one.

    Args:
        folder: of the run; made if it is not there.
        values: what is known of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with by_one(folder / RECORD_LOCK):
        _write(folder, values)


def add_to_record(folder: Path, key: str, values: dict[str, Any]) -> None:
    """Add to one part of a record; where none was begun, nothing is written.

    A training and those who test it at the same time lose nothing of each other's.

    Args:
        folder: of the run.
        key: of the part.
        values: they replace those of the same name.
    """
    if not (folder / RECORD).is_file():
        return
    with by_one(folder / RECORD_LOCK):
        record = read_record(folder)
        if record:
            record[key] = record.get(key, {}) | values
            _write(folder, record)


def read_record(folder: Path, *, strict: bool = False) -> dict[str, Any]:
    """The record of a run; empty if there is none, or if it is damaged, which is said.

    Args:
        folder: of the run.
        strict: refuse a damaged one.

    Raises:
        InputError: it is damaged, and ``strict``.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and all(isinstance(part, dict) for part in content.values()):
            return content
        reason = "it is no record of a run"
    except (ValueError, OSError, RecursionError) as error:
        reason = str(error)
    if strict:
        raise InputError(f"Passed `run_dirs={folder}`. Its `{RECORD}` is damaged: {reason}.")
    rank_zero_info(f"{path} is damaged ({reason}): what it recorded is lost, and it is begun anew.")
    return {}


def _write(folder: Path, record: dict[str, Any]) -> None:
    replace_file(folder / RECORD, json.dumps(record, indent=1).encode())


def table_values(table: Table) -> dict[str, Any]:
    """What a printed table says: title, caption, columns, rows, and after which rows there is a line."""
    columns = [list(column.cells) for column in table.columns]
    return {
        "title": str(table.title or ""),
        "caption": str(table.caption or ""),
        "columns": [str(column.header) for column in table.columns],
        "rows": [[str(cell) for cell in row] for row in zip(*columns, strict=True)],
        "lines": [index for index, row in enumerate(table.rows) if row.end_section],
    }


def surroundings() -> dict[str, str]:
    """Versions of what a run depends on, and the hardware it runs on."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["commit"] = _commit()
    found["system"] = f"{platform.system()} {platform.machine()}"
    found["processor"] = _processor()
    found["threads"] = str(torch.get_num_threads())
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found["GPU"] = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
    return {name: value for name, value in found.items() if value}


def _processor() -> str:
    """Name and number of processors."""
    name = platform.processor()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        name = lines[0] if lines else name
    return f"{os.cpu_count()} × {name}" if name else str(os.cpu_count())


def _commit() -> str:
    """Commit of the source, if it is a clone, with a + if files in it were changed."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(here), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        if git("ls-files", Path(__file__).name) != Path(__file__).name:  # somebody else's repository around an install
            return ""
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=10", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.TimeoutExpired):
        return ""
