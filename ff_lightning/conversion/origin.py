"""The constructor of a model and its arguments, so that a checkpoint can name them.

A model of transformers says its configuration. torchvision and timm keep no arguments: what is likely is tried, and
taken if it builds a model of the same form. Of any other model, say how it is built: pass ``functools.partial`` of its
class.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

from ff_lightning.conversion.families import is_of
from ff_lightning.parts import Undescribed, alike, built_by, described

NOT_KEPT = ("_implementation", "auto_map", "quantization_config", "transformers_version", "dtype", "_name_or_path")
"""Ends of names in a configuration of transformers that say where it is from or how it is run, not what it is."""


def constructor_of(model: Any) -> dict[str, Any]:
    """The class path and the arguments of what builds a model, as a recipe writes them.

    Args:
        model: a model, a list of modules, or what builds a model.

    Raises:
        Undescribed: it does not say how it was built; the message says what to pass instead.
    """
    if callable(model) and not isinstance(model, nn.Module):
        made = model if isinstance(model, partial) else partial(model)
        return named(made.func, made.args, made.keywords)
    if is_of(model, "transformers", "PreTrainedModel"):
        config = model.config
        given = {**settings(config.to_diff_dict()), "num_labels": int(config.num_labels)}
        inner = {"class_path": f"transformers.{type(config).__name__}", "init_args": given}
        return {"class_path": f"transformers.{type(model).__name__}", "init_args": {"config": inner}}
    if isinstance(model, nn.Module) and (is_of(model, "torchvision") or is_of(model, "timm")):
        for maker, kwargs in likely(model):
            if builds(maker, kwargs, model):
                return named(maker, (), kwargs)
        raise _unknown(model)
    try:
        found: dict[str, Any] = described(list(model) if isinstance(model, list | tuple) else model)
    except Undescribed as missing:
        raise _unknown(model) from missing
    return found


def _unknown(model: Any) -> Undescribed:
    return Undescribed(
        f"a `{type(model).__name__}`, which does not tell how it was built; convert what builds it, such as "
        "`functools.partial(MyModel, width=32)`, to have that kept"
    )


def named(maker: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Describe a constructor; those of torchvision and timm by the name under which these packages offer them."""
    found = built_by(maker, args, kwargs)
    package = found["class_path"].split(".")[0]
    public = {"torchvision": "torchvision.models", "timm": "timm", "transformers": "transformers"}.get(package)
    name = found["class_path"].split(".")[-1]
    if public is not None and getattr(import_module(public), name, None) is maker:
        found["class_path"] = f"{public}.{name}"
    return found


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration of transformers says how a model is built; plain values."""
    labels = config.get("id2label")
    if isinstance(labels, dict) and all(str(label) == f"LABEL_{index}" for index, label in labels.items()):
        config = {name: value for name, value in config.items() if name not in ("id2label", "label2id")}
    return {
        str(name): settings(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if not str(name).endswith(NOT_KEPT)
    }


def likely(model: nn.Module) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Constructors of torchvision or timm that may have built a model, with arguments."""
    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    if is_of(model, "torchvision"):
        # Constructors lie beside the class; a registry knows them all, under names of their own.
        home = import_module(type(model).__module__)
        makers = [
            each
            for name, each in vars(home).items()
            if inspect.isfunction(each) and name in getattr(home, "__all__", ())
        ]
        classes = {"num_classes": linear[-1].out_features} if linear else {}
        sizes = {"image_size": model.image_size} if isinstance(getattr(model, "image_size", None), int) else {}
        for maker in makers:
            yield from ((maker, more) for more in ({}, classes, {**classes, **sizes}))
        return
    known = getattr(model, "pretrained_cfg", None) or {}
    name = known.get("architecture") if isinstance(known, dict) else None
    if name is None:
        return
    maker = import_module(type(model).__module__.split(".")[0]).create_model
    classes = {"num_classes": getattr(model, "num_classes", 1000)}
    first = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    channels = {} if first is None else {"in_chans": first.in_channels}
    patches = getattr(model, "patch_embed", None)
    found: dict[str, Any] = {side: getattr(patches, side, None) for side in ("img_size", "patch_size")}
    sides = {side: list(value) for side, value in found.items() if value is not None}
    for more in ({}, classes, {**classes, **channels}, {**classes, **channels, **sides}):
        yield maker, {"model_name": name, **more}


def builds(maker: Any, kwargs: dict[str, Any], model: nn.Module) -> bool:
    """Whether a constructor makes a model of the same form; without memory for its weights."""
    try:
        with torch.device("meta"):
            return alike(model, maker(**kwargs))
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return False
