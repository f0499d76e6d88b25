"""Residual stacks with shortcuts that have no parameters (DeeperForward, Sun et al. 2025, OpenReview kOYnXVQCtA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.blocks import ClassBlock
from ff_lightning.candidates import CandidateLoss, Softmax
from ff_lightning.errors import InputError, share, whole
from ff_lightning.goodness import ChannelGroups, Goodness, MeanActivity, as_goodness
from ff_lightning.losses import SimilarityMatching
from ff_lightning.networks.conv import StandardImage, check_image_shape
from ff_lightning.networks.heads import AveragedHead, ClassParts, Head, classes_of
from ff_lightning.normalization import GroupStandard
from ff_lightning.optim import HiddenMatrix
from ff_lightning.signals import Labelled
from ff_lightning.stacks import BlockStack, HandedUp


@dataclass(frozen=True)
class Carried:
    """What travels between the blocks of a residual stack.

    Attributes:
        x: ``(B, C, H, W)``, what the next block receives.
        shortcut: ``(B, C, H, W)``, an earlier ``x``, detached like it.
    """

    x: Tensor
    shortcut: Tensor


class Joint(Enum):
    """What becomes of the shortcut behind a block: it waits, is added, or is joined as more channels."""

    WAIT = "wait"
    ADD = "add"
    CONCAT = "concat"


class StridedReLU(nn.Module):
    """Convolution of 3 x 3 without bias, ReLU and dropout, channels last; Kaiming initialisation by fan-out.

    Args:
        in_channels: channels of the input.
        out_channels: filters.
        stride: 2 halves height and width.
        dropout: share of the activities that is dropped in training.
        slope: of the ReLU below 0.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, dropout: float = 0.0, slope: float = 0.0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.conv.weight = HiddenMatrix(self.conv.weight.data)
        self.dropout = nn.Dropout(dropout)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        z = self.conv(x.to(memory_format=torch.channels_last))
        h: Tensor = F.leaky_relu(z, self.slope, inplace=True) if self.slope else F.relu(z, inplace=True)
        return self.dropout(h)  # type: ignore[no-any-return]


class ResidualBlock(ClassBlock):
    """Block between shortcuts.

    Args:
        layer: see :class:`~ff_lightning.blocks.ClassBlock`.
        goodness: of the activities before the shortcut joins them.
        loss: see :class:`~ff_lightning.blocks.ClassBlock`.
        norm: of the activities that are passed on, before the shortcut joins them.
        matching: of the activities before the shortcut joins them; see :class:`~ff_lightning.blocks.ClassBlock`.
        joint: what becomes of the shortcut behind this block.
        starts: whether what this block passes on is the next shortcut.
        halves: whether the map will have been halved where that shortcut ends, so that it is pooled.
    """

    def __init__(
        self,
        layer: nn.Module,
        goodness: Goodness,
        loss: CandidateLoss,
        *,
        norm: nn.Module | None = None,
        matching: SimilarityMatching | None = None,
        joint: Joint = Joint.WAIT,
        starts: bool = False,
        halves: bool = False,
    ) -> None:
        super().__init__(layer, goodness, loss, norm=norm, matching=matching)
        self.joint = joint
        self.starts = starts
        self.halves = halves

    def forward(self, x: Tensor | Carried) -> Tensor:
        """Activities of the block, ``(B, …)``, not normalised and without the shortcut."""
        h: Tensor = super().forward(x.x if isinstance(x, Carried) else x)
        return h

    def pass_on(self, x: Tensor | Carried, h: Tensor) -> Carried:
        """What the next block receives: normalised activities, joined by the shortcut where there is one."""
        y: Tensor = self.norm(h)
        shortcut = x.shortcut if isinstance(x, Carried) else y
        if self.joint is Joint.ADD:
            y = y + shortcut
        elif self.joint is Joint.CONCAT:
            y = torch.cat([y, shortcut], 1)
        if self.starts:
            shortcut = F.avg_pool2d(y, 2) if self.halves else y
        return Carried(y, shortcut)


class ResNet(BlockStack):
    """DeeperForward's residual network: one convolution a block, a shortcut around every two (kOYnXVQCtA).

    A stem and stages of ``layers_per_stage`` convolutions; every stage but the first begins with stride 2, on twice
    as many channels: those of the stage before, joined by a shortcut of as many. Goodness of a class is the mean
    activity of its channels, measured before normalisation and shortcut; what is passed on is normalised class by
    class. By default the blocks have a local softmax, tier T2.

    Args:
        image_shape: channels, height, width.
        width: channels of the stem and the first stage; each further stage has twice as many. The number of classes
            must divide it.
        stages: number of stages.
        layers_per_stage: convolutions of each, an even number.
        num_classes: number of classes.
        goodness: one a class; sized for every block. The mean activity of channel groups by default.
        loss: copied for every block; :class:`~ff_lightning.candidates.Softmax` by default.
        norm: copied for every block; :class:`~ff_lightning.normalization.GroupStandard` of ``num_classes`` groups by
            default.
        dropout: share of the activities of each layer that is dropped in training.
        slope: of the ReLU below 0.
        matching: beside the loss, matches activities with labels (tier T2); sized for every block.
        head: private layers below the goodness of every block, discarded upward; no
            :class:`~ff_lightning.networks.AveragedHead`, since shortcuts join what the next block reads.
        handed_up: see :class:`~ff_lightning.stacks.BlockStack`.

    Raises:
        InputError: sizes that make no sense or do not fit each other, or a head that does not fit.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (3, 32, 32),
        width: int = 100,
        *,
        stages: int = 4,
        layers_per_stage: int = 4,
        num_classes: int = 10,
        goodness: Goodness | None = None,
        loss: CandidateLoss | None = None,
        norm: nn.Module | None = None,
        dropout: float = 0.2,
        slope: float = 0.0,
        matching: SimilarityMatching | None = None,
        head: Head | None = None,
        handed_up: HandedUp = "before_update",
    ) -> None:
        check_resnet(image_shape, width, stages, layers_per_stage, num_classes, dropout, slope)
        check_head(head)
        goodness = ChannelGroups(num_classes, MeanActivity()) if goodness is None else as_goodness(goodness)
        classes_of(goodness, num_classes)
        layers: list[nn.Module] = []
        shapes: list[tuple[int, ...]] = []
        joints: list[Joint] = []
        channels, side = image_shape[0], tuple(image_shape[1:])
        for index in range((last := stages * layers_per_stage) + 1):
            stage, inside = divmod(max(index - 1, 0), layers_per_stage)
            wide = width * 2**stage
            stride = 2 if stage > 0 and inside == 0 else 1
            side = tuple(pixels // stride for pixels in side)
            joint = Joint.ADD if index and index % 2 == 0 else Joint.WAIT
            if 0 < index < last and index % layers_per_stage == 0:
                joint = Joint.CONCAT
            layers.append(StridedReLU(channels, wide, stride=stride, dropout=dropout, slope=slope))
            shapes.append((wide, *side))
            joints.append(joint)
            channels = 2 * wide if joint is Joint.CONCAT else wide
        layers[0] = nn.Sequential(StandardImage(image_shape), layers[0])
        parts = ClassParts(goodness, loss or Softmax(), norm or GroupStandard(num_classes), matching, head)
        blocks = [
            ResidualBlock(
                block.layer,
                block.goodness,
                block.loss,
                norm=block.norm,
                matching=block.matching,
                joint=joint,
                starts=index % 2 == 0,
                halves=joint is Joint.CONCAT,
            )
            for index, (block, joint) in enumerate(zip(parts.blocks(layers, shapes), joints, strict=True))
        ]
        super().__init__(blocks, handed_up=handed_up)
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self.out_features = torch.Size((channels, *side)).numel()

    def forward(self, x: Tensor | Labelled) -> Tensor:
        """What the last block passes on, with the gradient of the whole chain (for a twin)."""
        carried: Any = x
        for block in self:
            carried = block.pass_on(carried, block(carried))
        last: Tensor = carried.x
        return last


def check_head(head: Head | None) -> None:
    """Check that a :class:`ResNet` can have a head.

    Raises:
        InputError: it copies the next block's layer, which reads more than what the block below makes.
    """
    if isinstance(head, AveragedHead):
        raise InputError(
            f"Passed `head={type(head).__name__}` to a `ResNet`. It judges a block by the next block's layer, which "
            "reads the activities joined with a shortcut here: use `PrivateHead()`, or leave `head` out."
        )


def check_resnet(
    image_shape: Sequence[int],
    width: int,
    stages: int,
    layers_per_stage: int,
    num_classes: int,
    dropout: float,
    slope: float,
) -> None:
    """Check the arguments of :class:`ResNet`.

    Raises:
        InputError: names the one that makes no sense.
    """
    check_image_shape(image_shape)
    if whole("width", width, least=1) % whole("num_classes", num_classes, least=2):
        raise InputError(f"Passed `width={width}` with `num_classes={num_classes}`. It must be a multiple of them.")
    if whole("stages", stages, least=1) and whole("layers_per_stage", layers_per_stage, least=2) % 2:
        raise InputError(
            f"Passed `stages={stages}, layers_per_stage={layers_per_stage}`. Needed: one stage or more, each of an "
            "even number of layers."
        )
    if any(side % 2 ** (stages - 1) for side in image_shape[1:]):
        raise InputError(
            f"Passed `stages={stages}` with images of {image_shape[1]} x {image_shape[2]} pixels. Each stage but the "
            f"first halves them, so both sides must be multiples of {2 ** (stages - 1)}."
        )
    share("dropout", dropout)
    share("slope", slope)
