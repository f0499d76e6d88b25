"""Any list of modules as a stack of blocks, each trained by a local loss of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ff_lightning.blocks import Block, ClassBlock, ContrastiveBlock
from ff_lightning.candidates import CandidateLoss
from ff_lightning.errors import InputError
from ff_lightning.goodness import Goodness, as_goodness
from ff_lightning.losses import ContrastiveLoss
from ff_lightning.stacks import BlockStack


class Layers(nn.Sequential):
    """Modules one after the other; of those that return several things, the first is passed on."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        for module in self:
            x = module(x)
            if isinstance(x, tuple):
                x = x[0]
        return x


class ConvertedStack(BlockStack):
    """What :func:`convert` makes.

    Attributes:
        num_classes: classes that every block gives a goodness; ``None`` for blocks that contrast two streams.
        out_features: values a sample that the last block passes on.
    """

    def __init__(self, blocks: Sequence[Block], *, out_features: int) -> None:
        super().__init__(blocks)
        self.num_classes: int | None = getattr(blocks[0].goodness, "num_classes", None)
        self.out_features = out_features


def convert(
    modules: Iterable[nn.Module],
    *,
    goodness: Goodness,
    loss: ContrastiveLoss | CandidateLoss,
    example: Tensor,
    norm: nn.Module | None = None,
) -> ConvertedStack:
    """Make a stack of blocks of modules that are applied one after the other.

    A block begins at every module that has a weight matrix or filters; what comes after it without any, such as
    activation, normalisation, pooling or dropout, belongs to it, and what comes before the first one to the first. Wrap
    modules in ``nn.Sequential`` to train them as one block. The modules themselves are trained, not copies. Leave out
    the head of a classifier: predictions are taken from the goodness, or by a readout.

    Args:
        modules: ``nn.Sequential``, or any list; each maps one tensor to one, or to a tuple that begins with it.
        goodness: sized or copied for every block. One number a sample or position with a ``ContrastiveLoss``; one a
            class with a ``CandidateLoss``, in which case inputs carry no label.
        loss: copied for every block.
        example: an input, ``(B, …)``, to see what comes out of every block.
        norm: copied for every block; what is done to activities that are passed on,
            :class:`~ff_lightning.normalization.UnitRMS` by default.

    Returns:
        The stack. With a ``CandidateLoss`` it is for :class:`~ff_lightning.FFClassifier`, else for
        :class:`~ff_lightning.FFRepresentation` or a task of your own.

    Raises:
        InputError: something else than modules in their order, modules that do not fit each other or share
            parameters, or goodness and loss of different kinds.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU())
    >>> from ff_lightning.goodness import MeanOfSquares
    >>> from ff_lightning.losses import SymBa
    >>> len(convert(net, goodness=MeanOfSquares(), loss=SymBa(), example=torch.rand(1, 8, 8)))
    2
    """
    goodness = as_goodness(goodness)
    by_class = isinstance(loss, CandidateLoss)
    if by_class != hasattr(goodness, "num_classes"):
        raise InputError(
            f"Passed `goodness={type(goodness).__name__}` with `loss={type(loss).__name__}`. A `CandidateLoss` needs a "
            "goodness for every class, a `ContrastiveLoss` one number."
        )
    layers = grouped(modules)
    shapes = _shapes(layers, copy.deepcopy(norm), example)
    kind = ClassBlock if by_class else ContrastiveBlock
    blocks = [
        kind(layer, goodness.sized(shape), copy.deepcopy(loss), norm=copy.deepcopy(norm))  # type: ignore[arg-type]
        for layer, shape in zip(layers, shapes, strict=True)
    ]
    return ConvertedStack(blocks, out_features=shapes[-1].numel())


def grouped(modules: Iterable[nn.Module]) -> list[Layers]:
    """Cut modules into blocks; see :func:`convert`.

    Raises:
        InputError: they are not a list of modules, or none has weights.
    """
    if isinstance(modules, nn.Module) and not isinstance(modules, nn.Sequential | nn.ModuleList):
        raise InputError(
            f"Passed `modules={type(modules).__name__}`. A module does not say in which order its parts are applied: "
            "pass them as a list, such as `[model.stem, *model.stages]`."
        )
    groups: list[list[nn.Module]] = [[]]
    for module in modules:
        if not isinstance(module, nn.Module):
            raise InputError(f"Passed a `{type(module).__name__}` among `modules`. They must be `nn.Module`s.")
        if _has_weights(module) and any(_has_weights(below) for below in groups[-1]):
            groups.append([])
        groups[-1].append(module)
    if not any(_has_weights(module) for module in groups[0]):
        raise InputError("Passed `modules` without weights. A block needs a weight matrix or filters to learn.")
    return [Layers(*group) for group in groups]


def _has_weights(module: nn.Module) -> bool:
    """Whether it has more to learn than scales and biases."""
    return any(parameter.dim() > 1 for parameter in module.parameters())


@torch.no_grad()
def _shapes(layers: list[Layers], norm: nn.Module | None, x: Tensor) -> list[torch.Size]:
    """What every block makes of one sample."""
    shapes: list[torch.Size] = []
    for index, layer in enumerate(layers):
        modes = [(module, module.training) for module in layer.modules()]
        try:
            h = layer.eval()(x)  # which leaves the statistics of batch norm alone
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"Passed `modules` whose block {index} cannot take what it gets, shape {tuple(x.shape)}: {error}"
            ) from error
        finally:
            for module, training in modes:
                module.training = training
        if not isinstance(h, Tensor):
            raise InputError(f"Passed `modules` whose block {index} returns a `{type(h).__name__}`, not a tensor.")
        shapes.append(h.shape[1:])
        x = h if norm is None else norm(h)
    return shapes
