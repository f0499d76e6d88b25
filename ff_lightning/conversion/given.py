"""What :func:`~ff_lightning.convert` is given, checked before anything is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ff_lightning.errors import InputError, is_whole


def example_of(example: Tensor | Sequence[int] | None) -> Tensor | None:
    """An input, of one or of its shape without the batch.

    Raises:
        InputError: it is neither.
    """
    if example is None or isinstance(example, Tensor):
        return example
    if not isinstance(example, Sequence) or not all(is_whole(side, least=1) for side in example):
        given = repr(example) if isinstance(example, (Sequence, int, float)) else type(example).__name__
        raise InputError(
            f"Passed `example={given}`. It must be a tensor (B, …), or the shape of one without the batch, such as "
            "`example=(1, 28, 28)`."
        )
    return torch.zeros(1, *example)


def built_of(model: Any) -> Any:
    """A model or a list of modules as it is, or what builds one called.

    Raises:
        InputError: it wants arguments.
    """
    if isinstance(model, nn.Module) or not callable(model):
        return model
    try:
        return model()
    except TypeError as error:
        name = getattr(model, "__name__", type(model).__name__)
        raise InputError(
            f"Passed `model={name}`, which builds no model when it is called: {error}. Pass a model, or what builds "
            "one, such as `functools.partial(MyModel, width=32)`."
        ) from error


def refuse_unready(model: nn.Module) -> None:
    """Refuse a model whose modules cannot be watched, or that has no weights yet.

    Raises:
        InputError: it is scripted or compiled, or has lazy modules.
    """
    for part in model.modules():
        kind = type(part).__name__
        if isinstance(part, torch.jit.ScriptModule) or kind == "OptimizedModule":
            raise InputError(
                f"Passed a `model` with a `{kind}`, made by `torch.jit` or `torch.compile`. Pass what that was made "
                "from; `compile_blocks=True` of a task compiles blocks one by one."
            )
        if any(map(is_lazy, part.parameters(recurse=False))):
            raise InputError(
                f"Passed a `model` with a `{kind}`, whose weights have no shape yet. Call the model once, on a batch "
                "of inputs, before it is converted."
            )
