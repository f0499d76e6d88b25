"""Augmentation: what is promised happens, and depends on nothing but the noise that is passed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ff_lightning.data.sound_augment import SoundAugment, coloured, masked, moved, stretched, with_noise
from ff_lightning.errors import InputError
from tests.data.sounds import tone

GENERATOR = torch.Generator().manual_seed(0)


def test_a_shift_moves_samples() -> None:
    waves = torch.randn(2, 100, generator=GENERATOR)
    later = moved(waves, torch.ones(2), torch.tensor([7.0, -7.0]))
    assert torch.allclose(later[0, 7:], waves[0, :-7], atol=1e-4)
    assert torch.allclose(later[1, :-7], waves[1, 7:], atol=1e-4)
    assert (later[0, :7] == 0).all()
    assert (later[1, -7:] == 0).all()


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_faster_is_higher_and_shorter(speed: float) -> None:
    wave = torch.zeros(8000)
    wave[2000:6000] = torch.from_numpy(tone(400.0, 0.5))
    faster = moved(wave.unsqueeze(0), torch.tensor([speed]), torch.zeros(1))[0]
    before, after = (torch.fft.rfft(one).abs().argmax() for one in (wave, faster))
    assert float(after / before) == pytest.approx(speed, rel=0.03)
    assert int((faster != 0).sum()) == pytest.approx(4000 / speed, rel=0.01)


@pytest.mark.parametrize("decibels", [0.0, 20.0])
def test_noise_has_its_ratio_to_what_sounds(decibels: float) -> None:
    wave = torch.zeros(1, 8000)
    wave[:, :4000] = torch.from_numpy(tone(400.0, 0.5))
    noisy = with_noise(wave, torch.randn(1, 8000, generator=GENERATOR), torch.tensor([decibels]))
    power = wave[:, :4000].square().mean() / (noisy - wave).square().mean()
    assert 10 * float(power.log10()) == pytest.approx(decibels, abs=0.3)
    assert torch.isfinite(with_noise(0 * wave, wave, torch.tensor([decibels]))).all()


def test_bands_are_stretched_from_the_lowest() -> None:
    x = torch.arange(40.0).view(1, 1, 40, 1).expand(2, 1, 40, 3)
    wide = stretched(x, torch.tensor([0.5, 1.0]))
    assert torch.allclose(wide[0, 0, :, 0], torch.arange(40.0) / 2)
    assert torch.equal(wide[1], x[1])
    assert stretched(x, torch.tensor([2.0, 1.0]))[0, 0, -1, 0] == 39


def test_colour_changes_loudness_smoothly_over_bands_and_keeps_silence_silent() -> None:
    x = torch.full((1, 1, 10, 3), 0.5)
    x[..., 2] = 0
    gain = coloured(x, torch.tensor([[-0.3, 0.3]])) - x
    assert torch.allclose(gain[0, 0, :, 0], torch.linspace(-0.3, 0.3, 10), atol=1e-6)
    assert torch.equal(gain[..., 0], gain[..., 1])
    assert (gain[..., 2] == 0).all()
    assert coloured(x, torch.tensor([[-0.9, -0.9]])).min() == 0


@pytest.mark.parametrize("axis", [2, 3])
def test_a_stripe_is_masked(axis: int) -> None:
    x = torch.randn(3, 1, 20, 30, generator=GENERATOR)
    changed = (masked(x, axis, torch.tensor([0.0, 0.5, 0.999]), torch.tensor([4, 0, x.shape[axis]])) != x)[:, 0]
    side = changed.any(2 if axis == 2 else 1)
    assert side.sum(1).tolist() == [4, 0, x.shape[axis]]
    assert side[0, :4].all()


def test_the_same_noise_gives_the_same_and_rows_are_independent() -> None:
    spectrum = {"stretch": 0.1, "colour": 0.1, "band_mask": 4, "time_mask": 0.1, "masks": 2}
    augment = SoundAugment(shift=0.1, speed=0.2, noise=[0, 10], **spectrum)
    waves, noise = torch.randn(4, 4000, generator=GENERATOR), torch.randn(4, 4000, generator=GENERATOR)
    uniform = torch.rand(4, augment.numbers, generator=GENERATOR)
    whole = augment.waves(waves, uniform, noise, 8000)
    assert torch.equal(whole, augment.waves(waves, uniform, noise, 8000))
    assert torch.allclose(whole[2:], augment.waves(waves[2:], uniform[2:], noise[2:], 8000))
    x = torch.rand(4, 1, 20, 30, generator=GENERATOR)
    assert torch.allclose(augment.spectrograms(x, uniform, 0.5)[2:], augment.spectrograms(x[2:], uniform[2:], 0.5))


def test_nothing_is_changed_by_default() -> None:
    augment, x = SoundAugment(), torch.rand(2, 1, 20, 30)
    assert torch.equal(augment.spectrograms(x, torch.rand(2, augment.numbers), 0.5), x)
    assert torch.equal(augment.waves(x[:, 0, 0], torch.rand(2, augment.numbers), x[:, 0, 0], 8000), x[:, 0, 0])


@pytest.mark.parametrize(
    "options",
    [
        {"shift": -1.0},
        {"colour": 1.0},
        {"speed": 1.0},
        {"noise": [3]},
        {"noise": [9, 0]},
        {"stretch": 1.5},
        {"masks": 0},
    ],
)
def test_impossible_numbers_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        SoundAugment(**options)
