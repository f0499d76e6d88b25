"""The order in which a model applies its parts, observed: what every part was given must be what the last one gave.

So any model whose ``forward`` is a chain of modules is cut without a word about how it is built; its head, behind a
pooling or a flattening of maps, is left out. What a model does between two modules, in its ``forward``, is not seen by
this, and then it is refused. Before the head, what follows must be what the last part gave, or pooled from that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ff_lightning.conversion.checking import LIST_THEM, error_line, missing_between, telling, tensors_in, through
from ff_lightning.conversion.families import Cut
from ff_lightning.errors import InputError
from ff_lightning.normalization import evaluating

POOLING = re.compile(r"Adaptive\w*Pool|GlobalPool")
"""Classes of modules with which the head of a convolutional network begins."""

CHANNELS_LAST = re.compile(r"Swin")
"""Classes of models whose maps are ``(B, H, W, C)``."""

SIDE = 224
"""Of images, where nothing says it: those of ImageNet, as the models of torchvision take them."""


@dataclass(eq=False)
class Call:
    """One call of a module: what it was given and what it gave, and the calls within it."""

    module: nn.Module
    given: Any
    version: int
    gave: Any = None
    version_after: int = -1
    within: list[Call] = field(default_factory=list)

    def follows(self, given: Any, version: int) -> bool:
        """Whether it was given the very tensor, and nobody has changed that in the meantime."""
        return isinstance(given, Tensor) and self.given is given and self.version == version


def observed_cut(model: nn.Module, example: Tensor | None) -> Cut:
    """Cut a model whose ``forward`` is a chain of modules.

    Args:
        model: any.
        example: an input ``(B, …)``; by default an image of the size that the model says, or of 224 x 224.

    Raises:
        InputError: it does more than apply its modules one after the other, or cannot take the example.
    """
    given = telling(derived_example(model) if example is None else example)
    call = observe(model, given)
    top = [call] if isinstance(model, nn.Sequential) else followed(call)
    calls = [unit for part in top for unit in units(part)]
    after = [] if isinstance(model, nn.Sequential) else call.within[len(top) :]
    body, rest = headless(calls)
    kind = type(model).__name__
    if not any(has_weights(each.module) for each in body):
        raise InputError(
            f"Passed `model={kind}`, whose first part is no module, but something in its `forward`. {LIST_THEM}"
        )
    lost = [each for each in after if has_weights(each.module) and not of_vectors(each)]
    if lost or (after and of_vectors(after[0]) and of_vectors(body[-1])):
        raise InputError(
            f"Passed `model={kind}`, which does more than apply its modules one after the other: what its "
            f"`{name_of(model, (lost or after)[0])}` gets is not what the module before it gave. {LIST_THEM}"
        )
    whole = rest or isinstance(model, nn.Sequential)
    ending = [] if whole else ending_of(model, call, given, body, after)
    heads = [each.module for each in (*rest, *after)]
    linear = [part for module in heads for part in module.modules() if isinstance(part, nn.Linear)]
    said = getattr(model, "num_classes", None)
    classes = said if isinstance(said, int) and said > 0 else linear[-1].out_features if linear else None
    last = CHANNELS_LAST.search(kind) is not None
    while last and type(body[-1].module).__name__ == "Permute":
        body = body[:-1]
    stages = stages_of(body)
    return Cut(
        [*(each.module for each in body), *ending],
        [*stages, *stages[-1:] * len(ending)],
        given,
        num_classes=classes,
        tokens=all(each.gave.dim() == 3 for each in body if has_weights(each.module)),
        channels_last=last,
    )


@torch.no_grad()
def ending_of(model: nn.Module, call: Call, given: Tensor, body: list[Call], after: list[Call]) -> list[nn.Module]:
    """What a model does in its ``forward`` to what its last part gave, before it is pooled: nothing, or a ReLU.

    Args:
        model: which was called.
        call: of the model.
        given: its input.
        body: the parts that are kept.
        after: the parts of the head.

    Raises:
        InputError: something else.
    """
    with evaluating(model):
        last = through([each.module for each in body], given.clone())  # again: it may have been changed in place
    if after:
        unchanged = version_of(after[0].given) == after[0].version
        candidates = [after[0].given] if unchanged else []
    else:
        candidates = list(tensors_in(call.gave))
    for candidate in candidates:
        if (ending := missing_between(last, candidate)) is not None:
            return ending
    which = f"what its `{name_of(model, after[0])}` gets" if after else "what it returns"
    before = "the module before it" if after else "its last module"
    raise InputError(
        f"Passed `model={type(model).__name__}`, which does more than apply its modules one after the other: {which} "
        f"is neither what {before} gave nor pooled from that. {LIST_THEM}"
    )


def name_of(model: nn.Module, call: Call) -> str:
    """The name of the module that was called, within its model."""
    name: str = next(name for name, part in model.named_modules() if part is call.module)
    return name


def derived_example(model: nn.Module) -> Tensor:
    """An image as the model takes it, ``(1, C, H, W)``.

    Raises:
        InputError: it does not begin with a convolution.
    """
    first = next((part for part in model.modules() if has_own_weights(part)), None)
    if not isinstance(first, nn.Conv2d):
        raise InputError(
            f"Passed `model={type(model).__name__}` without `example`. Pass an input of it, or its shape without the "
            "batch, such as `example=(1, 28, 28)`."
        )
    known = getattr(model, "pretrained_cfg", None) or {}
    sides = known.get("input_size", (0, SIDE, SIDE))[1:] if isinstance(known, dict) else (SIDE, SIDE)
    built_for = getattr(getattr(model, "patch_embed", None), "img_size", None)  # timm's, other than its weights' maybe
    if isinstance(built_for, tuple):
        sides = built_for
    return torch.zeros(1, first.in_channels, *sides)


@torch.no_grad()
def observe(model: nn.Module, example: Tensor) -> Call:
    """Run a model, and note which of its modules are called with what.

    Raises:
        InputError: it cannot take the example.
    """
    root = Call(nn.Identity(), None, -1)
    stack = [root]

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        alone = args[0] if len(args) == 1 and not kwargs else None
        call = Call(module, alone, version_of(alone))
        stack[-1].within.append(call)
        stack.append(call)

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], gave: Any) -> None:
        del module, args, kwargs
        call = stack.pop()
        call.gave, call.version_after = gave, version_of(gave)

    hooks = [part.register_forward_pre_hook(before, with_kwargs=True) for part in model.modules()]
    hooks += [part.register_forward_hook(after, with_kwargs=True) for part in model.modules()]
    try:
        with evaluating(model):  # which leaves the statistics of batch norm alone
            model(example)
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
        raise InputError(
            f"Passed `model={type(model).__name__}`, which cannot take an input of shape {tuple(example.shape)}: "
            f"{error_line(error)}. Pass one that it takes as `example`, or its shape without the batch."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return root.within[0]


def version_of(value: Any) -> int:
    """How often a tensor has been changed in place."""
    return value._version if isinstance(value, Tensor) else -1


def followed(call: Call) -> list[Call]:
    """Calls within a module that form a chain from its input on, up to the first that is given something else."""
    given, version, parts = call.given, call.version, []
    for part in call.within:
        if not part.follows(given, version):
            break
        parts.append(part)
        given, version = part.gave, part.version_after
    return parts


def units(call: Call) -> Iterator[Call]:
    """A part as it is, or, of an ``nn.Sequential``, those that it consists of."""
    parts = followed(call) if isinstance(call.module, nn.Sequential) else []
    # A subclass may do something in its `forward` before the parts, between them or after them.
    if len(parts) < len(call.within) or not parts or not gives_on(parts[-1], call):
        yield call
        return
    for part in parts:
        yield from units(part)


def gives_on(part: Call, whole: Call) -> bool:
    """Whether a module gives the very thing that its last part gave."""
    return part.gave is whole.gave and part.version_after == whole.version_after


def headless(calls: list[Call]) -> tuple[list[Call], list[Call]]:
    """Cut a chain where its head begins: at a pooling to one field, or where maps become vectors."""
    for index, call in enumerate(calls):
        was_map = isinstance(call.given, Tensor) and call.given.dim() > 2
        is_map = isinstance(call.gave, Tensor) and call.gave.dim() > 2
        if index and was_map and (POOLING.search(type(call.module).__name__) or not is_map):
            return calls[:index], calls[index:]
    last = calls[-1:]
    weighty = sum(has_weights(call.module) for call in calls)
    if last and isinstance(last[0].module, nn.Linear) and weighty > 1:
        return calls[:-1], last
    return calls, []


def of_vectors(call: Call) -> bool:
    """Whether a part reads vectors ``(B, D)``, as heads do."""
    return isinstance(call.given, Tensor) and call.given.dim() < 3


def stages_of(body: list[Call]) -> list[int]:
    """Stage of every part: a new one where the activities of parts with weights change their shape."""
    stages, shape = [], None
    stage = -1
    for call in body:
        if has_weights(call.module):
            found = tuple(call.gave.shape[1:])
            stage += found != shape or len(found) == 1
            shape = found
        stages.append(max(stage, 0))
    return stages


def has_weights(module: nn.Module) -> bool:
    """Whether it has more to learn than scales and biases."""
    return any(parameter.dim() > 1 for parameter in module.parameters())


def has_own_weights(module: nn.Module) -> bool:
    """The same of what belongs to the module itself, not to its parts."""
    return any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
