"""Models from checkpoints of the command line, without the recipe that trained them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch

import ff_lightning.data
from ff_lightning.data import ImageDataModule
from ff_lightning.data.tokenizers import Tokenizer
from ff_lightning.engine.building import Builder
from ff_lightning.engine.lightning import class_and_arguments
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


def validation_of(
    content: Mapping[str, Any], path: str, asked: str, value: object, trust: Sequence[str] = ()
) -> ImageDataModule:
    """The data of the training of a checkpoint, with its validation images read again.

    Args:
        content: as :func:`~ff_lightning.pretrained.read_content` gives it.
        path: where it was read, for errors.
        asked: the argument for which they are needed, for errors.
        value: of the argument.
        trust: see :func:`ff_lightning.pretrained.load`.

    Raises:
        InputError: the training was on other data than images, such as recordings; the checkpoint does not say on
            which; or none of them are for validation.
    """
    source = f"{asked}={value}` with `ckpt_path={path}"
    class_path, arguments = class_and_arguments(content.get("datamodule_hyper_parameters", {}))
    if class_path is None:  # it was built in Python: what it keeps has its name, and arguments of its base are there
        names = [name for name in ff_lightning.data.__all__ if name.endswith("DataModule") and name in content]
        class_path = f"ff_lightning.data.{names[0]}" if names else None
        takes = signature(getattr(ff_lightning.data, names[0])).parameters if names else {}
        arguments = {name: given for name, given in arguments.items() if name in takes}
    if class_path is None or "source" not in arguments:
        raise InputError(f"Passed `{source}`. It does not say on which images it was trained. Leave `{asked}` out.")
    plain = {name: given for name, given in arguments.items() if name[:1] != "_" and not isinstance(given, Mapping)}
    try:
        images = Builder(source, trust).build(class_path, plain, ImageDataModule, "data")
    except InputError as error:
        raise InputError(f"{error} Leave `{asked}` out.") from error
    images.setup("validate")
    if not images.val_dataloader():
        raise InputError(f"Passed `{source}`. It was trained without validation images. Leave `{asked}` out.")
    return images


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
