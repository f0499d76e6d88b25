"""Supervised FF: the label is part of the input and a wrong label makes a negative, or every block scores classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ff_lightning.engine.hyperparameters import LEFT_OUT
from ff_lightning.errors import InputError
from ff_lightning.metrics import LabelContrast
from ff_lightning.negatives import LabelNegatives, UniformWrongLabel
from ff_lightning.normalization import evaluating, frozen_statistics
from ff_lightning.parts import described
from ff_lightning.readouts import Answer, GoodnessReadout, Readout, label_goodness
from ff_lightning.readouts.early_exit import EarlyExit
from ff_lightning.signals import LocalStep, Signal
from ff_lightning.stacks import Network, need_network
from ff_lightning.tasks.evaluation import ClassificationMetrics, ImageClassification, agreed_classes


class FFClassifier(ImageClassification):
    """Image classifier trained by FF.

    With a network of :class:`~ff_lightning.blocks.Block` the label is in the input and a wrong one makes a negative
    (Hinton 2022, 2212.13345, section 3.3), tier T1. With one of :class:`~ff_lightning.blocks.ClassBlock`
    images come without a label, every block gives every class a goodness, and the tier is that of its loss.

    Args:
        network: a stack whose first layer takes :class:`~ff_lightning.signals.Labelled`, or one of
            :class:`~ff_lightning.blocks.ClassBlock`, such as :class:`~ff_lightning.networks.ConvNet`.
        num_classes: number of classes; that of the network by default.
        negatives: draws wrong labels; uniform by default. Blocks that give every class a goodness need none.
        readout: how a prediction is taken; goodness summed over all blocks by default.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.

    Raises:
        InputError: the network takes no label or another number of classes, or the readout does not fit it.
    """

    def __init__(
        self,
        network: Network,
        *,
        num_classes: int | None = None,
        negatives: LabelNegatives | None = None,
        readout: Readout | None = None,
        **kwargs: Any,
    ) -> None:
        need_network(network, type(self).__name__)
        if getattr(network, "num_classes", 0) is None:
            raise InputError(
                f"Passed `network={type(network).__name__}` built for `num_classes=None`. A classifier needs a label "
                "in its input, or a goodness for every class: say their number, or pass data with two classes or more."
            )
        num_classes = agreed_classes(num_classes, network, readout)
        super().__init__(network, num_classes=num_classes, **kwargs)
        if negatives is not None and network.gives_classes:
            raise InputError(
                f"Passed `negatives={type(negatives).__name__}` with a network whose blocks give every class a "
                "goodness. Their loss says what they are contrasted with: leave `negatives` out."
            )
        self.negatives = UniformWrongLabel() if negatives is None else negatives
        self.readout = GoodnessReadout() if readout is None else readout
        self.readout.attach(network, num_classes)
        self.contrast = LabelContrast(len(network))

    def local_modules(self) -> Sequence[nn.Module]:
        """The blocks, and the readout if it has something to learn."""
        trained = [self.readout] if any(True for _ in self.readout.parameters()) else []
        return [*self.network, *trained]

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """The readout's loss, if it learns, then those of the blocks.

        The readout comes first so that it sees every block before its update, in whatever mode and on
        whatever strategy the updates are made.
        """
        x, y = self.checked(batch)
        context = self.step_context()
        for index in range(len(self.network), len(self.local_modules())):  # the readout, if it has something to learn
            loss = self.readout.local_loss(self.network, x, y) if context.learns(index) else None
            if loss is not None:
                yield LocalStep(index, loss)
        yield from self.network.local_losses(self.signal(x, y), context)

    def signal(self, x: Tensor, y: Tensor) -> Signal:
        """What the network receives: images, with their label and with a wrong one where blocks contrast them.

        Args:
            x: images ``(B, …)``.
            y: their classes, ``(B,)`` int64.
        """
        if self.network.gives_classes or not self.network.stage.reads_input:
            return Signal(x, y)
        opened = self.network.open(x)
        with frozen_statistics(self.network):  # negatives may ask what the blocks think of labels
            wrong = self.negatives(y, self.num_classes, opened.goodness, self.generator())
        return Signal(opened.with_labels(y, wrong), y)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores ``(B, num_classes)`` of images ``(B, …)``; the highest is the prediction."""
        scores: Tensor = self.readout(self.network, self.taken(x), self.num_classes)
        return scores

    def answer(self, x: Tensor) -> Answer:
        """Class scores of images ``(B, …)``, and which block gave them."""
        return self.readout.answer(self.network, self.taken(x), self.num_classes)

    def exit_early(self, batches: Iterable[Any], *, tolerance: float) -> EarlyExit:
        """Put an early exit in place of the goodness readout, and choose its margins.

        The network answers as in an evaluation, whatever mode it is in. One batch is on the device at a time.
        Checkpoints that are saved from then on hold the early exit.

        Args:
            batches: ``(x, y)`` of validation images, of the forms that a validation takes.
            tolerance: accuracy that may be lost on them, in ``[0, 1]``.

        Returns:
            The new readout.

        Raises:
            InputError: another readout than of goodness, no batch, or one that a validation would refuse.
        """
        if not isinstance(self.readout, GoodnessReadout | EarlyExit):
            raise InputError(
                f"`exit_early` was called with `readout={type(self.readout).__name__}`. It needs goodness."
            )
        margins, first = [math.inf] * (len(self.network) - 1), self.readout.first_block
        search = EarlyExit(margins, tolerance=tolerance, first_block=first).to(self.device)
        search.check(self.network)
        observed = False
        with evaluating(self.network):
            for batch in batches:
                x, y = self._checked_anywhere(batch)
                goodness = label_goodness(self.network, x.to(self.device), self.num_classes)
                search.observe(goodness, y.to(self.device))
                observed = True
        if not observed:
            raise InputError("Passed no `batches`. Margins of an early exit are found on validation images.")
        search.choose()
        return self._stop_early(EarlyExit(search.margins, tolerance=tolerance, first_block=first))

    def _checked_anywhere(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Images and labels of a batch that no Trainer has brought to the device, and that may be looked at."""
        before, self._is_on_host = self._is_on_host, True
        try:
            return self.checked(batch)
        finally:
            self._is_on_host = before

    def _stop_early(self, readout: EarlyExit) -> EarlyExit:
        """Take an early exit for the readout, and let checkpoints say so."""
        readout.check(self.network)
        self.readout = readout.to(self.device)
        self.hparams["readout"] = described(readout)
        self.hparams.get(LEFT_OUT, {}).pop("readout", None)
        return readout

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the early exit of a checkpoint in place of the readout by default, before its weights are loaded."""
        leads = checkpoint.get("state_dict", {}).get("readout.leads")
        if leads is not None and type(self.readout) is GoodnessReadout:
            described_as = checkpoint.get("hyper_parameters", {}).get("readout")
            told = described_as.get("init_args", {}) if isinstance(described_as, Mapping) else {}
            first = told.get("first_block", self.readout.first_block)
            self._stop_early(EarlyExit(leads.tolist(), tolerance=told.get("tolerance"), first_block=first))
        super().on_load_checkpoint(checkpoint)

    def evaluate(self, batch: Any, stage: str, metrics: ClassificationMetrics) -> None:
        """Accuracy of the readout; what every block makes of the labels is logged at the end of the epoch."""
        x, y = self.checked(batch)
        goodness = label_goodness(self.network, x, self.num_classes)
        scores = self.readout.combine(goodness) if isinstance(self.readout, GoodnessReadout) else self(x)
        if stage == "val" and not self.trainer.sanity_checking:
            self.readout.observe(goodness, y)
        self.log_accuracy(scores, y, stage, metrics)
        self.contrast.update(goodness, y, [block.threshold for block in self.network])

    def on_validation_epoch_end(self) -> None:
        """Log accuracy, separation and goodness gap of every block; let the readout choose."""
        self._log_contrast("val")
        if not self.trainer.sanity_checking:
            self.readout.choose()

    def on_test_epoch_end(self) -> None:
        """Log accuracy, separation and goodness gap of every block."""
        self._log_contrast("test")

    def _log_contrast(self, stage: str) -> None:
        values = self.contrast.compute()
        self.contrast.reset()
        for name, by_block in values.items():
            self.log_dict({f"{stage}/{name}/block_{index}": value for index, value in enumerate(by_block.reshape(-1))})
