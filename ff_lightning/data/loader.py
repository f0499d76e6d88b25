"""Batches cut from tensors in memory: no workers, and an epoch can be resumed at any batch.

Lightning injects distributed samplers only into `torch.utils.data.DataLoader`, so these loaders cut
the share of their rank themselves.
"""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ff_lightning.errors import InputError


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


class MemoryLoader:
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

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        if self.size < world_size:
            raise InputError(
                f"A split of {self.size} images cannot be shared by {world_size} processes. Use fewer devices."
            )

    @property
    def size(self) -> int:
        """Number of images over all ranks."""
        return len(self.images.labels)

    @property
    def global_batch(self) -> int:
        """Number of images in a full batch over all ranks."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Count the batches, the same on every rank."""
        needed = -(-self.size // self.global_batch)
        return min(needed, self.size // self.world_size)  # so that no batch is empty

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the batches of this rank from the first to the last."""
        pieces = len(self) * self.world_size
        for piece in range(self.rank, pieces, self.world_size):
            rows = slice(piece * self.size // pieces, (piece + 1) * self.size // pieces)
            yield self._scaled(self.images.pixels[rows]), self.images.labels[rows]

    def _scaled(self, pixels: Tensor) -> Tensor:
        return pixels.float().div_(self.images.peak)


class ShuffledLoader(MemoryLoader):
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
        super().__init__(images, batch_size=batch_size, rank=rank, world_size=world_size)
        self.seed = seed
        self.augment = augment
        if isinstance(limit_batches, float):
            limit_batches = int(limit_batches * len(self))
        self.epoch_batches = min(limit_batches, len(self))
        self._epoch = 0
        self._given = 0  # batches given in this epoch
        self._started = False
        self._resuming = False

    def __len__(self) -> int:
        """Count the batches of a whole epoch, the same on every rank."""
        full, rest = divmod(self.size, self.global_batch)
        return full + (rest >= self.world_size)

    @property
    def sampler(self) -> "ShuffledLoader":
        """Itself, since Lightning calls `loader.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to begin with; without effect once begun or resumed.

        After a resume Lightning's own number can run ahead: it counts an epoch cut short by
        `max_steps`, and an empty one after a resume at an epoch's end under `max_steps`.
        """
        if not self._started:
            self._epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the batches of this rank that are still to come in the epoch."""
        # A generator, so this runs at the first `next`: Lightning calls `iter` more than once, and
        # before it has set the epoch.
        if self._resuming and self._given < self.epoch_batches:
            epoch, first = self._epoch, self._given
        else:
            epoch, first = self._epoch + self._started, 0
        self._resuming, self._started = False, True
        order = torch.randperm(self.size, generator=_seeded(self.seed, epoch))
        for batch in range(first, len(self)):
            self._epoch, self._given = epoch, batch + 1
            yield self._cut(order, epoch, batch)

    def state_dict(self) -> dict[str, Any]:
        """Return how far training has come, the same on every rank; a batch given is one used."""
        return {"epoch": self._epoch, "batches": self._given, "plan": self._plan()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next iteration go on where the state was taken.

        Args:
            state_dict: What `state_dict` returned, on any number of ranks.

        Raises:
            InputError: An epoch was under way with other images, another seed or another number of
                images in the batches of all ranks together.
        """
        if 0 < state_dict["batches"] < self.epoch_batches and state_dict["plan"] != self._plan():
            raise InputError(
                f"The checkpoint is from the middle of an epoch with {state_dict['plan']}, now it "
                f"is {self._plan()}. These must be the same to resume there."
            )
        self._epoch, self._given = state_dict["epoch"], state_dict["batches"]
        self._resuming = self._started = True

    def _plan(self) -> dict[str, int]:
        return {"images": self.size, "images a batch": self.global_batch, "seed": self.seed}

    def _cut(self, order: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        everyone = order[batch * self.global_batch : (batch + 1) * self.global_batch]
        share = len(everyone) // self.world_size
        mine = slice(self.rank * share, (self.rank + 1) * share)
        pixels = self.images.pixels[everyone[mine]]
        if self.augment is not None:
            noise = torch.rand(len(everyone), 3, generator=_seeded(self.seed, epoch, batch))
            pixels = self.augment(pixels, noise[mine])
        return self._scaled(pixels), self.images.labels[everyone[mine]]


def _seeded(*key: int) -> torch.Generator:
    """Return a generator whose stream depends on every number of the key."""
    digest = blake2b(repr(key).encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))
