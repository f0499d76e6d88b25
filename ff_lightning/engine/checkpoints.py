"""How checkpoints are written, so that a kill leaves a whole one, and looked at before anything is built from them."""

from __future__ import annotations

import os
import pickle
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import Tensor, nn

from ff_lightning.errors import InputError

NAMED = 3
"""How many of the entries that do not fit an error names."""


META = "meta.pt"
"""What Lightning calls the file of a sharded checkpoint that holds all but weights and optimizers."""


NEEDS_ONE_FILE = (
    "Passed `ckpt_path={path}`, a folder that `ModelParallelStrategy` wrote. Only that strategy reads it; with "
    "`save_distributed_checkpoint=False` it writes one file, which any strategy reads."
)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a file beside its place, brings it to the disk, and only then renames it.

    Whenever the process is killed or the disk is full, what was there before is still there, whole. Lightning's own
    plugin writes into the system's temporary folder, which is often on another disk: there, the last step is a copy,
    and a kill leaves half a file. The place of the new file is known, so what a killed write leaves behind is
    overwritten by the next one. Remote paths are left to Lightning.

    :class:`~ff_lightning.FFLightningModule` puts it in place of Lightning's default; pass another ``CheckpointIO``
    among the Trainer's ``plugins`` to keep that.
    """

    _same: Path | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: what to write.
            path: where; folders are made.
            storage_options: must be ``None``, as in Lightning.

        Raises:
            OSError: it could not be written; what was there before is untouched.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = unfinished(path)
        try:
            if not self._linked(part):
                _write(checkpoint, part)
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)

    @contextmanager
    def same_as(self, path: Path) -> Iterator[None]:
        """Within this context, a checkpoint to be written has the very content of the file at ``path``.

        So nothing is written: the file gets a second name (a hard link), which costs no time and no space. Later
        checkpoints do not mix them up. A new checkpoint under one name is a new file; the other name keeps the old one.
        Where the file system has no hard links, the checkpoint is written in full.

        Args:
            path: of the checkpoint that was written last.
        """
        self._same = path
        try:
            yield
        finally:
            self._same = None

    def _linked(self, part: Path) -> bool:
        """Make ``part`` a second name of the file that :meth:`same_as` was told; whether that was possible."""
        if self._same is None:
            return False
        part.unlink(missing_ok=True)
        try:
            os.link(self._same, part)
        except OSError:
            return False
        return True

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint, as Lightning does.

        Raises:
            InputError: it is a folder, which a strategy of one file cannot read.
        """
        if is_folder(path):
            raise InputError(NEEDS_ONE_FILE.format(path=path))
        content: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs)
        return content


def unfinished(path: Path) -> Path:
    """Where a checkpoint is written before it is whole.

    Lightning looks for the checkpoints of a SLURM job by a part of their names, which must not occur in this one.
    """
    return path.with_name(f".{zlib.crc32(path.name.encode()):08x}.part")


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    checked = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)  # two thirds of the time; torch does not look at them again
    try:
        with path.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
    finally:
        torch.serialization.set_crc32_options(checked)


def _sync_folder(folder: Path) -> None:
    """Bring a new name to the disk; without it, a power cut could bring the old file back."""
    if os.name != "posix":  # folders cannot be opened elsewhere
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_folder(path: str | Path) -> bool:
    """Whether a path is the folder of a sharded checkpoint."""
    return (Path(path) / META).is_file()


def check_checkpoint(path: str | Path) -> dict[str, Any]:
    """Open a checkpoint of ours without reading its tensors, and without running any code it may hold.

    Args:
        path: a local file, or the folder of a sharded checkpoint.

    Returns:
        What is in it; the tensors are mapped from the file. Of a folder, all but ``state_dict`` and the optimizers.

    Raises:
        InputError: there is no such file, it is damaged, or something else wrote it.
    """
    path = Path(path)
    sharded = is_folder(path)
    if not sharded and not path.is_file():
        raise InputError(f"Passed `ckpt_path={path}`. There is no such file.")
    try:
        content = torch.load(path / META if sharded else path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(
            f"Passed `ckpt_path={path}`. The file cannot be loaded safely: it is cut short, or no checkpoint."
        ) from error
    needed = {"pytorch-lightning_version"} | (set() if sharded else {"state_dict"})
    if not isinstance(content, dict) or not needed <= content.keys():
        raise InputError(f"Passed `ckpt_path={path}`. The file is not a checkpoint that Lightning wrote.")
    if "ff_lightning" not in content:
        raise InputError(f"Passed `ckpt_path={path}`. The checkpoint is of another project, not of ff_lightning.")
    return content


def check_fit(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Check that weights belong to a module.

    Args:
        module: what the recipe built.
        state: weights of a checkpoint, by name.
        path: where they come from, for the error.

    Raises:
        InputError: names the first entries that are missing, left over or of another shape.
    """
    own = module.state_dict()
    wrong = [f"`{name}` is missing" for name in own if name not in state]
    wrong += [f"`{name}` is not in the network" for name in state if name not in own]
    wrong += [
        f"`{name}` has shape {tuple(state[name].shape)} where the network has {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise InputError(
            f"Passed `ckpt_path={path}`. It does not fit `{type(module).__name__}` as the recipe builds it: "
            f"{'; '.join(wrong[:NAMED])}{more}."
        )
