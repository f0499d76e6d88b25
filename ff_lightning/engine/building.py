"""Modules built from the plain configuration in a checkpoint: only what a place expects, only from packages we trust.

A recipe names any class that Python can import, for its author is the one who runs it: a recipe is code. A checkpoint
comes from elsewhere. What it names is built if it belongs to this package or to torch, or to a package that the user
names, and if it is of the type that the argument expects.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ff_lightning.engine.constructors import checked_arguments, is_library, library_maker
from ff_lightning.errors import InputError, in_one_line
from ff_lightning.negatives import LabelNegatives
from ff_lightning.schedules import Schedule

TRUSTED = ("ff_lightning", "torch.nn", "torch.optim")
"""Packages of which a checkpoint may name classes."""

TRAINING_ONLY = (Optimizer, LRScheduler, Schedule, LabelNegatives)
"""What nobody needs who does not train."""

PLAIN = (bool, int, float, str, complex)

Built = TypeVar("Built")


class Builder:
    """Builds what configuration describes.

    Args:
        source: where it comes from, for errors: ``ckpt_path=runs/a/last.ckpt``.
        trust: packages of which it may name classes, beside this one and torch.
        training: build optimizers, schedules and negatives, too.
    """

    def __init__(self, source: str, trust: Sequence[str] = (), *, training: bool = False) -> None:
        if isinstance(trust, str) or not all(isinstance(name, str) and name for name in trust):
            raise InputError(f"Passed `trust={trust!r}`. It must be a list of names of packages, as `['my_package']`.")
        self.source = source
        self.trusted = (*TRUSTED, *trust)
        self.training = training

    def build(self, class_path: Any, arguments: Any, kind: type[Built], place: str = "model") -> Built:
        """Build one object.

        Args:
            class_path: dotted name of its class.
            arguments: by name; plain values, or a mapping with ``class_path`` and ``init_args`` for an object.
            kind: it must be a subclass of this.
            place: where it goes, for errors.

        Raises:
            InputError: another package, another type, arguments that there are not, or that the class refuses.
        """
        return self.maker(class_path, arguments, kind, place)()

    def maker(self, class_path: Any, arguments: Any, kind: type[Built], place: str) -> Callable[..., Built]:
        """What builds one object, with its arguments already built; see :meth:`build`."""
        if isinstance(class_path, str) and is_library(class_path) and class_path.split(".")[0] not in self.trusted:
            return self._library(class_path, arguments, kind, place)
        return self.maker_of(self.resolve(class_path, kind, place), arguments, place)

    def _library(self, class_path: str, arguments: Any, kind: type[Built], place: str) -> Callable[..., Built]:
        """What builds a model of torchvision, timm or transformers, or a configuration, which is no module."""
        what = f"Passed `{self.source}`. Its `{place}`"
        if not isinstance(arguments, Mapping) or kind is not nn.Module or not place.endswith(".model"):
            raise self._refusal(place, f"names `{class_path}`, which only the `model` of a `ConvertedStack` may be")
        found = library_maker(class_path, what)
        given = dict(arguments)
        config = given.pop("config", None)
        made = checked_arguments(class_path, given, what)
        if isinstance(config, Mapping):
            path, settings = config.get("class_path"), {**config.get("init_args", {}), **config.get("dict_kwargs", {})}
            if not isinstance(path, str) or not path.startswith("transformers."):
                raise self._refusal(place, "has a `config` that is no configuration of transformers")
            made["config"] = self._call(library_maker(path, what), checked_arguments(path, settings, what), place)
        return partial(self._call, found, made, place)

    def maker_of(self, chosen: type[Built], arguments: Any, place: str = "model") -> Callable[..., Built]:
        """What builds one object of a class that the caller has chosen, with its arguments already built."""
        takes = parameters_of(chosen)
        several = [] if not isinstance(arguments, Mapping) or "args" not in arguments else arguments["args"]
        if several and issubclass(chosen, nn.Sequential) and isinstance(several, list):
            parts = [self._value(one, nn.Module, f"{place}[{index}]") for index, one in enumerate(several)]
            return partial(self._call, chosen, {}, place, *parts)
        if not isinstance(arguments, Mapping):
            raise self._refusal(place, f"has arguments for `{chosen.__name__}` that are no mapping")
        made: dict[str, Any] = {}
        for name, value in arguments.items():
            if name not in takes:
                raise self._refusal(place, f"passes `{name}` to `{chosen.__name__}`, which takes no such argument")
            if self.training or not _is_for_training(takes[name]):
                made[name] = self._value(value, takes[name], f"{place}.{name}")
        return partial(self._call, chosen, made, place)

    def _call(self, chosen: type[Built], arguments: dict[str, Any], place: str, *first: Any, **more: Any) -> Built:
        try:
            return chosen(*first, **arguments, **more)
        except InputError as error:
            raise InputError(f"Passed `{self.source}`. Its `{place}` cannot be built: {error}") from error
        # The arguments come from a file: whatever a class makes of them, the file is named.
        except Exception as error:
            said = in_one_line(error)[:200]
            raise self._refusal(place, f"cannot be built: {type(error).__name__}: {said}") from error

    def resolve(self, class_path: Any, kind: type[Built], place: str) -> type[Built]:
        """Find a class by its name.

        Raises:
            InputError: it is of another package, or of another type.
        """
        if not isinstance(class_path, str) or not all(part.isidentifier() for part in class_path.split(".")):
            raise self._refusal(place, f"names the class {str(class_path)[:80]!r}, which is no dotted name")
        self._check_package(class_path, place)
        found = _located(class_path)
        if not isinstance(found, type):
            raise self._refusal(place, f"names `{class_path}`, which is no class")
        self._check_package(found.__module__, place)  # a trusted module imports others
        if not issubclass(found, kind) or inspect.isabstract(found):
            raise self._refusal(place, f"names `{class_path}`, which is no {kind.__name__}")
        return found

    def _check_package(self, name: str, place: str) -> None:
        if not any(name == package or name.startswith(f"{package}.") for package in self.trusted):
            raise self._refusal(
                place,
                f"names `{name}`, and only classes of {', '.join(self.trusted)} are built from a checkpoint. A package "
                "of your own is named by `--trust my_package`, or `trust=['my_package']`",
            )

    def _value(self, value: Any, hint: Any, place: str) -> Any:
        """A value as an argument of a type takes it."""
        if isinstance(value, Mapping) and "class_path" in value:
            return self._object(value, hint, place)
        if value is None or isinstance(value, PLAIN):
            return value
        if isinstance(value, list | tuple):
            inner = next((get_args(each)[0] for each in _choices(hint) if get_args(each)), Any)
            built = [self._value(one, inner, f"{place}[{index}]") for index, one in enumerate(value)]
            return (
                tuple(built)
                if isinstance(value, tuple) or any(get_origin(each) is tuple for each in _choices(hint))
                else built
            )
        if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            return {name: self._value(one, Any, f"{place}.{name}") for name, one in value.items()}
        raise self._refusal(place, f"is a {type(value).__name__}, and no plain value")

    def _object(self, value: Mapping[str, Any], hint: Any, place: str) -> Any:
        path, arguments = value["class_path"], value.get("init_args", {})
        more = value.get("dict_kwargs")  # what jsonargparse could not find in a signature
        if isinstance(more, Mapping) and isinstance(arguments, Mapping):
            arguments = {**arguments, **more}
        if set(value) - {"class_path", "init_args", "dict_kwargs"}:
            raise self._refusal(place, "has more than `class_path` and `init_args`")
        choices = _choices(hint)
        kinds = _buildable([each for each in choices if isinstance(each, type)])
        makers = [each for each in choices if get_origin(each) is Callable]
        for kind in kinds:
            if kind is kinds[-1] or issubclass(self.resolve(path, object, place), kind):
                return self.build(path, arguments, kind, place)
        for made in (kind for each in makers for kind in _choices(get_args(each)[-1]) if isinstance(kind, type)):
            return self.maker(path, arguments, made, place)
        raise self._refusal(place, f"names the class `{path}` where none is expected")

    def _refusal(self, place: str, what: str) -> InputError:
        return InputError(f"Passed `{self.source}`. Its `{place}` {what}.")


def parameters_of(chosen: type) -> dict[str, Any]:
    """Types of all arguments of a class by name, those that it hands on to its bases by ``**kwargs`` too."""
    found: dict[str, Any] = {}
    for base in inspect.getmro(chosen):
        initialiser = base.__dict__.get("__init__")
        if initialiser is None:
            continue
        hints = get_type_hints(initialiser)
        parameters = list(inspect.signature(initialiser).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, hints.get(parameter.name, Any))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _located(class_path: str) -> Any:
    """What a dotted name stands for; ``None`` for nothing."""
    parts = class_path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for name in parts[cut:]:  # a module may load what it is asked for; of anything else nothing is run
            found = getattr(found, name, None) if inspect.ismodule(found) else inspect.getattr_static(found, name, None)
        return found
    return None


def _choices(hint: Any) -> list[Any]:
    """The types that an argument may have: those of a union, its alternatives, or the one."""
    if get_origin(hint) in (Union, types.UnionType):
        return [choice for each in get_args(hint) for choice in _choices(each)]
    if get_origin(hint) is Literal or hint is Any:
        return []
    return [hint]


def _buildable(kinds: Sequence[type]) -> list[type]:
    """Those that an object may be built for: our own classes, and what torch calls a module."""
    return [kind for kind in kinds if issubclass(kind, nn.Module) or kind.__module__.split(".")[0] == "ff_lightning"]


def _is_for_training(hint: Any) -> bool:
    """Whether an argument is of use in a training alone."""
    for choice in _choices(hint):
        made = get_args(choice)[-1] if get_origin(choice) is Callable else choice
        if isinstance(made, type) and issubclass(made, TRAINING_ONLY):
            return True
        if get_origin(choice) is Callable and made not in (Any,) and _is_for_training(made):
            return True
    return False
