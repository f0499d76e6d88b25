"""An idea for images: every block reads the image beside what the one below passes on.

    python recipes/benchmarks/conv.py --data cifar10_jpeg --parts ff --model.network conv_image.ImageBeside

It is to images what a table of its own is to a block that reads tokens. The image is pooled to the size of the map, and
joined as further channels. The same command without `--model.network` is what it is measured against.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.blocks import ClassBlock
from ff_lightning.networks import ConvNet
from ff_lightning.networks.conv import ConvReLU


class BlockWithImage(ClassBlock):
    """Passes on the image, too: the last channels of what it receives, and all of them in a first block."""

    channels = 3
    """Of the image."""

    def pass_on(self, x: Tensor, h: Tensor) -> Tensor:
        image = F.adaptive_avg_pool2d(x[:, -self.channels :], h.shape[-2:])
        return torch.cat([super().pass_on(x, h), image.to(h.dtype)], 1)


class ImageBeside(ConvNet):
    """A :class:`~ff_lightning.networks.ConvNet` whose blocks all read the image."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        blocks: list[Any] = list(self)
        self.blocks = nn.ModuleList(
            BlockWithImage(block.layer, block.goodness, block.loss, norm=block.norm, matching=block.matching)
            for block in blocks
        )
        for block in self:
            block.channels = self.image_shape[0]
        for block in blocks[1:]:
            layer = block.layer[0]
            side = layer.conv.kernel_size[0]
            wider = ConvReLU(layer.conv.in_channels + self.image_shape[0], layer.conv.out_channels, kernel_size=side)
            layer.conv = wider.conv
