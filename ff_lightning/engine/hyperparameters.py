"""Which arguments of a module are stored in its checkpoints."""

from __future__ import annotations

import warnings
from types import FrameType

import lightning.pytorch as pl
from torch.utils._pytree import tree_leaves

PLAIN = (type(None), bool, int, float, str)


def save_plain_hyperparameters(module: pl.LightningModule, frame: FrameType | None) -> None:
    """Save the arguments of the outermost ``__init__``, but no module or callable.

    Objects would be pickled into checkpoints, which could then not be loaded with ``weights_only=True``. Built by the
    command line, the arguments are plain configuration, and the checkpoint rebuilds the class.

    Args:
        module: under construction.
        frame: of an ``__init__`` of the module that is running.
    """
    with warnings.catch_warnings():  # Lightning warns of modules among them, which are taken out below
        warnings.simplefilter("ignore", UserWarning)
        module.save_hyperparameters(frame=frame)
    objects = [name for name, value in module.hparams.items() if not is_plain(value)]
    for name in objects:
        del module.hparams[name]
    if objects:  # once more without them, so that they are not in `hparams_initial` either
        module.save_hyperparameters(ignore=objects, frame=frame)


def is_plain(value: object) -> bool:
    """Whether a value is made of nothing but numbers, words, ``None``, lists and dicts.

    >>> is_plain({"lr": 0.1, "betas": [0.9, None]}), is_plain([print])
    (True, False)
    """
    return all(isinstance(leaf, PLAIN) for leaf in tree_leaves(value))
