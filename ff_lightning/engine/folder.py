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
    *("*.ckpt", "run.json", "config.yaml", "hparams.yaml", "metrics*.csv", "samples.txt", "report.html"),
    *("pictures", "predict", "validate", "test", "checkpoints", "lightning_logs", "events.out.tfevents.*"),
)
"""What a run leaves in its folder. Whatever else is there is somebody else's."""

UNFINISHED = "earlier.part"
"""What an earlier run is moved into before all of it is there: a move that was killed is gone on with."""


@contextmanager
def by_one(file: Path) -> Iterator[None]:
    """Let processes that change something do so one after the other; where the system has no locks, at once.

    Args:
        file: that they all name; made if it is not there, in a folder that is.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    with file.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


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
    found, part = [path for name in BELONGS for path in sorted(folder.glob(name))], folder / UNFINISHED
    if not found and not part.exists():
        return None
    part.mkdir(exist_ok=True)
    for path in found:
        path.rename(part / path.name)
    place = next(path for number in range(1, 10**6) if not (path := folder / f"earlier_{number}").exists())
    return part.rename(place)


def own_folder(parent: Path, name: str) -> Path:
    """Make a folder that nobody has: of runs that begin at the same time, each gets its own.

    Args:
        parent: of the folder; made if it is not there.
        name: how the folder's begins; a number follows.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 10**6):
        place = parent / f"{name}_{number}"
        try:
            place.mkdir()
        except FileExistsError:
            continue
        return place
    raise InputError(f"Passed `run_name=auto`. {parent} has a million folders of that name: name another.")
