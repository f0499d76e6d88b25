"""Batches of spectrograms made of recordings in memory: no workers, and an epoch can be resumed at any batch."""

from typing import NamedTuple

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


class SoundLoader(OrderedLoader[tuple[Tensor, Tensor]]):
    """Spectrograms in their order, each seen once and by exactly one rank, for evaluation.

    Args:
        sounds: The recordings.
        features: Makes spectrograms of them.
        batch_size: Largest number of recordings in a batch of one rank; see `MemoryLoader`.
        rank: Which share to give, 0 to world_size - 1.
        world_size: Number of shares.

    Shape:
        Batches are (x, y): (B, 1, bands, frames) float32 and (B,) int64.

    Raises:
        InputError: There are fewer recordings than ranks.
    """

    rows = "recordings"

    def __init__(
        self, sounds: Sounds, features: LogMel, *, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(len(sounds.labels), batch_size=batch_size, rank=rank, world_size=world_size)
        self.sounds = sounds
        self.features = features

    def _take(self, rows: slice) -> tuple[Tensor, Tensor]:
        return self.features(self.sounds.scaled(rows), self.sounds.rate), self.sounds.labels[rows]


class ShuffledSoundLoader(PermutedLoader[tuple[Tensor, Tensor]]):
    """Shuffled spectrograms of augmented recordings for training, the same for any number of ranks.

    Order and augmentation depend on (seed, epoch, batch) alone; see `PermutedLoader`.

    Args:
        sounds: The recordings.
        features: Makes spectrograms of them.
        batch_size: Number of recordings in a batch of one rank.
        augment: Changes recordings and spectrograms; None for no augmentation.
        seed: Seed of order and augmentation.
        limit_batches: See `ShuffledLoader`.
        rank: Which share to give, 0 to world_size - 1.
        world_size: Number of shares.

    Shape:
        Batches are (x, y): (B, 1, bands, frames) float32 and (B,) int64.

    Raises:
        InputError: There are fewer recordings than ranks.
    """

    rows = "recordings"

    def __init__(
        self,
        sounds: Sounds,
        features: LogMel,
        *,
        batch_size: int,
        augment: SoundAugment | None = None,
        seed: int = 0,
        limit_batches: int | float = 1.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            len(sounds.labels),
            batch_size=batch_size,
            seed=seed,
            limit_batches=limit_batches,
            rank=rank,
            world_size=world_size,
        )
        self.sounds = sounds
        self.features = features
        self.augment = augment

    def _take(self, everyone: Tensor, mine: slice, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        rows, rate = everyone[mine], self.sounds.rate
        waves = self.sounds.scaled(rows)
        if self.augment is None:
            return self.features(waves, rate), self.sounds.labels[rows]
        generator, samples = seeded(self.seed, epoch, batch), waves.shape[1]
        uniform = torch.rand(len(everyone), self.augment.numbers, generator=generator)[mine]
        noise = torch.randn(len(everyone) if self.augment.noise else 0, samples, generator=generator)[mine]
        x = self.features(self.augment.waves(waves, uniform, noise, rate), rate)
        return self.augment.spectrograms(x, uniform, samples / rate), self.sounds.labels[rows]
