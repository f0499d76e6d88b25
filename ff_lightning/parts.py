"""What an object is made of: its class and the arguments it was built with, as a recipe writes them.

A network that Python built is as good as one of a recipe: a checkpoint says of both how they are built again. So the
base classes of networks, blocks, goodness, losses, norms, readouts, schedules and negatives keep what their constructor
was given, and :func:`described` turns it into plain values: ``{"class_path": …, "init_args": {…}}`` for an object.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Mapping
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from ff_lightning.errors import InputError

PLAIN = (type(None), bool, int, float, str)


class Undescribed(Exception):  # noqa: N818
    """Something cannot be written as a class path and plain arguments; the message says what."""


class Part:
    """Base of what a checkpoint can describe: it remembers the arguments it was built with.

    They are kept as they are, and looked at when somebody asks for a description. What must be an object, as its type
    says, is checked at once: the name of a loss is none, and neither is its class.
    """

    changed = ""
    """What was done to it after it was built, of which its arguments say nothing."""

    others_serve = False
    """Whether another object may be passed in its place, which what takes it wraps, or refuses in words of its own."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make an object that knows what it was given; a copy takes that from the original.

        Raises:
            InputError: it was given plain values, a class or another object in place of a part.
        """
        refuse_other_kinds(cls, args, kwargs)
        made = super().__new__(cls)
        object.__setattr__(made, "built_with", (args, kwargs))
        return made


def refuse_other_kinds(maker: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse what is no object of the kind, where the constructor of a class asks for a part or a module.

    Args:
        maker: the class.
        args: what it is given.
        kwargs: the same by names.

    Raises:
        InputError: names the argument, and what it must be.
    """
    try:
        given = by_name(maker, args, kwargs)
    except Undescribed:  # the constructor says what it does not take
        return
    for name, value in given.items():
        kinds = kinds_of(maker).get(name, ())
        plain = isinstance(value, (*PLAIN, list, tuple, Mapping))
        strict = not any(getattr(kind, "others_serve", True) for kind in kinds)
        if not kinds or value is None or isinstance(value, kinds):
            continue
        if isinstance(value, type):
            raise InputError(
                f"Passed `{maker.__name__}({name}={value.__name__})`, a class. Pass an object of it: "
                f"`{value.__name__}(…)`."
            )
        if plain or strict:
            what = reprlib.repr(value) if plain else type(value).__name__
            names = [(kind.__module__, kind.__qualname__) for kind in kinds]
            wanted = " or ".join(f"`{shortest(*name)}.{name[1]}`" for name in names)
            raise InputError(f"Passed `{maker.__name__}({name}={what})`. It must be an object, a {wanted}.")


@cache
def kinds_of(maker: type) -> dict[str, tuple[type, ...]]:
    """Of the arguments of a class that must be parts or modules, the classes that they may be of.

    What a constructor hands on by ``**kwargs`` is said by the class above.
    """
    found: dict[str, tuple[type, ...]] = {}
    for each in maker.__mro__:
        if "__init__" not in vars(each):
            continue
        constructor = vars(each)["__init__"]
        parameters = inspect.signature(constructor).parameters
        try:
            hints = get_type_hints(constructor)
        except (NameError, TypeError):  # of a class of a user, with names that are known while types are checked alone
            hints = {}
        for name, parameter in parameters.items():
            hint = None if parameter.kind is inspect.Parameter.VAR_POSITIONAL else hints.get(name)
            members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            kinds = tuple(member for member in members if member is not NoneType)
            parts = all(isinstance(kind, type) and issubclass(kind, Part | nn.Module) for kind in kinds)
            found.setdefault(name, kinds if parts else ())
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return {name: kinds for name, kinds in found.items() if kinds}


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
    if isinstance(value, Part) and value.changed:
        raise Undescribed(f"a `{type(value).__name__}` that {value.changed}")
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


def being_built(made: object) -> bool:
    """Whether a constructor of an object is still at work, its own or that of a base."""
    frame = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__init__" and code.co_argcount and frame.f_locals.get(code.co_varnames[0]) is made:
            return True
        frame = frame.f_back
    return False


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
        same = alike(layer, again)
    except (TypeError, ValueError, RuntimeError) as error:  # of lazy modules, too, whose weights have no shape yet
        raise Undescribed(f"a `{maker.__name__}`") from error
    if not same:
        raise Undescribed(f"a `{maker.__name__}`")
    path = path_of(maker)
    return {"class_path": path, "init_args": arguments} if arguments else {"class_path": path}


def alike(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules have the same form, and weights of the same names and shapes."""
    shapes = [{name: value.shape for name, value in module.state_dict().items()} for module in (first, second)]
    return repr(first) == repr(second) and shapes[0] == shapes[1]
