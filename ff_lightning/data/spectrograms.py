"""Spectrograms of recordings: what a network of images reads of a sound."""

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ff_lightning.data.arguments import check_whole
from ff_lightning.data.recordings import audio_library
from ff_lightning.errors import InputError, positive


@dataclass(frozen=True)
class LogMel:
    """Log-mel spectrogram: the power in bands as the ear parts them, in decibels, every few milliseconds.

    Frame ``t`` reads nothing behind the first ``(t + 1) * hop``, so that what is causal over frames is causal in the
    recording. The bands are librosa's (Slaney's formula), the short-time Fourier transform is torch's.

    Args:
        bands: mel bands, the height of the spectrogram.
        window: length of the Hann window of a frame, in milliseconds.
        hop: from a frame to the next, in milliseconds.
        lowest: lower edge of the lowest band, in hertz; the highest band ends at half the rate.
        floor: what lies further below the loudest value, in decibels, counts as silence.
        level: the loudest value, in decibels: the same for all recordings, as a running recording needs it. ``None``
            for the loudest value of each recording.
        coefficients: so many mel-frequency cepstral coefficients (MFCC), an orthonormal cosine transform of the
            bands, in place of the bands; ``None`` for the bands.

    Raises:
        InputError: a number is out of range.
    """

    bands: int = 40
    window: float = 32.0
    hop: float = 16.0
    lowest: float = 60.0
    floor: float = 60.0
    level: float | None = None
    coefficients: int | None = None

    def __post_init__(self) -> None:
        check_whole(self, "bands", self.bands, least=2)
        positive("floor", self.floor)
        if not 0 < self.hop <= self.window < math.inf:
            raise InputError(
                f"Passed `LogMel(window={self.window}, hop={self.hop})`. `hop` must be above 0 and not above `window`."
            )
        if self.coefficients is not None:
            check_whole(self, "coefficients", self.coefficients, least=1)
            if self.coefficients > self.bands:
                raise InputError(
                    f"Passed `LogMel(coefficients={self.coefficients})`. It must be at most `bands={self.bands}`."
                )

    @property
    def height(self) -> int:
        """Rows of the spectrogram."""
        return self.bands if self.coefficients is None else self.coefficients

    def step(self, rate: int) -> int:
        """Samples from a frame to the next, at so many samples a second.

        Raises:
            InputError: not one, or the bands do not fit below half the rate.
        """
        step = round(rate * self.hop / 1000)
        if step < 1 or not 0 <= self.lowest < rate / 2:
            raise InputError(
                f"Passed `LogMel(hop={self.hop}, lowest={self.lowest})` with `rate={rate}`. A `hop` must last a sample "
                f"or longer, and `lowest` must be at least 0 and below {rate / 2:g}, half the rate."
            )
        return step

    def frames(self, samples: int, rate: int) -> int:
        """Columns of the spectrogram of so many samples."""
        return samples // self.step(rate)

    def __call__(self, waves: Tensor, rate: int) -> Tensor:
        """Spectrograms of recordings.

        Args:
            waves: ``(B, samples)`` float, at least a hop long.
            rate: samples a second.

        Returns:
            ``(B, 1, height, frames)`` float32: 0 for the floor and 1 for the loudest value, or cepstral coefficients
            of that.

        Raises:
            InputError: they are shorter than a hop, or see :meth:`step`.
        """
        step, width = self.step(rate), round(rate * self.window / 1000)
        if waves.shape[1] < step:
            raise InputError(
                f"Passed recordings of {waves.shape[1]} samples. A spectrogram with `hop={self.hop}` milliseconds at "
                f"{rate} samples a second needs {step} or more."
            )
        points = 2 ** math.ceil(math.log2(width))
        filters = mel_filters(rate, points, self.bands, self.lowest)
        # The window of `width` lies in the middle of `points`: after this padding it ends where the frame does.
        padded = F.pad(waves, (width - step + (points - width) // 2, points - width - (points - width) // 2))
        spectrum = torch.stft(padded, points, step, width, torch.hann_window(width), center=False, return_complex=True)
        decibels = 10 * torch.log10(filters @ spectrum.abs().square() + 1e-12)
        loudest = decibels.amax((1, 2), keepdim=True) if self.level is None else self.level
        x = ((decibels - loudest) / self.floor + 1).clamp(0, 1)
        if self.coefficients is not None:
            x = cosine_transform(self.bands)[: self.coefficients] @ x
        return x[..., : self.frames(waves.shape[1], rate)].unsqueeze(1)


@lru_cache(maxsize=8)
def mel_filters(rate: int, points: int, bands: int, lowest: float) -> Tensor:
    """Weights of the frequencies of a Fourier transform in every mel band, ``(bands, points // 2 + 1)``.

    Raises:
        InputError: the transform has too few frequencies for so many bands.
    """
    mel = audio_library("librosa.filters").mel
    with warnings.catch_warnings():  # of empty bands, which are refused below
        warnings.simplefilter("ignore", UserWarning)
        filters = torch.from_numpy(mel(sr=rate, n_fft=points, n_mels=bands, fmin=lowest))
    empty = int((filters.sum(1) == 0).sum())
    if empty:
        raise InputError(
            f"Passed `LogMel(bands={bands})`. At {rate} samples a second, {empty} of them lie between two frequencies "
            f"of a transform of {points} samples: use fewer bands or a longer `window`."
        )
    return filters


@lru_cache(maxsize=8)
def cosine_transform(size: int) -> Tensor:
    """Orthonormal cosine transform (DCT-II) as a matrix, ``(size, size)``."""
    rows, columns = torch.arange(size).unsqueeze(1), torch.arange(size)
    matrix = torch.cos(math.pi * rows * (2 * columns + 1) / (2 * size)) * math.sqrt(2 / size)
    matrix[0] *= math.sqrt(0.5)
    return matrix
