"""What every image classifier shares, however it is trained: evaluation, prediction, checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from ff_lightning.engine.casting import as_images, as_tensor, images_and_labels, images_of, texts_and_labels, texts_of
from ff_lightning.errors import InputError, whole
from ff_lightning.module import FFLightningModule
from ff_lightning.normalization import frozen_statistics
from ff_lightning.readouts import Answer
from ff_lightning.stacks import Network


class ClassPrediction(NamedTuple):
    """What a classifier predicts of a batch.

    Attributes:
        classes: the likeliest ones, ``(B,)`` int64.
        probabilities: softmax of the scores, ``(B, C)``: as good as the loss makes them, which contrasts need not.
        scores: scores of all classes, ``(B, C)``.
        block: the block that answered, ``(B,)`` int64.
    """

    classes: Tensor
    probabilities: Tensor
    scores: Tensor
    block: Tensor

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """Take the likeliest class of an answer."""
        scores = answer.scores.float()
        return cls(scores.argmax(1), scores.softmax(1), scores, answer.block)

    def headings(self, names: Sequence[str]) -> list[str]:
        """What the columns of :meth:`lines` are called, of classes with names."""
        return headings_of_classes(names)

    def lines(self, names: Sequence[str]) -> Iterator[list[Any]]:
        """A line of a table for each sample: the class, its probability, the block, all probabilities and scores."""
        for label, probabilities, scores, block in zip(*(part.tolist() for part in self), strict=True):
            yield [names[label], probabilities[label], block, *probabilities, *scores]


def headings_of_classes(names: Sequence[str]) -> list[str]:
    """What the columns of a table of classes are called."""
    return ["label", "probability", "block", *(f"{kind} {name}" for kind in ("probability", "score") for name in names)]


class SampleTask(FFLightningModule, ABC):
    """Abstract base of the tasks that say something of every sample, be it an image or a row of a table."""

    @abstractmethod
    def predicted(self, x: Tensor) -> Any:
        """What is predicted of samples ``(B, …)``: a named tuple of tensors ``(B, …)`` that can be written as a table.

        It has the methods ``headings(names)`` and ``lines(names)``, as :class:`ClassPrediction`.
        """

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """What is predicted of a batch of samples, with or without labels."""
        return self.predicted(images_of(batch, self.sample_dtype))

    def judge(self, x: Tensor) -> Tensor:
        """What the blocks think of whole samples ``(N, …)`` now: goodness summed over them, ``(N,)``.

        For networks whose blocks give a sample one goodness. Their running values stay: a batch moves them once, when
        they learn from it.
        """
        with frozen_statistics(self.network):
            return self.network.goodness(x).sum(0)

    def taken(self, x: Any) -> Tensor:
        """Samples ``(B, …)`` as the network takes them, as in training: bytes become [0, 1], any precision its own.

        Args:
            x: a tensor; or an array or lists of numbers, which are brought to the module's device.

        Raises:
            InputError: they are something else, or whole numbers of which nobody knows the largest.
        """
        return as_images(self.on_device(x), self.sample_dtype)

    def on_device(self, x: Any) -> Tensor:
        """A tensor as it is; an array or lists of numbers as one, on the module's device."""
        return x if isinstance(x, Tensor) else as_tensor(x, "samples").to(self.device)


class ImageClassification(SampleTask, ABC):
    """Abstract base of the image classifiers: what is reported, not how it is learned.

    Batches are ``(x, y)`` with images ``x`` ``(B, …)`` in [0, 1] and classes ``y`` ``(B,)`` int64. Logged are
    ``val/accuracy`` and ``test/accuracy``, the means over classes ``val/precision``, ``val/recall`` and ``val/f1``, and
    with more than five classes ``val/top_5``, how often the true one is among the five highest;
    ``test_metrics.confusion`` holds the confusion matrix of the test.

    Args:
        network: the blocks to train.
        num_classes: number of classes, 2 or more; that of the network by default.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.

    Raises:
        InputError: see :func:`agreed_classes`.
    """

    def __init__(self, network: Network, *, num_classes: int | None = None, **kwargs: Any) -> None:
        num_classes = agreed_classes(num_classes, network)
        super().__init__(network, **kwargs)
        self.num_classes = num_classes
        self.val_metrics = ClassificationMetrics(num_classes)
        self.test_metrics = ClassificationMetrics(num_classes)

    def setup(self, stage: str) -> None:
        """Check that the data has the classes that the model tells apart, as far as it says so itself.

        Raises:
            InputError: it has fewer or more.
        """
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        known = getattr(data, "num_classes", None)
        if stage != "predict" and known is not None and known != self.num_classes:
            raise InputError(
                f"Passed a {type(self).__name__} of `num_classes={self.num_classes}` with a {type(data).__name__} of "
                f"`num_classes={known}`. They must be equal."
            )

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Class scores ``(B, num_classes)`` of images ``(B, …)``; the highest is the prediction."""

    def answer(self, x: Tensor) -> Answer:
        """Class scores of images ``(B, …)``, and which block gave them."""
        scores = self(x)
        return Answer(scores, torch.full((len(scores),), len(self.network) - 1, device=scores.device))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log what :meth:`evaluate` finds under ``val/``."""
        self.evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log what :meth:`evaluate` finds under ``test/``."""
        self.evaluate(batch, "test", self.test_metrics)

    def predicted(self, x: Tensor) -> ClassPrediction:
        """Classes of images or texts ``(B, …)``."""
        return ClassPrediction.of(self.answer(x))

    def predict_step(self, batch: Any, batch_idx: int) -> ClassPrediction:
        """What is predicted of a batch of images or texts, with or without labels."""
        vocab_size = self.vocab_size
        if vocab_size is None:
            return self.predicted(images_of(batch, self.sample_dtype))
        return self.predicted(texts_of(batch, vocab_size=vocab_size, look=self.may_look()))

    def taken(self, x: Any) -> Tensor:
        """Images as the network takes them; see :meth:`SampleTask.taken`. Of texts, tokens as they are."""
        return super().taken(x) if self.vocab_size is None else self.on_device(x)

    @property
    def vocab_size(self) -> int | None:
        """Tokens that the network knows; ``None`` if it reads no texts."""
        size: int | None = getattr(self.network, "vocab_size", None)
        return size

    def checked(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Images and labels of a batch, or texts and labels; see :mod:`ff_lightning.engine.casting`."""
        look = self.may_look()
        if self.vocab_size is not None:
            classes, known = self.num_classes, self.vocab_size
            x, y = texts_and_labels(batch, num_classes=classes, vocab_size=known, look=look)
            if look:
                check_labels(y, self.num_classes)
            return x, y
        x, y = images_and_labels(batch, num_classes=self.num_classes, look=look, dtype=self.sample_dtype)
        if look:
            check_labels(y, self.num_classes)
        return x, y

    def look_at(self, batch: Any) -> None:
        """Refuse labels and tokens that the network does not know; see :meth:`~ff_lightning.FFLightningModule.look_at`.

        Samples without labels, as some tasks learn from, have nothing to look at.
        """
        if not isinstance(batch, Tensor):
            self.checked(batch)

    def evaluate(self, batch: Any, stage: str, metrics: ClassificationMetrics) -> None:
        """Accuracy and confusion on one batch."""
        x, y = self.checked(batch)
        self.log_accuracy(self(x), y, stage, metrics)

    def log_accuracy(self, scores: Tensor, labels: Tensor, stage: str, metrics: ClassificationMetrics) -> None:
        """Take in scores ``(B, C)`` and true classes ``(B,)``, and log the accuracy."""
        metrics.update(scores, labels)
        self.log(f"{stage}/accuracy", metrics.accuracy, prog_bar=True)
        for name, metric in metrics.logged.items():
            self.log(f"{stage}/{name}", metric)


class ClassificationMetrics(nn.Module):
    """Accuracy, confusion, precision, recall, F1 and top-5 of one stage (validation or test).

    Args:
        num_classes: number of classes, 2 or more.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise InputError(f"Passed `num_classes={num_classes}`. `num_classes` must be at least 2.")
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.confusion = MulticlassConfusionMatrix(num_classes)
        self.precision = MulticlassPrecision(num_classes)
        self.recall = MulticlassRecall(num_classes)
        self.f1 = MulticlassF1Score(num_classes)
        self.top_5 = MulticlassAccuracy(num_classes, top_k=5, average="micro") if num_classes > 5 else None

    @property
    def logged(self) -> dict[str, Metric]:
        """What is logged of every class or ranking beside the accuracy, by name; means over classes."""
        found: dict[str, Metric] = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return found if self.top_5 is None else {**found, "top_5": self.top_5}

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Take in scores ``(B, C)`` and true classes ``(B,)``."""
        predicted = scores.argmax(1)
        self.accuracy.update(predicted, labels)
        self.confusion.update(predicted, labels)
        for metric in (self.precision, self.recall, self.f1):
            metric.update(predicted, labels)
        if self.top_5 is not None:
            self.top_5.update(scores.float(), labels)


def agreed_classes(num_classes: int | None, *parts: nn.Module | None) -> int:
    """The number of classes, from whoever knows it.

    Args:
        num_classes: that a task was told, if it was.
        *parts: its network and readout, which may have a ``num_classes`` of their own.

    Raises:
        InputError: two of them say different numbers, nobody says one, or it is none.
    """
    if num_classes is not None:
        whole("num_classes", num_classes, least=2)
    known = {"": num_classes} | {type(part).__name__: _classes_of(part) for part in parts}
    told = {name: count for name, count in known.items() if count is not None}
    if not told:
        raise InputError(
            f"Passed no `num_classes`, and `network={type(parts[0]).__name__}`, which does not say it either. Say how "
            "many classes there are."
        )
    first, count = next(iter(told.items()))
    for name, other in told.items():
        if other != count:
            first = f"`{first}(num_classes={count})`" if first else f"`num_classes={count}`"
            raise InputError(f"Passed {first} with `{name}(num_classes={other})`. They must be equal.")
    return count


def _classes_of(part: nn.Module | None) -> int | None:
    """What a network or readout says, or else the first block of a stack: its goodness, or its layer, has classes."""
    first = [part[0].goodness, part[0].layer] if isinstance(part, Network) else []
    counts = [getattr(each, "num_classes", None) for each in (part, *first)]
    return next((count for count in counts if count is not None), None)


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Check that labels are classes.

    Args:
        labels: ``(B,)``.
        num_classes: number of classes.

    Raises:
        InputError: a label outside ``0 … num_classes - 1``, or not an integer.
    """
    if labels.is_floating_point():
        raise InputError(f"Passed labels of dtype {labels.dtype}. Labels must be integers.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise InputError(
            f"Passed labels from {low} to {high}. With `num_classes={num_classes}` they must lie in 0 to "
            f"{num_classes - 1}."
        )
