"""Stacks of local receptive fields without shared weights (Hinton 2022, 2212.13345, sections 3.2 and 4)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.blocks import ContrastiveBlock
from ff_lightning.errors import InputError, finite, tell_left_out, whole_numbers
from ff_lightning.goodness import Goodness, MeanOfSquares
from ff_lightning.losses import ContrastiveLoss, SymBa
from ff_lightning.networks.conv import check_image_shape
from ff_lightning.networks.mlp import LABEL_SCALE, check_dense, labelled_relu, refuse_other_size
from ff_lightning.normalization import PeerNormalisation, UnitRMS
from ff_lightning.signals import Labelled
from ff_lightning.stacks import BlockStack, HandedUp


class LocalLinear(nn.Module):
    """Linear map of a grid: every position has weights of its own to a square of positions of the grid below.

    A locally connected layer, a convolution without shared weights: one batched matrix product over positions.

    Args:
        grid: height, width and channels of the grid below.
        channels: units at a position.
        field: side of the square that a unit sees, in positions of the grid below.
        stride: distance between the squares of neighbouring positions.
        padding: zeros around the grid below, on every side.

    Attributes:
        grid: height, width and channels of the grid of its units.

    Shape:
        ``(N, H * W * C)`` or ``(N, H, W, C)`` to ``(N, H' * W' * channels)``, the units of a position side by side.
    """

    def __init__(self, grid: Sequence[int], channels: int, *, field: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        height, width, inputs = self.below = tuple(grid)
        self.field, self.stride, self.padding = field, stride, padding
        sides = [(size + 2 * padding - field) // stride + 1 for size in (height, width)]
        if min(sides) < 1:
            raise InputError(
                f"Passed a field of {field} by {field} with padding {padding} over a grid of {height} by {width}. "
                "Fields must fit."
            )
        self.grid = (*sides, channels)
        self.in_features, self.out_features = height * width * inputs, sides[0] * sides[1] * channels
        self.fan_in = field * field * inputs
        self.weight = nn.Parameter(torch.randn(sides[0] * sides[1], self.fan_in, channels) * self.fan_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(sides[0] * sides[1], 1, channels))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        refuse_other_size(x.flatten(1), self.in_features)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # before a value is copied into many fields
        x = F.pad(x.reshape(-1, *self.below), (0, 0) + (self.padding,) * 4)
        seen = x.unfold(1, self.field, self.stride).unfold(2, self.field, self.stride)
        seen = seen.permute(1, 2, 0, 4, 5, 3).flatten(3).flatten(0, 1)  # (positions, N, inputs of a unit)
        z: Tensor = torch.baddbmm(self.bias, seen, self.weight)
        return z.transpose(0, 1).flatten(1)


class LocalReLU(nn.Module):
    """:class:`LocalLinear` and ReLU.

    Args:
        linear: the map.
    """

    def __init__(self, linear: LocalLinear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return F.relu(self.linear(x), inplace=True)


class PixelGrid(nn.Module):
    """Images ``(N, C, H, W)`` as a grid of pixels, ``(N, H, W, C)``."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.movedim(1, -1)


class LabelledLocalReLU(nn.Module):
    """First layer of a supervised stack with local fields: every unit sees its square of the image and the label.

    The image part of the pre-activation is computed once, however many labels an image carries. A plain tensor is
    taken as images without a label (all label inputs 0).

    Args:
        linear: the map of the image.
        num_classes: length of the one-hot label.
        label_scale: value of the hot label input; the image has unit RMS.
        dropout: share of the pixels that is dropped in training, the same ones for all labels of an image.
        norm: of the image.

    Shape:
        - Input: :class:`Labelled` with image ``(B, C, H, W)`` and labels ``(S, B)``, or a tensor ``(B, C, H, W)``.
        - Output: ``(S * B, D)``, or ``(B, D)``.
    """

    def __init__(
        self, linear: LocalLinear, *, num_classes: int, label_scale: float, dropout: float, norm: nn.Module
    ) -> None:
        super().__init__()
        self.image = nn.Sequential(norm, nn.Dropout(dropout), PixelGrid(), linear)
        self.label = nn.Linear(num_classes, linear.out_features, bias=False)
        nn.init.normal_(self.label.weight, std=linear.fan_in**-0.5)
        self.num_classes = num_classes
        self.label_scale = label_scale

    def image_part(self, image: Tensor) -> Tensor:
        """The image part of the pre-activation, ``(B, D)``, which no label changes."""
        z: Tensor = self.image(image)
        return z

    def forward(self, x: Tensor | Labelled) -> Tensor:  # noqa: D102
        return labelled_relu(x, self.image_part, self.label, self.label_scale)


class LocalFields(BlockStack):
    """ReLU units on grids, each with a local field in the grid below and weights of its own.

    A block is a grid of positions with some units ("channels") at each; a unit sees all channels of a square of
    positions below. The defaults are Hinton's for images of 28x28 pixels (section 3.2): grids of 4x4, 3x3 and 2x2
    positions, about 2000 units each.

    Args:
        image_shape: channels, height and width of an image.
        channels: units at a position, of every block.
        fields: side of the square that a unit sees, in pixels for the first block, else in positions of the block
            below.
        strides: distance between the squares of neighbouring positions.
        paddings: zeros around what a block sees, on every side; none by default.
        num_classes: classes of a label that all units of the first block see; ``None`` if no label is part of the
            input.
        label_scale: value of the hot label input against an image of unit RMS; left out, with a line in the log, where
            no label is part of the input.
        goodness: copied for every block; mean of squares by default.
        loss: copied for every block; :class:`~ff_lightning.losses.SymBa` by default.
        peer_weight: strength of peer normalisation; 0 for none.
        dropout: share of the input's values that is dropped in training.
        image_norm: what an image passes first, which leaves it a unit RMS;
            :class:`~ff_lightning.normalization.UnitRMS` by default. Photographs want
            :class:`~ff_lightning.normalization.Standardise`, without which all units see mostly their brightness.
        handed_up: see :class:`~ff_lightning.stacks.BlockStack`.

    Raises:
        InputError: sizes that make no sense, or a field larger than what it looks at.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        *,
        channels: Sequence[int] = (128, 220, 512),
        fields: Sequence[int] = (10, 2, 2),
        strides: Sequence[int] = (6, 1, 1),
        paddings: Sequence[int] | None = None,
        num_classes: int | None = 10,
        label_scale: float = LABEL_SCALE,
        goodness: Goodness | None = None,
        loss: ContrastiveLoss | None = None,
        peer_weight: float = 0.0,
        dropout: float = 0.0,
        image_norm: nn.Module | None = None,
        handed_up: HandedUp = "before_update",
    ) -> None:
        norm = UnitRMS() if image_norm is None else image_norm
        check_image_shape(image_shape)
        whole_numbers("channels", channels, least=1)
        paddings = [0] * len(channels) if paddings is None else paddings
        check_dense(torch.Size(image_shape).numel(), channels, num_classes, dropout=dropout, peer_weight=peer_weight)
        check_geometry(channels, fields, strides, paddings)
        label_scale = finite("label_scale", label_scale, least=0)
        grid = (*image_shape[1:], image_shape[0])
        maps: list[LocalLinear] = []
        for units, field, stride, padding in zip(channels, fields, strides, paddings, strict=True):
            maps.append(LocalLinear(grid, units, field=field, stride=stride, padding=padding))
            grid = maps[-1].grid
        first: nn.Module
        if num_classes is None:
            if label_scale != LABEL_SCALE:
                tell_left_out("whose inputs carry no label", label_scale=label_scale)
            first = nn.Sequential(norm, nn.Dropout(dropout), PixelGrid(), LocalReLU(maps[0]))
        else:
            first = LabelledLocalReLU(
                maps[0], num_classes=num_classes, label_scale=label_scale, dropout=dropout, norm=norm
            )
        super().__init__(
            [
                ContrastiveBlock(
                    layer,
                    copy.deepcopy(goodness) or MeanOfSquares(),
                    copy.deepcopy(loss) or SymBa(),
                    peer=PeerNormalisation(linear.out_features, weight=peer_weight) if peer_weight else None,
                )
                for layer, linear in zip([first, *map(LocalReLU, maps[1:])], maps, strict=True)
            ],
            handed_up=handed_up,
        )
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self.widths = [linear.out_features for linear in maps]
        self.out_features = self.widths[-1]


def check_geometry(
    channels: Sequence[int], fields: Sequence[int], strides: Sequence[int], paddings: Sequence[int]
) -> None:
    """Check that every block has a field, a stride and a padding that make sense.

    Raises:
        InputError: names the argument that does not.
    """
    for name, values, least in (("fields", fields, 1), ("strides", strides, 1), ("paddings", paddings, 0)):
        if len(whole_numbers(name, values, least=least)) != len(channels):
            raise InputError(
                f"Passed `{name}={list(values)}` with {len(channels)} `channels`. `{name}` needs one number a block, "
                f"at least {least}."
            )
