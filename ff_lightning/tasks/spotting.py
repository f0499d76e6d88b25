"""Spotting words in running recordings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.utilities.data import dim_zero_cat

from ff_lightning.engine.casting import as_images
from ff_lightning.errors import InputError, positive
from ff_lightning.metrics import ExactSums, leave_inference_mode
from ff_lightning.module import FFLightningModule
from ff_lightning.networks.causal import CausalConvNet
from ff_lightning.readouts.detection import Events, Matched, find_events, match
from ff_lightning.signals import UNJUDGED, LocalStep, Signal
from ff_lightning.tasks.evaluation import agreed_classes

REACH, SMOOTH, TOLERANCE = 0.25, 0.2, 0.3
"""Seconds: between words that are found; over which probabilities are averaged; from a word found to its end."""


class FFSpotter(FFLightningModule):
    """Finds words in running recordings; every block learns which word, or none, ends at every frame.

    The last block is read. A word is found where its probability has a maximum that reaches a threshold; the threshold
    is chosen at the end of every validation, so that there are ``false_alarms`` a minute, and kept in checkpoints. The
    tier is that of the blocks' loss. Logged are ``accuracy`` of the frames that have a label, overall and by block, the
    share of the words ``detected`` and ``false_alarms`` a minute, at the threshold.

    Batches are ``(x, y)`` with spectrograms ``x`` ``(B, 1, bands, T)`` and a class for every frame ``y`` ``(B, T)``
    int64, -1 where none is judged. Those of an evaluation also say which words end where: ``(W, 2)`` int64, class and
    last frame, of one recording, or a list of these, one a recording.

    Args:
        network: causal blocks with a goodness of every word at every frame; the last class is "no word".
        num_classes: words, and "no word"; that of the network by default.
        false_alarms: a minute, on validation recordings.
        frame_seconds: from a frame to the next.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.

    Raises:
        InputError: the network has another number of classes.
    """

    def __init__(
        self,
        network: CausalConvNet,
        *,
        num_classes: int | None = None,
        false_alarms: float = 1.0,
        frame_seconds: float = 0.016,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        self.num_classes = agreed_classes(num_classes, network)
        self.false_alarms = positive("false_alarms", false_alarms)
        self.frame_seconds = positive("frame_seconds", frame_seconds)
        self.threshold: Tensor
        self.register_buffer("threshold", torch.tensor(0.5))
        self.accuracies = torch.nn.ModuleList(
            MulticlassAccuracy(self.num_classes, average="micro", ignore_index=UNJUDGED) for _ in network
        )
        self.found = FoundWords()

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """The losses of all blocks at the frames that have a label."""
        yield from self.network.local_losses(Signal(*self.checked(batch)), self.step_context())

    def look_at(self, batch: Any) -> None:
        """Refuse frames of no class; see :meth:`~ff_lightning.FFLightningModule.look_at`."""
        self.checked(batch)

    def checked(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Spectrograms ``(B, 1, bands, T)``, in the precision of the network, and classes of frames ``(B, T)`` int64.

        Raises:
            InputError: the batch has another form, or a frame a class that the network does not know.
        """
        parts = batch if isinstance(batch, tuple | list) else ()
        if len(parts) not in (2, 3) or not all(isinstance(part, Tensor) for part in parts[:2]):
            raise InputError(
                f"Passed a batch of type {type(batch).__name__} with {len(parts)} parts. It must be (spectrograms, "
                "classes of their frames), and in an evaluation also the words in them."
            )
        x, y = self.taken(parts[0]), parts[1]
        if y.shape != (len(x), x.shape[3]) or y.is_floating_point() or y.is_complex():
            raise InputError(
                f"Passed classes of frames of shape {tuple(y.shape)} and dtype {y.dtype}. For spectrograms of shape "
                f"{tuple(x.shape)} they must be whole numbers of shape {(len(x), x.shape[3])}."
            )
        y, known = y.long(), self.num_classes
        if self.may_look() and bool(((y < UNJUDGED) | (y >= known)).any()):
            raise InputError(
                f"Passed classes of frames from {int(y.min())} to {int(y.max())}. With `num_classes={known}` they must "
                f"be 0 to {known - 1}, or {UNJUDGED} where none is judged."
            )
        return x, y

    def taken(self, x: Tensor) -> Tensor:
        """Spectrograms ``(B, 1, bands, T)`` in the precision of the network.

        Raises:
            InputError: they have another shape, or are no numbers in floating point.
        """
        bands = self.network.bands
        if not x.is_floating_point() or x.dim() != 4 or x.shape[1:3] != (1, bands):
            raise InputError(
                f"Passed spectrograms of shape {tuple(x.shape)} and dtype {x.dtype}. They must be floating point of "
                f"shape (B, 1, {bands}, T)."
            )
        return as_images(x, self.sample_dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Goodness ``(B, T, C)`` that the last block gives to every class at every frame of ``(B, 1, bands, T)``."""
        return self.network.goodness(self.taken(x))[-1]

    def events(self, x: Tensor) -> list[Events]:
        """Words found in spectrograms ``(B, 1, bands, T)``, those that reach the threshold."""
        return [self.candidates(goodness).above(float(self.threshold)) for goodness in self(x)]

    def candidates(self, goodness: Tensor) -> Events:
        """Words that may be in a recording, however improbable, by the goodness of every class ``(T, C)``."""
        said = self.network[-1].loss.of_classes(goodness)  # type: ignore[union-attr, operator]
        reach, smooth = (max(1, round(seconds / self.frame_seconds)) for seconds in (REACH, SMOOTH))
        return find_events(said, reach=reach, smooth=smooth)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Accuracy of the frames, and which of the words are found."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Accuracy of the frames, and which of the words are found."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> list[Events]:
        """Words found in a batch of spectrograms, with or without labels."""
        return self.events(batch[0] if isinstance(batch, (tuple, list)) else batch)

    def on_validation_epoch_end(self) -> None:
        """Choose the threshold, and log what it finds."""
        matched = self.found.matched()
        if matched is not None and not self.trainer.sanity_checking:
            self.threshold.fill_(matched.threshold(self.false_alarms))
            self._log_words(matched, "val")

    def on_test_epoch_end(self) -> None:
        """Log what is found at the threshold of the validation."""
        matched = self.found.matched()
        if matched is not None:
            self._log_words(matched, "test")

    def _evaluate(self, batch: Any, stage: str) -> None:
        x, y = self.checked(batch)
        goodness = self.network.goodness(x)
        for index, (accuracy, g) in enumerate(zip(self.accuracies, goodness, strict=True)):
            assert isinstance(accuracy, MulticlassAccuracy)
            accuracy.update(g.argmax(-1).flatten(), y.flatten())
            self.log(f"{stage}/accuracy/block_{index}", accuracy)
        self.log(f"{stage}/accuracy", self.accuracies[-1], prog_bar=True)  # type: ignore[arg-type]
        minutes, tolerance = x.shape[3] * self.frame_seconds / 60, round(TOLERANCE / self.frame_seconds)
        for of_frames, words in zip(goodness[-1].cpu(), words_of(batch, len(x)), strict=True):
            self.found.update(match(self.candidates(of_frames), words, minutes=minutes, tolerance=tolerance))

    def _log_words(self, matched: Matched, stage: str) -> None:
        threshold = float(self.threshold)
        values = {"detected": matched.detected(threshold), "false_alarms": matched.false_alarms(threshold)}
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()})


def words_of(batch: Any, recordings: int) -> list[Tensor]:
    """The words in every recording of a batch of an evaluation, each ``(W, 2)`` int64: class and last frame.

    Raises:
        InputError: the batch does not say them of every recording.
    """
    given = batch[2] if len(batch) == 3 else ()
    words = [given] if isinstance(given, Tensor) else list(given)
    if len(words) != recordings or not all(isinstance(one, Tensor) and one.shape[1:] == (2,) for one in words):
        raise InputError(
            f"Passed the words of {len(words)} recordings in a batch of {recordings}. For each there must be a tensor "
            "(W, 2), class and last frame of every word."
        )
    return [one.cpu() for one in words]


class FoundWords(ExactSums):
    """Events of all recordings of an evaluation, on whatever rank they were found, beside the words that were said."""

    full_state_update = False
    score: list[Tensor]
    right: list[Tensor]
    words: Tensor
    minutes: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("score", "right"):
            self.add_state(name, [], dist_reduce_fx="cat")
        for name in ("words", "minutes"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, found: Matched) -> None:
        """Take in one recording."""
        leave_inference_mode(self)
        self.score.append(found.score.to(self.device))
        self.right.append(found.right.to(self.device))
        self.words += found.words
        self.minutes += found.minutes

    def compute(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Score and rightness of all events, ``(E,)`` each, number of words, and minutes."""
        score, right = dim_zero_cat(self.score), dim_zero_cat(self.right)
        return score, right, self.words, self.minutes

    def matched(self) -> Matched | None:
        """Everything since the last call, of all ranks; ``None`` if that was nothing."""
        if not self.update_called:
            return None
        score, right, words, minutes = self.compute()
        self.reset()
        return Matched(score.cpu().reshape(-1), right.cpu().reshape(-1), int(words), float(minutes))
