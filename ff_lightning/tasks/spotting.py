"""Spotting words in running recordings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from ff_lightning.detection import Events, Matched, find_events, match, together
from ff_lightning.errors import InputError, positive
from ff_lightning.module import FFLightningModule
from ff_lightning.networks.causal import UNJUDGED, CausalConvNet
from ff_lightning.signals import LocalStep, Signal

REACH, SMOOTH, TOLERANCE = 0.25, 0.2, 0.3
"""Seconds: between words that are found; over which probabilities are averaged; from a word found to its end."""


class FFSpotter(FFLightningModule):
    """Finds words in running recordings; every block learns which word, or none, ends at every frame.

    The last block is read. A word is found where its probability has a maximum that reaches a threshold; the threshold
    is chosen at the end of every validation, so that there are ``false_alarms`` a minute, and kept in checkpoints. The
    tier is that of the blocks' loss. Logged are ``accuracy`` of the frames that have a label, overall and by block, the
    share of the words ``detected`` and ``false_alarms`` a minute, at the threshold.

    Args:
        network: causal blocks with a goodness of every word at every frame; the last class is "no word".
        num_classes: words, and "no word".
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
        num_classes: int = 11,
        false_alarms: float = 1.0,
        frame_seconds: float = 0.016,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        if network.num_classes != num_classes:
            raise InputError(
                f"Passed `num_classes={num_classes}` with a network built for `num_classes={network.num_classes}`. "
                "They must be equal."
            )
        self.false_alarms = positive("false_alarms", false_alarms)
        self.frame_seconds = positive("frame_seconds", frame_seconds)
        self.threshold: Tensor
        self.register_buffer("threshold", torch.tensor(0.5))
        self.accuracies = torch.nn.ModuleList(
            MulticlassAccuracy(num_classes, average="micro", ignore_index=UNJUDGED) for _ in network
        )
        self._matched: list[Matched] = []

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """The losses of all blocks at the frames that have a label."""
        x, y = batch[:2]
        yield from self.network.local_losses(Signal(x, 1, y, self.generator, self.global_step))

    def forward(self, x: Tensor) -> Tensor:
        """Goodness ``(B, T, C)`` that the last block gives to every class at every frame of ``(B, 1, bands, T)``."""
        return self.network.goodness(x)[-1]

    def events(self, x: Tensor) -> list[Events]:
        """Words found in spectrograms ``(B, 1, bands, T)``, those that reach the threshold."""
        return [self.candidates(goodness).above(float(self.threshold)) for goodness in self(x)]

    def candidates(self, goodness: Tensor) -> Events:
        """Words that may be in a recording, however improbable, by the goodness of every class ``(T, C)``."""
        reach, smooth = (max(1, round(seconds / self.frame_seconds)) for seconds in (REACH, SMOOTH))
        return find_events(goodness, reach=reach, smooth=smooth)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Accuracy of the frames, and which of the words are found."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Accuracy of the frames, and which of the words are found."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> list[Events]:
        """Words found in a batch of spectrograms, with or without labels."""
        return self.events(batch[0] if isinstance(batch, (tuple, list)) else batch)

    def on_validation_epoch_start(self) -> None:
        """Forget what was matched before."""
        self._matched = []

    def on_validation_epoch_end(self) -> None:
        """Choose the threshold, and log what it finds."""
        if self._matched and not self.trainer.sanity_checking:
            self.threshold.fill_(together(self._matched).threshold(self.false_alarms))
            self._log_found("val")

    def on_test_epoch_start(self) -> None:
        """Forget what was matched before."""
        self._matched = []

    def on_test_epoch_end(self) -> None:
        """Log what is found at the threshold of the validation."""
        self._log_found("test")

    def _evaluate(self, batch: Any, stage: str) -> None:
        x, y, words = batch
        goodness = self.network.goodness(x)
        for index, (accuracy, g) in enumerate(zip(self.accuracies, goodness, strict=True)):
            assert isinstance(accuracy, MulticlassAccuracy)
            accuracy.update(g.argmax(-1).flatten(), y.flatten())
            self.log(f"{stage}/accuracy/block_{index}", accuracy)
        self.log(f"{stage}/accuracy", self.accuracies[-1], prog_bar=True)  # type: ignore[arg-type]
        minutes = x.shape[3] * self.frame_seconds / 60
        found = self.candidates(goodness[-1, 0].cpu())
        self._matched.append(
            match(found, words.cpu(), minutes=minutes, tolerance=round(TOLERANCE / self.frame_seconds))
        )

    def _log_found(self, stage: str) -> None:
        found, threshold = together(self._matched), float(self.threshold)
        values = {"detected": found.detected(threshold), "false_alarms": found.false_alarms(threshold)}
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()})
