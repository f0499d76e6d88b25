"""What an object is made of: its class and the arguments it was built with, as a recipe writes them.

A network that Python built is as good as one of a recipe: a checkpoint says of both how they are built again. So the
base classes of networks, blocks, goodness, losses, norms, readouts, schedules and negatives keep what their constructor
was given, and :func:`described` turns it into plain values: ``{"class_path": …, "init_args": {…}}`` for an object.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

PLAIN = (type(None), bool, int, float, str)


class Undescribed(Exception):  # noqa: N818
    """Something cannot be written as a class path and plain arguments; the message says what."""


class Part:
    """Base of what a checkpoint can describe: it remembers the arguments it was built with.

    They are kept as they are, and looked at when somebody asks for a description.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make an object that knows what it was given; a copy takes that from the original."""
        made = super().__new__(cls)
        object.__setattr__(made, "built_with", (args, kwargs))
        return made


def described(value: Any) -> Any:
    """A value in plain words, lists and dicts.

    Args:
        value: plain values, lists and dicts of them; a :class:`Part`; a layer of ``torch.nn``; a class, or a
            ``functools.partial`` of one.

    Returns:
        What a recipe would hold. Of an object with a method ``description``, what that says.

    Raises:
        Undescribed: it holds something else.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [described(each) for each in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: described(each) for name, each in value.items()}
    if hasattr(value, "description") and not isinstance(value, type):
        return value.description()
    if isinstance(value, partial):
        return built_by(value.func, value.args, value.keywords)
    if isinstance(value, type):
        return {"class_path": path_of(value)}
    if isinstance(value, Part):
        args, kwargs = value.built_with  # type: ignore[attr-defined]
        return built_by(type(value), args, kwargs)
    if isinstance(value, nn.Module) and type(value).__module__.startswith("torch.nn."):
        return torch_layer(value)
    raise Undescribed(f"a `{type(value).__name__}`")


def built_by(maker: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what a class or a function makes of arguments.

    Raises:
        Undescribed: nobody could find it by its name, or an argument cannot be described.
    """
    path = path_of(maker)
    found = {name: described(value) for name, value in by_name(maker, args, kwargs).items()}
    return {"class_path": path, "init_args": found} if found else {"class_path": path}


def by_name(maker: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a class or a function by their names.

    Raises:
        Undescribed: it does not take them.
    """
    signature = inspect.signature(maker)
    try:
        bound = signature.bind_partial(*args, **kwargs).arguments
    except TypeError as error:
        raise Undescribed(f"a `{path_of(maker)}` with arguments that it does not take") from error
    found: dict[str, Any] = {}
    for name, value in bound.items():
        several = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        found.update(value if several else {name: value})
    return found


def path_of(found: Any) -> str:
    """Dotted name by which a class or a function is found again.

    Raises:
        Undescribed: it was defined within a function, or has no name.
    """
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", "<locals>")
    if module is None or "<" in name:
        raise Undescribed(f"`{getattr(found, '__name__', found)}`, which no import finds")
    return f"{shortest(module, name)}.{name}"


def shortest(module: str, name: str) -> str:
    """The package of torch that offers a class of a module of its own: ``torch.nn`` for ``torch.nn.modules.linear``."""
    for public in (torch.nn, torch.optim, torch.optim.lr_scheduler):
        if module.startswith(f"{public.__name__}.") and hasattr(public, name):
            return public.__name__
    return module


def torch_layer(layer: nn.Module) -> dict[str, Any]:
    """Describe a layer of ``torch.nn`` by its attributes, which are named as the arguments of its class.

    The description is tried: what it builds must have the same form and the same weights by name and shape.

    Raises:
        Undescribed: it does not.
    """
    maker = type(layer)
    if isinstance(layer, nn.Sequential | nn.ModuleList):
        parts = [described(child) for child in layer]
        return {"class_path": path_of(maker), "init_args": {("args" if maker is nn.Sequential else "modules"): parts}}
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(maker).parameters.items():
        value = getattr(layer, name, parameter.empty)
        if isinstance(value, Tensor) or (name == "bias" and value is None):
            value = value is not None
        if isinstance(value, torch.device | torch.dtype) or value is parameter.empty or value == parameter.default:
            continue
        arguments[name] = described(value)
    try:
        with torch.device("meta"):
            again = maker(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Undescribed(f"a `{maker.__name__}`") from error
    if not alike(layer, again):
        raise Undescribed(f"a `{maker.__name__}`")
    path = path_of(maker)
    return {"class_path": path, "init_args": arguments} if arguments else {"class_path": path}


def alike(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules have the same form, and weights of the same names and shapes."""
    shapes = [{name: value.shape for name, value in module.state_dict().items()} for module in (first, second)]
    return repr(first) == repr(second) and shapes[0] == shapes[1]
