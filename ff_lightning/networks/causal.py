"""Causal convolutions over time, whose blocks give every word a goodness at every frame."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.blocks import ClassBlock
from ff_lightning.candidates import CandidateLoss, LinearContrast
from ff_lightning.errors import InputError, share, whole, whole_numbers
from ff_lightning.goodness import Goodness, accumulation_dtype, as_goodness
from ff_lightning.networks.heads import classes_of
from ff_lightning.optim import HiddenMatrix
from ff_lightning.signals import UNJUDGED, BlockContext, Contrast, Signal, true_and_hardest
from ff_lightning.stacks import BlockStack, HandedUp


class CausalConvReLU(nn.Module):
    """Convolution over time that reads no later frame, batch norm and ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: filters.
        kernel_size: frames that a filter reads.
        dilation: from one of these frames to the next.
        dropout: share of the activities that is dropped in training.

    Shape:
        ``(B, in_channels, T)`` to ``(B, out_channels, T)``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 5, dilation: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation, bias=False)
        self.conv.weight = HiddenMatrix(self.conv.weight.data)
        self.norm = nn.BatchNorm1d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.earlier = dilation * (kernel_size - 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        h: Tensor = self.dropout(F.relu(self.norm(self.conv(F.pad(x, (self.earlier, 0)))), inplace=True))
        return h


class StandardBands(nn.Module):
    """Bring every band of spectrograms ``(B, 1, bands, T)`` to mean 0 and variance 1 over the set: ``(B, bands, T)``.

    Mean and variance are running values of the training, the same for every recording, since a running one has no end.

    Args:
        bands: rows of the spectrogram.
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands = bands
        self.norm = nn.BatchNorm1d(bands, affine=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if x.dim() != 4 or tuple(x.shape[1:3]) != (1, self.bands):
            raise InputError(
                f"Passed spectrograms of shape {tuple(x.shape)}. The network was built with `bands={self.bands}`, so "
                f"it reads (B, 1, {self.bands}, T)."
            )
        z: Tensor = self.norm(x.squeeze(1))
        return z


class FrameEnergy(Goodness):
    """Goodness of every class at every frame: the weighted energy of the activities of the last frames.

    ``G(c, t) = Σ_j W[c, j] E(j, t) + b[c]``, where ``E`` are the squared activities, averaged over the last ``memory``
    frames and divided by their mean over channels, so that the length of the activities does not matter. The weights
    are the block's own and start at 0.

    Args:
        num_classes: ``C``, 2 or more.
        shape: ``(channels,)``; a network fills it in for each of its blocks.
        memory: frames, the current one among them.

    Shape:
        - Input: ``(B, channels, T)``.
        - Output: ``(B, T, num_classes)``, float32.
    """

    def __init__(self, num_classes: int = 11, shape: Sequence[int] | None = None, *, memory: int = 8) -> None:
        super().__init__()
        for name, value, least in (("num_classes", num_classes, 2), ("memory", memory, 1)):
            if value < least:
                raise InputError(f"Passed `{name}={value}`. `{name}` must be at least {least}.")
        self.num_classes = num_classes
        self.memory = memory
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if shape is not None:
            self.weight = nn.Parameter(torch.zeros(num_classes, shape[0]))
            self.bias = nn.Parameter(torch.zeros(num_classes))

    def sized(self, shape: Sequence[int]) -> Self:
        """A goodness of the same kind with weights of its own for activities ``(B, *shape)``."""
        return type(self)(self.num_classes, shape, memory=self.memory)

    def forward(self, h: Tensor) -> Tensor:  # noqa: D102
        if self.weight is None or self.bias is None:
            raise InputError("Called a `FrameEnergy` without weights. Pass `shape`, or let a network size it.")
        with torch.autocast(h.device.type, enabled=False):
            energy = h.to(accumulation_dtype(h)).square()
            recent = F.avg_pool1d(F.pad(energy, (self.memory - 1, 0)), self.memory, stride=1)
            size = recent.mean(1, keepdim=True) + torch.finfo(recent.dtype).eps
            g: Tensor = F.linear((recent / size).transpose(1, 2), self.weight.to(recent.dtype))
            return g + self.bias.to(recent.dtype)


class FrameBlock(ClassBlock):
    """A block with a goodness of every class at every frame, trained at those frames that have a label."""

    def judge(self, h: Tensor, signal: Signal, context: BlockContext) -> Contrast:
        """Local loss of the activities ``(B, channels, T)`` with ``signal.labels`` ``(B, T)``."""
        assert signal.labels is not None
        judged = signal.labels != UNJUDGED
        g, labels = self.goodness(h)[judged], signal.labels[judged]
        return Contrast(self.loss(g, labels, context.generator).loss, *true_and_hardest(g.detach(), labels))


class CausalConvNet(BlockStack):
    """Stack of causal convolutional blocks over the frames of a spectrogram.

    At frame ``t`` every block gives every class a goodness that depends on no later frame, so that words can be found
    in a recording while it runs. The last class is "no word". Filters of the ``i``-th layer reach ``2^i`` times as far
    back as those of the first.

    Args:
        bands: rows of the spectrogram.
        widths: filters of each layer, from the input upwards.
        kernel_size: frames that a filter reads.
        num_classes: words, and "no word"; that of ``goodness`` by default, or 11.
        layers_per_block: layers trained by one local loss; must divide the number of layers. With all of them, and
            :class:`~ff_lightning.candidates.Softmax` as loss, it is the twin: backprop through the whole network.
        goodness: one a class and frame; sized for every block; :class:`FrameEnergy` by default.
        loss: copied for every block; :class:`~ff_lightning.candidates.LinearContrast` by default (tier T1).
        dropout: share of the activities of each layer that is dropped in training.
        handed_up: see :class:`~ff_lightning.stacks.BlockStack`.

    Raises:
        InputError: sizes that make no sense or do not fit each other.
    """

    def __init__(
        self,
        bands: int = 40,
        widths: Sequence[int] = (64, 64, 64, 64),
        *,
        kernel_size: int = 5,
        num_classes: int | None = None,
        layers_per_block: int = 1,
        goodness: Goodness | None = None,
        loss: CandidateLoss | None = None,
        dropout: float = 0.0,
        handed_up: HandedUp = "before_update",
    ) -> None:
        whole("bands", bands, least=1)
        whole_numbers("widths", widths, least=1)
        whole("kernel_size", kernel_size, least=1)
        share("dropout", dropout)
        if len(widths) % whole("layers_per_block", layers_per_block, least=1):
            raise InputError(
                f"Passed `layers_per_block={layers_per_block}` with {len(widths)} layers. It must divide their number."
            )
        layers: list[nn.Module] = [
            CausalConvReLU(*sizes, kernel_size=kernel_size, dilation=2**index, dropout=dropout)
            for index, sizes in enumerate(pairwise([bands, *widths]))
        ]
        layers[0] = nn.Sequential(StandardBands(bands), layers[0])
        if goodness is None:
            goodness = FrameEnergy(11 if num_classes is None else num_classes)
        goodness = as_goodness(goodness)
        num_classes = classes_of(goodness, num_classes)
        blocks = [
            FrameBlock(
                nn.Sequential(*layers[stop - layers_per_block : stop]),
                goodness.sized((widths[stop - 1],)),
                copy.deepcopy(loss) or LinearContrast(),
                norm=nn.Identity(),
            )
            for stop in range(layers_per_block, len(widths) + 1, layers_per_block)
        ]
        super().__init__(blocks, handed_up=handed_up)
        self.bands = bands
        self.num_classes = num_classes
        self.context = 1 + (kernel_size - 1) * (2 ** len(widths) - 1)
        """Frames that the last layer reads, the current one among them."""

    def as_one_block(self, num_classes: int | None = None) -> BlockStack:
        """Refuse a twin that says one class a recording, where this network says one a frame.

        Raises:
            InputError: always; says how the twin is built.
        """
        del num_classes
        raise InputError(
            f"Passed `network={type(self).__name__}`, which says a class at every frame. A `BackpropTwin` says one a "
            "recording. The twin of this network has all layers in one block (`layers_per_block`) and `Softmax` as "
            "loss: `recipes/with/spotting_twin.yaml`."
        )
