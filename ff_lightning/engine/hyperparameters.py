"""Which arguments of a module are stored in its checkpoints, and how objects among them are written."""

from __future__ import annotations

import warnings
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from torch.utils._pytree import tree_leaves

from ff_lightning.parts import PLAIN, Undescribed, by_name, described

CLASS_PATH, LEFT_OUT = "_class_path", "_left_out"
"""Names beside the arguments: of the class, which Lightning's command line writes too, and of what was left out."""


def save_plain_hyperparameters(module: pl.LightningModule, frame: FrameType | None) -> None:
    """Save the arguments of the outermost ``__init__`` as plain values: objects by class path and arguments.

    Objects would be pickled into checkpoints, which could then not be loaded with ``weights_only=True``. So a
    checkpoint rebuilds what Python built, as it does what the command line built. What cannot be written, such as a
    layer of a class of your own, is left out, and :data:`LEFT_OUT` says why.

    Args:
        module: under construction.
        frame: of an ``__init__`` of the module that is running.
    """
    args, kwargs = module.__dict__.pop("built_with", ((), {}))  # not kept: a twin copies the network that it was given
    with warnings.catch_warnings():  # Lightning warns of modules among them, which are replaced below
        warnings.simplefilter("ignore", UserWarning)
        module.save_hyperparameters(frame=frame)
    given = dict(module.hparams)
    if all(is_plain(value) for value in given.values()):
        return  # the command line says them in its own words, a class path among them
    # What the class itself was given, not what it made of that for its base.
    given.update({name: value for name, value in by_name(type(module), args, kwargs).items() if name in given})
    written, left_out = plain_arguments(given)
    objects = [name for name, value in module.hparams.items() if not is_plain(value)]
    for name in objects:
        del module.hparams[name]
    module.save_hyperparameters(ignore=objects, frame=frame)  # once more, so that they are not in `hparams_initial`
    kind = type(module)
    told = {CLASS_PATH: f"{kind.__module__}.{kind.__qualname__}"} | ({LEFT_OUT: left_out} if left_out else {})
    module.save_hyperparameters({**written, **told})


def plain_arguments(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Arguments as plain values.

    Returns:
        Those that can be written, and of the others what is in their way, by name.
    """
    written, left_out = {}, {}
    for name, value in given.items():
        try:
            written[name] = described(value)
        except Undescribed as missing:
            left_out[name] = str(missing)
    return written, left_out


def is_plain(value: object) -> bool:
    """Whether a value is made of nothing but numbers, words, ``None``, lists and dicts.

    >>> is_plain({"lr": 0.1, "betas": [0.9, None]}), is_plain([print])
    (True, False)
    """
    return all(isinstance(leaf, PLAIN) for leaf in tree_leaves(value))
