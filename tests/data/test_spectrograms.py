"""Spectrograms: librosa's own, causal, and of the promised size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ff_lightning.data.spectrograms import LogMel, cosine_transform
from ff_lightning.errors import InputError
from tests.data.sounds import tone


def test_bands_are_librosas_filters_on_windows_that_end_with_their_frame() -> None:
    """NumPy's transform of every window by itself is the judge."""
    from librosa.filters import mel

    wave, features = tone(700.0, 0.5), LogMel(level=0.0, floor=200.0)
    filters, window = mel(sr=8000, n_fft=256, n_mels=40, fmin=60), 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    ours = features(torch.from_numpy(wave).unsqueeze(0), 8000)[0, 0].numpy()
    for frame in range(1, ours.shape[1]):
        stop = (frame + 1) * 128
        power = np.abs(np.fft.rfft(wave[stop - 256 : stop] * window)) ** 2
        theirs = np.clip(10 * np.log10(filters @ power + 1e-12) / 200 + 1, 0, 1)
        assert np.allclose(ours[:, frame], theirs, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"hop": 10.0, "window": 25.0}, {"coefficients": 13}])
def test_a_frame_reads_nothing_behind_it(options: dict[str, Any]) -> None:
    features = LogMel(level=20.0, floor=100.0, **options)
    wave = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    changed, frame = wave.clone(), 20
    changed[:, (frame + 1) * features.step(8000) :] = 0
    differs = (features(wave, 8000) - features(changed, 8000)).abs().amax((0, 1, 2)) > 0
    assert not differs[: frame + 1].any()
    assert differs[frame + 1 : frame + 3].any()


@pytest.mark.parametrize("samples", [128, 129, 1000, 8000])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_size_is_as_promised(samples: int, rate: int) -> None:
    features = LogMel(bands=20, hop=16.0)
    frames = features.frames(samples * rate // 8000, rate)
    assert features(torch.randn(2, samples * rate // 8000), rate).shape == (2, 1, 20, frames)


def test_loudness_does_not_matter_without_a_level() -> None:
    wave = torch.from_numpy(tone(500.0)).unsqueeze(0)
    features = LogMel()
    assert torch.allclose(features(wave, 8000), features(0.01 * wave, 8000), atol=1e-4)
    assert features(wave, 8000).amax() == 1
    assert torch.isfinite(features(0 * wave, 8000)).all()


def test_the_cosine_transform_is_orthonormal() -> None:
    matrix = cosine_transform(13)
    assert torch.allclose(matrix @ matrix.T, torch.eye(13), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"bands": 1}, {"floor": 0.0}, {"hop": 40.0}, {"hop": 0.0}, {"coefficients": 41}, {"coefficients": 0}],
)
def test_impossible_numbers_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        LogMel(**options)


def test_what_does_not_fit_the_rate_is_named() -> None:
    with pytest.raises(InputError, match="lowest"):
        LogMel(lowest=5000.0).step(8000)
    with pytest.raises(InputError, match="fewer bands"):
        LogMel(bands=200)(torch.randn(1, 8000), 8000)
    with pytest.raises(InputError, match=r"127 samples.*128 or more"):
        LogMel()(torch.randn(1, 127), 8000)
