"""Whether what is on the disk is what was written: checksums of files, of folders, and of plain values."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from ff_lightning.errors import in_one_line

SUMS = "checksums.json"
"""File of a folder that holds size and checksum of every other file in it."""

CHUNK = 1 << 20


class DamagedError(Exception):
    """What was read is not what was written; the message says where, and follows the name of the file."""


def check_archive(file: IO[bytes]) -> None:
    """Check every record of a file of ``torch.save`` against its checksum.

    torch writes a checksum of every record, and does not look at them when it reads. Names, shapes, dtypes and the
    places of tensors in their storages are a record, too (``data.pkl``). What names the records is in the file twice,
    and both are compared.

    Args:
        file: open for reading; left at its beginning.

    Raises:
        DamagedError: names the record.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for record in archive.infolist():
                _check_record(archive, record)
    except DamagedError:
        raise
    # A damaged table of contents makes `zipfile` raise whatever comes next: wrong offsets, encodings, methods.
    except Exception as error:
        raise DamagedError(f"it is cut short, damaged, or no checkpoint ({in_one_line(error)})") from error
    file.seek(0)


def _check_record(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    name = record.filename.partition("/")[2] or record.filename
    if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
        raise DamagedError(f"its record `{name}` is damaged: it is compressed, which torch never does")
    if record.external_attr or record.internal_attr:  # torch reads a record that is marked as a folder as empty
        raise DamagedError(f"its record `{name}` is damaged: it has marks that torch never sets")
    try:
        with archive.open(record) as content:
            while content.read(CHUNK):  # the end of a record compares its checksum
                pass
    except Exception as error:  # as above
        raise DamagedError(f"its record `{name}` is damaged ({in_one_line(error)})") from error


def write_sums(folder: Path) -> None:
    """Keep size and checksum of all files of a folder in it.

    Args:
        folder: whole.
    """
    sums = {path.name: _sum(path) for path in sorted(folder.iterdir()) if path.name != SUMS}
    write_synced(folder / SUMS, json.dumps(sums, indent=1).encode())


def check_folder(folder: Path) -> None:
    """Check that a folder holds the files that were written, as they were written.

    Raises:
        DamagedError: names the file.
    """
    if not (folder / SUMS).is_file():
        raise DamagedError(f"its `{SUMS}` is missing")
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        known = {str(name): [int(size), int(crc)] for name, (size, crc) in sums.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedError(f"its `{SUMS}` is damaged") from error
    there = {path.name for path in folder.iterdir()} - {SUMS}
    for name in sorted(there ^ known.keys()):
        raise DamagedError(f"its file `{name}` is missing" if name in known else f"`{name}` does not belong to it")
    for name, expected in known.items():
        if not (folder / name).is_file() or _sum(folder / name) != expected:
            raise DamagedError(f"its file `{name}` is damaged")


def _sum(path: Path) -> list[int]:
    """Size in bytes and CRC-32."""
    size = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def digest(values: Any) -> str:
    """Checksum of plain values, as JSON holds them.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": (2,), "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and bring it to the disk before anybody is told of it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in the place of another so that a kill leaves either, whole."""
    part = path.with_name(f"{path.name}.part")
    write_synced(part, content)
    os.replace(part, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a new name to the disk; without it, a power cut could bring the old file back."""
    if os.name != "posix":  # folders cannot be opened elsewhere
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
