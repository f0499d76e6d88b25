"""Models from checkpoints of the command line, without the recipe that trained them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ff_lightning.data.tokenizers import Tokenizer
from ff_lightning.errors import InputError
from ff_lightning.pretrained import read_content, read_pretrained, restored
from ff_lightning.tasks.evaluation import SampleTask
from ff_lightning.tasks.language_modelling import LanguageModelling


def trusted(names: str) -> list[str]:
    """Packages that ``--trust`` names, with commas in between.

    >>> trusted("my_package, other"), trusted("")
    (['my_package', 'other'], [])
    """
    return [name.strip() for name in names.split(",") if name.strip()]


def load_classifier(path: str, trust: Sequence[str] = ()) -> tuple[SampleTask, dict[str, Any], dict[str, Any]]:
    """Build the model of images of a checkpoint.

    Args:
        path: see :func:`ff_lightning.pretrained.load`.
        trust: see :func:`ff_lightning.pretrained.load`.

    Returns:
        The model, on the CPU; what the checkpoint keeps of the images (``image_shape``, ``class_names``); and the
        arguments of their datamodule.

    Raises:
        InputError: the file is no such checkpoint.
    """
    return classifier_of(read_content(path), path, trust)


def classifier_of(
    content: Mapping[str, Any], path: str, trust: Sequence[str] = ()
) -> tuple[SampleTask, dict[str, Any], dict[str, Any]]:
    """Build the model of images of a checkpoint that was read; see :func:`load_classifier`.

    Args:
        content: as :func:`~ff_lightning.pretrained.read_content` gives it.
        path: where it was read, for errors.
        trust: see :func:`ff_lightning.pretrained.load`.
    """
    found = restored(content, path, SampleTask, trust=trust, needs="image_shape")  # type: ignore[type-abstract]
    return found.model, found.known, found.data


def load_of_table(path: str, trust: Sequence[str] = ()) -> tuple[SampleTask, dict[str, Any]]:
    """Build the model of a checkpoint that was trained on a table.

    Args:
        path: see :func:`ff_lightning.pretrained.load`.
        trust: see :func:`ff_lightning.pretrained.load`.

    Returns:
        The model, on the CPU; and what the checkpoint keeps of the table (``columns``, ``class_names``).

    Raises:
        InputError: the file is no such checkpoint.
    """
    found = read_pretrained(path, SampleTask, trust=trust, needs="columns")  # type: ignore[type-abstract]
    return found.model, found.known


def load_language_model(path: str, trust: Sequence[str] = ()) -> tuple[LanguageModelling, Tokenizer]:
    """Build the model and the tokenizer that a checkpoint of the command line describes.

    Args:
        path: see :func:`ff_lightning.pretrained.load`.
        trust: see :func:`ff_lightning.pretrained.load`.

    Returns:
        The model, on a GPU if there is one, ready to generate; and its tokenizer.

    Raises:
        InputError: the file is no such checkpoint.
    """
    found = read_pretrained(path, LanguageModelling, trust=trust, needs="tokenizer")
    tokenizer = found.tokenizer
    assert tokenizer is not None
    if not found.model.network.fits_vocabulary(tokenizer.vocab_size):
        raise InputError(
            f"Passed `ckpt_path={path}`. The tokenizer in it has {tokenizer.vocab_size} tokens, its network "
            f"{found.model.network.vocab_size}."
        )
    return found.model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
