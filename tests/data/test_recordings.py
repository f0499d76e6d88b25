"""Decoding: whatever a file holds, it becomes one channel at one rate, or is named in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ff_lightning.data.recordings import at_peak, audio_library, find_recordings, fitted, read_recording
from ff_lightning.errors import InputError
from tests.data.sounds import encoded, tone

WAVE = tone(440.0, 0.5)


@pytest.mark.parametrize(
    ("form", "depth", "close"),
    [
        ("WAV", "PCM_U8", 0.02),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "FLOAT", 1e-7),
        ("FLAC", "PCM_24", 1e-6),
        ("OGG", "VORBIS", 0.2),
        ("MP3", "MPEG_LAYER_III", 0.2),
    ],
)
def test_every_format_and_depth_is_read(form: str, depth: str, close: float) -> None:
    read = read_recording(encoded(WAVE, form=form, depth=depth), 8000, "it")
    assert read.dtype == torch.float32
    assert len(read) == pytest.approx(len(WAVE), rel=0.01)
    assert np.abs(read.numpy()[: len(WAVE)] - WAVE[: len(read)]).max() < close


@pytest.mark.parametrize("rate", [4000, 11025, 16000, 44100, 48000])
def test_other_rates_keep_length_and_pitch(rate: int) -> None:
    read = read_recording(encoded(tone(440.0, 1.0, rate), rate), 8000, "it")
    assert len(read) == pytest.approx(8000, abs=2)
    spectrum = torch.fft.rfft(read).abs()
    assert int(spectrum.argmax()) == pytest.approx(440, rel=0.11)  # the tone is up to a tenth off


def test_channels_are_mixed() -> None:
    stereo = np.stack([WAVE, -0.5 * WAVE], 1)
    assert torch.allclose(
        read_recording(encoded(stereo, depth="FLOAT"), 8000, "it"), torch.from_numpy(0.25 * WAVE), atol=1e-6
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Format not recognised"),
        (b"this is a text, whatever its name says", "Format not recognised"),
        (encoded(WAVE)[:3000], "ends before"),
        (encoded(WAVE, form="FLAC")[:1500], "Cannot read"),
        (encoded(WAVE, form="OGG", depth="VORBIS")[:100], "Cannot"),
        (encoded(tone(440.0, 2.0, 44100), 44100, "OGG", "VORBIS")[:-9], "ends before"),
        (encoded(tone(440.0, 2.0, 44100), 44100, "MP3", "MPEG_LAYER_III")[:-3000], "ends before"),
        (encoded(WAVE[:0]), "no samples"),
        (encoded(np.where(np.arange(len(WAVE)) == 7, np.nan, WAVE), depth="FLOAT"), "NaN"),
    ],
    ids=["empty", "text", "cut WAV", "cut FLAC", "cut OGG", "end of OGG cut", "cut MP3", "no samples", "NaN"],
)
def test_what_cannot_be_used_is_named_in_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "word.wav"
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_recording(file, 8000, str(file))
    assert said in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.wav"):
        read_recording(tmp_path / "none.wav", 8000, "none.wav")


def test_silence_stays_silent() -> None:
    silent = read_recording(encoded(0 * WAVE), 8000, "it")
    assert at_peak(silent).abs().max() == 0
    assert at_peak(torch.tensor([0.1, -0.2])).tolist() == pytest.approx([0.5, -1.0])


@pytest.mark.parametrize("length", [3, 4, 9, 10])
@pytest.mark.parametrize("samples", [3, 4, 9, 10])
def test_the_middle_is_kept(length: int, samples: int) -> None:
    wave = torch.arange(1, length + 1)
    kept = fitted(wave, samples)
    assert len(kept) == samples
    sounding = kept[kept > 0]
    assert len(sounding) == min(length, samples)
    assert abs(float(sounding.double().mean()) - (length + 1) / 2) <= 0.5
    assert torch.equal(sounding, torch.arange(int(sounding[0]), int(sounding[0]) + len(sounding)))


def test_recordings_are_found_below_a_folder(tmp_path: Path) -> None:
    for name in ("b.WAV", "more/a.ogg", ".hidden.wav", "note.txt", ".ipynb_checkpoints/b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(WAVE))
    assert [path.name for path in find_recordings(tmp_path)] == ["b.WAV", "a.ogg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no recording"):
        find_recordings(tmp_path / "empty")
    with pytest.raises(InputError, match="no such folder"):
        find_recordings(tmp_path / "nowhere")
    with pytest.raises(InputError, match="It is a file: name the folder around it"):
        find_recordings(tmp_path / "b.WAV")


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(InputError, match=r"soundfile.*pip install 'ff-lightning\[audio\]'"):
        audio_library("soundfile")
