"""The twin: the same network trained end to end by backprop, under the same recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.signals import LocalStep
from ff_lightning.stacks import BlockStack
from ff_lightning.tasks.evaluation import ImageClassification


class BackpropTwin(ImageClassification):
    """Image classifier of the same blocks and norms, a linear softmax on top, trained by backprop throughout.

    It is driven by the same engine, as a network of one block: optimizer, schedulers, accumulation and clipping
    mean the same. Its images carry no label.

    Args:
        network: the stack that FF would train; gradients flow through all of it here.
        num_classes: number of classes; that of the network by default.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.
    """

    def __init__(self, network: BlockStack, *, num_classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(network, num_classes=num_classes, **kwargs)
        features = int(getattr(network, "out_features"))  # noqa: B009
        self.whole = nn.Sequential(network, nn.Flatten(), nn.Linear(features, self.num_classes))

    def local_modules(self) -> Sequence[nn.Module]:
        """The whole network as one block."""
        return [self.whole]

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """Yield one loss: cross-entropy of the softmax on top, nats."""
        x, y = self.checked(batch)
        yield LocalStep(0, F.cross_entropy(self(x).float(), y))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of images ``(B, …)``."""
        logits: Tensor = self.whole(x)
        return logits
