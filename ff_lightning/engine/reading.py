"""The one place where a checkpoint is read, wherever it is: checked against its checksums, and nothing of it is run."""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from torch import Tensor

from ff_lightning.engine.integrity import CHUNK, DamagedError, check_archive, check_folder
from ff_lightning.errors import InputError, in_one_line

META = "meta.pt"
"""What Lightning calls the file of a sharded checkpoint that holds all but weights and optimizers."""

Place = Callable[[Any, str], Any] | str
"""Where tensors go, as ``map_location`` of ``torch.load`` says it."""


def read_checkpoint(
    path: str | Path | IO[bytes], *, to: Place = "cpu", mapped: bool = False, checked: bool = False
) -> dict[str, Any]:
    """Read a checkpoint.

    Args:
        path: a file; the folder of a sharded checkpoint; an address such as ``https://…`` or ``s3://…``, which is
            fetched anew; or an open file.
        to: where its tensors go.
        mapped: leave the tensors of a local file in it until they are used.
        checked: the files of a folder are known to be whole.

    Returns:
        What is in it: plain values and tensors. Of a folder, all but weights and optimizers.

    Raises:
        InputError: there is no such file, a record of it is damaged, it holds more than plain values and tensors, or
            something else wrote it.
    """
    try:
        local = local_path(path)
        sharded = local is not None and is_folder(local)
        if local is not None and sharded:
            if not checked:
                check_folder(local)
            local = local / META
        with _opened(path if local is None else local) as file:
            check_archive(file)
            source: Any = local if mapped and local is not None else file
            content = torch.load(source, map_location=to, weights_only=True, mmap=mapped and local is not None)
    except InputError:
        raise
    except DamagedError as error:
        raise InputError(f"Passed `ckpt_path={path}`. The file cannot be loaded safely: {error}.") from error
    # Its checksums hold, so somebody made it so: whatever torch stumbles over is named, and never a traceback.
    except Exception as error:
        raise InputError(f"Passed `ckpt_path={path}`. The file cannot be loaded safely: {_reason(error)}.") from error
    _check_structure(content, path, sharded=sharded)
    return dict(content)


def refuse_unsafe(path: Any, weights_only: bool | None) -> None:
    """Refuse to run what a file holds, whoever asks for it.

    Raises:
        InputError: ``weights_only`` is ``False``.
    """
    if weights_only is False:
        raise InputError(
            f"Passed `weights_only=False` with `ckpt_path={path}`. Nothing of a checkpoint is run here: leave it out. "
            "A file that holds more than tensors and plain values is opened by `torch.load`, at your own risk."
        )


def local_path(path: str | Path | IO[bytes]) -> Path | None:
    """The path of what is on this machine, also of ``file://`` addresses; ``None`` for other addresses and open files.

    Only a name with ``://`` in it is an address: a folder may well be called ``http_runs``.
    """
    if not isinstance(path, str | Path):
        return None
    if "://" not in str(path):
        return Path(path)
    try:
        system, place = url_to_fs(str(path))
    except (ValueError, ImportError) as error:
        raise InputError(f"Passed `ckpt_path={path}`. The address cannot be read: {error}.") from error
    return Path(place) if isinstance(system, LocalFileSystem) else None


def is_folder(path: str | Path) -> bool:
    """Whether a path is the folder of a sharded checkpoint."""
    return (Path(path) / META).is_file()


@contextmanager
def _opened(path: str | Path | IO[bytes]) -> Iterator[IO[bytes]]:
    """A file from its beginning; what is elsewhere comes first, whole, into a file without a name."""
    if isinstance(path, Path):
        if path.is_dir():
            raise InputError(
                f"Passed `ckpt_path={path}`, a folder that holds no training to go on with. To begin a new training "
                "with the weights of a model, pass it as `--init_from`, or to `ff_lightning.finetuning.begin_from`."
            )
        if not path.is_file():
            raise InputError(f"Passed `ckpt_path={path}`. There is no such file.")
        with path.open("rb") as file:
            yield file
        return
    if not isinstance(path, str):
        yield path
        return
    with tempfile.TemporaryFile() as copy:
        try:
            system, place = url_to_fs(path)
            with system.open(place, "rb") as file:
                while chunk := file.read(CHUNK):
                    copy.write(chunk)
        # Every protocol has errors of its own, and so has the library behind each.
        except Exception as error:
            raise InputError(f"Passed `ckpt_path={path}`. It cannot be fetched: {in_one_line(error)}.") from error
        copy.seek(0)
        yield copy


def _reason(error: Exception) -> str:
    """What is wrong with a file whose checksums hold."""
    text = in_one_line(error)
    if isinstance(error, pickle.UnpicklingError):
        named = re.search(r"GLOBAL ([\w.]+) was not an allowed global|class ([\w.]+)", text)
        what = next(filter(None, named.groups()), "") if named else ""
        return f"it names {f'`{what}`' if what else 'code'}, and nothing of a checkpoint is run"
    if isinstance(error, OSError):
        return f"it cannot be read ({text})"
    return f"its content makes no sense ({type(error).__name__}: {text[:200]})"


def _check_structure(content: Any, path: Any, *, sharded: bool) -> None:
    """Check that what was read is a checkpoint of ours, so that those who use it need not ask."""
    needed = {"pytorch-lightning_version"} | (set() if sharded else {"state_dict"})
    if not isinstance(content, dict) or not needed <= content.keys():
        raise InputError(f"Passed `ckpt_path={path}`. The file is not a checkpoint that Lightning wrote.")
    if not isinstance(content.get("ff_lightning"), Mapping):
        raise InputError(f"Passed `ckpt_path={path}`. The checkpoint is of another project, not of ff_lightning.")
    weights = content.get("state_dict", {})
    version = content["pytorch-lightning_version"]
    counts = [content.get("epoch", 0), content.get("global_step", 0), content["ff_lightning"].get("seed", 0)]
    wrong = [
        name
        for name, right in {
            "state_dict": isinstance(weights, Mapping)
            and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()),
            "hyper_parameters": isinstance(content.get("hyper_parameters", {}), Mapping),
            "pytorch-lightning_version": isinstance(version, str) and re.match(r"\d+(\.\d+)+", version) is not None,
            "epoch, global_step, seed": all(type(count) is int for count in counts),
        }.items()
        if not right
    ]
    if wrong:
        raise InputError(f"Passed `ckpt_path={path}`. What it holds as `{wrong[0]}` is not what Lightning writes.")
