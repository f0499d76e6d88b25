"""Causal language models of transformers, taken apart and put together again.

A part is a model of transformers itself, without its head, with fewer layers: it masks, turns positions and keeps keys
and values as the whole one does. What holds the parts together stands in :mod:`ff_lightning.finetuning.causal`.
"""

from __future__ import annotations

import copy
import json
import reprlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from ff_lightning.errors import InputError, in_one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

CONFIG = "config.json"
PROBED = 5
"""Tokens on which the parts must say what the whole model says."""


@dataclass(frozen=True)
class Shape:
    """Where a model without its head keeps what blocks are made of.

    Attributes:
        embedding: of tokens.
        layers: the list of layers.
        norm: after the last layer.
        first_only: children that only the part with the embedding has, such as an embedding of positions.
    """

    embedding: str
    layers: str
    norm: str
    first_only: tuple[str, ...] = ()


SHAPES = (
    Shape("embed_tokens", "layers", "norm"),  # LlamaForCausalLM, and Mistral, Qwen, SmolLM, OLMo …
    Shape("wte", "h", "ln_f", ("wpe", "drop")),  # GPT2LMHeadModel
)


class Nothing(nn.Module):
    """Adds nothing where a model adds an embedding of positions to what comes from the part below."""

    def forward(self, positions: Tensor) -> Tensor:
        """``(1, T)`` int64 to zeros, ``(1, T, 1)``."""
        return torch.zeros(*positions.shape, 1, device=positions.device)


def shape_of(model: PreTrainedModel) -> Shape:
    """The shape of a model.

    Raises:
        InputError: it has another one, or no head that reads tokens.
    """
    if model.get_output_embeddings() is None:
        raise InputError(
            f"Passed a `{type(model).__name__}`, which predicts no tokens. Pass a causal language model of "
            "transformers, such as a `LlamaForCausalLM` or a `GPT2LMHeadModel`."
        )
    base = model.base_model
    for shape in SHAPES:
        if all(hasattr(base, name) for name in (shape.embedding, shape.layers, shape.norm, *shape.first_only)):
            return shape
    raise InputError(
        f"Passed a `{type(model).__name__}`, which is built of {', '.join(name for name, _ in base.named_children())}. "
        "Models that can be cut have the shape of `LlamaForCausalLM` (Mistral, Qwen2, SmolLM …) or `GPT2LMHeadModel`."
    )


def open_config(source: str | Path | Mapping[str, Any]) -> PretrainedConfig:
    """Configuration of a causal language model; nothing of it is run.

    Args:
        source: a folder with a ``config.json``, or what such a file holds.

    Raises:
        InputError: it is none, or of a kind that transformers does not have itself.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if not isinstance(source, str | Path | Mapping):
        raise InputError(
            f"Passed `config={reprlib.repr(source)}`. It must be a folder with a `{CONFIG}` of transformers, or what "
            "such a file holds."
        )
    described = dict(source) if isinstance(source, Mapping) else _read(Path(source))
    kind = described.pop("model_type", None)
    known = isinstance(kind, str) and kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not known or "auto_map" in described:
        raise InputError(
            f"Passed a configuration of `model_type={reprlib.repr(kind)}`. It must be a causal language model that "
            "transformers has itself, such as 'llama' or 'gpt2'; code that comes with a model is not run."
        )
    try:
        return AutoConfig.for_model(kind, **described)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"Passed a configuration of a {kind} model that cannot be read: {in_one_line(error).removesuffix('.')}."
        ) from error


def _read(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Passed `config={str(folder)!r}`. Its `{CONFIG}` cannot be read: {error}.") from error
    if not isinstance(described, dict):
        raise InputError(f"Passed `config={str(folder)!r}`. Its `{CONFIG}` is of something else.")
    return described


def plain(config: PretrainedConfig) -> dict[str, Any]:
    """A configuration as plain values, as ``config.json`` has them; :func:`open_config` reads them."""
    found: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    return found | {"model_type": config.model_type}


def new_model(config: PretrainedConfig) -> PreTrainedModel:
    """A model with new weights.

    Raises:
        InputError: its sizes do not fit each other.
    """
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (TypeError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        why = in_one_line(error).removesuffix(".")
        raise InputError(f"Passed a configuration of which no model can be built: {why}.") from error


def open_model(source: str | Path | PreTrainedModel) -> PreTrainedModel:
    """A causal language model with its weights, in float32; nothing that comes with it is run.

    Args:
        source: a folder of transformers, the name of a model on Hugging Face's hub, or a model.

    Raises:
        InputError: it is none.
    """
    from transformers import AutoModelForCausalLM, PreTrainedModel

    if isinstance(source, PreTrainedModel):
        return source
    if not isinstance(source, str | Path):
        what = type(source).__name__ if isinstance(source, nn.Module) else reprlib.repr(source)
        raise InputError(
            f"Passed `{what}`. It must be a causal language model of transformers, a folder with one, or the name of "
            "one on the hub."
        )
    try:
        return AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
    # What reads files and the hub raises anything at all.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"Passed `{source}`. transformers cannot read a causal language model there: {reason}"
        ) from error


def part_of(model: PreTrainedModel, layers: range, *, recompute: bool) -> PreTrainedModel:
    """Some neighbouring layers of a model, as a model without embedding, norm and head that takes activities.

    Layers are moved, not copied, and count from 0 in their part, as its cache does.

    Args:
        model: as it was built; its layers are renumbered.
        layers: which.
        recompute: activities of a layer in the backward pass, instead of keeping them.
    """
    from transformers import AutoModel

    shape, base = shape_of(model), model.base_model
    with torch.device("meta"):  # every child is replaced
        part = AutoModel.from_config(_config_of_part(model.config, layers))
    for name, child in base.named_children():
        setattr(part, name, copy.deepcopy(child) if name not in vars(shape).values() else nn.Identity())
    for name in shape.first_only if layers.start else ():
        setattr(part, name, Nothing() if isinstance(getattr(base, name), nn.Embedding) else nn.Identity())
    for name in shape.first_only if not layers.start else ():
        setattr(part, name, getattr(base, name))
    moved = [getattr(base, shape.layers)[index] for index in layers]
    for layer, index in zip(moved, layers, strict=True):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index - layers.start
            if hasattr(module, "config"):
                module.config = part.config
    setattr(part, shape.layers, nn.ModuleList(moved))
    if recompute:
        # Its name before transformers 5.23.
        enable = getattr(part, "activation_checkpointing_enable", None) or part.gradient_checkpointing_enable
        enable({"use_reentrant": False, "context_fn": partial(with_the_same_parameters, part)})
    return part


def with_the_same_parameters(part: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a layer's forward pass, and of the same pass in the backward pass: with the parameters of the first.

    Where a block looks ahead, these are constants, which are gone again when the backward pass comes.
    """
    return nullcontext(), _reparametrize_module(part, dict(part.named_parameters(remove_duplicate=False)))


def _config_of_part(config: PretrainedConfig, layers: range) -> PretrainedConfig:
    """The configuration with these layers alone; what is listed by layer is cut with them."""
    whole = config.num_hidden_layers
    found = copy.deepcopy(config)
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == whole and name.startswith(("layer", "no_rope")):
            setattr(found, name, value[layers.start : layers.stop])
    found.num_hidden_layers = len(layers)
    found.use_cache = False
    return found


def last_of(part: PreTrainedModel, layers: str, count: int) -> PreTrainedModel:
    """A copy of the last layers of a part, as a part.

    Args:
        part: with at least as many layers.
        layers: the name of their list in it.
        count: how many.

    Raises:
        InputError: it has fewer.
    """
    every = getattr(part, layers)
    if count > len(every):
        raise InputError(
            f"Passed `layers={count}` to a readout. It copies them from the last block, which has {len(every)}."
        )
    kept, rest = every[len(every) - count :], nn.ModuleList()
    setattr(part, layers, rest)  # so that the others are not copied
    found = copy.deepcopy(part)
    setattr(part, layers, every)
    setattr(found, layers, copy.deepcopy(kept))
    found.config = _config_of_part(part.config, range(len(every) - count, len(every)))
    for layer in getattr(found, layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx -= len(every) - count
            if hasattr(module, "config"):
                module.config = found.config
    return found
