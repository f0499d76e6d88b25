"""Recordings for tests: tones that stand for words, in files and in Parquet."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

soundfile = pytest.importorskip("soundfile", reason="recordings need the extra `audio`")

WORDS = {"high": 1500.0, "low": 300.0}
"""Tones, and their frequency in hertz."""

SPEAKERS = ("ann", "bob", "cyd")


def tone(frequency: float, seconds: float = 0.4, rate: int = 8000, seed: int = 0) -> NDArray[np.float32]:
    """A tone of about this frequency under a little noise, (samples,)."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    wave = np.sin(2 * np.pi * frequency * random.uniform(0.9, 1.1) * time) + random.normal(0, 0.1, len(time))
    return (0.4 * wave / np.abs(wave).max()).astype(np.float32)


def encoded(wave: NDArray[np.float32], rate: int = 8000, form: str = "WAV", depth: str = "PCM_16") -> bytes:
    """What is in the file of a recording."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=form, subtype=depth)
    return file.getvalue()


def word_folders(root: Path, count: int = 6) -> Path:
    """One folder for each word, with a folder for each speaker, with `count` recordings each."""
    for word, frequency in WORDS.items():
        for speaker in SPEAKERS:
            folder = root / word / speaker
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}.wav").write_bytes(encoded(tone(frequency, seed=index)))
    return root


def parquet(path: Path, count: int = 6) -> Path:
    """A set with the columns of Speech Commands: file, audio, label, is_unknown, speaker_id, utterance_id."""
    import datasets

    rows = [(word, speaker, index) for word in WORDS for speaker in SPEAKERS for index in range(count)]
    content = {
        "file": [f"{word}/{speaker}_nohash_{index}.wav" for word, speaker, index in rows],
        "audio": [
            {"bytes": encoded(tone(WORDS[word], 1.0, 16000, index), 16000), "path": None} for word, _, index in rows
        ],
        "label": [list(WORDS).index(word) for word, _, _ in rows],
        "is_unknown": [False] * len(rows),
        "speaker_id": [speaker for _, speaker, _ in rows],
        "utterance_id": [index for _, _, index in rows],
    }
    features = datasets.Features(
        {
            "file": datasets.Value("string"),
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=list(WORDS)),
            "is_unknown": datasets.Value("bool"),
            "speaker_id": datasets.Value("string"),
            "utterance_id": datasets.Value("int8"),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(content, features=features).to_parquet(str(path))
    return path
