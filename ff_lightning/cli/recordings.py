"""``ff-lightning predict --folder`` for recordings: what is said in each, and when in long ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ff_lightning.cli.tables import write_csv
from ff_lightning.data.recordings import at_peak, find_recordings, fitted, read_recording
from ff_lightning.data.spectrograms import LogMel
from ff_lightning.engine.lightning import class_and_arguments
from ff_lightning.errors import InputError
from ff_lightning.pretrained import known_of, restored
from ff_lightning.tasks.evaluation import ImageClassification
from ff_lightning.tasks.spotting import FFSpotter


def is_of_recordings(content: Mapping[str, Any]) -> bool:
    """Whether a model was trained on recordings, by what its checkpoint holds."""
    return {"features", "rate", "seconds"} <= known_of(content).keys()


def predict_recordings(
    folder: str,
    content: Mapping[str, Any],
    ckpt_path: str,
    output: Path,
    *,
    tolerance: float | None,
    batch_size: int,
    trust: Sequence[str] = (),
) -> None:
    """Write a table of the recordings in a folder: file, start and end in seconds, label, and scores.

    A classifier says one word of a recording that is no longer than those of its training. In a longer one it says one
    word for every window of that length, each half a window behind the last. A spotter says every word that it finds.

    Args:
        folder: with WAV, FLAC, OGG or MP3 files, in folders below it too.
        content: of the checkpoint, as :func:`~ff_lightning.pretrained.read_content` gives it.
        ckpt_path: where it was read, for errors.
        output: CSV file to write.
        tolerance: not for recordings.
        batch_size: windows in memory at a time.
        trust: packages whose classes the checkpoint may name.

    Raises:
        InputError: there are no recordings, or one cannot be read.
    """
    if tolerance is not None:
        raise InputError(f"Passed `tolerance={tolerance}` for recordings. An early exit is for pictures: leave it out.")
    paths = find_recordings(folder)
    class_path, _ = class_and_arguments(content.get("hyper_parameters", {}))
    spots = (class_path or "").endswith("FFSpotter")
    kind: type[ImageClassification | FFSpotter] = FFSpotter if spots else ImageClassification
    found = restored(content, ckpt_path, kind, trust=trust)
    model, sounds = found.model, found.known
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    scores = ["score"] if spots else [f"score {name}" for name in sounds["class_names"]]
    with torch.inference_mode():
        rows = [
            [path, *row]
            for path in paths
            for row in _heard(model, read_recording(path, sounds["rate"], str(path)), sounds, batch_size)
        ]
    write_csv(output, [["file", "start", "end", "label", *scores], *rows])
    rank_zero_info(f"Wrote {output}: {len(rows)} lines about {len(paths)} recordings.")


def windows(wave: Tensor, samples: int) -> tuple[Tensor, list[int]]:
    """Cut a recording into windows of one length, each half a window behind the last; the last ends where it does.

    Args:
        wave: ``(any,)``.
        samples: length of a window.

    Returns:
        ``(W, samples)``, and where each begins; of a shorter recording one window, padded on both sides.
    """
    last = len(wave) - samples
    if last <= 0:
        return fitted(wave, samples).unsqueeze(0), [0]
    starts = [*range(0, last, max(1, samples // 2)), last]
    return torch.stack([wave[start : start + samples] for start in starts]), starts


def _heard(
    model: ImageClassification | FFSpotter, wave: Tensor, sounds: Mapping[str, Any], batch_size: int
) -> Iterator[Sequence[object]]:
    """Lines of the table about one recording, without its name."""
    return (
        _spotted(model, wave, sounds) if isinstance(model, FFSpotter) else _classified(model, wave, sounds, batch_size)
    )


def _classified(
    model: ImageClassification, wave: Tensor, sounds: Mapping[str, Any], batch_size: int
) -> Iterator[Sequence[object]]:
    """Start, end, label and scores of every window."""
    rate, features = sounds["rate"], LogMel(**sounds["features"])
    cut, starts = windows(wave, round(rate * sounds["seconds"]))
    length = min(len(wave), cut.shape[1])
    scores = [
        model(features(torch.stack([at_peak(window) for window in some]), rate).to(model.device)).cpu()
        for some in torch.split(cut, batch_size)
    ]
    for start, row in zip(starts, torch.cat(scores), strict=True):
        times = (f"{start / rate:.3f}", f"{(start + length) / rate:.3f}")
        yield *times, sounds["class_names"][int(row.argmax())], *(f"{value:.6g}" for value in row.tolist())


def _spotted(model: FFSpotter, wave: Tensor, sounds: Mapping[str, Any]) -> Iterator[Sequence[object]]:
    """Time at which the word ends, twice, label and probability of every word that is found."""
    rate, features = sounds["rate"], LogMel(**sounds["features"])
    wave = fitted(at_peak(wave), max(len(wave), features.step(rate)))  # a frame at least
    (events,) = model.events(features(wave.unsqueeze(0), rate).to(model.device))
    for frame, label, score in zip(events.frame.tolist(), events.label.tolist(), events.score.tolist(), strict=True):
        time = f"{(frame + 1) * model.frame_seconds:.3f}"
        yield time, time, sounds["class_names"][label], f"{score:.6g}"
