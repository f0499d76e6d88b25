"""Batches of spectrograms made of recordings in memory: no workers, and an epoch can be resumed at any batch."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ff_lightning.data.order import OrderedLoader, PermutedLoader, seeded
from ff_lightning.data.sound_augment import SoundAugment
from ff_lightning.data.spectrograms import LogMel

PEAK = 32767
"""The largest amplitude in memory."""


class Sounds(NamedTuple):
    """Decoded recordings of one length.

    Attributes:
        waves: (N, samples) int16, the peak of each at 32,767.
        labels: (N,) int64.
        rate: Samples a second.
    """

    waves: Tensor
    labels: Tensor
    rate: int

    def scaled(self, rows: Tensor | slice) -> Tensor:
        """Amplitudes of some rows, float32 in [-1, 1]."""
        return self.waves[rows].float().div_(PEAK)


class Batches(Protocol):
    """Makes batches of the recordings of one split."""

    def __len__(self) -> int:
        """Number of recordings."""

    def batch(self, rows: slice) -> Any:
        """Make a batch of some recordings as they are."""


class TrainingBatches(Protocol):
    """Makes batches of recordings that are changed at random."""

    def __len__(self) -> int:
        """Number of recordings."""

    def drawn(self, everyone: Tensor, mine: slice, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Make the share of one rank, `everyone[mine]`, of the batch of all ranks; the key seeds what is random."""


@dataclass(frozen=True, eq=False)
class SingleSounds:
    """Spectrograms of recordings, one each.

    Args:
        sounds: The recordings.
        features: Makes spectrograms of them.
        augment: Changes recordings and spectrograms in training; None for no change.

    Shape:
        Batches are (x, y): (B, 1, bands, frames) float32 and (B,) int64.
    """

    sounds: Sounds
    features: LogMel
    augment: SoundAugment | None = None

    def __len__(self) -> int:
        """Number of recordings."""
        return len(self.sounds.labels)

    def batch(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Make a batch of some recordings as they are."""
        return self.features(self.sounds.scaled(rows), self.sounds.rate), self.sounds.labels[rows]

    def drawn(self, everyone: Tensor, mine: slice, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Make the share of one rank of a batch of recordings that are changed at random."""
        rows, rate = everyone[mine], self.sounds.rate
        if self.augment is None:
            return self.batch(rows)
        waves, generator = self.sounds.scaled(rows), seeded(*key)
        uniform = torch.rand(len(everyone), self.augment.numbers, generator=generator)[mine]
        noise = torch.randn(len(everyone) if self.augment.noise else 0, waves.shape[1], generator=generator)[mine]
        x = self.features(self.augment.waves(waves, uniform, noise, rate), rate)
        return self.augment.spectrograms(x, uniform, waves.shape[1] / rate), self.sounds.labels[rows]


class SoundLoader(OrderedLoader[Any]):
    """Recordings in their order, each seen once and by exactly one rank, for evaluation.

    Args:
        make: Makes batches of them.
        batch_size: Largest number of recordings in a batch of one rank; see `MemoryLoader`.
        rank: Which share to give, 0 to world_size - 1.
        world_size: Number of shares.

    Raises:
        InputError: There are fewer recordings than ranks.
    """

    rows = "recordings"

    def __init__(self, make: Batches, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(len(make), batch_size=batch_size, rank=rank, world_size=world_size)
        self.make = make

    def _take(self, rows: slice) -> Any:
        return self.make.batch(rows)


class ShuffledSoundLoader(PermutedLoader[tuple[Tensor, Tensor]]):
    """Shuffled recordings for training, changed at random, the same for any number of ranks.

    What is random depends on (seed, epoch, batch) alone; see `PermutedLoader`.

    Args:
        make: Makes batches of them.
        batch_size: Number of recordings in a batch of one rank.
        seed: Seed of everything random.
        limit_batches: See `ShuffledLoader`.
        rank: Which share to give, 0 to world_size - 1.
        world_size: Number of shares.

    Raises:
        InputError: There are fewer recordings than ranks.
    """

    rows = "recordings"

    def __init__(
        self,
        make: TrainingBatches,
        *,
        batch_size: int,
        seed: int = 0,
        limit_batches: int | float = 1.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            len(make),
            batch_size=batch_size,
            seed=seed,
            limit_batches=limit_batches,
            rank=rank,
            world_size=world_size,
        )
        self.make = make

    def _take(self, everyone: Tensor, mine: slice, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        return self.make.drawn(everyone, mine, (self.seed, epoch, batch))
