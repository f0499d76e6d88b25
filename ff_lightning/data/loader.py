"""Batches of images cut from tensors in memory or decoded as they are needed; an epoch goes on at any batch."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ff_lightning.data.augment import Distort
from ff_lightning.data.order import OrderedLoader, PermutedLoader, balanced_order, seeded
from ff_lightning.errors import InputError

Rows = Tensor | slice


class ImageSet(Protocol):
    """Images of one split, in memory or not."""

    @property
    def labels(self) -> Tensor | None:
        """(N,) int64; None for images without classes."""

    @property
    def threads(self) -> int:
        """How many threads are of use to get images; 0 where they lie in memory."""

    def __len__(self) -> int:
        """Number of images."""

    def take(self, rows: Tensor) -> "ImageSet":
        """The images of some rows, (M,) int64, in their order."""

    def pixels_of(self, rows: Rows) -> Tensor:
        """Pixels of some rows, (M, C, H, W), uint8 or float32."""

    def scaled(self, pixels: Tensor) -> Tensor:
        """Bring pixels of the split to float32, in [0, 1] if they are uint8."""


class Images:
    """Decoded images of one split, or rows of numbers.

    Attributes:
        pixels: (N, C, H, W) uint8, or (N, …) float32, which stays as it is.
        labels: (N,) int64; None for images without classes.
        peak: The pixel value that becomes 1.0, if they are uint8.
    """

    threads = 0

    def __init__(self, pixels: Tensor, labels: Tensor | None, peak: int = 255) -> None:
        self.pixels = pixels
        self.labels = labels
        self.peak = peak

    def __len__(self) -> int:
        """Count the images."""
        return len(self.pixels)

    def take(self, rows: Tensor) -> "Images":
        """Copy the given rows, (M,) int64, in their order."""
        return Images(self.pixels[rows], None if self.labels is None else self.labels[rows], self.peak)

    def pixels_of(self, rows: Rows) -> Tensor:
        """Return pixels of some rows."""
        return self.pixels[rows]

    def scaled(self, pixels: Tensor) -> Tensor:
        """Bring pixels of the split to float32, in [0, 1] if they are uint8."""
        return pixels.float() if pixels.is_floating_point() else pixels.float().div_(self.peak)


class PicturesOnDisk:
    """Pictures of one split that are decoded when they are needed.

    Args:
        decode: Gives the pixels of some rows of the split, (M, C, H, W) uint8.
        rows: (N,) int64, rows of the split.
        labels: (N,) int64, classes of these; None for pictures without classes.
        threads: Threads that decode.
    """

    def __init__(self, decode: Callable[[Tensor], Tensor], rows: Tensor, labels: Tensor | None, threads: int) -> None:
        self.decode = decode
        self.rows = rows
        self.labels = labels
        self.threads = threads

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.rows)

    def take(self, rows: Tensor) -> "PicturesOnDisk":
        """Choose the given rows, (M,) int64, in their order."""
        labels = None if self.labels is None else self.labels[rows]
        return PicturesOnDisk(self.decode, self.rows[rows], labels, self.threads)

    def pixels_of(self, rows: Rows) -> Tensor:
        """Decode the pictures of some rows."""
        return self.decode(self.rows[rows])

    def scaled(self, pixels: Tensor) -> Tensor:
        """Bring pixels, uint8, to float32 in [0, 1]."""
        return pixels.float().div_(255)


class MemoryLoader(OrderedLoader[Any]):
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
        Batches are (x, y): (B, C, H, W) float32 in [0, 1] and (B,) int64; or x alone, of images without classes.

    Raises:
        InputError: There are fewer images than ranks.
    """

    rows = "images"

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(images), batch_size=batch_size, rank=rank, world_size=world_size)
        self.images = images
        self.workers = images.threads

    def _take(self, rows: slice) -> Any:
        x = self.images.scaled(self.images.pixels_of(rows))
        return x if self.images.labels is None else (x, self.images.labels[rows])


class ShuffledLoader(PermutedLoader[Any]):
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
        distort: What is done to images in [0, 1] after that; None for nothing.
        transform: Any callable on the images of a batch of one rank, (B, C, H, W) float32, which comes last. What it
            draws from torch's default generator depends on (seed, epoch, batch, rank).
        balance: Draw every class equally often, instead of every image once.
        limit_batches: Where the trainer ends an epoch, as in its `limit_train_batches`: a share of
            the batches (a float) or their number (an int). It decides whether an epoch was over
            when a state was taken.
        rank: Which share to give, 0 to world_size - 1.
        world_size: Number of shares.

    Shape:
        Batches are (x, y): (B, C, H, W) float32 in [0, 1] and (B,) int64; or x alone, of images without classes.

    Raises:
        InputError: There are fewer images than ranks, or they have no classes that could be balanced.
    """

    rows = "images"

    def __init__(
        self,
        images: ImageSet,
        *,
        batch_size: int,
        seed: int = 0,
        augment: Callable[[Tensor, Tensor], Tensor] | None = None,
        distort: Distort | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        balance: bool = False,
        limit_batches: int | float = 1.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            len(images),
            batch_size=batch_size,
            seed=seed,
            limit_batches=limit_batches,
            rank=rank,
            world_size=world_size,
        )
        if balance and images.labels is None:
            raise InputError("Passed `balance=True` for images without classes.")
        self.images = images
        self.augment = augment
        self.distort = distort
        self.transform = transform
        self.balance = balance
        self.workers = images.threads

    def _order(self, generator: torch.Generator) -> Tensor:
        if self.balance and self.images.labels is not None:
            return balanced_order(self.images.labels, generator)
        return super()._order(generator)

    def _rest(self, epoch: int, first: int) -> Any:
        for batch, content in enumerate(super()._rest(epoch, first), first):
            yield content if self.transform is None else self._transformed(content, epoch, batch)

    def _take(self, everyone: Tensor, mine: slice, epoch: int, batch: int) -> Any:
        pixels = self.images.pixels_of(everyone[mine])
        if self.augment is not None:
            noise = torch.rand(len(everyone), 3, generator=seeded(self.seed, epoch, batch))
            pixels = self.augment(pixels, noise[mine])
        x = self.images.scaled(pixels)
        if self.distort is not None:
            x = self._distorted(self.distort, x, everyone, mine, seeded(self.seed, epoch, batch, 1))
        return x if self.images.labels is None else (x, self.images.labels[everyone[mine]])

    def _distorted(
        self, distort: Distort, x: Tensor, everyone: Tensor, mine: slice, generator: torch.Generator
    ) -> Tensor:
        noise = torch.rand(len(everyone), distort.draws, generator=generator)
        others = None
        if distort.mix:  # with images of all ranks, so that their number changes nothing
            partners = everyone[torch.randperm(len(everyone), generator=generator)]
            others = self.images.scaled(self.images.pixels_of(partners[mine]))
        return distort(x, noise[mine], others)

    def _transformed(self, content: Any, epoch: int, batch: int) -> Any:
        """Apply the transform in the consuming thread: torch has one default generator for all."""
        assert self.transform is not None
        x = content if isinstance(content, Tensor) else content[0]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seeded(self.seed, epoch, batch, self.rank, 2).initial_seed())
            changed = self.transform(x)
        if not isinstance(changed, Tensor) or changed.shape != x.shape or not changed.is_floating_point():
            got = f"{changed.dtype} {tuple(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
            raise InputError(
                f"Passed a `transform` that turns images {x.dtype} {tuple(x.shape)} into {got}. It must return a float "
                "tensor of the same shape."
            )
        return changed if isinstance(content, Tensor) else (changed, content[1])
