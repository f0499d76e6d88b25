"""Augmentations of whole batches of uint8 images, as pure functions of images and uniform noise.

The noise comes from outside, one row an image, so that what happens to an image does not depend on
how many processes share the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def translate(images: Tensor, dy: Tensor, dx: Tensor, *, limit: int) -> Tensor:
    """Move every image by its own whole number of pixels and fill with zeros.

    Args:
        images: (B, C, H, W), any dtype.
        dy: (B,) int64, rows to move down, from -limit to limit.
        dx: (B,) int64, columns to move right, from -limit to limit.
        limit: The largest distance, at least 0.

    Returns:
        (B, C, H, W), same dtype.
    """
    height, width = images.shape[-2:]
    padded = functional.pad(images, (limit, limit, limit, limit))
    # a view (B, C, 2 limit + 1, 2 limit + 1, H, W) of all translations; only the chosen are copied
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images)), :, limit - dy, limit - dx]


def mirror(images: Tensor, chosen: Tensor) -> Tensor:
    """Flip the chosen images left to right.

    Args:
        images: (B, C, H, W), any dtype.
        chosen: (B,) bool.

    Returns:
        (B, C, H, W), same dtype.
    """
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class ShiftAndFlip:
    """Random translation with zero fill, then a random horizontal flip, independent for each image.

    Args:
        shift: Translate by -shift to shift pixels on either axis, all equally likely; 0 for none.
        flip: Flip half of the images.

    Shape:
        images (B, C, H, W) uint8 and noise (B, 3) uniform in [0, 1) to (B, C, H, W) uint8.
    """

    shift: int = 0
    flip: bool = False

    def __call__(self, images: Tensor, noise: Tensor) -> Tensor:
        """Augment a batch; the same noise gives the same images."""
        if self.shift:
            move = (noise[:, :2] * (2 * self.shift + 1)).long() - self.shift
            images = translate(images, move[:, 0], move[:, 1], limit=self.shift)
        return mirror(images, noise[:, 2] < 0.5) if self.flip else images
