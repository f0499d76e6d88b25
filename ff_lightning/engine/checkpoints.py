"""How checkpoints are written, so that a kill leaves a whole one, and looked at before anything is built from them."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import Tensor, nn

from ff_lightning.engine.integrity import sync_folder
from ff_lightning.engine.reading import is_folder, local_path, read_checkpoint, refuse_unsafe
from ff_lightning.errors import InputError

NAMED = 3
"""How many of the entries that do not fit an error names."""


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
        sync_folder(path.parent)

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

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, wherever it is; see :func:`~ff_lightning.engine.reading.read_checkpoint`.

        Args:
            path: a file, or an address.
            map_location: where its tensors go.
            weights_only: must not be ``False``.

        Raises:
            InputError: it cannot be read safely, or it is a folder, which a strategy of one file cannot read.
        """
        refuse_unsafe(path, weights_only)
        local = local_path(path)
        if local is not None and is_folder(local):
            raise InputError(NEEDS_ONE_FILE.format(path=path))
        return read_checkpoint(path, to=map_location)


def unfinished(path: Path) -> Path:
    """Where a checkpoint is written before it is whole.

    Lightning looks for the checkpoints of a SLURM job by a part of their names, which must not occur in this one.
    """
    return path.with_name(f".{zlib.crc32(path.name.encode()):08x}.part")


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        try:
            with _checksums():
                torch.save(checkpoint, file)
        except RuntimeError as error:
            if "inline_container" not in str(error) and "PytorchStreamWriter" not in str(error):
                raise
            # torch only says that a write fell short; what the system says of the next one tells why.
            file.write(b"\0" * (1 << 20))
            file.flush()
            raise OSError(errno.EIO, "the checkpoint could not be written", str(path)) from error
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _checksums() -> Iterator[None]:
    """Let torch write a checksum with every record, whatever this process has told it."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def check_checkpoint(path: str | Path) -> dict[str, Any]:
    """Open a checkpoint of ours, check it, and leave its tensors in the file; see :func:`read_checkpoint`.

    Args:
        path: a file, the folder of a sharded checkpoint, or an address.
    """
    return read_checkpoint(path, mapped=True)


def check_fit(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Check that weights belong to a module.

    Args:
        module: what the recipe built.
        state: weights of a checkpoint, by name.
        path: where they come from, for the error.

    Raises:
        InputError: names the first entries that are missing, left over or of another shape.
    """
    wrong = misfits(module.state_dict(), state)
    if wrong:
        raise InputError(
            f"Passed `ckpt_path={path}`. It does not fit `{type(module).__name__}` as the recipe builds it: {wrong}."
        )


def misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What does not fit of weights, in words; empty where all do.

    Args:
        own: what a network asks for, by name.
        state: the weights that are there.

    Returns:
        The first entries that are missing, left over or of another shape, and how many more there are.
    """
    wrong = [f"`{name}` is missing" for name in own if name not in state]
    wrong += [f"`{name}` is not in the network" for name in state if name not in own]
    wrong += [
        f"`{name}` has shape {tuple(state[name].shape)} where the network has {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    more = [f"and {len(wrong) - NAMED} more"] if len(wrong) > NAMED else []
    return "; ".join(wrong[:NAMED] + more)
