"""Predictive FF: labels at the top, two circuits that learn while they settle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.engine.batches import seeded_generator
from ff_lightning.negatives import LabelNegatives
from ff_lightning.networks.predictive import PredictiveCircuits
from ff_lightning.readouts import GoodnessReadout, label_goodness
from ff_lightning.signals import Labelled, LocalStep, Signal
from ff_lightning.tasks.classifier import FFClassifier
from ff_lightning.tasks.evaluation import ClassificationMetrics


class FFPredictive(FFClassifier):
    """Classifies, reconstructs and samples images (Ororbia and Mali 2023, 2301.01452). Tier T1.

    A prediction is the label with which the representation circuit is calmest. Besides what every classifier logs,
    ``val/reconstruction_error`` and ``test/reconstruction_error`` hold the squared error of reconstructions from the
    lowest layer, summed over the pixels of an image, ``…/reconstruction_error_from_top`` of those from the top layer
    through all layers below, and ``…/head_accuracy`` the accuracy of the softmax head.

    Args:
        network: the two circuits.
        num_classes: number of classes; that of the network by default.
        negatives: draws wrong labels, judged by the softmax head in nats; uniform by default.
        readout: which layers are asked; all by default.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.
    """

    def __init__(
        self,
        network: PredictiveCircuits,
        *,
        num_classes: int | None = None,
        negatives: LabelNegatives | None = None,
        readout: GoodnessReadout | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, num_classes=num_classes, negatives=negatives, readout=readout, **kwargs)
        self.network: PredictiveCircuits

    def local_modules(self) -> Sequence[nn.Module]:
        """The layers of the representation circuit, those of the generative circuit, and the softmax head."""
        return [*self.network, *self.network.predicting(), self.network.head]

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """The loss of the softmax head, then those of both circuits as the network settles."""
        x, y = self.checked(batch)
        context, head = self.step_context(), 2 * len(self.network) + 1
        logits = self.network.classify(x)
        if context.learns(head):
            yield LocalStep(head, F.cross_entropy(logits, y))
        belief = logits.detach().log_softmax(1).T
        wrong = self.negatives(y, self.num_classes, lambda labels, _: belief.gather(0, labels), self.generator())
        yield from self.network.local_losses(Signal(Labelled(x, torch.stack([y, wrong])), y), context)

    def evaluate(self, batch: Any, stage: str, metrics: ClassificationMetrics) -> None:
        """Accuracy of the label sweep and of the head, and the error of reconstructions with the predicted labels."""
        x, y = self.checked(batch)
        goodness = label_goodness(self.network, x, self.num_classes)
        assert isinstance(self.readout, GoodnessReadout)
        scores = self.readout.combine(goodness)
        if stage == "val" and not self.trainer.sanity_checking:
            self.readout.observe(goodness, y)
        self.log_accuracy(scores, y, stage, metrics)
        self.contrast.update(goodness, y, [block.threshold for block in self.network])
        values = {"head_accuracy": (self.network.classify(x).argmax(1) == y).float().mean()}
        for name, level in (("reconstruction_error", 1), ("reconstruction_error_from_top", len(self.network))):
            back = self.network.reconstruct(x, scores.argmax(1), level=level)
            values[name] = (back - x).square().flatten(1).sum(1).mean()
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, batch_size=len(x), sync_dist=True)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images ``(B, …)`` as the generative circuit predicts them from the lowest layer, with predicted labels."""
        x = self.taken(x)
        return self.network.reconstruct(x, self(x).argmax(1))

    def sample(self, labels: Tensor, *, seed: int | None = None) -> Tensor:
        """Images ``(N, in_features)`` of classes ``(N,)``, in [0, 1].

        Args:
            labels: int64; brought to the module's device.
            seed: of the draws; the module's seed by default.
        """
        generator = seeded_generator(self.seed if seed is None else seed, self.device)
        return self.network.sample(labels.to(self.device), generator)
