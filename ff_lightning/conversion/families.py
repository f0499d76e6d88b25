"""How known models are cut: vision transformers of torchvision, timm and transformers, and text models of the last.

None of these packages is imported: a model that is passed has brought its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ff_lightning.conversion.checking import check_images, check_texts
from ff_lightning.conversion.tokens import OnTokens, TextLayer, TextStem
from ff_lightning.errors import InputError

FINAL_NORMS = ("layernorm", "ln_f", "norm", "final_layer_norm", "final_layernorm")
"""What models of transformers call the norm behind their last layer."""


@dataclass(frozen=True)
class Cut:
    """A model as parts that are applied one after the other, its head left out.

    Attributes:
        parts: of the model, the stem first.
        stages: the stage of every part, counted from 0; parts of one stage become one block.
        example: an input, ``(1, …)``.
        num_classes: of the head that was left out; ``None`` if it had none.
        vocab_size: of a model that reads tokens.
        tokens: whether activities are ``(B, T, D)``.
        channels_last: whether they are maps ``(B, H, W, C)``.
    """

    parts: list[nn.Module]
    stages: list[int]
    example: Tensor
    num_classes: int | None = None
    vocab_size: int | None = None
    tokens: bool = False
    channels_last: bool = False


def is_of(model: object, package: str, name: str | None = None) -> bool:
    """Whether an object is of a class of a package, or of a subclass of one; with ``name``, of that class."""
    return any(
        each.__module__.split(".")[0] == package and (name is None or each.__name__ == name)
        for each in type(model).__mro__
    )


def known_cut(model: nn.Module, example: Tensor | None) -> Cut | None:
    """Cut a transformer of a known family; ``None`` if it is none.

    Args:
        model: as its library builds it.
        example: an input, instead of one that is derived from the sizes of the model.

    Raises:
        InputError: a model of transformers that has another form.
    """
    if is_of(model, "transformers", "PreTrainedModel"):
        return _of_transformers(model, example)
    if is_of(model, "torchvision", "VisionTransformer"):
        return _of_torchvision(model, example)
    if is_of(model, "timm", "VisionTransformer"):
        return _of_timm(model, example)
    return None


def layered(stem: nn.Module, layers: list[nn.Module], last: nn.Module | None, **known: Any) -> Cut:
    """A transformer: the stem belongs to the first layer, the norm behind the last one to that."""
    ending = [] if last is None or isinstance(last, nn.Identity) else [OnTokens(last)]
    stages = [0, *range(len(layers)), *[len(layers) - 1] * len(ending)]
    return Cut([stem, *layers, *ending], stages, tokens=True, **known)


def husk(model: nn.Module, *keep: str) -> Any:
    """A model with its own parameters and some of its parts alone: what its methods need that are called on it."""
    left = copy.copy(model)
    left._parameters = dict(model._parameters)
    left._buffers = dict(model._buffers)
    left._modules = {name: part for name, part in model._modules.items() if name in keep}
    return left


class TorchvisionStem(nn.Module):
    """Patches, class token and positions of torchvision's ``VisionTransformer``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.patches = husk(model, "conv_proj")
        self.positions = husk(model.encoder, "dropout")

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        patches = self.patches._process_input(x)
        first = self.patches.class_token.expand(patches.shape[0], -1, -1)
        h: Tensor = self.positions.dropout(torch.cat([first, patches], 1) + self.positions.pos_embedding)
        return h


class TimmStem(nn.Module):
    """Patches, class token and positions of timm's ``VisionTransformer``."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.patches = husk(model, "patch_embed", "pos_drop", "patch_drop", "norm_pre")

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        embedded = self.patches._pos_embed(self.patches.patch_embed(x))
        h: Tensor = self.patches.norm_pre(self.patches.patch_drop(embedded))
        return h


def _of_torchvision(model: Any, example: Tensor | None) -> Cut:
    side = model.image_size
    given = torch.zeros(1, model.conv_proj.in_channels, side, side) if example is None else example
    head = [part for part in model.heads.modules() if isinstance(part, nn.Linear)]
    classes = head[-1].out_features if head else None
    layers = list(model.encoder.layers)
    cut = layered(TorchvisionStem(model), layers, model.encoder.ln, example=given, num_classes=classes)
    check_images(model, cut.parts, given, lambda x: _output_of(model.encoder, model, x))
    return cut


def _output_of(part: nn.Module, model: nn.Module, x: Tensor) -> Any:
    """What a part of a model gives when the model is called."""
    found: list[Any] = []
    hook = part.register_forward_hook(lambda _module, _args, gave: found.append(gave))
    try:
        model(x)
    finally:
        hook.remove()
    return found[-1]


def _of_timm(model: Any, example: Tensor | None) -> Cut:
    patches = model.patch_embed
    given = torch.zeros(1, patches.proj.in_channels, *patches.img_size) if example is None else example
    classes = model.num_classes or None
    cut = layered(TimmStem(model), list(model.blocks), model.norm, example=given, num_classes=classes)
    check_images(model, cut.parts, given, model.forward_features)
    return cut


class Positions(nn.Module):
    """Tokens and learned positions of GPT-2 and its kind."""

    def __init__(self, tokens: nn.Module, positions: nn.Module, dropout: nn.Module) -> None:
        super().__init__()
        self.tokens, self.positions, self.dropout = tokens, positions, dropout

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        h: Tensor = self.dropout(self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device)))
        return h


class ImageLayer(nn.Module):
    """A transformer layer of transformers on patches, which has no mask."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        h = self.layer(x)
        found: Tensor = h[0] if isinstance(h, tuple) else h
        return found


def _of_transformers(model: Any, example: Tensor | None) -> Cut:
    base, config = model.base_model, model.config
    kind = type(model).__name__
    layers = _layers(base, getattr(config, "num_hidden_layers", 0))
    if layers is None:
        raise InputError(
            f"Passed `model={kind}`, which has no list of as many layers as its configuration says. Pass its parts as "
            "a list, in the order in which it applies them, each of which maps a tensor to a tensor."
        )
    norm = next((getattr(base, name) for name in FINAL_NORMS if hasattr(base, name)), None)
    classes = int(config.num_labels) if kind.endswith("Classification") else None
    if base.main_input_name == "pixel_values":
        given = torch.zeros(1, config.num_channels, *_sides(config.image_size)) if example is None else example
        parts: list[nn.Module] = [ImageLayer(layer) for layer in layers]
        cut = layered(base.embeddings, parts, norm, example=given, num_classes=classes)
        check_images(model, cut.parts, given, lambda x: base(pixel_values=x).last_hidden_state)
        return cut
    stem, causal = _text_stem(base, config, kind)
    rotary = getattr(base, "rotary_emb", None)
    additive = config._attn_implementation == "eager"
    windows = base.config if causal and getattr(base.config, "sliding_window", None) is not None else None
    kinds = getattr(base.config, "layer_types", None) or ["sliding_attention"] * len(layers)
    parts = [
        TextLayer(
            layer,
            causal=causal,
            additive=additive,
            rotary=rotary,
            windows=windows if kind == "sliding_attention" else None,
        )
        for layer, kind in zip(layers, kinds, strict=True)
    ]
    given = torch.zeros(1, min(8, stem.context or 8), dtype=torch.long) if example is None else example
    size = int(config.vocab_size)
    cut = layered(stem, parts, norm, example=given, num_classes=classes, vocab_size=size)
    check_texts(model, cut.parts, stem.context, size)
    return cut


def _text_stem(base: Any, config: Any, kind: str) -> tuple[TextStem, bool]:
    """The stem of a text model, and whether its attention is causal."""
    padding = config.pad_token_id if getattr(config, "pad_token_id", None) is not None else 0
    context = getattr(config, "max_position_embeddings", None)
    if hasattr(base, "wte") and hasattr(base, "wpe"):
        return TextStem(Positions(base.wte, base.wpe, base.drop), padding=padding, context=context), True
    if hasattr(base, "embed_tokens") and hasattr(base, "rotary_emb"):
        return TextStem(base.embed_tokens, padding=padding, context=context), True
    if hasattr(base, "embeddings"):
        project = getattr(base, "embeddings_project", None)
        embedding = base.embeddings if project is None else nn.Sequential(base.embeddings, project)
        causal = bool(getattr(config, "is_decoder", False))
        return TextStem(embedding, padding=padding, context=context), causal
    raise InputError(
        f"Passed `model={kind}`, whose embeddings are not known. Pass its parts as a list, in the order in which it "
        "applies them: `[nn.Sequential(embedding, layers[0]), *layers[1:]]`."
    )


def _layers(base: nn.Module, count: int) -> list[nn.Module] | None:
    """The layers of a transformer: its first list of as many modules."""
    lists: Iterator[nn.ModuleList] = (part for part in base.modules() if isinstance(part, nn.ModuleList))
    return next((list(layers) for layers in lists if len(layers) == count), None)


def _sides(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
