"""Unsupervised FF: features from images alone, read by a linear softmax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from ff_lightning.engine.casting import images_of
from ff_lightning.errors import InputError
from ff_lightning.negatives import HybridMask, SampleNegatives
from ff_lightning.readouts import LinearReadout, NestedReadout
from ff_lightning.signals import LocalStep, Signal
from ff_lightning.stacks import Network
from ff_lightning.tasks.evaluation import ClassificationMetrics, ImageClassification, agreed_classes


class FFRepresentation(ImageClassification):
    """Features learned from images against hybrid images (Hinton 2022, 2212.13345, section 3.2). Tier T1.

    The blocks never see a label. A linear softmax learns to read their activities; nothing flows back from it. Batches
    of images alone, ``(B, …)`` without labels, train the blocks and leave the readout as it is. With a
    :class:`~ff_lightning.readouts.NestedReadout`, ``val/accuracy/block_1`` is that of blocks 0 and 1, and so on.

    Args:
        network: a stack whose first layer takes plain images.
        readout: the linear softmax, or nested ones.
        num_classes: number of classes; that of the readout, or of the network, by default.
        negatives: makes negative images out of a batch; :class:`~ff_lightning.negatives.HybridMask` by default.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.
    """

    def __init__(
        self,
        network: Network,
        readout: LinearReadout,
        *,
        num_classes: int | None = None,
        negatives: SampleNegatives | None = None,
        **kwargs: Any,
    ) -> None:
        num_classes = agreed_classes(num_classes, network, readout)
        super().__init__(network, num_classes=num_classes, **kwargs)
        self.negatives = HybridMask() if negatives is None else negatives
        self.readout = readout
        self.readout.attach(network, num_classes)
        depths = len(readout.shallow) + 1 if isinstance(readout, NestedReadout) else 0
        self.by_depth = nn.ModuleList(MulticlassAccuracy(num_classes, average="micro") for _ in range(depths))

    def pairs(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Images against hybrids of them."""
        x = images_of(batch, self.sample_dtype)
        return x, self.negatives(x, self.generator(), self.judge)

    def local_modules(self) -> Sequence[nn.Module]:
        """The blocks and the readout."""
        return [*self.network, self.readout]

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """The losses of the blocks, without labels, then that of the readout.

        It reads what the blocks passed on for the positives, which was computed before any update. Where some of them
        rest, it reads them by itself.
        """
        if isinstance(batch, Tensor):  # images without classes: the readout waits for some
            yield from self.network.local_losses(Signal.pair(*self.pairs(batch)), self.step_context())
            return
        x, y = self.checked(batch)
        context, top = self.step_context(), len(self.network)
        reads = context.learns(top)
        alone = reads and not context.learns(*range(top))
        if alone:
            yield LocalStep(top, self.readout.local_loss(self.network, x, y))
        if context.highest(top) < 0:
            return
        parts = []
        for step in self.network.local_losses(Signal.pair(*self.pairs(batch)), context):
            if reads and not alone and step.block >= self.readout.first_block:
                parts.append(self._part(step, len(x)))
            yield step
            del step
        if parts:
            yield LocalStep(top, self.readout.loss(self.readout.joined(parts), y))

    def _part(self, step: LocalStep, batch: int) -> Tensor:
        """What the readout reads of a block; a copy, so that nothing of the negatives is kept."""
        if step.passed is None:
            raise InputError(
                f"Passed `network={type(self.network).__name__}`, whose `local_losses` do not say what its blocks pass "
                "on. A readout needs it: set `LocalStep.passed`."
            )
        return self.readout.part(step.passed[:batch]).clone()

    def forward(self, x: Tensor) -> Tensor:
        """Class scores ``(B, num_classes)`` of images ``(B, C, H, W)``."""
        scores: Tensor = self.readout(self.network, self.taken(x), self.num_classes)
        return scores

    def evaluate(self, batch: Any, stage: str, metrics: ClassificationMetrics) -> None:
        """Accuracy and confusion on a batch with labels, and with nested readouts accuracy by the number of blocks."""
        if isinstance(batch, Tensor):
            return
        if not isinstance(self.readout, NestedReadout):
            super().evaluate(batch, stage, metrics)
            return
        x, y = self.checked(batch)
        scores = self.readout.nested(self.readout.features(self.network, x))
        self.log_accuracy(scores[-1], y, stage, metrics)
        for index, (accuracy, some) in enumerate(zip(self.by_depth, scores, strict=True), self.readout.first_block):
            assert isinstance(accuracy, MulticlassAccuracy)
            accuracy.update(some.argmax(1), y)
            self.log(f"{stage}/accuracy/block_{index}", accuracy)
