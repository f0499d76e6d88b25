"""One run, one folder: who trains in it, and what becomes of an earlier run there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from ff_lightning.engine.integrity import replace_file
from ff_lightning.errors import InputError

LOCK = ".lock"
"""File of a run folder that is locked while somebody trains there."""

RECORD_LOCK = ".record.lock"
"""File of a run folder that is locked while its record is changed."""

NAMED = 3
"""So many of the files that are in the way are named."""

CONFIG = "config.yaml"
"""Written when the first batch of a training is through: where it is not new, nothing was trained."""

RECORD = "run.json"
"""What every run leaves, and what tells a folder of runs from any other."""

TRAINS = (
    *("*.ckpt", RECORD, CONFIG, "hparams.yaml", "metrics.csv", "metrics_[0-9]*.csv", "samples.txt"),
    *("checkpoints/*.ckpt", "lightning_logs/*/*", "events.out.tfevents.*"),
)
"""What a training leaves in its folder."""

DRAWN = ("validation", "test", "labels", "heard", "spotted", "fields", "goodness", "losses", "generated")
"""Names of the pictures of a run."""

BELONGS = (
    *TRAINS,
    "report.html",
    *(f"pictures/{name}.png" for name in DRAWN),
    *(
        f"{command}/{name}"
        for command in ("validate", "test", "predict")
        for name in (CONFIG, "hparams.yaml", "metrics*.csv", "predictions*", "events.out.tfevents.*")
    ),
)
"""The same, and what those leave who look at the run. Whatever else is there is somebody else's."""

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


def refuse_foreign(folder: Path, resumed: str | None = None) -> None:
    """Refuse to train where nobody has trained, and something is in the way.

    Args:
        folder: of the run.
        resumed: the checkpoint that the training goes on from; others beside it may be there.

    Raises:
        InputError: names what a training would write over.
    """
    if _had_run(folder):
        return
    found = _found(folder, TRAINS)
    if resumed is not None and Path(resumed).absolute().parent == folder.absolute():
        found = [path for path in found if path.suffix != ".ckpt"]
    if found:
        names = ", ".join(f"`{path.relative_to(folder)}`" for path in found[:NAMED])
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise InputError(
            f"Passed `trainer.default_root_dir={folder}`. A training would write over {names}{more}, which no run has "
            f"left (there is no `{RECORD}` of one). Name another folder, or move them away."
        )


@contextmanager
def prepared(folder: Path, *, anew: bool) -> Iterator[Path | None]:
    """Make room for a training, and put everything back if it ends by an error before anything was trained.

    A run that is asked to end, or killed, leaves what it has begun: whoever goes on must not find the earlier one.

    Args:
        folder: of the run, which it has locked.
        anew: whether the training begins anew: what an earlier one left is set aside. Otherwise it goes on, and only
            ``metrics.csv`` gets another name, since Lightning's logger would delete it.

    Yields:
        Where the earlier run is; ``None`` if there is none, or this one goes on.
    """
    earlier = set_aside(folder) if anew else None
    there, since = set(_found(folder, TRAINS)), _stamp(folder / CONFIG)
    texts = {path: path.read_bytes() for path in there if path.name in (RECORD, "hparams.yaml") and path.is_file()}
    metrics = folder / "metrics.csv"
    renamed = metrics.rename(_free_name(folder)) if not anew and metrics.is_file() else None

    def put_back() -> bool:
        """Undo all that, unless something was trained."""
        new = set(_found(folder, TRAINS)) - there - {renamed}
        if _stamp(folder / CONFIG) != since or any(path.suffix == ".ckpt" for path in new):
            return False
        for path in new:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            _prune(path, folder)
        if renamed is not None:
            renamed.replace(metrics)
        if earlier is not None:
            part = earlier.rename(folder / UNFINISHED)
            _move(_found(part, BELONGS), part, folder)
            with suppress(OSError):  # what an older version has moved
                part.rmdir()
        for path, text in texts.items():
            if path.read_bytes() != text:
                replace_file(path, text)
        return True

    try:
        yield earlier
    except Exception:
        if put_back() and (earlier is not None or not anew):
            rank_zero_info(f"Nothing was trained: {folder} is as it was.")
        raise
    if put_back():
        rank_zero_info(
            f"Nothing was left to train: {folder} is as it was. For more, pass a larger `--trainer.max_epochs` or "
            "`--trainer.max_steps`."
        )


def set_aside(folder: Path) -> Path | None:
    """Move what an earlier run left, as a whole, into a folder of its own below.

    Returns:
        That folder; ``None`` if there was no run.
    """
    part = folder / UNFINISHED
    found = _found(folder, BELONGS) if _had_run(folder) else []
    if any((part / path.relative_to(folder)).exists() for path in found):  # of a run after the move that was killed
        part.rename(_next_place(folder))
    if not found and not part.exists():
        return None
    part.mkdir(exist_ok=True)
    _move(found, folder, part)
    return part.rename(_next_place(folder))


def _had_run(folder: Path) -> bool:
    """Whether somebody has trained in a folder; a damaged record counts if it was locked as ours are."""
    if (folder / UNFINISHED).exists() or ((folder / RECORD).is_file() and (folder / RECORD_LOCK).exists()):
        return True
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and isinstance(content.get("run"), dict)


def _found(folder: Path, names: Sequence[str]) -> list[Path]:
    """What is there of some names, but for what a link leads to elsewhere."""
    paths = [path for name in names for path in sorted(folder.glob(name))]
    return [path for path in paths if path.parent.resolve().is_relative_to(folder.resolve())]


def _move(paths: Iterable[Path], source: Path, target: Path) -> None:
    """Move files from one folder to another; folders that become empty go."""
    for path in paths:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
        _prune(path, source)


def _prune(path: Path, folder: Path) -> None:
    """Remove the folders in which a file was alone, up to one that stays."""
    with suppress(OSError):  # something else is there
        while (path := path.parent) != folder:
            path.rmdir()


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written; ``None`` if there is none."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.is_file() else None


def _free_name(folder: Path) -> Path:
    """The next name for the curves of a run up to where it stopped."""
    first = len(list(folder.glob("metrics_*.csv"))) + 1
    return _first_free(folder, "metrics_{}.csv", first)


def _next_place(folder: Path) -> Path:
    return _first_free(folder, "earlier_{}", 1)


def _first_free(folder: Path, name: str, first: int) -> Path:
    return next(path for number in range(first, 10**6) if not (path := folder / name.format(number)).exists())


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
