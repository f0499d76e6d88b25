"""What others say during a run that a user of the command line need not hear."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

EXPECTED_WARNINGS = (
    "LightningCLI's args parameter is intended to run",  # `main([...])` in a notebook or a test
    "Checkpoint directory .* exists and is not empty",  # said by `before_fit`
    "Experiment logs directory .* exists and is not empty",
    "Using ModelCheckpoint with manual optimization",  # the state after the update is what we want to keep
    "You are using `LearningRateMonitor` callback with models that have no learning rate schedulers",
    "The '.*_dataloader' does not have many workers",  # images are cut from memory, there is no work for them
    "The number of training batches .* is smaller than the logging interval",
    "Precision .* is not supported by the model summary",
    "You're using the WeightAveraging callback with a model that overrides the configure_model",  # for shards alone
    "You're using the WeightAveraging callback, but loading a checkpoint outside the 'fit' stage",  # to evaluate it
    r"\s*skip_none parameter was deprecated",  # jsonargparse; its older versions lack the new name
    r".isinstance\(treespec, LeafSpec\). is deprecated",  # Lightning's own
)

NOISE = ("litlogger", "litmodels", "TPU available: False")
"""Parts of Lightning's messages in every run that nobody misses: products that it recommends, and the lack of a TPU."""


def _is_no_noise(record: logging.LogRecord) -> bool:
    return not any(part in record.getMessage() for part in NOISE)


class Stderr:
    """Where ``sys.stderr`` leads at the moment: above the progress bar while there is one, not into it."""

    def write(self, text: str) -> int:
        """Write to it."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush it."""
        sys.stderr.flush()


@contextmanager
def only_what_matters() -> Iterator[None]:
    """Leave out expected warnings, advertisements, and news of TPUs."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addFilter(_is_no_noise)
    try:
        with warnings.catch_warnings():
            for expected in EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", expected)
            yield
    finally:
        logger.removeFilter(_is_no_noise)


@contextmanager
def above_the_bar() -> Iterator[None]:
    """Let Lightning's messages appear above a progress bar, once Lightning is loaded, and not behind it."""
    handlers = [one for one in logging.getLogger("lightning.pytorch").handlers if type(one) is logging.StreamHandler]
    streams = [handler.setStream(Stderr()) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, streams, strict=True):
            handler.setStream(stream)
