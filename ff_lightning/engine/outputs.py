"""Files that a command writes where it is told: nothing that was read is lost, and no table or page is left half."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ff_lightning.engine.folder import RECORD
from ff_lightning.engine.integrity import replace_file
from ff_lightning.errors import InputError

RECORDED = "metrics*.csv"
"""What a run keeps in its folder under the ending of a table."""


def output_file(
    output: str | Path, *endings: str, reads: Sequence[str | Path] = (), folder: str | Path | None = None
) -> Path:
    """Check where a command is to write, before anything is computed for it.

    Args:
        output: what was passed. A device, such as ``/dev/stdout``, may be called anything.
        endings: of which its name must have one.
        reads: files that the command reads, such as a checkpoint.
        folder: whose files it reads; a new file may be written there.

    Raises:
        InputError: it is a folder, has another ending, or is something that must not be lost.
    """
    path, ending = Path(output).expanduser(), " or ".join(endings)
    if path.is_dir():
        raise InputError(f"Passed `output={output}`, a folder. Name a file in it, which must end in {ending}.")
    if path.exists() and not path.is_file():
        return path
    if path.suffix not in endings:
        raise InputError(f"Passed `output={output}`. It must end in {ending}.")
    if not path.exists():
        return path
    if any(path.samefile(read) for read in map(Path, reads) if read.exists()):
        raise InputError(f"Passed `output={output}`, which is read here and would be lost. Name another file.")
    if folder is not None and path.resolve().is_relative_to(Path(folder).expanduser().resolve()):
        raise InputError(
            f"Passed `output={output}`, a file that is there already in `folder={folder}`, which is read here. Name a "
            "new file, or one elsewhere."
        )
    if path.match(RECORDED) and (path.parent / RECORD).exists():
        raise InputError(f"Passed `output={output}`, which the run in {path.parent} recorded. Name another file.")
    return path


def write_output(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, or to a device; folders are made.

    Args:
        path: as :func:`output_file` gives it.
        content: of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():  # a device
        path.write_bytes(content)
    else:
        replace_file(path, content)
