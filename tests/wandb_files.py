"""Reads the files that Weights & Biases writes offline: records in the log format of LevelDB."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK = 32 * 1024
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """All records of a ``.wandb`` file."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, parts = 7, b""
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:  # too short for another head: filled up
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        if kind == 0:
            break
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (WHOLE, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def history(path: Path) -> list[dict[str, Any]]:
    """What was logged, a dictionary a step; pictures and tables are dictionaries themselves."""
    rows = []
    for record in records(path):
        row: dict[str, Any] = {}
        for item in record.history.item:
            first, *rest = item.nested_key or [item.key]
            value = json.loads(item.value_json)
            row[first] = row.get(first, {}) | {"/".join(rest): value} if rest else value
        if row:
            rows.append(row)
    return rows
