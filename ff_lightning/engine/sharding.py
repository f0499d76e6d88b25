"""Blocks whose parameters are spread over the ranks: PyTorch's FSDP2, under Lightning's ``ModelParallelStrategy``."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ff_lightning.distributed import take_from_first_rank
from ff_lightning.engine.checkpoints import check_checkpoint, unfinished
from ff_lightning.engine.completeness import check_optimizer, not_finite
from ff_lightning.engine.folders import load_folder
from ff_lightning.engine.integrity import write_sums
from ff_lightning.engine.lightning import writes_folders
from ff_lightning.engine.reading import read_checkpoint, refuse_unsafe
from ff_lightning.errors import InputError

READS_PARAMETERS = ("pair", "local_loss")
"""Methods that compute with the parameters of a local module, beside ``forward`` and not through it."""

MENDED = "mended_by_ff_lightning"
"""Attribute that :func:`mend_checkpoints` leaves on a strategy, so that it changes none twice."""


def shard_blocks(modules: Sequence[nn.Module], mesh: DeviceMesh, device: torch.device) -> None:
    """Spread the parameters of every local module over the ranks; the values are those of the first rank.

    A module is gathered when it is computed, and its gradients are averaged and scattered, and its parameters let go
    of, at the end of its backward pass: one all-gather and one reduce-scatter a block and batch.

    Args:
        modules: the blocks, and a readout if it learns; left as they are if they are sharded already.
        mesh: with the dimensions ``data_parallel`` and ``tensor_parallel``, as Lightning makes it.
        device: of this rank.

    Raises:
        InputError: a block is to be cut by tensor parallelism.
    """
    if mesh["tensor_parallel"].size() != 1:
        ranks = mesh.size()
        raise InputError(
            f"Passed `ModelParallelStrategy` with {mesh['tensor_parallel'].size()} tensor-parallel ranks. Blocks are "
            f"sharded over data-parallel ranks: use `ModelParallelStrategy(data_parallel_size={ranks}, "
            "tensor_parallel_size=1)`."
        )
    # A layer may return a view of its activities. FSDP2 warns of writing into one, which nothing here does.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    data_parallel = mesh["data_parallel"]
    for module in modules:
        if isinstance(module, FSDPModule) or not any(True for _ in module.parameters()):
            continue
        module.to(device)
        take_from_first_rank(module)
        # Not resharded after the forward pass: a local loss reads parameters after it, and the backward pass is next.
        sharded: Any = fully_shard(module, mesh=data_parallel, reshard_after_forward=False)
        for name in READS_PARAMETERS:
            if hasattr(module, name):
                register_fsdp_forward_method(module, name)
        if hasattr(sharded, "set_reduce_scatter_unused_params"):  # older versions of torch have no such method
            sharded.set_reduce_scatter_unused_params(True)


class ShardedSync:
    """FSDP2 averages gradients itself, at the end of every backward pass; here it is checked that it did."""

    overlaps = False

    def backward(self) -> AbstractContextManager[None]:
        """No context needed."""
        return nullcontext()

    def launch(self, parameters: Sequence[nn.Parameter]) -> None:
        """Check that the gradients have arrived.

        Raises:
            InputError: the block was not run as a module, so that FSDP2 took no notice of it.
        """
        if all(p.grad is None for p in parameters):
            raise InputError(
                "A block has no gradients after its backward pass under `ModelParallelStrategy`. FSDP2 follows calls "
                "of a block itself: compute its activities by `block(x)`, or its loss by `block.local_step(...)`."
            )

    def wait(self) -> None:
        """Do nothing."""


def shard_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A tensor that all ranks have, in the dtype of a parameter, and spread over the ranks if that is.

    Args:
        value: the same on all ranks.
        parameter: of the same shape.
    """
    if not isinstance(parameter, DTensor):
        return value.to(parameter)
    whole = value.to(device=parameter.device, dtype=parameter.dtype)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements)


def mend_checkpoints(strategy: ModelParallelStrategy) -> None:
    """Change how a strategy writes folders and reads files; called again, it does nothing.

    Writing a folder: Lightning writes a sharded checkpoint into the folder of the previous one, so a kill in between
    leaves neither whole. Here a new folder is written beside it, and takes its place when all ranks are done.

    Reading a file, which another strategy wrote: it names the state of each parameter by a number. Lightning expects
    one count through the parameters of the whole module. But here every block has an optimizer of its own, and each of
    them counts its own parameters from 0. So each optimizer is given its state by :func:`load_whole_state`.

    Args:
        strategy: its ``save_checkpoint`` and ``load_checkpoint`` are replaced.
    """
    if MENDED in vars(strategy):
        return
    write, read = strategy.save_checkpoint, strategy.load_checkpoint

    def save(checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        path = Path(strategy.broadcast(str(filepath)))
        if not writes_folders(strategy):
            write(checkpoint, path, storage_options)
            return
        part = unfinished(path)
        if strategy.is_global_zero:
            shutil.rmtree(part, ignore_errors=True)
        strategy.barrier()
        write(checkpoint, part, storage_options)
        strategy.barrier()
        if strategy.is_global_zero:
            write_sums(part)
            replace_folder(part, path)
        strategy.barrier()

    def load(checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(strategy.broadcast(str(checkpoint_path)))
        refuse_unsafe(path, weights_only)
        _check_on_first_rank(strategy, path)
        assert strategy.lightning_module is not None
        if path.is_dir():
            load_folder(path, strategy.model, strategy.optimizers, strict=strategy.lightning_module.strict_loading)  # type: ignore[arg-type]
            check_shards(strategy.lightning_module, path)
            return read_checkpoint(path, checked=True)
        optimizers, strategy.optimizers = strategy.optimizers, []
        content = read(path, weights_only=True)
        strategy.optimizers = optimizers
        for optimizer, state in zip(optimizers, content.get("optimizer_states", []), strict=False):
            load_whole_state(optimizer, state)
        return content

    strategy.save_checkpoint = save  # type: ignore[method-assign]
    strategy.load_checkpoint = load  # type: ignore[method-assign]
    setattr(strategy, MENDED, True)


def _check_on_first_rank(strategy: ModelParallelStrategy, path: Path) -> None:
    """Check a checkpoint once for all ranks; each refuses what the first one does."""
    problem = ""
    if strategy.is_global_zero:
        try:
            check_checkpoint(path)
        except InputError as error:
            problem = str(error)
    if problem := strategy.broadcast(problem):
        raise InputError(problem)


def check_shards(module: nn.Module, path: Path) -> None:
    """Check that no parameter of this rank is NaN or infinite.

    Raises:
        InputError: names the first one that is.
    """
    if name := not_finite(module):
        raise InputError(
            f"Passed `ckpt_path={path}`. It is of a training that has diverged: values of `{name}` are not finite. "
            "Take an earlier checkpoint."
        )


def load_whole_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Give an optimizer of sharded parameters the state of one of whole parameters.

    Args:
        optimizer: of one block.
        state: as ``state_dict`` gives it, the same on all ranks.
    """
    check_optimizer(optimizer, state, "a local module")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        for name, value in state["state"].get(number, {}).items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state["state"][number][name] = shard_like(value, parameter)
    optimizer.load_state_dict(state)


def replace_folder(new: Path, path: Path) -> None:
    """Put a folder in the place of another, or of a file.

    Args:
        new: whole, on the same disk.
        path: what is there is removed, once ``new`` is in its place. A kill leaves it, or, between the two renamings,
            both under other names.
    """
    old = new.with_suffix(".old")
    if path.exists():
        if old.exists():
            shutil.rmtree(old)
        os.replace(path, old)
    os.replace(new, path)
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)
