"""Anomalies: blocks learn what normal data looks like against negatives made out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.aggregation import CatMetric
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from ff_lightning.engine.casting import images_and_anomalies, images_of
from ff_lightning.errors import InputError
from ff_lightning.negatives import AnyOf, Averaged, MixedEntries, SampleNegatives
from ff_lightning.stacks import Network, need_network
from ff_lightning.tasks.evaluation import SampleTask


class AnomalyScores(NamedTuple):
    """What is predicted of a batch.

    Attributes:
        scores: ``(B,)`` float32; the higher, the stranger a sample is.
        anomalous: ``(B,)`` bool, whether the score exceeds the threshold of the last validation.
    """

    scores: Tensor
    anomalous: Tensor

    def headings(self, names: Sequence[str]) -> list[str]:
        """What the columns of :meth:`lines` are called."""
        del names
        return ["label", "score"]

    def lines(self, names: Sequence[str]) -> Iterator[list[Any]]:
        """A line of a table for each sample."""
        del names
        for score, anomalous in zip(self.scores.tolist(), self.anomalous.tolist(), strict=True):
            yield ["anomaly" if anomalous else "normal", score]


class FFAnomalyDetector(SampleTask):
    """Finds what is not like the normal data that it was trained on. Tier T1.

    Positives are normal samples, negatives are made out of them. The score of a sample is its goodness, negative, each
    block's in units of its spread over normal samples of the validation. The threshold is chosen at the end of every
    validation, so that a share of ``false_alarms`` of its normal samples exceed it, and is kept in checkpoints.

    Batches are samples ``x`` ``(B, …)``, or ``(x, y)`` with ``y`` ``(B,)`` 1 for anomalies and 0 for normal samples;
    training takes normal ones alone. With anomalies in validation, logged are ``val/auroc``, also by block,
    ``val/average_precision``, and ``val/detected``, the share of anomalies above the threshold; the same for ``test``,
    and ``test/false_alarms``, the share of its normal samples above it.

    Args:
        network: a stack whose first layer takes samples without a label, such as ``MLP(…, num_classes=None)``.
        anomalies: makes the negatives out of a batch of normal samples; entries of other samples and means of two
            samples by default.
        false_alarms: share of normal samples of the validation that the threshold lets through as anomalies, in (0, 1).
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.

    Raises:
        InputError: the network wants a label, or a number is out of range.
    """

    threshold: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        network: Network,
        *,
        anomalies: SampleNegatives | None = None,
        false_alarms: float = 0.05,
        **kwargs: Any,
    ) -> None:
        need_network(network, type(self).__name__)
        if network.gives_classes or getattr(network, "num_classes", None) is not None:
            raise InputError(
                f"Passed `network={type(network).__name__}`, which knows of classes. An `FFAnomalyDetector` contrasts "
                "whole samples: pass one without labels, such as `MLP(…, num_classes=None)`."
            )
        if not 0 < false_alarms < 1:
            raise InputError(f"Passed `false_alarms={false_alarms}`. `false_alarms` must be a share between 0 and 1.")
        super().__init__(network, **kwargs)
        self.anomalies = AnyOf([MixedEntries(), Averaged()]) if anomalies is None else anomalies
        self.false_alarms = false_alarms
        depth = len(network)
        for name, value in {
            "threshold": torch.zeros(()),
            "centre": torch.zeros(depth),
            "scale": torch.ones(depth),
        }.items():
            self.register_buffer(name, value)
        self.val_metrics = AnomalyMetrics()
        self.test_metrics = AnomalyMetrics()

    def pairs(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Normal samples against what is made of them."""
        x = self._normal(batch)
        return x, self.anomalies(x, self.generator(), self.judge)

    def look_at(self, batch: Any) -> None:
        """Refuse a batch with anomalies; see :meth:`~ff_lightning.FFLightningModule.look_at`."""
        self._normal(batch)

    def _normal(self, batch: Any) -> Tensor:
        if isinstance(batch, Tensor) or (isinstance(batch, tuple | list) and len(batch) == 1):
            return images_of(batch, self.sample_dtype)
        x, y = images_and_anomalies(batch, look=self.may_look(), dtype=self.sample_dtype)
        if self.may_look() and bool(y.any()):
            raise InputError(
                f"Passed a training batch with {int(y.sum())} anomalies. Training is on normal samples alone: "
                "leave the others out; our data modules do so by `normal=[…]`."
            )
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(B,)`` of samples ``(B, …)``; the higher, the stranger."""
        return self.scored(self.network.goodness(self.taken(x)))

    def scored(self, goodness: Tensor) -> Tensor:
        """Scores ``(B,)`` from the goodness of every block, ``(L, B)``."""
        return -((goodness - self.centre.unsqueeze(1)) / self.scale.unsqueeze(1)).mean(0)

    def predicted(self, x: Tensor) -> AnomalyScores:
        """Scores of samples ``(B, …)``, and which exceed the threshold."""
        scores = self(x)
        return AnomalyScores(scores, scores > self.threshold)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Take in a batch of validation."""
        self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Take in a batch of the test."""
        self._evaluate(batch, self.test_metrics)

    def _evaluate(self, batch: Any, metrics: AnomalyMetrics) -> None:
        alone = isinstance(batch, Tensor) or (isinstance(batch, tuple | list) and len(batch) == 1)
        dtype = self.sample_dtype
        x, y = (images_of(batch, dtype), None) if alone else images_and_anomalies(batch, dtype=dtype)
        metrics.update(
            self.network.goodness(x), torch.zeros(len(x), dtype=torch.long, device=x.device) if y is None else y
        )

    def on_validation_epoch_end(self) -> None:
        """Choose units and threshold on the normal samples, and log what is found with them."""
        goodness, labels = self.val_metrics.found()
        normal = goodness[:, labels == 0]
        if normal.shape[1] and not self.trainer.sanity_checking:
            self.centre.copy_(normal.mean(1))
            self.scale.copy_(normal.std(1, correction=0).clamp_min(torch.finfo(normal.dtype).eps))
            self.threshold.copy_(self.scored(normal).quantile(1 - self.false_alarms))
        self._log(goodness, labels, "val")

    def on_test_epoch_end(self) -> None:
        """Log what is found at the threshold of the validation."""
        goodness, labels = self.test_metrics.found()
        normal = labels == 0
        if normal.any():
            alarms = (self.scored(goodness[:, normal]) > self.threshold).float().mean()
            self.log("test/false_alarms", alarms)
        self._log(goodness, labels, "test")

    def _log(self, goodness: Tensor, labels: Tensor, stage: str) -> None:
        """Log how well anomalies are told; of samples that are all of one kind nobody can say, which is NaN."""
        scores = self.scored(goodness)
        both = 0 < int(labels.sum()) < len(labels)
        unknown = scores.new_tensor(torch.nan)

        def told(metric: Metric, of: Tensor) -> Tensor:
            # Ranks: of scores out of [0, 1] torchmetrics takes the sigmoid, which makes large ones equal.
            ranks = torch.unique(of, return_inverse=True)[1].double() / len(of)
            return metric(ranks, labels).to(of.dtype) if both else unknown

        values = {"auroc": told(BinaryAUROC(), scores), "average_precision": told(BinaryAveragePrecision(), scores)}
        values["detected"] = (scores[labels == 1] > self.threshold).float().mean() if both else unknown
        values |= {f"auroc/block_{index}": told(BinaryAUROC(), -g) for index, g in enumerate(goodness)}
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()})


class AnomalyMetrics(nn.Module):
    """Goodness of all samples of one stage (validation or test), of all ranks, and whether they are anomalies."""

    def __init__(self) -> None:
        super().__init__()
        self.goodness = CatMetric()
        self.labels = CatMetric()

    def update(self, goodness: Tensor, labels: Tensor) -> None:
        """Take in goodness of every block ``(L, B)`` and labels ``(B,)``."""
        self.goodness.update(goodness.T)
        self.labels.update(labels.float())

    def found(self) -> tuple[Tensor, Tensor]:
        """Goodness ``(L, N)`` and labels ``(N,)`` int64 of everything since the last call."""
        goodness, labels = self.goodness.compute().T, self.labels.compute().long()
        self.goodness.reset()
        self.labels.reset()
        return goodness, labels
