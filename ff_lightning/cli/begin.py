"""``--init_from`` of ``fit``: what it tells the recipe, and what of it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.utilities import rank_zero_info

from ff_lightning.errors import InputError
from ff_lightning.finetuning import begin_from
from ff_lightning.finetuning.cutting import CONFIG, open_config, plain
from ff_lightning.finetuning.weights import is_of_transformers, kept_tokenizer
from ff_lightning.module import FFLightningModule

OPTION = "init_from"
NETWORK = "model.init_args.network.init_args.config"
TOKENIZER = "data.init_args.tokenizer"

CLASSES = {
    "characters": "CharacterTokenizer",
    "tiktoken": "TiktokenTokenizer",
    "bytes": "ByteTokenizer",
    "subwords": "SubwordTokenizer",
}
"""Of the kinds of tokenizers that a checkpoint keeps, the classes."""


def add_option(parser: ArgumentParser) -> None:
    """Let a training begin with trained weights; other commands know the option, since they read its files."""
    parser.add_argument(
        f"--{OPTION}",
        type=str | None,
        default=None,
        help="Begin a new training with the weights of a checkpoint, a folder or a model on the hub, of ours or of "
        "transformers; optimizer and schedule are new. To go on with a training, pass --ckpt_path.",
    )


def asked(config: Namespace, subcommand: str, words: Sequence[str]) -> str | None:
    """Where a training begins, if it begins with trained weights.

    Args:
        config: of the subcommand.
        subcommand: ``fit``, or another.
        words: of the command.

    Raises:
        InputError: the command asks for a resume as well, or is no training.
    """
    source: str | None = config.get(OPTION)
    if source is None or (subcommand == "fit" and config.ckpt_path is None):
        return source
    said = any(str(word).split("=")[0] == f"--{OPTION}" for word in words)
    if said and subcommand != "fit":
        raise InputError(
            f"Passed `{OPTION}={source}` to `{subcommand}`, which trains nothing. Pass a checkpoint as `--ckpt_path`."
        )
    if said:
        raise InputError(
            f"Passed `{OPTION}={source}` and `ckpt_path={config.ckpt_path}`. `--ckpt_path` goes on with a training, "
            f"`--{OPTION}` begins a new one with trained weights: pass one of them."
        )
    return None  # a file of an earlier run names it, which now goes on


def tell_recipe(config: Namespace, said: Mapping[str, Any], source: str) -> None:
    """Take from trained weights what a recipe leaves open: the tokenizer, and the sizes of a model of transformers.

    Args:
        config: of ``fit``; changed.
        said: what recipes and the command say themselves.
        source: of the weights.
    """
    foreign = is_of_transformers(source)
    if NETWORK in config and foreign:
        told, sizes = config[NETWORK], plain(open_config(_folder_of(source)))
        if told not in (None, source, sizes):
            raise InputError(
                f"Passed `{OPTION}={source}` and other sizes as `network.config`. The network takes its sizes from the "
                "folder: leave `network.config` out."
            )
        config[NETWORK] = sizes
    if TOKENIZER not in config or said.get(TOKENIZER) is not None:
        return
    if foreign:
        config[TOKENIZER] = source
        return
    state = kept_tokenizer(source)
    if state is not None:
        arguments = {name: value for name, value in state.items() if name != "kind"}
        path = f"ff_lightning.data.{CLASSES[state['kind']]}"
        config[TOKENIZER] = Namespace(class_path=path, init_args=Namespace(**arguments))  # type: ignore[no-untyped-call]


def _folder_of(source: str) -> Path:
    """The folder with the configuration of a model of transformers."""
    if Path(source).expanduser().is_dir():
        return Path(source).expanduser()
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, CONFIG)).parent


def begin(model: FFLightningModule, source: str) -> None:
    """Take the weights, and say that this is no resume."""
    rank_zero_info(str(begin_from(model, source)))


def refuse_folder(path: str | None) -> None:
    """Refuse to go on with a training from a folder of a model, which holds none.

    Raises:
        InputError: it is such a folder.
    """
    if path is not None and (Path(path) / CONFIG).is_file():
        raise InputError(
            f"Passed `ckpt_path={path}`, the folder of a model: it has weights, and no training to go on with. To "
            f"begin a new training with its weights, pass it as `--{OPTION}`."
        )
