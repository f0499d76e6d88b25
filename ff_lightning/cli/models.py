"""Models from checkpoints of the command line, without the recipe that trained them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ff_lightning.pretrained import read_pretrained
from ff_lightning.tasks.evaluation import ImageClassification


def trusted(names: str) -> list[str]:
    """Packages that ``--trust`` names, with commas in between.

    >>> trusted("my_package, other"), trusted("")
    (['my_package', 'other'], [])
    """
    return [name.strip() for name in names.split(",") if name.strip()]


def load_classifier(path: str, trust: Sequence[str] = ()) -> tuple[ImageClassification, dict[str, Any], dict[str, Any]]:
    """Build the image classifier of a checkpoint.

    Args:
        path: see :func:`ff_lightning.pretrained.load`.
        trust: see :func:`ff_lightning.pretrained.load`.

    Returns:
        The model, on the CPU; what the checkpoint keeps of the images (``image_shape``, ``class_names``); and the
        arguments of their datamodule.

    Raises:
        InputError: the file is no such checkpoint.
    """
    found = read_pretrained(path, ImageClassification, trust=trust, needs="image_shape")  # type: ignore[type-abstract]
    return found.model, found.known, found.data
