"""Readouts that learn: a linear softmax on the activities of a stack, in one pass without a label."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.errors import InputError, is_number
from ff_lightning.goodness import accumulation_dtype
from ff_lightning.normalization import Standardise, evaluating, frozen_statistics
from ff_lightning.readouts.goodness import Readout
from ff_lightning.stacks import Network


class LinearReadout(Readout):
    """Linear softmax on the normalised activities of blocks ``first_block`` and above, without a label.

    Trained beside the blocks, on detached activities: no gradient reaches a block. Sizes that are left out are taken
    from the network and the task; until then the readout has no parameters.

    Args:
        in_features: units of all blocks that are read, added up; counted when a task takes the readout, by default.
        num_classes: number of classes; that of the task by default.
        first_block: the lowest block that is read; Hinton takes all but the first.
        pool: feature maps are averaged over squares of this side, and standardised for each sample; 1 for neither,
            as blocks without maps need.
        dropout: share of the features that is dropped in training.
    """

    size = "in_features"
    """The argument that says how many units are read."""

    def __init__(
        self,
        in_features: int | None = None,
        num_classes: int | None = None,
        *,
        first_block: int = 1,
        pool: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(first_block)
        if in_features is not None and in_features < 1:
            raise InputError(f"Passed `in_features={in_features}`. `in_features` must be at least 1.")
        if pool < 1:
            raise InputError(f"Passed `pool={pool}`. `pool` must be at least 1.")
        if not (is_number(dropout) and 0 <= dropout < 1):
            raise InputError(f"Passed `dropout={dropout}`. `dropout` must be in [0, 1).")
        self.pool = pool
        self.standardise = Standardise()
        self.dropout = nn.Dropout(dropout)
        self.num_classes = num_classes
        self.in_features = in_features
        self.linear: nn.Linear
        if in_features is not None and num_classes is not None:
            self._build([in_features], num_classes)

    def _build(self, units: Sequence[int], num_classes: int) -> None:
        """Make the softmax for ``units`` of the blocks that are read."""
        self.num_classes, self.in_features = num_classes, sum(units)
        self.linear = nn.Linear(self.in_features, num_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def attach(self, network: Network, num_classes: int) -> None:
        """Make the softmax, if it was not told its sizes; see :class:`Readout`."""
        super().attach(network, num_classes)
        if not hasattr(self, "linear"):
            self._build(self._told_units() or self.units(network), num_classes)

    def _told_units(self) -> list[int]:
        return [] if self.in_features is None else [self.in_features]

    @torch.no_grad()
    def units(self, network: Network) -> list[int]:
        """What is read of each of the blocks ``first_block`` and above, counted on an empty image.

        Raises:
            InputError: the network does not say what it takes, neither as ``image_shape`` nor as ``in_features``.
        """
        shape = getattr(network, "image_shape", None) or (getattr(network, "in_features", 0),)
        if 0 in shape:
            raise InputError(
                f"Passed `readout={type(self).__name__}` without `{self.size}` to `network={type(network).__name__}`, "
                f"which does not say what it takes. Pass `{self.size}`."
            )
        like = next(network.parameters())
        # An encoding may draw, and no run may change by being counted.
        with evaluating(network), torch.random.fork_rng(devices=[]):
            answers = zip(network, network.activities(like.new_zeros(1, *shape)), strict=False)
            parts = [self.part(block.norm(h)) for block, h in islice(answers, self.first_block, None)]
        return [part.shape[1] for part in parts]

    def features(self, network: Network, image: Tensor) -> Tensor:
        """Activities that are read, ``(B, in_features)``, detached."""
        answers = zip(network, network.activities(image), strict=False)
        return self.joined([self.part(block.norm(h)) for block, h in islice(answers, self.first_block, None)])

    def part(self, passed: Tensor) -> Tensor:
        """What is read of one block, ``(B, D)``, from what it passes on, ``(B, …)``.

        Raises:
            InputError: squares of something else than feature maps were asked for.
        """
        if self.pool > 1 and passed.dim() != 4:
            raise InputError(
                f"Passed `pool={self.pool}` to the readout of a network whose blocks pass on {tuple(passed.shape[1:])} "
                "values a sample. Squares are of feature maps, (channels, height, width): leave `pool` out."
            )
        if self.pool > 1:
            passed = self.standardise(F.avg_pool2d(passed, self.pool, ceil_mode=True))
        return passed.flatten(1)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Features ``(B, in_features)`` from the parts of blocks ``first_block`` and above, ``(B, D)`` each.

        Raises:
            InputError: they have other sizes than the readout was built for.
        """
        self._check_units([part.shape[1] for part in parts])
        return torch.cat(list(parts), dim=1)

    def _check_units(self, units: list[int]) -> None:
        if sum(units) != self.linear.in_features:
            raise InputError(
                f"Passed `in_features={self.linear.in_features}` to the readout. Blocks {self.first_block} and above "
                f"have {sum(units)} units."
            )

    def forward(self, network: Network, image: Tensor, num_classes: int) -> Tensor:  # noqa: D102
        del num_classes
        with torch.no_grad():
            scores: Tensor = self.linear(self.features(network, image))
        return scores

    def local_loss(self, network: Network, image: Tensor, labels: Tensor) -> Tensor:
        """Loss that trains this readout alone, on detached activities.

        Running values of the blocks stay: those of blocks that learn move with their own steps, once a batch.
        """
        with frozen_statistics(network):
            features = self.features(network, image)
        return self.loss(features, labels)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the linear softmax, nats, on features ``(B, in_features)``."""
        scores = self.linear(self.dropout(features))
        return F.cross_entropy(scores.to(accumulation_dtype(scores)), labels)


class NestedReadout(LinearReadout):
    """Linear softmaxes on the lowest block that is read, on the lowest two, and so on, to tell what depth is worth.

    The last one reads all blocks, is the prediction, and learns as a :class:`LinearReadout` does. They share features,
    not parameters.

    Args:
        widths: units of every block that is read, after pooling, the lowest first; see ``in_features`` of
            :class:`LinearReadout`.
        num_classes: number of classes.
        first_block: see :class:`LinearReadout`, as the others.
        pool: sides of the squares over which feature maps are averaged.
        dropout: share of the features that is dropped in training.
    """

    size = "widths"

    def __init__(
        self,
        widths: Sequence[int] | None = None,
        num_classes: int | None = None,
        *,
        first_block: int = 1,
        pool: int = 1,
        dropout: float = 0.0,
    ) -> None:
        if widths is not None and (not widths or min(widths) < 1):
            raise InputError(f"Passed `widths={list(widths)}`. `widths` needs one or more numbers of at least 1.")
        super().__init__(None, num_classes, first_block=first_block, pool=pool, dropout=dropout)
        self.widths = list(widths or [])
        if widths is not None and num_classes is not None:
            self._build(widths, num_classes)

    def _told_units(self) -> list[int]:
        return self.widths

    def _build(self, units: Sequence[int], num_classes: int) -> None:
        super()._build(units, num_classes)
        self.widths = list(units)
        self.shallow = nn.ModuleList()
        for below in accumulate(self.widths[:-1]):
            linear = nn.Linear(below, num_classes, device="meta")  # draws no random numbers
            self.shallow.append(linear.to_empty(device=self.linear.weight.device))
        for parameter in self.shallow.parameters():
            nn.init.zeros_(parameter)

    def nested(self, features: Tensor) -> list[Tensor]:
        """Scores ``(B, num_classes)`` by number of blocks, of features ``(B, in_features)``; the last use them all."""
        return [linear(features[:, : linear.in_features]) for linear in (*self.shallow, self.linear)]

    def _check_units(self, units: list[int]) -> None:
        if units != self.widths:
            raise InputError(
                f"Passed `widths={self.widths}` to the readout. Blocks {self.first_block} and above have {units} units."
            )

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropies of all the softmaxes, nats, added up: each has parameters of its own."""
        scores = torch.stack(self.nested(self.dropout(features)))
        scores = scores.to(accumulation_dtype(scores)).flatten(0, 1)
        return F.cross_entropy(scores, labels.repeat(len(self.shallow) + 1), reduction="sum") / len(labels)
