"""Convolutional stacks whose blocks each give every class a goodness."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.candidates import CandidateLoss, LinearContrast
from ff_lightning.errors import InputError, share, whole, whole_numbers
from ff_lightning.goodness import Goodness, WeightedEnergy, as_goodness
from ff_lightning.losses import SimilarityMatching
from ff_lightning.networks.heads import ClassParts, Head, classes_of
from ff_lightning.networks.lookahead import Lookahead
from ff_lightning.optim import HiddenMatrix
from ff_lightning.stacks import BlockStack, HandedUp


class ConvReLU(nn.Module):
    """Convolution, max-pooling, batch norm and ReLU of feature maps, in channels-last layout.

    Pooling comes before norm and ReLU, which then have a quarter of the work; the order of pooling and ReLU does
    not matter.

    Args:
        in_channels: channels of the input.
        out_channels: filters.
        kernel_size: side of a filter; odd, so that padding keeps the size of the map.
        pool: take the maximum over fields of 2 x 2.
        dropout: share of the activities that is dropped in training.
        slope: of the ReLU below 0.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``, half as high and wide with ``pool``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        pool: bool = False,
        dropout: float = 0.0,
        slope: float = 0.0,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise InputError(f"Passed `kernel_size={kernel_size}`. `kernel_size` must be odd.")
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.conv.weight = HiddenMatrix(self.conv.weight.data)
        self.norm = nn.BatchNorm2d(out_channels)
        self.pool = pool
        self.dropout = nn.Dropout(dropout)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        # Not `contiguous`, which leaves one channel as it is: then maps have their channels first, and pooling crawls.
        z = self.conv(x.to(memory_format=torch.channels_last))
        if self.pool:
            z = F.max_pool2d(z, 2)
        z = self.norm(z)
        h: Tensor = F.leaky_relu(z, self.slope, inplace=True) if self.slope else F.relu(z, inplace=True)
        return self.dropout(h)  # type: ignore[no-any-return]


class StandardImage(nn.Module):
    """Bring every image to mean 0 and variance 1 over all its values, ``(B, C, H, W)`` to the same.

    Args:
        image_shape: channels, height, width that are expected.
    """

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if tuple(x.shape[1:]) != self.image_shape:
            raise InputError(
                f"Passed images of shape {tuple(x.shape[1:])}. The network was built with "
                f"`image_shape={list(self.image_shape)}`."
            )
        return F.layer_norm(x, self.image_shape)


class ConvNet(BlockStack):
    """Stack of convolutional blocks; every block gives every class a goodness.

    Images come without a label. What a block is trained for is said by ``goodness`` and ``loss``: with the defaults
    a weighted energy and negatives from the block's own prediction (tier T1), with
    :class:`~ff_lightning.candidates.Softmax` a local softmax (T2). With ``overlapping`` the gradient crosses one
    border of blocks at a time (T3); with ``layers_per_block`` autograd runs through the layers of a block.

    Args:
        image_shape: channels, height, width.
        widths: filters of each layer, from the input upwards.
        kernel_sizes: side of the filters, of all layers or of each.
        pool_after: layers, counted from 0, that halve the height and width of the map.
        num_classes: number of classes; that of ``goodness`` by default, or 10.
        layers_per_block: layers trained by one local loss; must divide the number of layers.
        overlapping: train overlapping pairs of blocks; see
            :meth:`~ff_lightning.stacks.BlockStack.spans`.
        lookahead: let every block answer for the next one; see :class:`~ff_lightning.networks.Lookahead`.
        goodness: one a class; sized for every block.
        loss: copied for every block; :class:`~ff_lightning.candidates.LinearContrast` by default.
        norm: copied for every block; what is done to activities that are passed on. Nothing by default, since batch
            norm stands in every layer.
        dropout: share of the activities of each layer that is dropped in training.
        slope: of the ReLU below 0.
        matching: beside the loss, matches activities with labels (tier T2); sized for every block.
        head: private layers below the goodness of every block, discarded upward.
        handed_up: see :class:`~ff_lightning.stacks.BlockStack`.

    Raises:
        InputError: sizes that make no sense or do not fit each other.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (3, 32, 32),
        widths: Sequence[int] = (64, 128, 128, 256, 256),
        *,
        kernel_sizes: int | Sequence[int] = 3,
        pool_after: Sequence[int] = (0, 2, 4),
        num_classes: int | None = None,
        layers_per_block: int = 1,
        overlapping: bool = False,
        lookahead: Lookahead | None = None,
        goodness: Goodness | None = None,
        loss: CandidateLoss | None = None,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
        slope: float = 0.0,
        matching: SimilarityMatching | None = None,
        head: Head | None = None,
        handed_up: HandedUp = "before_update",
    ) -> None:
        sides = sides_of(kernel_sizes, widths)
        check_conv(image_shape, widths, sides, pool_after, layers_per_block, dropout, slope)
        channels = pairwise([image_shape[0], *widths])
        layers: list[nn.Module] = [
            ConvReLU(*sizes, kernel_size=side, pool=index in pool_after, dropout=dropout, slope=slope)
            for index, (sizes, side) in enumerate(zip(channels, sides, strict=True))
        ]
        if goodness is None:
            goodness = WeightedEnergy(10 if num_classes is None else num_classes)
        goodness = as_goodness(goodness)
        num_classes = classes_of(goodness, num_classes)
        spans = [range(start, start + layers_per_block) for start in range(0, len(widths), layers_per_block)]
        shapes = [map_shape(image_shape, widths, pool_after, layer) for layer in range(len(widths))]
        parts = ClassParts(goodness, loss or LinearContrast(), norm or nn.Identity(), matching, head)
        blocks = parts.blocks(
            [
                nn.Sequential(*([] if span.start else [StandardImage(image_shape)]), *(layers[at] for at in span))
                for span in spans
            ],
            [shapes[span.stop - 1] for span in spans],
            [shapes[span.start] for span in spans],
        )
        super().__init__(blocks, lookahead=lookahead, handed_up=handed_up)
        self.overlapping = overlapping
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self.out_features = torch.Size(shapes[-1]).numel()


def map_shape(
    image_shape: Sequence[int], widths: Sequence[int], pool_after: Sequence[int], layer: int
) -> tuple[int, int, int]:
    """Channels, height and width of what a layer of a :class:`ConvNet` makes."""
    halved = 2 ** sum(pooled <= layer for pooled in pool_after)
    return widths[layer], image_shape[1] // halved, image_shape[2] // halved


def sides_of(kernel_sizes: int | Sequence[int], widths: Sequence[int]) -> list[int]:
    """Side of the filters of every layer.

    Args:
        kernel_sizes: one of all layers, or one of each.
        widths: filters of each layer.

    Raises:
        InputError: one of both is no list of whole numbers.
    """
    layers = len(whole_numbers("widths", widths, least=1))
    if isinstance(kernel_sizes, Sequence):
        return whole_numbers("kernel_sizes", kernel_sizes, least=1)
    return [whole("kernel_sizes", kernel_sizes, least=1)] * layers


def check_image_shape(image_shape: Sequence[int]) -> None:
    """Check the shape of an image.

    Raises:
        InputError: it is something else than channels, height and width.
    """
    if len(whole_numbers("image_shape", image_shape, least=1)) != 3:
        raise InputError(f"Passed `image_shape={list(image_shape)}`. It must be channels, height, width.")


def check_conv(
    image_shape: Sequence[int],
    widths: Sequence[int],
    kernel_sizes: Sequence[int],
    pool_after: Sequence[int],
    layers_per_block: int,
    dropout: float,
    slope: float = 0.0,
) -> None:
    """Check the arguments of :class:`ConvNet`.

    Raises:
        InputError: names the one that makes no sense.
    """
    check_image_shape(image_shape)
    if len(kernel_sizes) != len(widths):
        raise InputError(
            f"Passed `kernel_sizes={list(kernel_sizes)}` with {len(widths)} `widths`. Pass one number, or one a layer."
        )
    whole_numbers("pool_after", pool_after, least=0, some=False)
    if len(set(pool_after)) != len(pool_after) or not set(pool_after) <= set(range(len(widths))):
        raise InputError(
            f"Passed `pool_after={list(pool_after)}`. It must name different layers of 0 to {len(widths) - 1}."
        )
    if min(image_shape[1:]) < 2 ** len(pool_after):
        raise InputError(
            f"Passed `pool_after={list(pool_after)}` with images of {image_shape[1]} x {image_shape[2]} pixels. "
            "Halved so often, nothing is left of them."
        )
    if len(widths) % whole("layers_per_block", layers_per_block, least=1):
        raise InputError(
            f"Passed `layers_per_block={layers_per_block}` with {len(widths)} layers. It must divide their number."
        )
    share("dropout", dropout)
    share("slope", slope)
