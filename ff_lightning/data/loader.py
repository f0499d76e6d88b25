"""Batches of images cut from tensors in memory: no workers, and an epoch can be resumed at any batch."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ff_lightning.data.order import OrderedLoader, PermutedLoader, seeded


class Images(NamedTuple):
    """Decoded images of one split.

    Attributes:
        pixels: (N, C, H, W) uint8.
        labels: (N,) int64.
        peak: The pixel value that becomes 1.0.
    """

    pixels: Tensor
    labels: Tensor
    peak: int = 255

    def take(self, rows: Tensor) -> "Images":
        """Copy the given rows, (M,) int64, in their order."""
        return Images(self.pixels[rows], self.labels[rows], self.peak)

    def scaled(self, pixels: Tensor) -> Tensor:
        """Bring pixels of the split, uint8, to float32 in [0, 1]."""
        return pixels.float().div_(self.peak)


class MemoryLoader(OrderedLoader[tuple[Tensor, Tensor]]):
    """Images in their order, each seen once and by exactly one rank, for evaluation.

    Nothing is repeated or dropped. All ranks have equally many batches, whose sizes differ by at
    most one image, so `batch_size` is the largest size, not that of each batch. (Over several
    ranks, with `batch_size=1` or fewer than two images a rank, a batch can hold one more.)

    Args:
        images: The split.
        batch_size: Largest number of images in a batch of one rank.
        rank: Which share to give, 0 to world_size - 1.
        world_size: Number of shares.

    Shape:
        Batches are (x, y): (B, C, H, W) float32 in [0, 1] and (B,) int64.

    Raises:
        InputError: There are fewer images than ranks.
    """

    rows = "images"

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(images.labels), batch_size=batch_size, rank=rank, world_size=world_size)
        self.images = images

    def _take(self, rows: slice) -> tuple[Tensor, Tensor]:
        return self.images.scaled(self.images.pixels[rows]), self.images.labels[rows]


class ShuffledLoader(PermutedLoader[tuple[Tensor, Tensor]]):
    """Shuffled and augmented batches for training, the same for any number of ranks.

    Batch i of all ranks together is `order[i * B * W : (i + 1) * B * W]` and rank r takes its r-th
    slice. The last batch is split evenly too, which drops at most W - 1 images of an epoch. Order
    and augmentation depend on (seed, epoch, batch) alone.

    Every iteration is the next epoch, except that the first one after `load_state_dict` finishes
    the epoch that was interrupted.

    Args:
        images: The split.
        batch_size: Number of images in a batch of one rank.
        seed: Seed of order and augmentation.
        augment: From (B, C, H, W) uint8 and noise (B, 3) uniform in [0, 1) to (B, C, H, W) uint8;
            None for no augmentation.
        limit_batches: Where the trainer ends an epoch, as in its `limit_train_batches`: a share of
            the batches (a float) or their number (an int). It decides whether an epoch was over
            when a state was taken.
        rank: Which share to give, 0 to world_size - 1.
        world_size: Number of shares.

    Shape:
        Batches are (x, y): (B, C, H, W) float32 in [0, 1] and (B,) int64.

    Raises:
        InputError: There are fewer images than ranks.
    """

    rows = "images"

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        seed: int = 0,
        augment: Callable[[Tensor, Tensor], Tensor] | None = None,
        limit_batches: int | float = 1.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            len(images.labels),
            batch_size=batch_size,
            seed=seed,
            limit_batches=limit_batches,
            rank=rank,
            world_size=world_size,
        )
        self.images = images
        self.augment = augment

    def _take(self, everyone: Tensor, mine: slice, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        pixels = self.images.pixels[everyone[mine]]
        if self.augment is not None:
            noise = torch.rand(len(everyone), 3, generator=seeded(self.seed, epoch, batch))
            pixels = self.augment(pixels, noise[mine])
        return self.images.scaled(pixels), self.images.labels[everyone[mine]]
