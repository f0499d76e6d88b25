"""Convolutional stacks with the label in the input, trained on positives against wrong labels (tier T1)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.blocks import ContrastiveBlock
from ff_lightning.errors import InputError, whole
from ff_lightning.goodness import Goodness, MeanOfSquares
from ff_lightning.losses import ContrastiveLoss, SymBa
from ff_lightning.networks.conv import StandardImage, check_conv, sides_of
from ff_lightning.networks.label_planes import LabelPart, WavePlanes
from ff_lightning.normalization import Standardise
from ff_lightning.optim import HiddenMatrix
from ff_lightning.signals import Labelled
from ff_lightning.stacks import BlockStack, HandedUp


class LabelledConvReLU(nn.Module):
    """Convolution of an image, plus what its label adds; max-pooling and ReLU, in channels-last layout.

    The image part is computed once, however many labels an image carries. A plain tensor is taken as images without a
    label, to which nothing is added.

    There is no batch norm. Its statistics would have to be those of both streams together, since a norm of each stream
    would level out the very difference in goodness that the block is trained for. They would then change with which
    labels are in a batch: where a block judges wrong labels alone, to choose negatives, and in a sweep.

    Args:
        in_channels: channels of the input.
        out_channels: filters.
        kernel_size: side of a filter; odd, so that padding keeps the size of the map.
        pool: take the maximum over fields of 2 x 2.
        label: what a label adds; ``None`` if the layer is not told it.
        norm: of the input, such as :class:`~ff_lightning.networks.conv.StandardImage` before the first layer.

    Shape:
        - Input: :class:`~ff_lightning.signals.Labelled` with image ``(B, C, H, W)``, or ``(S * B, C, H, W)`` above the
          first layer, and labels ``(S, B)``; or a tensor ``(N, C, H, W)``.
        - Output: ``(S * B, out_channels, H, W)``, or ``(N, out_channels, H, W)``; half as high and wide with ``pool``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        pool: bool = False,
        label: LabelPart | None = None,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise InputError(f"Passed `kernel_size={kernel_size}`. `kernel_size` must be odd.")
        self.norm = norm or nn.Identity()
        self.image = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        fan_in = in_channels * kernel_size**2
        self.image.weight = HiddenMatrix(torch.randn_like(self.image.weight) * fan_in**-0.5)
        nn.init.zeros_(self.image.bias)  # type: ignore[arg-type]
        self.label = label
        self.pool = pool

    def image_part(self, image: Tensor) -> Tensor:
        """The image part of the pre-activation, ``(N, out_channels, H, W)``, which no label changes."""
        z: Tensor = self.image(self.norm(image).to(memory_format=torch.channels_last))
        return z

    def forward(self, x: Tensor | Labelled) -> Tensor:  # noqa: D102
        if isinstance(x, Tensor):
            z = self.image_part(x)
        else:
            z = self.image_part(x.image) if x.image_part is None else x.image_part
            if self.label is not None:
                z = add_label(z, self.label(), x.labels)
        return F.relu(F.max_pool2d(z, 2) if self.pool else z, inplace=True)


def add_label(z: Tensor, table: Tensor, labels: Tensor) -> Tensor:
    """Add to every image part what its labels add.

    Args:
        z: ``(B, D, H, W)``, or ``(S * B, D, H, W)``, channels last.
        table: what each class adds, ``(C, D, H, W)`` or ``(C, D, 1, 1)``.
        labels: ``(S, B)``.

    Returns:
        ``(S * B, D, H, W)``, channels last, in the dtype of ``z``.
    """
    rows = table.movedim(1, -1)
    added = F.one_hot(labels, len(rows)).to(z.dtype) @ rows.flatten(1).to(z.dtype)  # its gradient sums in float32
    added = added.view(*labels.shape, *rows.shape[1:]).movedim(-1, 2)
    z = z.unsqueeze(0) if z.shape[0] == labels.shape[1] else z.view(*labels.shape, *z.shape[1:])
    return (z + added).flatten(0, 1)


class LabelledBlock(ContrastiveBlock):
    """A :class:`~ff_lightning.blocks.Block` that passes the label on, beside its normalised activities."""

    def pass_on(self, x: Tensor | Labelled, h: Tensor) -> Tensor | Labelled:
        """What the next block receives: activities, with their labels if there are any."""
        passed: Tensor = self.norm(h)
        return Labelled(passed, x.labels) if isinstance(x, Labelled) else passed


class LabelledConvNet(BlockStack):
    """Stack of convolutional blocks that see an image with a label, as :class:`~ff_lightning.networks.MLP` does.

    Positives are images with their label, negatives with a wrong one; a label spreads over the whole plane, since one
    that is written into a corner is lost on the filters. Every label of an image has a pass of its own through the
    upper blocks. :class:`~ff_lightning.networks.ConvNet` takes images without a label in one pass.

    Args:
        image_shape: channels, height, width.
        widths: filters of each block, from the input upwards.
        kernel_sizes: side of the filters, of all blocks or of each.
        pool_after: blocks, counted from 0, that halve the height and width of the map.
        num_classes: number of classes.
        labels: how blocks are told the label: :class:`~ff_lightning.networks.label_planes.WavePlanes` (the default),
            :class:`~ff_lightning.networks.label_planes.LearnedPlanes`, or
            :class:`~ff_lightning.networks.label_planes.LabelBias`; sized for every block that is told.
        goodness: copied for every block; mean of squares over the map by default.
        loss: copied for every block; :class:`~ff_lightning.losses.SymBa` by default.
        norm: copied for every block; what is done to activities that are passed on. By default every sample is brought
            to mean 0 and variance 1 (layer normalisation, as Scodellaro's), so that its goodness cannot be read off.
        handed_up: see :class:`~ff_lightning.stacks.BlockStack`.

    Raises:
        InputError: sizes that make no sense or do not fit each other.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        widths: Sequence[int] = (32, 64, 64),
        *,
        kernel_sizes: int | Sequence[int] = 3,
        pool_after: Sequence[int] = (0, 1),
        num_classes: int = 10,
        labels: LabelPart | None = None,
        goodness: Goodness | None = None,
        loss: ContrastiveLoss | None = None,
        norm: nn.Module | None = None,
        handed_up: HandedUp = "before_update",
    ) -> None:
        sides = sides_of(kernel_sizes, widths)
        check_conv(image_shape, widths, sides, pool_after, 1, 0.0)
        whole("num_classes", num_classes, least=2)
        labels = WavePlanes() if labels is None else labels
        blocks: list[ContrastiveBlock] = []
        height, width = image_shape[1:]
        for index, (channels, filters) in enumerate(pairwise([image_shape[0], *widths])):
            told = index == 0 or labels.every_block
            layer = LabelledConvReLU(
                channels,
                filters,
                kernel_size=sides[index],
                pool=index in pool_after,
                label=labels.sized(num_classes, filters, sides[index], (height, width)) if told else None,
                norm=StandardImage(image_shape) if index == 0 else None,
            )
            passes_on = labels.every_block and index < len(widths) - 1
            blocks.append(
                (LabelledBlock if passes_on else ContrastiveBlock)(
                    layer,
                    copy.deepcopy(goodness) or MeanOfSquares(event_dims=3),
                    copy.deepcopy(loss) or SymBa(),
                    norm=copy.deepcopy(norm) or Standardise(),
                )
            )
            if layer.pool:
                height, width = height // 2, width // 2
        super().__init__(blocks, handed_up=handed_up)
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self.out_features = torch.Size((widths[-1], height, width)).numel()
