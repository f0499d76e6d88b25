"""One run, one folder: who trains in it, and what becomes of an earlier run there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ff_lightning.errors import InputError

LOCK = ".lock"
"""File of a run folder that is locked while somebody trains there."""

BELONGS = (
    *("last.ckpt", "best.ckpt", "run.json", "config.yaml", "hparams.yaml", "samples.txt", "report.html"),
    *("pictures", "predict", "validate", "test"),
)
"""What a run leaves in its folder, beside tables ``metrics*.csv``. Whatever else is there is somebody else's."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only training in a folder; those that only read need no lock.

    The system lets go of the lock when the process ends, however it ends: what a killed training leaves is taken over.
    Systems without such locks have none.

    Args:
        folder: of the run; made if it is not there.

    Raises:
        InputError: somebody else trains there, and who it is.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(
                f"Another training runs in {folder}: process {file.read().strip() or 'unknown'}. Wait for its end, or "
                "name another folder by `--trainer.default_root_dir`."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def set_aside(folder: Path) -> Path | None:
    """Move what an earlier run left, as a whole, into a folder of its own below.

    Returns:
        That folder; ``None`` if there was nothing.
    """
    found = [folder / name for name in BELONGS if (folder / name).exists()] + sorted(folder.glob("metrics*.csv"))
    if not found:
        return None
    place = next(path for number in range(1, 10**6) if not (path := folder / f"earlier_{number}").exists())
    place.mkdir()
    for path in found:
        path.rename(place / path.name)
    return place
