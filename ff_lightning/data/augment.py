"""Augmentations of whole batches of images, as pure functions of images and uniform noise.

The noise comes from outside, one row an image, so that what happens to an image does not depend on
how many processes share the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ff_lightning.errors import InputError


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


def crop(images: Tensor, area: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Cut a part out of every image and bring it back to the size of the image.

    Args:
        images: (B, C, H, W) float.
        area: (B,) share of the image that is kept, in (0, 1]; height and width shrink alike.
        y: (B,) where the part lies, from 0 (top) to 1 (bottom).
        x: (B,) where it lies, from 0 (left) to 1 (right).

    Returns:
        (B, C, H, W), same dtype; values between pixels are interpolated.
    """
    side = area.sqrt()
    theta = torch.zeros(len(images), 2, 3, dtype=images.dtype, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, 0, 2] = (1 - side) * (2 * x - 1)
    theta[:, 1, 2] = (1 - side) * (2 * y - 1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Turn every image about its centre; what comes from outside it is zero.

    Args:
        images: (B, C, H, W) float.
        angle: (B,) in degrees, counterclockwise.

    Returns:
        (B, C, H, W), same dtype; values between pixels are interpolated.
    """
    height, width = images.shape[-2:]
    sine, cosine = torch.deg2rad(angle).sin().to(images.dtype), torch.deg2rad(angle).cos().to(images.dtype)
    theta = torch.zeros(len(images), 2, 3, dtype=images.dtype, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = cosine
    theta[:, 0, 1], theta[:, 1, 0] = -sine * height / width, sine * width / height
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def recolour(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of every image; 1 leaves each as it is.

    Args:
        images: (B, C, H, W) float in [0, 1].
        brightness: (B,) factor of all values.
        contrast: (B,) factor of the distance from the mean of an image.
        saturation: (B,) factor of the distance from grey; without effect on one channel.

    Returns:
        (B, C, H, W) float in [0, 1].
    """
    brightness, contrast, saturation = (each[:, None, None, None] for each in (brightness, contrast, saturation))
    images = images * brightness
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + contrast * (images - mean)
    grey = images.mean(1, keepdim=True)
    return (grey + saturation * (images - grey)).clamp(0, 1)


def cut_out(images: Tensor, y: Tensor, x: Tensor, *, side: int) -> Tensor:
    """Set a square of every image to zero (Cutout, DeVries and Taylor 2017, 1708.04552).

    Args:
        images: (B, C, H, W), any dtype.
        y: (B,) int64, row of the centre; the square may reach over the edge.
        x: (B,) int64, column of the centre.
        side: pixels.

    Returns:
        (B, C, H, W), same dtype.
    """
    height, width = images.shape[-2:]
    top, left = y[:, None] - side // 2, x[:, None] - side // 2
    rows, columns = torch.arange(height), torch.arange(width)
    in_rows = (rows >= top) & (rows < top + side)
    in_columns = (columns >= left) & (columns < left + side)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)


@dataclass(frozen=True)
class Distort:
    """Random rotation, crop, colour, mixing with another image, and cutout, in this order, independent for each image.

    Args:
        crop: Smallest share of the area that is cut out and enlarged again; 1 for no crop.
        colour: Brightness, contrast and saturation change by up to this share; 0 for no change.
        mix: Largest share of another image of the batch that is laid over, at most 0.5, since the label stays; 0 for
            none.
        cutout: Side of a square of zeros, in pixels; 0 for none.
        rotate: Largest angle by which an image is turned either way, in degrees, at most 180; 0 for none.

    Shape:
        images (B, C, H, W) float32 in [0, 1], noise (B, draws) uniform in [0, 1), others like images, to images.

    Raises:
        InputError: One of them is out of range.
    """

    crop: float = 1.0
    colour: float = 0.0
    mix: float = 0.0
    cutout: int = 0
    rotate: float = 0.0

    @property
    def draws(self) -> int:
        """Numbers that are drawn for an image: as many as ever where none is turned, so that old runs draw the same."""
        return 10 if self.rotate else 9

    def __post_init__(self) -> None:
        ranges = {"crop": (self.crop, 0 < self.crop <= 1, "above 0 and at most 1")}
        ranges["colour"] = (self.colour, 0 <= self.colour < 1, "at least 0 and below 1")
        ranges["mix"] = (self.mix, 0 <= self.mix <= 0.5, "at least 0 and at most 0.5")
        ranges["rotate"] = (self.rotate, 0 <= self.rotate <= 180, "at least 0 and at most 180 degrees")
        whole = isinstance(self.cutout, int) and not isinstance(self.cutout, bool)
        ranges["cutout"] = (self.cutout, whole and self.cutout >= 0, "a whole number of pixels, at least 0")
        for name, (value, fits, allowed) in ranges.items():
            if not fits:
                raise InputError(f"Passed `{name}={value}`. `{name}` must be {allowed}.")

    @property
    def changes(self) -> bool:
        """Whether anything is asked for."""
        return self != Distort()

    def __call__(self, images: Tensor, noise: Tensor, others: Tensor | None = None) -> Tensor:
        """Distort a batch; the same noise and others give the same images."""
        if self.rotate:
            images = rotate(images, self.rotate * (2 * noise[:, 9] - 1))
        if self.crop < 1:
            images = crop(images, 1 - (1 - self.crop) * noise[:, 0], noise[:, 1], noise[:, 2])
        if self.colour:
            images = recolour(images, *(1 + self.colour * (2 * noise[:, 3:6] - 1)).T)
        if self.mix and others is not None:
            images = images.lerp(others, (self.mix * noise[:, 6])[:, None, None, None])
        if self.cutout:
            y, x = (noise[:, 7:9] * torch.tensor(images.shape[-2:])).long().T
            images = cut_out(images, y, x, side=self.cutout)
        return images
