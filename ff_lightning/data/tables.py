"""Sets that `datasets` loads: from the hub, a local folder of Parquet files, or a Parquet file."""

import glob
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info

from ff_lightning.data.files import by_split, find_files, left_out
from ff_lightning.errors import InputError

if TYPE_CHECKING:
    import datasets


def load_tables(
    source: str, kind: str, copies: Mapping[str, str], *, streaming: bool = False
) -> "datasets.DatasetDict | datasets.IterableDatasetDict":
    """Load all splits of a set, downloading them if they are on the hub and not yet here.

    What is left out of a folder is said in the log.

    Args:
        source: A path or the id of a set on the hub.
        kind: What is loaded, in messages.
        copies: Hub ids, and the folders in `FF_LIGHTNING_DATA` that hold the same.
        streaming: Give rows as they are asked for, and read or download no more than that.

    Raises:
        InputError: There is nothing at the path, the id has no owner, or the hub cannot give the set.
    """
    import datasets

    path = local_path(source, copies)
    if path is None and "/" not in source:
        # Without a network, `datasets` would load the latest folder of that name that it ever read.
        raise InputError(
            f"Passed `source={source!r}`. There is no such file or folder, and ids of sets on the hub have an owner, "
            "such as 'ylecun/mnist'."
        )
    try:
        if path is None:
            return datasets.load_dataset(source, streaming=streaming)
        return datasets.load_dataset("parquet", data_files=_parquet_files(path), streaming=streaming)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).split("\n", 1)[0].rstrip(".")
        if path is not None:
            raise InputError(f"Cannot load {kind} from {str(path)!r}: {reason}.") from error
        raise InputError(
            f"Cannot load {source!r} from the hub: {reason}. A local folder can be given instead, "
            "as `source` or, for known ids, below the folder named by FF_LIGHTNING_DATA."
        ) from error


def _parquet_files(path: Path) -> dict[str, list[str]]:
    """Patterns that match the Parquet files of each split and nothing else."""
    if not path.is_dir():  # one file is for training, whatever it is called
        return {"train": [glob.escape(str(path))]}
    files, hidden = find_files(path)
    tables = {file: None for file in files if file.suffix.lower() == ".parquet"}
    splits, unnamed = by_split(tables, path)
    if said := left_out(hidden, [file for file in files if file not in tables], unnamed=unnamed):
        rank_zero_info(f"Reading {path}. {said}")
    return {split: [glob.escape(str(file)) for file in some] for split, some in splits.items()}


def local_path(source: str, copies: Mapping[str, str]) -> Path | None:
    """Find what is on this machine.

    Args:
        source: A path, or a name.
        copies: Names, and where `FF_LIGHTNING_DATA` holds a copy; any other name is that of the copy.

    Returns:
        A folder or file, or None for a name without a copy here.

    Raises:
        InputError: It looks like a path and there is nothing.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if path.is_absolute() or source.startswith((".", "~")) or path.suffix or source.count("/") > 1:
        raise InputError(f"Passed `source={source!r}`. There is no such file or folder.")
    folder = os.environ.get("FF_LIGHTNING_DATA")
    if folder and (copy := Path(folder) / copies.get(source, source)).exists():
        _say(source, copy)
        return copy
    return None


@cache
def _say(source: str, copy: Path) -> None:
    """Say once where a set is read from, however often it is looked for."""
    rank_zero_info(f"Reading {source} from {copy}.")
