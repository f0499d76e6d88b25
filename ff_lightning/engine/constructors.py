"""Models of torchvision, timm and transformers that a checkpoint may name, and the arguments that it may give them.

They are built with fresh weights, which those of the checkpoint then replace. So nothing is downloaded, no weights of
another file are read, and no code of the hub is run: what could do so is refused.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ff_lightning.errors import InputError

LIBRARIES = ("torchvision", "timm", "transformers")

IGNORED = {"torchvision": {"progress"}, "timm": {"pretrained_strict"}, "transformers": set[str]()}
"""Arguments that change nothing without pretrained weights."""

NEVER = re.compile(
    r"weights|weights_backbone|pretrained|pretrained_.*|checkpoint_path|cache_dir|.*_implementation|auto_map|.*_kernels?"
    r"|quantization_config|trust_remote_code|use_pretrained.*|use_timm_backbone|backbone.*|.*name_or_path|scriptable|exportable|no_jit"
)
"""Arguments by which weights or code could come from elsewhere."""

PLAIN = (type(None), bool, int, float, str)


def is_library(class_path: str) -> bool:
    """Whether a dotted name lies in one of these packages."""
    return class_path.split(".")[0] in LIBRARIES


def library_maker(class_path: str, what: str) -> Any:
    """The constructor that a checkpoint names.

    Args:
        class_path: ``torchvision.models.NAME``, ``timm.create_model``, or ``transformers.NAME`` of a model or of a
            configuration.
        what: whose part it is, for errors.

    Raises:
        InputError: the package is not installed, or has no such constructor.
    """
    package, _, name = class_path.rpartition(".")
    refusal = InputError(
        f"{what} names `{class_path}`, which is no constructor of a model of torchvision, timm or transformers."
    )
    if package not in ("torchvision.models", "timm", "transformers"):
        raise refusal
    try:
        home = import_module(package)
        found = getattr(home, name, None)
    except (ImportError, RuntimeError) as error:
        raise InputError(f"{what} needs {package.split('.')[0]}, which cannot be imported: {error}.") from error
    if package == "torchvision.models":
        known = found is not None and name in home.list_models()
    elif package == "timm":
        known = name == "create_model"
    else:
        bases = [each.__name__ for each in inspect.getmro(found)] if isinstance(found, type) else []
        known = bool({"PreTrainedModel", "PreTrainedConfig", "PretrainedConfig"} & set(bases[1:]))
    if not known:
        raise refusal
    return found


def checked_arguments(class_path: str, arguments: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Arguments of a constructor: plain values, none of which brings weights or code from elsewhere.

    Raises:
        InputError: names the one that does.
    """
    package = class_path.split(".")[0]
    kept: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in IGNORED[package] or (NEVER.fullmatch(name) and value in (None, False)):
            continue
        if NEVER.fullmatch(name):
            raise InputError(f"{what} passes `{name}` to `{class_path}`, by which weights or code come from elsewhere.")
        kept[name] = value
    model_name = kept.get("model_name", "")
    if package == "timm" and not re.fullmatch(r"[A-Za-z0-9_.]+", str(model_name)):
        raise InputError(f"{what} asks timm for {str(model_name)[:80]!r}, which is no name of a model of its own.")
    _refuse_what_is_not_plain(kept, class_path, what)
    return kept


def _refuse_what_is_not_plain(value: Any, class_path: str, what: str) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if NEVER.fullmatch(str(name)) and inner not in (None, False):
                raise InputError(f"{what} passes `{name}` to `{class_path}`, by which code could come from elsewhere.")
            _refuse_what_is_not_plain(inner, class_path, what)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_what_is_not_plain(inner, class_path, what)
    elif not isinstance(value, PLAIN):
        raise InputError(f"{what} passes a {type(value).__name__} to `{class_path}`, and no plain value.")
