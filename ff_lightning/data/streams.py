"""Running recordings: words strung together with noise between, and which word ends at which frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from ff_lightning.data.order import seeded
from ff_lightning.data.sound_augment import SoundAugment, moved
from ff_lightning.data.sound_loader import Sounds
from ff_lightning.data.spectrograms import LogMel
from ff_lightning.errors import InputError
from ff_lightning.signals import UNJUDGED

BEFORE, AFTER = 0.08, 0.12
"""Seconds around the end of a word in which it is to be known."""


class Word(NamedTuple):
    """A word in a running recording: its class, and where it begins and ends, in samples."""

    label: int
    start: int
    stop: int


class Stream(NamedTuple):
    """A running recording.

    Attributes:
        wave: (samples,) float32.
        words: In the order in which they are spoken.
    """

    wave: Tensor
    words: list[Word]


@dataclass(frozen=True)
class Strung:
    """How words are strung together.

    Args:
        gap: shortest and longest silence between words, in seconds.
        noise: lowest and highest signal-to-noise ratio of a recording, in decibels; half of the recordings have white
            noise, half noise that falls with the frequency.
        loudness: the words of a recording differ in loudness by up to so many decibels.

    Raises:
        InputError: numbers that make no sense.
    """

    gap: tuple[float, float] = (0.2, 1.5)
    noise: tuple[float, float] = (5.0, 30.0)
    loudness: float = 6.0

    def __post_init__(self) -> None:
        if not 0 <= self.gap[0] <= self.gap[1] or not self.noise[0] <= self.noise[1] or self.loudness < 0:
            raise InputError(
                f"Passed `Strung(gap={self.gap}, noise={self.noise}, loudness={self.loudness})`. `gap` and `noise` are "
                "a lowest and a highest number, `gap` and `loudness` at least 0."
            )

    def string(
        self, sounds: Sounds, rows: list[int], samples: int | None, generator: torch.Generator, speed: float = 0.0
    ) -> Stream:
        """String recordings together.

        Args:
            sounds: The recordings.
            rows: Which of them, in their order.
            samples: Length; what does not fit is left out. None for as long as it takes.
            generator: Source of randomness.
            speed: Play every word faster or slower by up to this share.
        """
        uniform = torch.rand(len(rows) + 1, 3, generator=generator)
        at, pieces, words = 0, [], []
        for row, (pause, loudness, faster) in zip(rows, uniform[:-1].tolist(), strict=True):
            wave = sounds.scaled(slice(row, row + 1))
            if speed:
                wave = moved(wave, torch.tensor([1 + speed * (2 * faster - 1)]), torch.zeros(1))
            wave = wave[0]
            sounding = wave.nonzero()
            if not len(sounding):
                continue
            word = wave[int(sounding[0]) : int(sounding[-1]) + 1]
            silence = round(sounds.rate * (self.gap[0] + (self.gap[1] - self.gap[0]) * pause))
            if samples is not None and at + silence + len(word) > samples:
                break
            pieces += [torch.zeros(silence), word * 10 ** (-loudness * self.loudness / 20)]
            words.append(Word(int(sounds.labels[row]), at + silence, at + silence + len(word)))
            at += silence + len(word)
        rest = round(sounds.rate * self.gap[1]) if samples is None else samples - at
        wave = torch.cat([*pieces, torch.zeros(rest)])
        return Stream(self._noisy(wave, uniform[-1], generator), words)

    def _noisy(self, wave: Tensor, uniform: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(wave), generator=generator)
        if uniform[0] < 0.5:  # a spectrum that falls with the frequency, of power 1 again
            spectrum = torch.fft.rfft(noise)
            spectrum /= torch.arange(1, len(spectrum) + 1).sqrt()
            noise = torch.fft.irfft(spectrum, len(wave))
            noise /= noise.square().mean().sqrt()
        power = wave.square().sum() / (wave != 0).sum().clamp(min=1)
        decibels = self.noise[0] + (self.noise[1] - self.noise[0]) * uniform[1]
        return wave + noise * (power * 10 ** (-decibels / 10)).sqrt()


def joined(streams: Sequence[Stream]) -> Stream:
    """One running recording that has others one after the other."""
    starts = accumulate((len(stream.wave) for stream in streams), initial=0)
    words = [
        Word(word.label, start + word.start, start + word.stop)
        for start, stream in zip(starts, streams, strict=False)
        for word in stream.words
    ]
    return Stream(torch.cat([stream.wave for stream in streams]), words)


def frame_labels(words: list[Word], frames: int, step: int, rate: int, no_word: int) -> Tensor:
    """What is to be known at every frame of a running recording.

    Args:
        words: Those in it.
        frames: ``T``.
        step: Samples from a frame to the next.
        rate: Samples a second.
        no_word: The class of frames without a word.

    Returns:
        (T,) int64: around the end of a word its class; `UNJUDGED` in the rest of it and a little behind; else
        ``no_word``.
    """
    labels = torch.full((frames,), no_word)
    ends = (torch.arange(frames) + 1) * step
    before, after = round(BEFORE * rate), round(AFTER * rate)
    for word in words:
        labels[(ends > word.start) & (ends <= word.stop + 2 * after)] = UNJUDGED
    for word in words:
        labels[(ends > word.stop - before) & (ends <= word.stop + after)] = word.label
    return labels


@dataclass(frozen=True, eq=False)
class TrainingStreams:
    """Short running recordings for training: each has a word of the epoch's order and others drawn at random.

    Args:
        sounds: The words.
        features: Makes spectrograms.
        strung: How they are strung together.
        samples: Length of a recording.
        no_word: The class of frames without a word.
        augment: Changes words (their speed) and spectrograms.

    Shape:
        Batches are (x, y): (B, 1, bands, T) float32 and (B, T) int64.
    """

    sounds: Sounds
    features: LogMel
    strung: Strung
    samples: int
    no_word: int
    augment: SoundAugment

    def __len__(self) -> int:
        """Number of words."""
        return len(self.sounds.labels)

    def drawn(self, everyone: Tensor, mine: slice, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Make the share of one rank of a batch of recordings, each with a word of its own."""
        places = range(len(everyone))[mine]
        streams = [self._stream(int(everyone[place]), seeded(*key, place)) for place in places]
        rate, step = self.sounds.rate, self.features.step(self.sounds.rate)
        x = self.features(torch.stack([stream.wave for stream in streams]), rate)
        uniform = torch.rand(len(everyone), self.augment.numbers, generator=seeded(*key))[mine]
        x = self.augment.spectrograms(x, uniform, self.samples / rate)
        y = [frame_labels(stream.words, x.shape[3], step, rate, self.no_word) for stream in streams]
        return x, torch.stack(y)

    def _stream(self, row: int, generator: torch.Generator) -> Stream:
        shortest = self.strung.gap[0] + 0.25  # of a word and the silence before it, in seconds
        others = int(self.samples / self.sounds.rate / shortest)
        drawn = torch.randint(len(self), (others,), generator=generator).tolist()
        return self.strung.string(self.sounds, [row, *drawn], self.samples, generator, self.augment.speed)


@dataclass(frozen=True, eq=False)
class EvaluationStreams:
    """Long running recordings, each word in exactly one of them, the same whenever they are asked for.

    Args:
        sounds: The words.
        features: Makes spectrograms.
        strung: How they are strung together.
        words: Words in a recording, about.
        no_word: The class of frames without a word.
        seed: Seed of everything random.

    Shape:
        A batch is one recording, (x, y, words): (1, 1, bands, T) float32; (1, T) int64; and (W, 2) int64, class and
        frame of the end of every word. Where the share of a rank is several, they follow each other in it.
    """

    sounds: Sounds
    features: LogMel
    strung: Strung
    words: int
    no_word: int
    seed: int = 0

    def __len__(self) -> int:
        """Number of running recordings."""
        return max(1, len(self.sounds.labels) // self.words)

    def stream(self, index: int) -> Stream:
        """One of the recordings."""
        order = torch.randperm(len(self.sounds.labels), generator=seeded(self.seed, 0)).tensor_split(len(self))
        return self.strung.string(self.sounds, order[index].tolist(), None, seeded(self.seed, 1, index))

    def batch(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Make a batch of one recording; of several, one that goes on from each to the next."""
        stream, rate = joined([self.stream(row) for row in range(rows.start, rows.stop)]), self.sounds.rate
        step = self.features.step(rate)
        x = self.features(stream.wave.unsqueeze(0), rate)
        y = frame_labels(stream.words, x.shape[3], step, rate, self.no_word).unsqueeze(0)
        return x, y, torch.tensor([[word.label, word.stop // step] for word in stream.words])
