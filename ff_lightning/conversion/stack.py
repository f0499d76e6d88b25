"""Any model as a stack of blocks, each trained by a local loss of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ff_lightning.blocks import passing_norm
from ff_lightning.candidates import CandidateLoss, LinearContrast
from ff_lightning.conversion.chains import has_weights, observed_cut
from ff_lightning.conversion.checking import error_line, through
from ff_lightning.conversion.families import Cut, known_cut
from ff_lightning.conversion.given import built_of, example_of, refuse_unready
from ff_lightning.conversion.judging import Judges, goodness_of
from ff_lightning.conversion.origin import constructor_of
from ff_lightning.conversion.tokens import OnTokens, Tokens, vector_of
from ff_lightning.errors import InputError, is_whole
from ff_lightning.goodness import Goodness
from ff_lightning.losses import ContrastiveLoss, SimilarityMatching
from ff_lightning.networks.heads import Head
from ff_lightning.normalization import UnitRMS, evaluating
from ff_lightning.parts import Undescribed, described
from ff_lightning.stacks import BlockStack


class Layers(nn.Sequential):
    """Modules one after the other; of those that return several things, the first is passed on."""

    def forward(self, x: Any) -> Any:  # noqa: D102
        return through(self, x)


class ConvertedStack(BlockStack):
    """A model as a stack of blocks: what :func:`convert` makes, and what a recipe names.

    Args:
        model: see :func:`convert`, as for all.
        num_classes: of the goodness.
        blocks: how many.
        goodness: sized or copied for every block.
        loss: copied for every block.
        example: an input, or the shape of one without the batch.
        norm: copied for every block.
        matching: sized for every block.
        head: one for every block but the last.

    Attributes:
        num_classes: classes that every block gives a goodness; ``None`` for blocks that contrast two streams.
        out_features: values a sample that the last block passes on; of rows of tokens those of one token.
        input_shape: of one input, as it was converted for.
        vocab_size: tokens that it knows; ``None`` for a network that reads no texts.
    """

    def __init__(
        self,
        model: nn.Module | Iterable[nn.Module] | Callable[[], nn.Module],
        *,
        num_classes: int | None = None,
        blocks: int | None = None,
        goodness: Goodness | None = None,
        loss: ContrastiveLoss | CandidateLoss | None = None,
        example: Tensor | Sequence[int] | None = None,
        norm: nn.Module | None = None,
        matching: SimilarityMatching | None = None,
        head: Head | None = None,
    ) -> None:
        self.__dict__.pop("built_with", None)  # the model has a head, which nobody needs any more
        shown = example_of(example)
        options: dict[str, Any] = {"num_classes": num_classes, "blocks": blocks, "goodness": goodness, "loss": loss}
        options |= {"norm": norm, "matching": matching, "head": head}
        origin = _origin(model, shown, options)
        cut = cut_of(built_of(model), shown)
        loss = LinearContrast() if loss is None else loss
        goodness = goodness_of(goodness, loss, num_classes, cut)
        passing_norm(norm)
        if cut.tokens:
            norm = OnTokens(copy.deepcopy(norm) or UnitRMS(), alone=True)
        layers = grouped(cut, blocks)
        shapes = _shapes(layers, copy.deepcopy(norm), cut.example)
        super().__init__(Judges(goodness, loss, norm, matching, head, cut).blocks(layers, shapes))
        self.num_classes: int | None = getattr(goodness, "num_classes", None)
        self.out_features = shapes[-1][-1] if cut.tokens else shapes[-1].numel()
        self.input_shape = tuple(cut.example.shape[1:])
        self.vocab_size = cut.vocab_size
        self.origin = origin

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """What the last block passes on, with the gradient of the whole chain; of rows of tokens, their mean."""
        h: Any = x
        for block in self:
            h = block.pass_on(h, block(h))
        return vector_of(h)

    def as_one_block(self, num_classes: int | None = None) -> BlockStack:
        """The same layers under one linear softmax; see :meth:`~ff_lightning.stacks.Network.as_one_block`."""
        stack = super().as_one_block(num_classes)
        stack.vocab_size = self.vocab_size  # type: ignore[assignment]
        stack.input_shape = self.input_shape  # type: ignore[assignment]
        return stack

    def description(self) -> dict[str, Any]:
        """How it is built again, as a recipe writes it.

        Raises:
            Undescribed: what it was converted from cannot be written.
        """
        if isinstance(self.origin, str):
            raise Undescribed(self.origin)
        return self.origin


def convert(
    model: nn.Module | Iterable[nn.Module] | Callable[[], nn.Module],
    *,
    num_classes: int | None = None,
    blocks: int | None = None,
    goodness: Goodness | None = None,
    loss: ContrastiveLoss | CandidateLoss | None = None,
    example: Tensor | Sequence[int] | None = None,
    norm: nn.Module | None = None,
    matching: SimilarityMatching | None = None,
    head: Head | None = None,
) -> ConvertedStack:
    """Make a stack of blocks of a model. The layers of the model themselves are trained, not copies.

    A model of torchvision, timm or transformers is cut at its stages: where the maps change their shape, or at every
    layer of a transformer. So is any model that applies its modules one after the other. Its head is left out, for
    predictions are taken from the goodness of the blocks, or by a readout. Of rows of tokens, the mean over positions
    is judged.

    Of a list, a block begins at every module that has a weight matrix or filters; what comes after it without any, such
    as activation, normalisation, pooling or dropout, belongs to it, and what comes before the first one to the first.
    Wrap modules in ``nn.Sequential`` to train them as one block. Nothing of a list is left out.

    Args:
        model: a model; what builds one, such as ``functools.partial(torchvision.models.resnet18, num_classes=10)``,
            which a checkpoint then names; or a list of modules, each of which maps one tensor to one, or to a tuple
            that begins with it.
        num_classes: of the goodness; those of the head that is left out by default.
        blocks: how many; one a stage by default.
        goodness: sized or copied for every block. One number a sample or position with a ``ContrastiveLoss``; one a
            class with a ``CandidateLoss``, in which case inputs carry no label.
            :class:`~ff_lightning.goodness.WeightedEnergy` by default.
        loss: copied for every block; :class:`~ff_lightning.candidates.LinearContrast` (tier T1) by default.
        example: an input, ``(B, …)``, or the shape of one without the batch, to see what comes out of every block. By
            default an image of the size that the model says, or of 224 x 224.
        norm: copied for every block; what is done to activities that are passed on,
            :class:`~ff_lightning.normalization.UnitRMS` by default; of rows of tokens, to every position by itself.
        matching: beside a ``CandidateLoss``, sized for every block: *predsim* (T2); ``None`` for nothing.
        head: private layers below the goodness of all blocks but the last, with a ``CandidateLoss``; ``None`` for none.

    Returns:
        The stack. With a ``CandidateLoss`` it is for :class:`~ff_lightning.FFClassifier`, else for
        :class:`~ff_lightning.FFRepresentation` or a task of your own.

    Raises:
        InputError: a model that does more than apply its modules, modules that do not fit each other or share
            parameters, or parts that do not go together.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU())
    >>> from ff_lightning.goodness import MeanOfSquares
    >>> from ff_lightning.losses import SymBa
    >>> len(convert(net, goodness=MeanOfSquares(), loss=SymBa(), example=torch.rand(1, 8, 8)))
    2
    """
    return ConvertedStack(
        model,
        num_classes=num_classes,
        blocks=blocks,
        goodness=goodness,
        loss=loss,
        example=example,
        norm=norm,
        matching=matching,
        head=head,
    )


def _origin(model: Any, example: Tensor | None, options: dict[str, Any]) -> dict[str, Any] | str:
    """How :func:`convert` was called, as a recipe writes it; or what of it cannot be written."""
    shape = None if example is None or not example.is_floating_point() else list(example.shape[1:])
    try:
        given = {name: described(value) for name, value in options.items() if value is not None}
        found = constructor_of(model)
    except Undescribed as missing:
        return str(missing)
    arguments = {"model": found, **given, **({} if shape is None else {"example": shape})}
    return {"class_path": "ff_lightning.conversion.ConvertedStack", "init_args": arguments}


def cut_of(model: Any, example: Tensor | None) -> Cut:
    """Cut a model or a list of modules into parts.

    Raises:
        InputError: it is neither, or cannot be cut.
    """
    if isinstance(model, nn.Module) and not isinstance(model, nn.ModuleList):
        refuse_unready(model)
        known = known_cut(model, example)
        return observed_cut(model, example) if known is None else known
    if not isinstance(model, Iterable):
        raise InputError(f"Passed `model={type(model).__name__}`. It must be a model, or a list of modules.")
    parts = list(model)
    for part in parts:
        if not isinstance(part, nn.Module):
            kind = f"class `{part.__name__}`" if isinstance(part, type) else f"`{type(part).__name__}`"
            raise InputError(f"Passed a {kind} among the modules of `model`. They must be objects of `nn.Module`.")
        refuse_unready(part)
    if not any(map(has_weights, parts)):
        raise InputError("Passed a `model` without weights. A block needs a weight matrix or filters to learn.")
    if example is None:
        raise InputError("Passed a list as `model` without `example`. Pass an input of its first module.")
    counts = [sum(map(has_weights, parts[: index + 1])) for index in range(len(parts))]
    return Cut(parts, [max(count - 1, 0) for count in counts], example)


def grouped(cut: Cut, blocks: int | None = None) -> list[Layers]:
    """Make blocks of the parts of a model: one a stage, or as many as are asked for.

    Raises:
        InputError: more blocks than there are parts with weights, or no whole number of them.
    """
    stages = cut.stages
    if blocks is not None:
        most = sum(map(has_weights, cut.parts))
        if is_whole(blocks, least=max(stages) + 2):  # stages are divided
            counts = [sum(map(has_weights, cut.parts[: index + 1])) for index in range(len(cut.parts))]
            stages = [max(count - 1, 0) for count in counts]
        if not is_whole(blocks, least=1) or blocks > max(stages) + 1:
            raise InputError(f"Passed `blocks={blocks!r}` for a model of {most} parts with weights. Pass 1 to {most}.")
        stages = [stage * blocks // (max(stages) + 1) for stage in stages]
    groups = groupby(zip(stages, cut.parts, strict=True), key=lambda pair: pair[0])
    return [Layers(*(part for _, part in group)) for _, group in groups]


def _normed(norm: nn.Module, h: Any) -> Any:
    """Activities of a block as the next one gets them.

    Raises:
        InputError: the norm cannot take them.
    """
    try:
        with evaluating(norm):
            return norm(h)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"Passed a `norm` that cannot take what a block passes on, shape {tuple(h.shape)}: {error_line(error)}."
        ) from error


@torch.no_grad()
def _shapes(layers: list[Layers], norm: nn.Module | None, x: Any) -> list[torch.Size]:
    """What every block makes of one sample."""
    shapes: list[torch.Size] = []
    for index, layer in enumerate(layers):
        try:
            with evaluating(layer):
                h = layer(x)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"Passed a `model` whose block {index} cannot take what it gets, shape {tuple(x.shape)}: "
                f"{error_line(error)}."
            ) from error
        if not isinstance(h, Tensor | Tokens):
            raise InputError(f"Passed a `model` whose block {index} returns a `{type(h).__name__}`, not a tensor.")
        shapes.append(h.shape[1:])
        x = h if norm is None else _normed(norm, h)
    return shapes
