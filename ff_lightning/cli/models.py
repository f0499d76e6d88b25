"""Models from checkpoints of the command line, without the recipe that trained them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch

from ff_lightning.cli.parser import Parser
from ff_lightning.data.tokenizers import Tokenizer
from ff_lightning.engine.checkpoints import NEEDS_ONE_FILE, check_checkpoint, check_fit, is_folder
from ff_lightning.engine.lightning import class_and_arguments
from ff_lightning.errors import InputError
from ff_lightning.module import FFLightningModule
from ff_lightning.tasks.evaluation import ImageClassification
from ff_lightning.tasks.language_modelling import LanguageModelling

Model = TypeVar("Model", bound=FFLightningModule)


def build_model(content: Mapping[str, Any], path: str, kind: type[Model]) -> Model:
    """Build the class that is named in the hyperparameters, which the command line saves with every checkpoint.

    Args:
        content: of the checkpoint.
        path: of the checkpoint, for errors.
        kind: what it must be.

    Raises:
        InputError: the checkpoint does not say how its network is built, or it is of another kind.
    """
    class_path, arguments = class_and_arguments(content.get("hyper_parameters", {}))
    if class_path is None or "network" not in arguments:
        raise InputError(
            f"Passed `ckpt_path={path}`. It does not say how its network is built, since `ff-lightning fit` did not "
            "write it. Build the network in Python, and call the model."
        )
    parser = Parser()
    parser.add_subclass_arguments(kind, "model", fail_untyped=False)
    config = parser.parse_object({"model": {"class_path": class_path, "init_args": arguments}})
    model: Model = parser.instantiate_classes(config).model
    return model


def take_weights(model: Model, content: Mapping[str, Any], path: str) -> Model:
    """Give a model the weights of a checkpoint, ready to be used.

    Raises:
        InputError: they do not fit.
    """
    model.on_load_checkpoint(dict(content))
    check_fit(model, content["state_dict"], path)
    model.load_state_dict(content["state_dict"])
    return model.eval()


def load_classifier(path: str) -> tuple[ImageClassification, dict[str, Any], dict[str, Any]]:
    """Build the image classifier of a checkpoint.

    Args:
        path: a local file that ``ff-lightning fit`` wrote.

    Returns:
        The model, on the CPU; what the checkpoint keeps of the images (``image_shape``, ``class_names``); and the
        arguments of their datamodule.

    Raises:
        InputError: the file is no such checkpoint.
    """
    content = check_checkpoint(path)
    states = [state for state in content.values() if isinstance(state, Mapping) and "image_shape" in state]
    if not states:
        raise InputError(
            f"Passed `ckpt_path={path}`. The checkpoint does not say what its images were: it is not of an image "
            "classifier that `ff-lightning fit` trained on an `ImageDataModule`."
        )
    model = build_model(content, path, ImageClassification)  # type: ignore[type-abstract]
    take_weights(model, content, path)
    return model, dict(states[0]), dict(content.get("datamodule_hyper_parameters", {}))


def load_language_model(path: str) -> tuple[LanguageModelling, Tokenizer]:
    """Build the model and the tokenizer that a checkpoint of the command line describes.

    Args:
        path: a local file.

    Returns:
        The model, on a GPU if there is one, ready to generate; and its tokenizer.

    Raises:
        InputError: the file is no such checkpoint.
    """
    if is_folder(path):
        raise InputError(NEEDS_ONE_FILE.format(path=path))
    content = check_checkpoint(path)
    states = [state["tokenizer"] for state in content.values() if isinstance(state, Mapping) and "tokenizer" in state]
    if not states:
        raise InputError(
            f"Passed `ckpt_path={path}`. The checkpoint is not of a language model trained on a text: it has no "
            "tokenizer."
        )
    model, tokenizer = build_model(content, path, LanguageModelling), Tokenizer.from_dict(states[0])
    if tokenizer.vocab_size != model.network.vocab_size:
        raise InputError(
            f"Passed `ckpt_path={path}`. The tokenizer in it has {tokenizer.vocab_size} tokens, its network "
            f"{model.network.vocab_size}."
        )
    return take_weights(model, content, path).to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
