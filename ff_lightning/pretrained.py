"""Trained models, in and out: checkpoints, folders and Hugging Face's hub, without running what they hold."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ff_lightning.data.tokenizers import Tokenizer
from ff_lightning.engine.checkpoints import NEEDS_ONE_FILE, check_checkpoint
from ff_lightning.engine.integrity import digest, digest_of_file
from ff_lightning.engine.reading import is_folder, local_path
from ff_lightning.engine.restoring import build_module, take_weights
from ff_lightning.errors import InputError
from ff_lightning.module import FFLightningModule
from ff_lightning.report.card import model_card

KEPT = ("tokenizer", "image_shape", "class_names", "ground", "columns", "features", "rate", "seconds")
"""What a checkpoint knows of the data and a user of the model needs."""

TRAINED_ON = {
    "tokenizer": "a language model that was trained on a text",
    "image_shape": "an image classifier that `ff-lightning fit` trained on an `ImageDataModule`",
    "columns": "a classifier that `ff-lightning fit` trained on a `TableDataModule`",
}
"""The models whose checkpoints know it."""

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"

Model = TypeVar("Model", bound=FFLightningModule)


@dataclass(frozen=True)
class Pretrained(Generic[Model]):
    """A trained model, and what belongs to it.

    Attributes:
        model: the task with its network, ready to be used: in evaluation mode, on the CPU.
        known: of its data: ``tokenizer``, or ``image_shape`` and ``class_names``.
        data: arguments of the datamodule of its training; plain values.
    """

    model: Model
    known: dict[str, Any]
    data: dict[str, Any]

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What turns text into the tokens of a language model and back; ``None`` for other models.

        Raises:
            InputError: what is kept is none.
        """
        state = self.known.get("tokenizer")
        if state is None:
            return None
        try:
            return Tokenizer.from_dict(state)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"The tokenizer that belongs to the model is damaged: {error!r}.") from error


def load(source: str | Path, *, trust: Sequence[str] = ()) -> FFLightningModule:
    """Load a trained model, ready to predict or to generate.

    Nothing of what is loaded is run: see the page *Share a model* for what is checked.

    Args:
        source: a checkpoint of ``ff-lightning fit``, such as ``runs/digits_mlp/best.ckpt``; the address of one; a
            folder that :func:`save_pretrained` wrote; or the name of one on Hugging Face's hub, such as
            ``somebody/digits``.
        trust: packages of which classes may be built, beside this one and torch, such as ``["my_package"]``.

    Returns:
        The module that was trained, in evaluation mode, on the CPU. A language model has its ``tokenizer``, a
        classifier its ``class_names`` and ``image_shape``.

    Raises:
        InputError: there is no such model, it is damaged, it names what is not trusted, or its weights do not fit.
    """
    found = read_pretrained(source, FFLightningModule, trust=trust)
    for name in KEPT:
        if name in found.known and not hasattr(found.model, name):
            setattr(found.model, name, found.tokenizer if name == "tokenizer" else found.known[name])
    return found.model


def read_pretrained(
    source: str | Path, kind: type[Model], *, trust: Sequence[str] = (), needs: str | None = None
) -> Pretrained[Model]:
    """Load a trained model of a kind, with what is known of its data; see :func:`load`.

    Args:
        source: see :func:`load`.
        kind: what the model must be.
        trust: see :func:`load`.
        needs: what must be known of its data, such as ``tokenizer``.

    Raises:
        InputError: as :func:`load`; or the model is of another kind.
    """
    return restored(read_content(source), source, kind, trust=trust, needs=needs)


def known_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the data of a trained model, by name; see :data:`KEPT`.

    Args:
        content: as :func:`read_content` gives it.
    """
    states = [state for state in content.values() if isinstance(state, Mapping)]
    return {name: state[name] for state in states for name in KEPT if name in state}


def restored(
    content: Mapping[str, Any],
    source: str | Path,
    kind: type[Model],
    *,
    trust: Sequence[str] = (),
    needs: str | None = None,
) -> Pretrained[Model]:
    """Build the trained model that was read; see :func:`read_pretrained`.

    Args:
        content: as :func:`read_content` gives it.
        source: where it is from, for errors.
        kind: see :func:`read_pretrained`.
        trust: see :func:`load`.
        needs: see :func:`read_pretrained`.
    """
    known = known_of(content)
    if needs is not None and needs not in known:
        raise InputError(
            f"Passed `ckpt_path={source}`. The model keeps no `{needs}` of its data: it is not of {TRAINED_ON[needs]}."
        )
    described = content.get("hyper_parameters", {})
    model = build_module(described, f"ckpt_path={source}", kind, trust=trust)
    take_weights(model, content, str(source))
    data = {
        name: value
        for name, value in content.get("datamodule_hyper_parameters", {}).items()
        if name[:1] != "_" and not isinstance(value, Mapping)
    }
    return Pretrained(model.eval(), known, data)


def save_pretrained(
    source: str | Path,
    folder: str | Path,
    *,
    results: Mapping[str, float] | None = None,
    trust: Sequence[str] = (),
) -> None:
    """Write a trained model as a folder for others: weights as safetensors, and what rebuilds the network as JSON.

    A card says what it is: its tier, what it reached, and how it is loaded.

    Args:
        source: see :func:`load`.
        folder: made if it is not there. ``config.json``, ``model.safetensors`` and ``README.md`` in it are replaced.
        results: for the card, values that were measured, by name, such as ``trainer.test(…)[0]``. The best value of the
            validation that chose ``best.ckpt`` is there without.
        trust: see :func:`load`.

    Raises:
        InputError: as :func:`load`.
    """
    content = read_content(source)
    found = restored(content, source, FFLightningModule, trust=trust)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous().clone() for name, value in content["state_dict"].items()}
    save_file(state, path / WEIGHTS, metadata={"format": "pt"})
    config = {
        "hyper_parameters": dict(content["hyper_parameters"]),
        "data": found.known,
        "seed": content["ff_lightning"].get("seed", 0),
        "weights": digest_of_file(path / WEIGHTS),
    }
    config = json.loads(json.dumps(config))
    text = json.dumps(config | {"digest": digest(config)}, indent=2)
    (path / CONFIG).write_text(text + "\n", encoding="utf-8")
    (path / CARD).write_text(model_card(found.model, content, found.known, results or {}), encoding="utf-8")


def push_to_hub(
    source: str | Path,
    name: str,
    *,
    private: bool = False,
    results: Mapping[str, float] | None = None,
    trust: Sequence[str] = (),
) -> str:
    """Share a trained model on Hugging Face's hub.

    Args:
        source: see :func:`load`.
        name: on the hub, such as ``somebody/digits``; made if it is not there.
        private: whether a new one is for you alone.
        results: see :func:`save_pretrained`.
        trust: see :func:`load`.

    Returns:
        Its address.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(source, folder, results=results, trust=trust)
        hub = HfApi()
        hub.create_repo(name, private=private, exist_ok=True)
        return str(hub.upload_folder(repo_id=name, folder_path=folder))


def read_content(source: str | Path) -> dict[str, Any]:
    """Read what a checkpoint holds, or a folder that says the same, wherever it is; no model is built.

    Args:
        source: see :func:`load`.

    Raises:
        InputError: there is no such model, or it is damaged.
    """
    local = local_path(source)
    if local is None or local.is_file():
        return check_checkpoint(source)
    if is_folder(local):
        raise InputError(NEEDS_ONE_FILE.format(path=source))
    if local.is_dir():
        return _read_folder(local / CONFIG, local / WEIGHTS, source)
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)) and not str(source).endswith(".ckpt"):
        return _read_folder(*_from_hub(str(source)), source)
    raise InputError(f"Passed `ckpt_path={source}`. There is no such file.")


def _from_hub(name: str) -> tuple[Path, Path]:
    try:
        return Path(hf_hub_download(name, CONFIG)), Path(hf_hub_download(name, WEIGHTS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise InputError(
            f"Passed `ckpt_path={name}`. There is no such file or folder, and the hub has no such model: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error


def _read_folder(config_path: Path, weights_path: Path, source: Any) -> dict[str, Any]:
    """A folder of :func:`save_pretrained`, checked, in the form of a checkpoint."""
    for path in (config_path, weights_path):
        if not path.is_file():
            raise InputError(f"Passed `ckpt_path={source}`. It holds no `{path.name}`: it is no folder of a model.")
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        written = {name: config[name] for name in ("hyper_parameters", "data", "seed", "weights")}
        whole = config["digest"] == digest(written) and set(config) == {*written, "digest"}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"Passed `ckpt_path={source}`. Its `{CONFIG}` is damaged.") from error
    if not whole:
        raise InputError(f"Passed `ckpt_path={source}`. Its `{CONFIG}` is damaged, or was changed by hand.")
    if digest_of_file(weights_path) != written["weights"]:
        raise InputError(f"Passed `ckpt_path={source}`. Its `{WEIGHTS}` is damaged, or of another model.")
    try:
        weights = load_file(weights_path)
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f"Passed `ckpt_path={source}`. Its `{WEIGHTS}` cannot be read: {error}.") from error
    if not isinstance(written["hyper_parameters"], dict) or not isinstance(written["data"], dict):
        raise InputError(f"Passed `ckpt_path={source}`. Its `{CONFIG}` is of something else.")
    return {
        "state_dict": weights,
        "hyper_parameters": written["hyper_parameters"],
        "data": written["data"],
        "ff_lightning": {"seed": written["seed"]},
    }
