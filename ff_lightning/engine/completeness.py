"""Whether all that a training needs to go on is in a checkpoint, and fits it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ff_lightning.errors import InputError

LIKE_THE_PARAMETER = frozenset(
    {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "sum", "square_avg", "grad_avg"}
    | {"acc_delta", "prev", "step_size", "ax"}
)
"""What torch's optimizers keep that has one value for each of a parameter. Fused kernels believe it unseen."""

LOOPS = ("fit_loop", "validate_loop", "test_loop", "predict_loop")


def check_training(checkpoint: Mapping[str, Any], blocks: int, *, sharded: bool = False) -> None:
    """Check that a checkpoint holds what a training goes on from; Lightning passes over what is missing.

    Args:
        checkpoint: as it was read.
        blocks: how many local modules are trained, each with an optimizer.
        sharded: the states of the optimizers are in files of their own.

    Raises:
        InputError: names what is missing.
    """
    loops, states = checkpoint.get("loops"), checkpoint.get("optimizer_states")
    schedulers = checkpoint.get("lr_schedulers")
    missing = [
        name
        for name, there in {
            "`loops`, which say where the training was": isinstance(loops, Mapping) and LOOPS[0] in loops,
            "`optimizer_states`": sharded or isinstance(states, Sequence),
            "`lr_schedulers`": isinstance(schedulers, Sequence),
        }.items()
        if not there
    ]
    if missing:
        raise InputError(
            f"The checkpoint is incomplete: it has no {missing[0]}. It can be tested, and no training goes on from it; "
            "a new one begins with its weights by `--init_from`, or `ff_lightning.finetuning.begin_from`."
        )
    for name, given, takes in (
        *([] if sharded else [("`optimizer_states`", states, {blocks})]),
        ("`lr_schedulers`", schedulers, {0, blocks}),
    ):
        if len(given or ()) not in takes:
            raise InputError(
                f"The checkpoint does not fit: its {name} are of {len(given or ())} local modules, and {blocks} are "
                "trained."
            )


def watch_optimizers(optimizers: Sequence[Optimizer]) -> None:
    """Let every optimizer check a state before it takes it.

    Args:
        optimizers: one a local module, in their order.
    """
    for index, optimizer in enumerate(optimizers):
        optimizer.register_load_state_dict_pre_hook(partial(check_optimizer, where=f"local module {index}"))


def check_optimizer(optimizer: Optimizer, state: Mapping[str, Any], where: str) -> None:
    """Check that a state is of such an optimizer with parameters of the same shapes.

    Args:
        optimizer: that is to take it.
        state: as ``state_dict`` gives it.
        where: whose optimizer it is, for the error.

    Raises:
        InputError: names what does not fit.
    """
    refusal = f"The checkpoint does not fit: the optimizer of {where} "
    try:
        groups = [list(group["params"]) for group in state["param_groups"]]
        kept = {number: dict(values) for number, values in state["state"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{refusal}has a state that none of torch's optimizers writes.") from error
    own = [group["params"] for group in optimizer.param_groups]
    if [len(group) for group in groups] != [len(group) for group in own]:
        raise InputError(
            f"{refusal}has groups of {[len(group) for group in groups]} parameters, and of "
            f"{[len(group) for group in own]} here."
        )
    parameters = dict(zip(chain(*groups), chain(*own), strict=True))
    for number, values in kept.items():
        if number not in parameters:
            raise InputError(f"{refusal}knows a parameter {number} that is in none of its groups.")
        for name, value in values.items():
            if not _fits(name, value, parameters[number]):
                raise InputError(
                    f"{refusal}has `{name}` of shape {tuple(value.shape)} for parameter {number}, whose shape is "
                    f"{tuple(parameters[number].shape)}."
                )


def _fits(name: str, value: Any, parameter: Tensor) -> bool:
    if not isinstance(value, Tensor) or value.shape == parameter.shape:
        return True
    if name in LIKE_THE_PARAMETER:
        return False
    # A count of steps, or a factor of the parameter's shape, as Adafactor keeps.
    try:
        return value.numel() == 1 or value.expand_as(parameter).shape == parameter.shape
    except RuntimeError:
        return False


def check_gradients(gradients: Any, parameters: Sequence[Sequence[nn.Parameter]]) -> None:
    """Check that gradients that wait for their update are those of these parameters.

    Args:
        gradients: of every rank, block and parameter, as a checkpoint holds them.
        parameters: of every block.

    Raises:
        InputError: there are more or fewer, or one has another shape, or values that are not finite.
    """
    refusal = "The checkpoint does not fit: its gradients, which wait for their update, "
    if not isinstance(gradients, Sequence) or not gradients:
        raise InputError(f"{refusal}are of no rank.")
    for blocks in gradients:
        sizes = [len(block) for block in blocks] if isinstance(blocks, Sequence) else []
        if sizes != [len(block) for block in parameters]:
            raise InputError(f"{refusal}are for other blocks or parameters.")
        for index, (block, own) in enumerate(zip(blocks, parameters, strict=True)):
            for gradient, parameter in zip(block, own, strict=True):
                if gradient is None:
                    continue
                if not isinstance(gradient, Tensor) or gradient.shape != parameter.shape:
                    shape = tuple(getattr(gradient, "shape", ()))
                    raise InputError(
                        f"{refusal}have shape {shape} in local module {index}, where the parameter has "
                        f"{tuple(parameter.shape)}."
                    )


def not_finite(module: nn.Module) -> str | None:
    """Name of the first parameter with a NaN or infinite value, of what this rank has; ``None`` if all are finite."""
    for name, parameter in module.named_parameters():
        mine = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if not bool(torch.isfinite(mine).all()):
            return name
    return None


def check_finite(module: nn.Module, state: Mapping[str, Tensor], what: str = "The checkpoint") -> None:
    """Check that no weight is NaN or infinite.

    Args:
        module: as it was built. What is not finite there, such as a threshold before the first batch, need not be.
        state: weights, by name.
        what: holds them, for the error.

    Raises:
        InputError: names the first one that is.
    """
    own = module.state_dict()
    for name, value in state.items():
        if not value.is_floating_point() and not value.is_complex():
            continue
        wrong = int(value.numel() - torch.isfinite(value).sum())
        if wrong and name in own and bool(torch.isfinite(own[name]).all()):
            raise InputError(
                f"{what} is of a training that has diverged: {wrong:,} of {value.numel():,} values of `{name}` are not "
                "finite. Take an earlier checkpoint."
            )
