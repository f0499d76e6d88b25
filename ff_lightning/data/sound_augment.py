"""Augmentations of whole batches of recordings and spectrograms, as pure functions of them and of uniform noise.

The noise comes from outside, one row a recording, so that what happens to a recording does not depend on how many
processes share the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ff_lightning.data.arguments import check_whole
from ff_lightning.errors import InputError

KNOTS = 4
"""Bands whose change of loudness is drawn; it is interpolated between them."""


def moved(waves: Tensor, speed: Tensor, shift: Tensor) -> Tensor:
    """Play every recording faster or slower around its middle, and later or earlier.

    Faster is higher, too, as on a turntable. Between samples the amplitude is interpolated linearly.

    Args:
        waves: (B, samples) float32.
        speed: (B,) float32, above 0; 2 is twice as fast.
        shift: (B,) float32, samples that it comes later.

    Returns:
        (B, samples) float32; what lies outside of the recording is silent.
    """
    samples = waves.shape[1]
    middle = (samples - 1) / 2
    padded = F.pad(waves, (2, 2))
    at = (torch.arange(samples, device=waves.device) - middle - shift[:, None]) * speed[:, None] + (middle + 2)
    at.clamp_(0, samples + 2)
    below = at.long()
    share = at.sub_(below)
    return padded.gather(1, below).lerp_(padded.gather(1, below.add_(1)), share)


def with_noise(waves: Tensor, noise: Tensor, decibels: Tensor) -> Tensor:
    """Add noise at a signal-to-noise ratio.

    Args:
        waves: (B, samples) float32. What is exactly 0 counts as padding; the power of the rest is that of the signal.
        noise: (B, samples) float32, of power 1.
        decibels: (B,) float32, power of the signal over that of the noise.

    Returns:
        (B, samples) float32.
    """
    power = waves.square().sum(1) / (waves != 0).sum(1).clamp(min=1)
    return waves + noise * (power * 10 ** (-decibels / 10)).sqrt()[:, None]


def stretched(spectrograms: Tensor, factor: Tensor) -> Tensor:
    """Stretch the bands of every spectrogram from the lowest on, as a longer or shorter throat does (VTLP).

    Args:
        spectrograms: (B, 1, bands, frames) float32.
        factor: (B,) float32; with 0.9, band 9 comes to lie at band 10.

    Returns:
        (B, 1, bands, frames) float32; above the highest band its values go on.
    """
    bands = spectrograms.shape[2]
    at = (torch.arange(bands, device=factor.device) * factor[:, None]).clamp(max=bands - 1)
    low = at.floor().clamp(max=bands - 2)
    share = (at - low)[:, None, :, None]
    rows = low.long()[:, None, :, None].expand_as(spectrograms)
    return spectrograms.gather(2, rows) * (1 - share) + spectrograms.gather(2, rows + 1) * share


def masked(spectrograms: Tensor, axis: int, start: Tensor, width: Tensor) -> Tensor:
    """Put the mean of every spectrogram in place of a stripe of it (SpecAugment, arXiv 1904.08779).

    Args:
        spectrograms: (B, 1, bands, frames) float32.
        axis: 2 for bands, 3 for frames.
        start: (B,) uniform in [0, 1): where the stripe lies.
        width: (B,) int64, bands or frames of the stripe, at most all.

    Returns:
        (B, 1, bands, frames) float32.
    """
    side = spectrograms.shape[axis]
    first = (start * (side - width + 1)).long()[:, None]
    at = torch.arange(side, device=start.device)
    inside = (at >= first) & (at < first + width[:, None])
    inside = inside[:, None, :, None] if axis == 2 else inside[:, None, None, :]
    return torch.where(inside, spectrograms.mean((1, 2, 3), keepdim=True), spectrograms)


def coloured(spectrograms: Tensor, gains: Tensor) -> Tensor:
    """Make bands louder or quieter, as another microphone or room does (FilterAugment, arXiv 2110.03282).

    Args:
        spectrograms: (B, 1, bands, frames) float32, 0 for silence.
        gains: (B, knots) float32, at as many bands from the lowest to the highest, and on straight lines between them.

    Returns:
        (B, 1, bands, frames) float32, not below 0; silence stays silent.
    """
    by_band = F.interpolate(gains[:, None], spectrograms.shape[2], mode="linear", align_corners=True)
    return torch.where(spectrograms > 0, spectrograms + by_band[..., None], spectrograms).clamp_(min=0)


@dataclass(frozen=True)
class SoundAugment:
    """Random changes of recordings in training, independent for each; all off by default.

    Args:
        shift: come earlier or later by up to so many seconds.
        speed: play faster or slower by up to this share, which moves the pitch too.
        noise: lowest and highest signal-to-noise ratio of added white noise, in decibels; ``None`` for no noise.
        stretch: stretch the bands of the spectrogram by up to this share, as another throat does.
        colour: make bands louder or quieter by up to this share of the range of a spectrogram, smoothly from band to
            band, as another microphone does.
        band_mask: hide a stripe of up to so many bands.
        time_mask: hide a stripe of up to so many seconds.
        masks: stripes of either kind.

    Raises:
        InputError: a number is out of range.
    """

    shift: float = 0.0
    speed: float = 0.0
    noise: Sequence[float] | None = None
    stretch: float = 0.0
    colour: float = 0.0
    band_mask: int = 0
    time_mask: float = 0.0
    masks: int = 1

    def __post_init__(self) -> None:
        for name in ("shift", "speed", "stretch", "colour", "time_mask"):
            value, most = getattr(self, name), 1 if name in ("speed", "stretch", "colour") else float("inf")
            if not 0 <= value < most:
                raise InputError(f"Passed `SoundAugment({name}={value})`. `{name}` must be in [0, {most}).")
        check_whole(self, "band_mask", self.band_mask, least=0)
        check_whole(self, "masks", self.masks, least=1)
        if self.noise is not None and (len(self.noise) != 2 or not self.noise[0] <= self.noise[1] < float("inf")):
            raise InputError(
                f"Passed `SoundAugment(noise={list(self.noise)})`. It must be the lowest and the highest ratio, in "
                "decibels, such as [0, 30]."
            )

    @property
    def numbers(self) -> int:
        """How many numbers of uniform noise each recording needs."""
        return 4 + 4 * self.masks + (KNOTS if self.colour else 0)

    def waves(self, waves: Tensor, uniform: Tensor, noise: Tensor, rate: int) -> Tensor:
        """Change recordings.

        Args:
            waves: (B, samples) float32.
            uniform: (B, numbers) in [0, 1).
            noise: (B, samples) float32, normal.
            rate: samples a second.

        Returns:
            (B, samples) float32; the same noise gives the same.
        """
        signs = 2 * uniform - 1
        if self.speed or self.shift:
            waves = moved(waves, 1 + self.speed * signs[:, 0], self.shift * rate * signs[:, 1])
        if self.noise is not None:
            low, high = self.noise
            waves = with_noise(waves, noise, low + (high - low) * uniform[:, 2])
        return waves

    def spectrograms(self, x: Tensor, uniform: Tensor, seconds: float) -> Tensor:
        """Change spectrograms.

        Args:
            x: (B, 1, bands, frames) float32.
            uniform: (B, numbers) in [0, 1).
            seconds: length of the recordings.

        Returns:
            (B, 1, bands, frames) float32; the same noise gives the same.
        """
        if self.stretch:
            x = stretched(x, 1 + self.stretch * (2 * uniform[:, 3] - 1))
        if self.colour:
            x = coloured(x, self.colour * (2 * uniform[:, -KNOTS:] - 1))
        bands = min(self.band_mask, x.shape[2])
        frames = min(round(self.time_mask / seconds * x.shape[3]), x.shape[3])
        for four in torch.split(uniform[:, 4 : 4 + 4 * self.masks], 4, dim=1):
            for axis, most, (start, width) in ((2, bands, four[:, :2].unbind(1)), (3, frames, four[:, 2:].unbind(1))):
                if most:
                    x = masked(x, axis, start, (width * (most + 1)).long())
        return x
