"""Folders of sharded checkpoints, read without running anything in them: torch unpickles their table of contents."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.optim import Optimizer

from ff_lightning.errors import InputError

TABLE = ".metadata"
"""What torch calls the file that says which tensor is where."""

PLAIN = {
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath"},
    "torch": {"Size"} | {name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        *("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta"),
        *("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
}
"""By module, all that a table of contents is made of."""


class _TableUnpickler(pickle.Unpickler):
    """Knows the classes of a table of contents, and no other name."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in PLAIN.get(module, ()):
            raise pickle.UnpicklingError(f"it names `{module}.{name}`, and nothing of a checkpoint is run")
        return super().find_class(module, name)


class PlainReader(FileSystemReader):
    """Reads a folder as torch does, but from its table of contents nothing else than a table."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the table of contents.

        Raises:
            InputError: it is no such table, or it leads out of the folder.
        """
        folder = Path(str(self.path))
        try:
            table = _TableUnpickler(io.BytesIO((folder / TABLE).read_bytes())).load()
            places = {info.relative_path for info in table.storage_data.values()}
        # What unpickles damaged bytes raises anything at all.
        except Exception as error:
            raise InputError(
                f"Passed `ckpt_path={folder}`. Its `{TABLE}` cannot be read safely: {' '.join(str(error).split())}."
            ) from error
        if not isinstance(table, Metadata) or not places <= {path.name for path in folder.iterdir()}:
            raise InputError(f"Passed `ckpt_path={folder}`. Its `{TABLE}` is of another folder.")
        if table.storage_meta is not None:
            table.storage_meta.load_id = self.load_id
        return table


class PlainPlanner(DefaultLoadPlanner):
    """Takes plain values alone where torch would unpickle any."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Take one value that is no tensor, such as a learning rate."""
        content = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), content)  # refuses what is not plain
        content.seek(0)
        super().load_bytes(read_item, content)


def load_folder(path: Path, module: nn.Module, optimizers: Sequence[Optimizer], *, strict: bool = True) -> None:
    """Give a sharded module, and its optimizers, what a folder holds for them.

    Args:
        path: the folder; its files have been checked.
        module: with its parameters spread over the ranks.
        optimizers: one a block, in the order in which they were saved.
        strict: whether every entry must be there.

    Raises:
        InputError: something in the folder is missing, of another shape, or no plain value.
    """
    try:
        PlainReader(path).read_metadata()  # torch logs a traceback of one that cannot be read, and looks for others
        weights = {"state_dict": get_model_state_dict(module)}
        _load(weights, path)
        module.load_state_dict(weights["state_dict"], strict=strict)
        for index, optimizer in enumerate(optimizers):
            state: dict[str, Any] = {f"optimizer_{index}": get_optimizer_state_dict(module, optimizer)}
            _load(state, path)
            set_optimizer_state_dict(
                module,
                optimizer,
                optim_state_dict=state[f"optimizer_{index}"],
                options=StateDictOptions(cpu_offload=True),
            )
    except InputError:
        raise
    # torch wraps what any rank raised; its own errors list whole plans.
    except (Exception, CheckpointException) as error:  # the latter is not among the former
        raise InputError(f"Passed `ckpt_path={path}`. It does not fit this training: {_first_line(error)}.") from error


def _load(state: dict[str, Any], path: Path) -> None:
    load(state, storage_reader=PlainReader(path), planner=PlainPlanner())


def _first_line(error: BaseException) -> str:
    """What is at the bottom of an error of several ranks."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
