"""Recordings: files of sound, decoded, mixed to one channel and brought to one rate.

Decoding is soundfile's (libsndfile: WAV, FLAC, OGG and MP3 of any depth), resampling is soxr's and the mel bands are
librosa's. All three install beside any build of torch. torchaudio does not: its wheels load CUDA's libraries, which a
machine without CUDA lacks, and it no longer decodes files itself.
"""

import importlib
import re
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ff_lightning.data.files import existing_folder, find_files
from ff_lightning.errors import InputError

ENDINGS = (".wav", ".flac", ".ogg", ".mp3")
"""How the names of recordings end, in any case."""

MP3_FRAME = 1152
"""Samples of a frame of an MP3 file."""

MP3_CONTENTS = re.compile(rb"(Xing|Info)\0\0\0[\1\3\5\7\11\13\15\17]")
"""What begins the table of contents of an MP3 file that says how many frames there are."""


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
    """Whether a file is named as recordings are."""
    return path.suffix.lower() in ENDINGS


def find_recordings(folder: str | Path) -> list[Path]:
    """List the recordings in a folder and the folders below it, by name; other and hidden files are passed over.

    Raises:
        InputError: There is no such folder, or no recording in it.
    """
    folder = existing_folder(folder)
    found = [path for path in find_files(folder).files if is_recording(path)]
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
    if file.format == "MP3":  # without a table of contents the length is an estimate; with one, right to a frame
        said = said - MP3_FRAME if MP3_CONTENTS.search(encoded) else 0
    if len(samples) < said or _is_cut_off(encoded):
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
    """Whether a WAV or OGG file lacks a part of what it announces; libsndfile reads what is left without a word."""
    if encoded[:4] == b"RIFF":
        said = int.from_bytes(encoded[4:8], "little")
        # Writers that do not know the length say 0 or the largest number; some count the 8 bytes before it.
        return said not in (0, 2**32 - 1) and len(encoded) < said
    if encoded[:4] == b"OggS":
        page = encoded[encoded.rfind(b"OggS") :]
        sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""  # of the parts of the last page
        return not sizes or len(page) < 27 + page[26] + sum(sizes)
    return False


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
