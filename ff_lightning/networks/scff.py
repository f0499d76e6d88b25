"""Self-contrastive stacks: an image with itself against an image with another (SCFF, arXiv 2409.11593).

A positive is an image beside itself, ``[x; x]``, a negative an image beside another one of the batch, ``[x; x']``; a
layer treats both halves by the same weights, so that it computes ``W(x + x') + 2b``. Every image is therefore passed
through the layer once, and pairs are sums of pre-activations: ``2 z(x)`` and ``z(x) + z(x')``. Goodness is the mean
square of the rectified sums over the channels, at every position of a map.

What layers above the first learn from differs from layer to layer in the authors' settings
(github.com/neurophysics-cnrsthales/contrastive-forward-forward), and is an argument here, ``own_pairs``. A layer with
pairs of its own takes the activities of single images from below (those of the positive stream: an image beside itself
has the activities of the image, twice as strong, and every sample is standardised), and pairs them anew. A layer
without reads the two streams of the layer below, activities of positive and of negative pairs, as in Hinton's FF. Once
trained, all layers are used alike, on single images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from ff_lightning.blocks import ContrastiveBlock
from ff_lightning.errors import InputError
from ff_lightning.goodness import RectifiedEnergy
from ff_lightning.losses import ContrastiveLoss
from ff_lightning.normalization import Standardise
from ff_lightning.signals import Contrast, Labelled, LocalStep, Signal
from ff_lightning.stacks import BlockStack


@dataclass(frozen=True)
class PairSignal(Signal):
    """Images, and with which other image of the batch each is paired.

    Attributes:
        h: ``(B, …)`` single images or activities of them, or ``(2 * B, …)`` activities of both streams.
        streams: 1 or 2, accordingly.
        shift: image ``i`` is paired with image ``i - shift`` of the batch.
        first: the lowest block whose loss is wanted; blocks below are passed through without one.
    """

    streams: int = 1
    shift: int = 1
    first: int = 0


class Triangle(nn.Module):
    """Rectify what exceeds the mean of all channels at a position: ``relu(z - mean(z))``; channels are dimension 1."""

    def forward(self, z: Tensor) -> Tensor:  # noqa: D102
        return torch.relu(z - z.mean(1, keepdim=True))


class SelfContrastBlock(ContrastiveBlock):
    """Layer that gives pre-activations, and learns from pairs of samples.

    Args:
        layer: from single samples ``(B, …)`` to pre-activations ``(B, C, …)``.
        loss: contrasts the goodness of both kinds of pairs.
        norm: from pre-activations to what is passed on.
        own_pairs: pair the activities of single images anew, instead of reading the two streams of the block below.
    """

    def __init__(self, layer: nn.Module, loss: ContrastiveLoss, *, norm: nn.Module, own_pairs: bool = True) -> None:
        super().__init__(layer, RectifiedEnergy(), loss, norm=norm)
        self.own_pairs = own_pairs

    def pairs(self, signal: PairSignal) -> tuple[Tensor, Tensor]:
        """Pre-activations of positive and of negative pairs, each ``(B, C, …)``."""
        assert isinstance(signal.h, Tensor)
        if self.own_pairs:
            z = self(signal.h.chunk(signal.streams)[0])
            return 2 * z, z + z.roll(signal.shift, 0)
        z_pos, z_neg = self(signal.h).chunk(2)
        return z_pos, z_neg

    def local_step(
        self, signal: Signal, generator: torch.Generator | None = None, *, cut: bool = True
    ) -> tuple[Contrast, Signal]:
        """Forward pass and local loss on pairs; see :class:`~ff_lightning.blocks.Block`."""
        assert isinstance(signal, PairSignal)
        z_pos, z_neg = self.pairs(signal)
        passed = self.norm(torch.cat([z_pos.detach(), z_neg.detach()]))
        return self.contrast(self.goodness(z_pos), self.goodness(z_neg)), replace(signal, h=passed, streams=2)


class SelfContrastStack(BlockStack):
    """Stack of :class:`SelfContrastBlock`; the first one pairs images.

    Args:
        blocks: from the input upwards.

    Raises:
        InputError: the first block has no pairs of its own.
    """

    def __init__(self, blocks: Sequence[SelfContrastBlock]) -> None:
        super().__init__(blocks)
        self.own_pairs = [block.own_pairs for block in blocks]
        if not self.own_pairs[0]:
            raise InputError(f"Passed `own_pairs={self.own_pairs}`. There are no streams below the first block.")

    def local_losses(self, signal: Signal) -> Iterator[LocalStep]:
        """Yield the local loss of every block from ``signal.first`` upwards; see :class:`BlockStack`.

        Pairs are formed in the highest block that need not be lower; what lies below sees single images.

        Args:
            signal: images, a :class:`PairSignal`.
        """
        assert isinstance(signal, PairSignal)
        start = max(index for index in range(signal.first + 1) if self.own_pairs[index])
        for index, block in enumerate(self):
            assert isinstance(block, SelfContrastBlock)
            learns = index >= signal.first
            with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                zs = [block(signal.h)] if index < start else list(block.pairs(signal))
            if learns:
                yield LocalStep(index, *block.contrast(*map(block.goodness, zs)))
            # What is passed on is made only now: whoever wants no further loss saves it.
            zs = [z.detach() for z in zs]
            signal = replace(signal, h=block.norm(torch.cat(zs)), streams=len(zs))


class SelfContrastMLP(SelfContrastStack):
    """Fully connected self-contrastive stack (SCFF's network for MNIST: two layers of 2,000).

    Args:
        in_features: values a sample.
        widths: units of each block.
        losses: of each block.
        own_pairs: for each block, see :class:`SelfContrastBlock`; all by default.
    """

    def __init__(
        self,
        in_features: int,
        widths: Sequence[int],
        *,
        losses: Sequence[ContrastiveLoss],
        own_pairs: Sequence[bool] | None = None,
    ) -> None:
        check_lengths(widths, losses=losses, own_pairs=own_pairs)
        layers = [nn.Linear(*sizes) for sizes in pairwise([in_features, *widths])]
        super().__init__(
            [
                SelfContrastBlock(
                    nn.Sequential(nn.Flatten(), Standardise(), layer) if index == 0 else layer,
                    losses[index],
                    norm=nn.Sequential(Triangle(), Standardise()),
                    own_pairs=own_pairs is None or own_pairs[index],
                )
                for index, layer in enumerate(layers)
            ]
        )
        self.in_features = in_features
        self.out_features = widths[-1]


class SelfContrastConv(SelfContrastStack):
    """Convolutional self-contrastive stack (SCFF's network for CIFAR-10).

    Filters of 5 x 5 in the first block and 3 x 3 above, with reflected borders. Every block halves height and width:
    it passes on the largest activity, by :class:`Triangle`, of 4 x 4 squares that overlap; the last block the mean, by
    ReLU, of 2 x 2. Maps are kept channels-last.

    Args:
        image_shape: channels, height, width.
        widths: channels of each block.
        losses: of each block.
        own_pairs: for each block, see :class:`SelfContrastBlock`; all by default.

    Raises:
        InputError: lists of different lengths, or images too small for the number of blocks.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        widths: Sequence[int],
        *,
        losses: Sequence[ContrastiveLoss],
        own_pairs: Sequence[bool] | None = None,
    ) -> None:
        check_lengths(widths, losses=losses, own_pairs=own_pairs)
        channels, height, width = image_shape
        if min(height, width) < 2 ** len(widths):
            raise InputError(
                f"Passed `image_shape={tuple(image_shape)}` with {len(widths)} blocks. Each halves height and width: "
                f"they must be at least {2 ** len(widths)}."
            )
        blocks = []
        for index, sizes in enumerate(pairwise([channels, *widths])):
            last = index == len(widths) - 1
            pool = nn.AvgPool2d(2, ceil_mode=True) if last else nn.MaxPool2d(4, 2, 1, ceil_mode=True)
            blocks.append(
                SelfContrastBlock(
                    conv_layer(*sizes, size=3 if index else 5, first=index == 0),
                    losses[index],
                    norm=nn.Sequential(nn.ReLU() if last else Triangle(), pool, Standardise()),
                    own_pairs=own_pairs is None or own_pairs[index],
                )
            )
        super().__init__(blocks)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.image_shape = tuple(image_shape)
        shrunk = 2 ** len(widths)
        self.out_features = widths[-1] * math.ceil(height / shrunk) * math.ceil(width / shrunk)


class ChannelsLast(nn.Module):
    """Lay maps ``(B, C, H, W)`` out with the channels last, which CPUs and tensor cores convolve fastest."""

    def forward(self, x: Tensor | Labelled) -> Tensor:  # noqa: D102
        assert isinstance(x, Tensor)
        return x.contiguous(memory_format=torch.channels_last)


def conv_layer(in_channels: int, out_channels: int, *, size: int, first: bool) -> nn.Module:
    """Convolution that keeps height and width; the first one standardises its images."""
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, padding_mode="reflect")
    nn.init.xavier_uniform_(conv.weight)
    return nn.Sequential(ChannelsLast(), Standardise(), conv) if first else conv


def check_lengths(widths: Sequence[int], **lists: Sequence[object] | None) -> None:
    """Check that there is one of everything for each block.

    Raises:
        InputError: names the list that is too short or too long.
    """
    if not widths or any(width < 1 for width in widths):
        raise InputError(f"Passed `widths={list(widths)}`. `widths` needs one or more positive numbers.")
    for name, values in lists.items():
        if values is not None and len(values) != len(widths):
            raise InputError(
                f"Passed {len(values)} `{name}` with {len(widths)} `widths`. There must be one for each block."
            )
