"""Fully connected stacks whose blocks give every class a goodness: what tables and bags of words are given to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from ff_lightning.candidates import CandidateLoss, LinearContrast
from ff_lightning.goodness import Goodness, ProjectedActivity, as_goodness
from ff_lightning.losses import SimilarityMatching
from ff_lightning.networks.heads import ClassParts, Head, classes_of
from ff_lightning.networks.mlp import DenseReLU, check_dense
from ff_lightning.normalization import UnitRMS
from ff_lightning.stacks import BlockStack, HandedUp


class ClassMLP(BlockStack):
    """Stack of fully connected ReLU blocks; every block gives every class a goodness, and inputs carry no label.

    What a block is trained for is said by ``goodness`` and ``loss``: with the defaults a projection and negatives from
    the block's own prediction (tier T1), with :class:`~ff_lightning.candidates.Softmax` a local softmax (T2), with
    :class:`~ff_lightning.candidates.EachLabel` several labels at once (T1). The candidates may stand for numbers, too;
    see :class:`~ff_lightning.FFRegressor`.

    Args:
        in_features: values a sample; those of a table are standardised by its data module.
        widths: units of each block.
        num_classes: number of classes, labels or candidates; that of ``goodness`` by default, or 10.
        goodness: one a class; sized for every block. :class:`~ff_lightning.goodness.ProjectedActivity` by default.
        loss: copied for every block; :class:`~ff_lightning.candidates.LinearContrast` by default.
        norm: copied for every block; what is done to activities that are passed on,
            :class:`~ff_lightning.normalization.UnitRMS` by default.
        dropout: share of what each block receives that is dropped in training.
        matching: beside the loss, matches activities with labels (tier T2); sized for every block.
        head: private layers below the goodness of every block, discarded upward.
        handed_up: see :class:`~ff_lightning.stacks.BlockStack`.

    Raises:
        InputError: sizes that make no sense or do not fit each other.
    """

    def __init__(
        self,
        in_features: int,
        widths: Sequence[int],
        *,
        num_classes: int | None = None,
        goodness: Goodness | None = None,
        loss: CandidateLoss | None = None,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
        matching: SimilarityMatching | None = None,
        head: Head | None = None,
        handed_up: HandedUp = "before_update",
    ) -> None:
        check_dense(in_features, widths, num_classes, dropout=dropout, peer_weight=0.0)
        if goodness is None:
            goodness = ProjectedActivity(10 if num_classes is None else num_classes)
        goodness = as_goodness(goodness)
        num_classes = classes_of(goodness, num_classes)
        layers = [nn.Sequential(nn.Dropout(dropout), DenseReLU(*sizes)) for sizes in pairwise([in_features, *widths])]
        norm = UnitRMS() if norm is None else norm
        parts = ClassParts(goodness, loss or LinearContrast(), norm, matching, head)
        super().__init__(parts.blocks(layers, [(width,) for width in widths]), handed_up=handed_up)
        self.in_features = in_features
        self.num_classes = num_classes
        self.out_features = widths[-1]
