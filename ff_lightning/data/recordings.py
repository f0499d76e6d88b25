"""Recordings: files of sound, decoded, mixed to one channel and brought to one rate.

Decoding is soundfile's (libsndfile: WAV, FLAC, OGG and MP3 of any depth), resampling is soxr's and the mel bands are
librosa's. All three install beside any build of torch. torchaudio does not: its wheels load CUDA's libraries, which a
machine without CUDA lacks, and it no longer decodes files itself.
"""

import importlib
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ff_lightning.errors import InputError

ENDINGS = (".wav", ".flac", ".ogg", ".mp3")
"""How the names of recordings end, in any case."""


def audio_library(name: str) -> ModuleType:
    """Import what the extra `audio` of the package installs.

    Raises:
        InputError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"Recordings need {name.partition('.')[0]}, which is not installed: pip install 'ff-lightning[audio]'."
        ) from error


def is_recording(path: Path) -> bool:
    """Whether a path is a file named as recordings are, and not hidden."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()


def find_recordings(folder: str | Path) -> list[Path]:
    """List the recordings in a folder and the folders below it, by name; other files are passed over.

    Raises:
        InputError: There is no such folder, or no recording in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"Passed `folder={folder}`. There is no such folder.")
    found = sorted(path for path in folder.rglob("*") if is_recording(path))
    if not found:
        raise InputError(f"Passed `folder={folder}`. It holds no recording: no file that ends in {', '.join(ENDINGS)}.")
    return found


def read_recording(content: bytes | Path, rate: int, name: str) -> Tensor:
    """Decode a recording, mix its channels, and resample it.

    Args:
        content: A file, or what is in one.
        rate: Samples a second of the result.
        name: What the recording is called in messages.

    Returns:
        (samples,) float32, in [-1, 1] but for what resampling overshoots.

    Raises:
        InputError: It cannot be decoded, ends too early, is empty, or has samples that are not finite.
    """
    soundfile = audio_library("soundfile")
    try:
        encoded = content.read_bytes() if isinstance(content, Path) else content
        with soundfile.SoundFile(BytesIO(encoded)) as file:
            samples = file.read(dtype="float32", always_2d=True)
            said, found_rate = file.frames, file.samplerate
    except (OSError, RuntimeError) as error:  # soundfile's errors are RuntimeErrors
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise InputError(f"Cannot read the recording {name}: {reason or type(error).__name__}.") from error
    if _is_cut_off(encoded) or (file.format != "MP3" and len(samples) < said):  # of MP3 the length is an estimate
        raise InputError(f"Cannot read the recording {name}: it ends before the length that its header says.")
    if not len(samples):
        raise InputError(f"Cannot use the recording {name}: it holds no samples.")
    if not np.isfinite(samples).all():
        raise InputError(f"Cannot use the recording {name}: it holds samples that are NaN or infinite.")
    mono = samples.mean(1)
    if found_rate != rate:
        mono = audio_library("soxr").resample(mono, found_rate, rate)
    if not len(mono):
        raise InputError(f"Cannot use the recording {name}: at {rate} samples a second nothing is left of it.")
    return torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32))


def _is_cut_off(encoded: bytes) -> bool:
    """Whether a WAV file lacks a part of what its header says; libsndfile reads what is left without a word.

    Writers that do not know the length say 0 or the largest number.
    """
    if encoded[:4] != b"RIFF":
        return False
    said = int.from_bytes(encoded[4:8], "little")
    return said not in (0, 2**32 - 1) and len(encoded) < said  # some count the 8 bytes before it, some do not


def fitted(wave: Tensor, samples: int) -> Tensor:
    """Pad a recording with silence on both sides, or cut it on both, to a length.

    Args:
        wave: (any,), any dtype.
        samples: The length.

    Returns:
        (samples,), same dtype; the middle of the recording is in the middle.
    """
    missing = samples - len(wave)
    if missing < 0:
        return wave[-missing // 2 :][:samples]
    return torch.nn.functional.pad(wave, (missing // 2, missing - missing // 2))


def at_peak(wave: Tensor) -> Tensor:
    """Bring the largest amplitude of a recording to 1; silence stays silent."""
    peak = wave.abs().max()
    return wave / peak if peak > 0 else wave
