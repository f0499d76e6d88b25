"""Numbers by goodness: the candidates of every block stand for numbers, and the prediction is their mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score

from ff_lightning.candidates import draw_one
from ff_lightning.engine.casting import images_and_numbers
from ff_lightning.errors import InputError, positive
from ff_lightning.readouts import GoodnessReadout, MeanLogProbability
from ff_lightning.signals import LocalStep, Signal
from ff_lightning.stacks import Network, need_network
from ff_lightning.tasks.evaluation import SampleTask, agreed_classes

CHOICE = -2
"""Stream of randomness by which the number of a sample becomes a candidate; blocks draw from streams of 0 and above."""


class NumberPrediction(NamedTuple):
    """What is predicted of a batch.

    Attributes:
        values: ``(B,)`` float32, in the units of the target.
        deviations: ``(B,)``, standard deviation of the candidates by their probability, in the same units.
    """

    values: Tensor
    deviations: Tensor

    def headings(self, names: Sequence[str]) -> list[str]:
        """What the columns of :meth:`lines` are called."""
        del names
        return ["value", "deviation"]

    def lines(self, names: Sequence[str]) -> Iterator[list[Any]]:
        """A line of a table for each sample."""
        del names
        yield from map(list, zip(self.values.tolist(), self.deviations.tolist(), strict=True))


class FFRegressor(SampleTask):
    """Predicts a number.

    Every block gives each of ``C`` candidates a goodness; they stand for ``C`` numbers from ``low`` to ``high``, evenly
    spaced. In training the number of a sample becomes one of the candidates near it, drawn anew in every batch with a
    normal probability of standard deviation ``spread`` around it (in expectation a histogram loss, Imani and White
    2018, arXiv 1806.04613), so that any loss over candidates and any network with one goodness a class serves. The
    prediction is the mean of the candidates by their probability, so it lies between ``low`` and ``high``. The tier is
    that of the blocks' loss: T1 where a candidate is contrasted with those of the block's own prediction, T2 for a
    softmax.

    Batches are ``(x, y)`` with ``x`` ``(B, …)`` and numbers ``y`` ``(B,)`` or ``(B, 1)``. Logged are ``val/r2``, the
    share of the variance that is explained, ``val/mae`` and ``val/rmse`` in the units of the target, and ``val/r2`` by
    block; the same for ``test``.

    Args:
        network: blocks with a goodness for every candidate, such as :class:`~ff_lightning.networks.ClassMLP`.
        low: the lowest number that can be predicted; a command takes that of the training rows from the data.
        high: the highest.
        spread: how far around a number its candidate is drawn, in units of the distance between two candidates;
            positive.
        readout: which blocks are read; the mean of their log-probabilities by default.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.

    Raises:
        InputError: the network gives no candidate a goodness, the readout chooses by classes, or the range makes no
            sense.
    """

    numbers: Tensor

    def __init__(
        self,
        network: Network,
        *,
        low: float | None = None,
        high: float | None = None,
        spread: float = 1.0,
        readout: GoodnessReadout | None = None,
        **kwargs: Any,
    ) -> None:
        need_network(network, type(self).__name__)
        if not network.gives_classes:
            raise InputError(
                f"Passed `network={type(network).__name__}`. An `FFRegressor` needs blocks that give every candidate a "
                "goodness, such as those of `ClassMLP` or `ConvNet`."
            )
        super().__init__(network, **kwargs)
        count = agreed_classes(None, network)
        self.register_buffer("numbers", candidates_of(low, high, count))
        self.spread = positive("spread", spread)
        self.readout = MeanLogProbability() if readout is None else readout
        if type(self.readout).observe is not GoodnessReadout.observe:
            raise InputError(
                f"Passed `readout={type(self.readout).__name__}`, which chooses by right and wrong classes; numbers "
                "are near or far. Pass another, such as `MeanLogProbability()` or `LastBlock()`."
            )
        self.readout.check(network)
        self.val_metrics = NumberMetrics(len(network))
        self.test_metrics = NumberMetrics(len(network))

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """The losses of the blocks, for a candidate near the number of every sample."""
        x, y = self.checked(batch)
        yield from self.network.local_losses(Signal(x, self.near(y, self.generator(CHOICE))), self.step_context())

    def near(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a candidate near every number ``(B,)``: ``(B,)`` int64. Numbers out of range count as the ends of it."""
        step = (self.numbers[-1] - self.numbers[0]) / (len(self.numbers) - 1)
        y = y.clamp(self.numbers[0], self.numbers[-1])
        away = (self.numbers - y.unsqueeze(1)) / (step * self.spread)
        return draw_one((-away.square() / 2).softmax(1), generator)

    def forward(self, x: Tensor) -> Tensor:
        """Numbers ``(B,)`` that are predicted of samples ``(B, …)``."""
        return self.predicted(x).values

    def predicted(self, x: Tensor) -> NumberPrediction:
        """Numbers of samples ``(B, …)``, and how sure the network is of them."""
        return self.mean(self.readout.combine(self.network.calibrated(self.network.goodness(self.taken(x)))))

    def mean(self, scores: Tensor) -> NumberPrediction:
        """Mean and deviation of candidates, ``(…)`` each, by their log-probabilities ``(…, C)``, up to a constant."""
        probabilities = scores.to(self.numbers.dtype).softmax(-1)
        values = probabilities @ self.numbers
        squares = (probabilities * (self.numbers - values.unsqueeze(-1)).square()).sum(-1)
        return NumberPrediction(values, squares.sqrt())

    def checked(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Samples and numbers of a batch; see :func:`~ff_lightning.engine.casting.images_and_numbers`."""
        return images_and_numbers(batch, dtype=self.sample_dtype)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Take in a batch of validation."""
        self.evaluate(batch, self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Take in a batch of the test."""
        self.evaluate(batch, self.test_metrics)

    def evaluate(self, batch: Any, metrics: NumberMetrics) -> None:
        """Compare what is predicted of a batch with its numbers."""
        x, y = self.checked(batch)
        said = self.network.calibrated(self.network.goodness(x))
        metrics.update(self.mean(self.readout.combine(said)).values, self.mean(said).values, y)

    def on_validation_epoch_end(self) -> None:
        """Log what was found."""
        self.log_dict({f"val/{name}": value for name, value in self.val_metrics.found().items()}, prog_bar=False)

    def on_test_epoch_end(self) -> None:
        """Log what was found."""
        self.log_dict({f"test/{name}": value for name, value in self.test_metrics.found().items()})


class NumberMetrics(nn.Module):
    """Explained variance and errors of one stage (validation or test), overall and by block.

    Args:
        num_blocks: ``L``.
    """

    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        self.r2 = R2Score()
        self.mae = MeanAbsoluteError()
        self.rmse = MeanSquaredError(squared=False)
        self.by_block = nn.ModuleList(R2Score() for _ in range(num_blocks))

    def update(self, predicted: Tensor, by_block: Tensor, y: Tensor) -> None:
        """Take in predictions ``(B,)``, those of every block ``(L, B)``, and the numbers ``(B,)``."""
        for metric in (self.r2, self.mae, self.rmse):
            metric.update(predicted, y)
        for score, values in zip(self.by_block, by_block, strict=True):
            assert isinstance(score, R2Score)
            score.update(values, y)

    def found(self) -> dict[str, Tensor]:
        """Everything since the last call, of all ranks, by name; no explained variance of fewer than two samples."""
        found = {"mae": self.mae.compute(), "rmse": self.rmse.compute()}
        scores = {"r2": self.r2, **{f"r2/block_{index}": metric for index, metric in enumerate(self.by_block)}}
        for name, metric in scores.items():
            try:
                found[name] = metric.compute()  # type: ignore[operator]
            except ValueError:  # there is no variance of one number
                found[name] = torch.full_like(found["mae"], math.nan)
        for metric in (self.mae, self.rmse, *scores.values()):
            metric.reset()  # type: ignore[operator]
        return found


def candidates_of(low: float | None, high: float | None, count: int) -> Tensor:
    """Evenly spaced numbers, ``(count,)``.

    Raises:
        InputError: the ends are not given, not finite, or in the wrong order.
    """
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(
            f"Passed `low={low}` and `high={high}`. They are the lowest and the highest number that can be predicted: "
            "pass two finite numbers, the first below the second, or use a `TableDataModule` with `target='number'`."
        )
    return torch.linspace(low, high, count)
