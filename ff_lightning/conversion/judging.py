"""What judges the blocks of a converted model, whatever form its activities have."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ff_lightning.blocks import Block, ContrastiveBlock, passing_norm
from ff_lightning.candidates import CandidateLoss
from ff_lightning.conversion.families import Cut
from ff_lightning.conversion.tokens import OfLastChannels, OfTokens, vector_of
from ff_lightning.errors import InputError
from ff_lightning.goodness import Goodness, WeightedEnergy, as_goodness
from ff_lightning.losses import ContrastiveLoss, SimilarityMatching
from ff_lightning.networks.heads import AveragedHead, ClassParts, Head, check_beside


@dataclass(frozen=True)
class Judges:
    """Goodness, loss and norm of the blocks of a converted model, and what stands beside them.

    All are sized or copied for every block.

    Attributes:
        goodness: one a class with a ``CandidateLoss``, else one number.
        loss: of every block.
        norm: what is done to activities that are passed on.
        matching: beside a ``CandidateLoss``; ``None`` for nothing.
        head: below a goodness of classes; ``None`` for none.
        cut: says which form the activities have.

    Raises:
        InputError: parts that do not go together.
    """

    goodness: Goodness
    loss: ContrastiveLoss | CandidateLoss
    norm: nn.Module | None
    matching: SimilarityMatching | None
    head: Head | None
    cut: Cut

    def __post_init__(self) -> None:
        check_beside(self.loss, self.matching, self.head)
        if isinstance(self.head, AveragedHead):
            raise InputError(
                "Passed `head=AveragedHead` to a converted model. It judges a block by the first layer of the next "
                "one, which `ConvNet`, `MLP` and `ClassMLP` know: use `PrivateHead()`, or leave `head` out."
            )

    def blocks(self, layers: Sequence[nn.Module], shapes: Sequence[torch.Size]) -> Sequence[Block]:
        """Blocks of layers whose activities have the shapes, of one sample each."""
        seen = [self._seen(shape) for shape in shapes]
        if not isinstance(self.loss, CandidateLoss):
            return [
                ContrastiveBlock(
                    layer,
                    self._in_form(self.goodness.sized(shape)),
                    copy.deepcopy(self.loss),
                    norm=copy.deepcopy(self.norm),
                )
                for layer, shape in zip(layers, seen, strict=True)
            ]
        parts = ClassParts(self.goodness, self.loss, passing_norm(self.norm), self._matching(), self.head)
        found = parts.blocks(layers, seen)
        for block in found:
            block.goodness = self._in_form(block.goodness)
        return found

    def _seen(self, shape: torch.Size) -> tuple[int, ...]:
        """Shape of a sample of the activities as a goodness sees them."""
        if self.cut.tokens:
            return tuple(shape[-1:])
        return (shape[-1], *shape[:-1]) if self.cut.channels_last else tuple(shape)

    def _in_form(self, goodness: Goodness) -> Goodness:
        if self.cut.tokens:
            return OfTokens(goodness)
        return OfLastChannels(goodness) if self.cut.channels_last else goodness

    def _matching(self) -> SimilarityMatching | None:
        if self.matching is None or not (self.cut.tokens or self.cut.channels_last):
            return self.matching
        kind = MatchingOfTokens if self.cut.tokens else MatchingOfLastChannels
        return kind(self.matching.num_classes, share=self.matching.share)


class MatchingOfTokens(SimilarityMatching):
    """A :class:`~ff_lightning.losses.SimilarityMatching` of the means of rows of tokens.

    Shape:
        ``h``: ``(B, T, D)``, or tokens with their mask, for a loss of activities ``(D,)``.
    """

    def forward(self, h: Any, labels: Tensor) -> Tensor:  # noqa: D102
        return super().forward(vector_of(h), labels)


class MatchingOfLastChannels(SimilarityMatching):
    """A :class:`~ff_lightning.losses.SimilarityMatching` of maps whose channels stand last.

    Shape:
        ``h``: ``(B, H, W, C)``, for a loss of activities ``(C, H, W)``.
    """

    def forward(self, h: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        return super().forward(h.movedim(-1, 1), labels)


def goodness_of(
    goodness: Goodness | None, loss: ContrastiveLoss | CandidateLoss, num_classes: int | None, cut: Cut
) -> Goodness:
    """The goodness to be sized for every block.

    Raises:
        InputError: it is of another kind than the loss, or nobody says how many classes there are.
    """
    by_class = isinstance(loss, CandidateLoss)
    if goodness is None and by_class:
        classes = cut.num_classes if num_classes is None else num_classes
        if classes is None:
            raise InputError(
                "Passed a `model` without a head, and no `num_classes`. Say how many classes there are; a language "
                "model that is to predict tokens is cut by `ff_lightning.finetuning.CausalLM.from_transformers`."
            )
        return WeightedEnergy(classes)
    goodness = None if goodness is None else as_goodness(goodness)
    if goodness is None or by_class != hasattr(goodness, "num_classes"):
        raise InputError(
            f"Passed `goodness={type(goodness).__name__}` with `loss={type(loss).__name__}`. A `CandidateLoss` needs a "
            "goodness for every class, a `ContrastiveLoss` one number."
        )
    judged = getattr(goodness, "num_classes", None)
    if num_classes not in (None, judged):
        raise InputError(
            f"Passed `num_classes={num_classes}` with `goodness={type(goodness).__name__}`, which judges {judged}. "
            "Leave out one of them."
        )
    return goodness
