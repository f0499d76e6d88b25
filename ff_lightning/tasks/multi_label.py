"""Several labels at once: every block says of each label whether it is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import (
    MultilabelAccuracy,
    MultilabelConfusionMatrix,
    MultilabelExactMatch,
    MultilabelF1Score,
    MultilabelPrecision,
    MultilabelRecall,
)

from ff_lightning.candidates import EachLabel
from ff_lightning.engine.casting import images_and_label_sets
from ff_lightning.errors import InputError
from ff_lightning.signals import LocalStep, Signal
from ff_lightning.stacks import Network, need_network
from ff_lightning.tasks.evaluation import SampleTask, agreed_classes


class LabelSets(NamedTuple):
    """What is predicted of a batch.

    Attributes:
        there: ``(B, K)`` bool, whether each label is there.
        probabilities: ``(B, K)``, of each label by itself.
    """

    there: Tensor
    probabilities: Tensor

    def headings(self, names: Sequence[str]) -> list[str]:
        """What the columns of :meth:`lines` are called, of labels with names."""
        return ["labels", *(f"probability {name}" for name in names)]

    def lines(self, names: Sequence[str]) -> Iterator[list[Any]]:
        """A line of a table for each sample: its labels, with ``;`` in between, and the probabilities of all."""
        for there, probabilities in zip(self.there.tolist(), self.probabilities.tolist(), strict=True):
            found = [name for name, is_there in zip(names, there, strict=True) if is_there]
            yield [";".join(found), *probabilities]


class FFMultiLabel(SampleTask):
    """Says which of several labels a sample has: none, one, or any number of them.

    Every block gives each label a goodness and learns it by itself from samples that have it against samples that lack
    it (:class:`~ff_lightning.candidates.EachLabel`), tier T1. A label is predicted where the mean over the blocks of
    what they say for it exceeds one half.

    Batches are ``(x, y)`` with ``x`` ``(B, …)`` and ``y`` ``(B, K)`` of 0 and 1. Logged are ``val/f1``,
    ``val/precision`` and ``val/recall``, the means over labels, ``val/exact``, how often all labels of a sample are
    right, and ``val/accuracy``, how often a label of a sample is, the last by block, too; the same for ``test``.

    Args:
        network: blocks with a goodness for every label and the loss ``EachLabel``, such as
            ``ConvNet(…, num_classes=K, loss=EachLabel())``.
        num_classes: ``K``, number of labels; that of the network by default.
        first_block: the lowest block that is read, counted from 0.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.

    Raises:
        InputError: the network compares labels with each other, or has another number of them.
    """

    def __init__(
        self, network: Network, *, num_classes: int | None = None, first_block: int = 0, **kwargs: Any
    ) -> None:
        need_network(network, type(self).__name__)
        if not all(isinstance(getattr(block, "loss", None), EachLabel) for block in network):
            raise InputError(
                f"Passed `network={type(network).__name__}` whose blocks learn by "
                f"`{type(getattr(network[0], 'loss', None)).__name__}`. Several labels at once need a loss that judges "
                "each by itself: pass `loss=EachLabel()` to a network that gives every class a goodness, such as "
                "`ConvNet` or `ClassMLP`."
            )
        if not 0 <= first_block < len(network):
            raise InputError(
                f"Passed `first_block={first_block}`. The network has {len(network)} blocks, so it must be in 0 to "
                f"{len(network) - 1}."
            )
        super().__init__(network, **kwargs)
        self.num_classes = agreed_classes(num_classes, network)
        self.first_block = first_block
        self.val_metrics = LabelMetrics(self.num_classes, len(network))
        self.test_metrics = LabelMetrics(self.num_classes, len(network))

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """The losses of the blocks."""
        yield from self.network.local_losses(Signal(*self.checked(batch)), self.step_context())

    def scores(self, x: Tensor) -> Tensor:
        """Logits that every block gives each label of samples ``(B, …)``: ``(L, B, K)``, above 0 where it is there."""
        goodness = self.network.goodness(x)
        return torch.stack([block.loss.scores(g) for block, g in zip(self.network, goodness, strict=True)])  # type: ignore[union-attr,operator]

    def forward(self, x: Tensor) -> Tensor:
        """Probability of each label, ``(B, K)``, of samples ``(B, …)``."""
        return self.combined(self.scores(self.taken(x)))

    def combined(self, scores: Tensor) -> Tensor:
        """Probabilities ``(B, K)`` from logits of all blocks ``(L, B, K)``."""
        return scores[self.first_block :].mean(0).sigmoid()

    def predicted(self, x: Tensor) -> LabelSets:
        """Labels of samples ``(B, …)``."""
        probabilities = self(x)
        return LabelSets(probabilities > 0.5, probabilities)

    def checked(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Samples and labels of a batch; see :func:`~ff_lightning.engine.casting.images_and_label_sets`."""
        look, dtype = self.may_look(), self.sample_dtype
        return images_and_label_sets(batch, num_classes=self.num_classes, look=look, dtype=dtype)

    def look_at(self, batch: Any) -> None:
        """Refuse labels that are neither 0 nor 1; see :meth:`~ff_lightning.FFLightningModule.look_at`."""
        self.checked(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log what :meth:`evaluate` finds under ``val/``."""
        self.evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log what :meth:`evaluate` finds under ``test/``."""
        self.evaluate(batch, "test", self.test_metrics)

    def on_validation_epoch_start(self) -> None:
        """Forget the counts of an earlier validation, which nobody reset."""
        self.val_metrics.confusion.reset()

    def on_test_epoch_start(self) -> None:
        """Forget the counts of an earlier test."""
        self.test_metrics.confusion.reset()

    def evaluate(self, batch: Any, stage: str, metrics: LabelMetrics) -> None:
        """Compare the labels that are predicted of a batch with those that are there."""
        x, y = self.checked(batch)
        scores = self.scores(x)
        metrics.update(self.combined(scores), scores.sigmoid(), y.long())
        for name, metric in metrics.logged.items():
            self.log(f"{stage}/{name}", metric, prog_bar=name == "f1")


class LabelMetrics(nn.Module):
    """Accuracy, precision, recall, F1 and exact matches of one stage (validation or test).

    Args:
        num_labels: ``K``, 2 or more.
        num_blocks: ``L``.
    """

    def __init__(self, num_labels: int, num_blocks: int) -> None:
        super().__init__()
        self.f1 = MultilabelF1Score(num_labels)
        self.precision = MultilabelPrecision(num_labels)
        self.recall = MultilabelRecall(num_labels)
        self.exact = MultilabelExactMatch(num_labels)
        self.accuracy = MultilabelAccuracy(num_labels, average="micro")
        self.confusion = MultilabelConfusionMatrix(num_labels)
        self.by_block = nn.ModuleList(MultilabelAccuracy(num_labels, average="micro") for _ in range(num_blocks))

    @property
    def logged(self) -> dict[str, Metric]:
        """What is logged, by name."""
        whole = {name: getattr(self, name) for name in ("f1", "precision", "recall", "exact", "accuracy")}
        return {**whole, **{f"accuracy/block_{index}": metric for index, metric in enumerate(self.by_block)}}

    def update(self, predicted: Tensor, by_block: Tensor, y: Tensor) -> None:
        """Take in probabilities ``(B, K)``, those of every block ``(L, B, K)``, and the labels ``(B, K)`` int64."""
        for metric in (self.f1, self.precision, self.recall, self.exact, self.accuracy, self.confusion):
            metric.update(predicted, y)
        for accuracy, probabilities in zip(self.by_block, by_block, strict=True):
            assert isinstance(accuracy, MultilabelAccuracy)
            accuracy.update(probabilities, y)
