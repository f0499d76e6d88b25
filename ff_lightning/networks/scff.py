"""Self-contrastive stacks: an image with itself against an image with another (SCFF, arXiv 2409.11593).

A positive is an image beside itself, ``[x; x]``, a negative an image beside another one of the batch, ``[x; x']``; a
layer treats both halves by the same weights, so that it computes ``W(x + x') + 2b``. Every image is therefore passed
through the layer once, and pairs are sums of pre-activations: ``2 z(x)`` and ``z(x) + z(x')``. Goodness is the mean
square of the rectified sums over the channels, at every position of a map.

A layer above the first can learn in two ways. The authors choose one for every layer
(github.com/neurophysics-cnrsthales/contrastive-forward-forward); here the argument ``own_pairs`` does.

- With pairs of its own, a layer reads single images and pairs them anew. The positive stream of the layer below serves
  as these: an image beside itself has the activities of the image, twice as strong, and standardising takes that away.
- Without, a layer reads both streams of the layer below, as in Hinton's FF: the activities of positive and of negative
  pairs.

Once trained, all layers are used alike, on single images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ff_lightning.blocks import ContrastiveBlock
from ff_lightning.errors import InputError, whole, whole_numbers
from ff_lightning.goodness import RectifiedEnergy
from ff_lightning.losses import ContrastiveLoss
from ff_lightning.networks.conv import check_image_shape
from ff_lightning.normalization import Standardise, frozen_statistics
from ff_lightning.signals import BlockContext, Contrast, Labelled, LocalStep, Signal, StepContext
from ff_lightning.stacks import BlockStack


@dataclass(frozen=True, kw_only=True)
class PairSignal(Signal):
    """Images, and with which other image of the batch each is paired; ``h`` has one or both streams of pairs.

    Attributes:
        partner: ``(B,)`` int64, the other image of every image.
    """

    partner: Tensor


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

    def forward(self, x: Tensor | PairSignal) -> Any:
        """Pre-activations of single samples ``(N, …)``, or of positive and of negative pairs, each ``(B, …)``."""
        if isinstance(x, Tensor):
            return super().forward(x)
        if not self.own_pairs:
            return super().forward(x.h).chunk(2)
        z = super().forward(x.h[: len(x.partner)])
        return 2 * z, z + z[x.partner]

    def local_step(
        self, signal: Signal, context: BlockContext = BlockContext(), *, cut: bool = True
    ) -> tuple[Contrast, Signal]:
        """Forward pass and local loss on pairs; see :class:`~ff_lightning.blocks.Block`."""
        assert isinstance(signal, PairSignal)
        z = self(signal)
        passed = self.pass_on(signal.h, torch.cat([stream.detach() for stream in z]) if cut else torch.cat(z))
        return self.judge(z, signal, context), replace(signal, h=passed)

    def judge(self, h: tuple[Tensor, Tensor], signal: Signal, context: BlockContext) -> Contrast:
        """Local loss of the pre-activations of both kinds of pairs."""
        del signal, context
        return self.contrast(*map(self.goodness, h))

    @torch.no_grad()
    def rest(self, signal: Signal, *, paired: bool = False) -> Signal:
        """Pass single samples on, or with ``paired`` both streams of pairs, without learning."""
        with frozen_statistics(self):
            z = torch.cat(self(signal)) if paired else self(signal.h)
            return replace(signal, h=self.pass_on(signal.h, z))


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

    def local_losses(self, signal: Signal, context: StepContext = StepContext()) -> Iterator[LocalStep]:
        """Yield the local loss of every block that learns; see :class:`~ff_lightning.stacks.BlockStack`.

        Pairs are formed in the highest block that need not be lower; what lies below sees single images.

        Args:
            signal: images, a :class:`PairSignal`.
            context: what is known of the step.
        """
        assert isinstance(signal, PairSignal)
        top = self.begin(context)
        first = next((index for index in range(len(self)) if context.learns(index)), len(self))
        paired = max((index for index in range(first + 1) if index < len(self) and self.own_pairs[index]), default=0)
        for index in range(top + 1):
            block = self[index]
            assert isinstance(block, SelfContrastBlock)
            if context.learns(index):
                found, signal = block.local_step(signal, context.at(index))
                yield LocalStep(index, *found)
                del found
            else:
                signal = block.rest(signal, paired=index >= paired)


class SelfContrastMLP(SelfContrastStack):
    """Fully connected self-contrastive stack (SCFF's network for MNIST: two layers of 2,000).

    Args:
        in_features: values a sample.
        widths: units of each block.
        losses: of each block; copied.
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
        whole("in_features", in_features, least=1)
        check_lengths(widths, losses=losses, own_pairs=own_pairs)
        layers = [nn.Linear(*sizes) for sizes in pairwise([in_features, *widths])]
        super().__init__(
            [
                SelfContrastBlock(
                    nn.Sequential(nn.Flatten(), Standardise(), layer) if index == 0 else layer,
                    copy.deepcopy(losses[index]),
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
        losses: of each block; copied.
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
        check_image_shape(image_shape)
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
                    copy.deepcopy(losses[index]),
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
    whole_numbers("widths", widths, least=1)
    for name, values in lists.items():
        if values is not None and len(values) != len(widths):
            raise InputError(
                f"Passed {len(values)} `{name}` with {len(widths)} `widths`. There must be one for each block."
            )
