"""A trained module from what a checkpoint holds, without the recipe that trained it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch

from ff_lightning.engine.building import Builder
from ff_lightning.engine.checkpoints import check_fit
from ff_lightning.engine.completeness import check_finite, check_training
from ff_lightning.engine.hyperparameters import LEFT_OUT
from ff_lightning.engine.lightning import class_and_arguments, trainer_of
from ff_lightning.errors import InputError

Module = TypeVar("Module", bound=pl.LightningModule)


def build_module(
    described: Mapping[str, Any],
    source: str,
    kind: type[Module],
    *,
    trust: Sequence[str] = (),
    training: bool = False,
    own: Mapping[str, Any] | None = None,
) -> Module:
    """Build the module that hyperparameters describe.

    Args:
        described: the hyperparameters that a checkpoint holds.
        source: where they come from, for errors: ``ckpt_path=runs/a/last.ckpt``.
        kind: what it must be.
        trust: packages of which classes are built, beside this one and torch.
        training: build optimizer, schedule and negatives, too.
        own: arguments of the caller, in place of those described.

    Raises:
        InputError: the hyperparameters do not say how the network is built, or name what is not trusted or expected.
    """
    own = {} if own is None else own
    class_path, saved = class_and_arguments(described)
    arguments = {name: value for name, value in saved.items() if name[:1] != "_" and name not in own}
    if "network" not in arguments and "network" not in own:
        why = described.get(LEFT_OUT, {})
        reason = f", for it has {why['network']}" if isinstance(why, Mapping) and "network" in why else ""
        raise InputError(
            f"Passed `{source}`. It does not say how its network is built{reason}. "
            "Build the network in Python, and pass it: `load_from_checkpoint(path, network=…)` of the task's class."
        )
    builder = Builder(source, trust, training=training)
    if class_path in (None, f"{kind.__module__}.{kind.__qualname__}"):
        module = builder.maker_of(kind, arguments)(**own)
    else:
        # A class may make an object of another one, as that of the twins does: what was made is asked what it is.
        made = builder.maker(class_path, arguments, pl.LightningModule, "model")(**own)
        if not isinstance(made, kind):
            raise InputError(f"Passed `{source}`. Its `model` names `{class_path}`, which is no {kind.__name__}.")
        module = made
    if class_path is not None:  # what is trained further leaves checkpoints that say the same
        module.save_hyperparameters(dict(described))
    return module


def take_weights(module: Module, content: Mapping[str, Any], source: str, *, strict: bool = True) -> Module:
    """Give a module the weights of a checkpoint.

    Args:
        module: as it was built.
        content: of the checkpoint.
        source: its path, for errors.
        strict: whether every entry must be there and fit.

    Raises:
        InputError: they do not fit, or are not finite.
    """
    state = content["state_dict"]
    module.on_load_checkpoint(dict(content))
    if strict:
        check_fit(module, state, source)
    check_finite(module, state, f"Passed `ckpt_path={source}`. It")
    module.load_state_dict(state, strict=strict)
    return module


def check_resumed(module: Any, checkpoint: Mapping[str, Any]) -> None:
    """Check what a Trainer is about to load into a module.

    Args:
        module: attached to a Trainer, or to none, and then nothing is checked here.
        checkpoint: as it was read. Sharded weights have been loaded by then, and are not in it.

    Raises:
        InputError: something is missing, does not fit, or is not finite.
    """
    trainer = trainer_of(module)
    if trainer is None:
        return
    if "state_dict" in checkpoint:
        source = str(trainer.ckpt_path)
        if module.strict_loading:
            check_fit(module, checkpoint["state_dict"], source)
        check_finite(module, checkpoint["state_dict"], f"Passed `ckpt_path={source}`. It")
    if trainer.state.fn == "fit":
        check_training(checkpoint, len(module.local_modules()), sharded="state_dict" not in checkpoint)


def where_it_was(storage: Any, location: str) -> Any:
    """Leave a tensor on the device from which it was saved if there is one of that number here; else take the CPU."""
    kind, _, index = location.partition(":")
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    is_here = here is not None and here.type == kind and int(index or 0) < torch.accelerator.device_count()
    return None if kind == "cpu" or is_here else storage.cpu()
