"""Which arguments of a module are stored in its checkpoints."""

from __future__ import annotations

import copy
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
    for name, value in list(module.hparams.items()):
        if not all(isinstance(leaf, PLAIN) for leaf in tree_leaves(value)):
            del module.hparams[name]
    module._hparams_initial = copy.deepcopy(module._hparams)  # type: ignore[assignment]
