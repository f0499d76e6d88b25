"""Supervised FF: the label is part of the input, a wrong label makes a negative."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ff_lightning.blocks import BlockStack, Labelled, LocalStep, Signal
from ff_lightning.errors import InputError
from ff_lightning.metrics import LabelContrast
from ff_lightning.negatives import LabelNegatives, UniformWrongLabel
from ff_lightning.readouts import GoodnessReadout, Readout, label_goodness
from ff_lightning.tasks.evaluation import ClassificationMetrics, ImageClassification

JUDGED_AT_ONCE = 3
"""Labels whose activities are alive together while negatives are chosen: the memory of a training step, about."""


class FFClassifier(ImageClassification):
    """Image classifier trained by FF with labels in the input (Hinton 2022, 2212.13345, section 3.3). Tier T1.

    Args:
        network: a stack whose first layer takes :class:`~ff_lightning.blocks.Labelled`.
        num_classes: number of classes.
        negatives: draws wrong labels; uniform by default.
        readout: how a prediction is taken; goodness summed over all blocks by default.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.

    Raises:
        InputError: the network takes no label or another number of classes, or the readout does not fit it.
    """

    def __init__(
        self,
        network: BlockStack,
        *,
        num_classes: int = 10,
        negatives: LabelNegatives | None = None,
        readout: Readout | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, num_classes=num_classes, **kwargs)
        if getattr(network, "num_classes", num_classes) != num_classes:
            raise InputError(
                f"Passed `num_classes={num_classes}` with a network built for "
                f"`num_classes={getattr(network, 'num_classes', None)}`. They must be equal."
            )
        self.negatives = UniformWrongLabel() if negatives is None else negatives
        self.readout = GoodnessReadout() if readout is None else readout
        self.readout.check(network)
        self.contrast = LabelContrast(len(network))

    def local_modules(self) -> Sequence[nn.Module]:
        """The blocks, and the readout if it has something to learn."""
        trained = [self.readout] if any(True for _ in self.readout.parameters()) else []
        return [*self.network, *trained]

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """The readout's loss, if it learns, then those of the blocks on right and wrong labels.

        The readout comes first so that it sees every block before its update, in whatever mode and on
        whatever strategy the updates are made.
        """
        x, y = self.checked(batch)
        loss = self.readout.local_loss(self.network, x, y)
        if loss is not None:
            yield LocalStep(len(self.network), loss)
        yield from self.network.local_losses(self._signal(x, y))

    def _signal(self, x: Tensor, y: Tensor) -> Signal:
        """What the first block receives: images with their label and with a wrong one."""
        if not self.network.stage.reads_input:
            return Signal(x, labels=y)
        shared = self.network.share(x)

        def judge(labels: Tensor, blocks: int) -> Tensor:
            image_part = None if shared is None else shared.detach()
            some = torch.split(labels, JUDGED_AT_ONCE)
            judged = [self.network.goodness(Labelled(x, rows, image_part), blocks=blocks).sum(0) for rows in some]
            return torch.cat(judged).view_as(labels)

        wrong = self.negatives(y, self.num_classes, judge, self.generator())
        return Signal(Labelled(x, torch.stack([y, wrong]), shared), labels=y)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores ``(B, num_classes)`` of images ``(B, …)``; the highest is the prediction."""
        scores: Tensor = self.readout(self.network, x, self.num_classes)
        return scores

    def evaluate(self, batch: Any, stage: str, metrics: ClassificationMetrics) -> None:
        """Accuracy of the readout; what every block makes of the labels is logged at the end of the epoch."""
        x, y = self.checked(batch)
        goodness = label_goodness(self.network, x, self.num_classes)
        scores = self.readout.combine(goodness) if isinstance(self.readout, GoodnessReadout) else self(x)
        metrics.update(scores, y)
        self.log(f"{stage}/accuracy", metrics.accuracy, prog_bar=True)
        self.contrast.update(goodness, y, [block.threshold for block in self.network])

    def on_validation_epoch_end(self) -> None:
        """Log accuracy, separation and goodness gap of every block."""
        self._log_contrast("val")

    def on_test_epoch_end(self) -> None:
        """Log accuracy, separation and goodness gap of every block."""
        self._log_contrast("test")

    def _log_contrast(self, stage: str) -> None:
        values = self.contrast.compute()
        self.contrast.reset()
        for name, by_block in values.items():
            self.log_dict({f"{stage}/{name}/block_{index}": value for index, value in enumerate(by_block.reshape(-1))})
