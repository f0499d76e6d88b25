"""The twin: the same network trained end to end by backprop, under the same recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ff_lightning.errors import InputError
from ff_lightning.language.stack import TokenStack
from ff_lightning.module import FFLightningModule
from ff_lightning.signals import LocalStep, Signal
from ff_lightning.stacks import Network, need_network
from ff_lightning.tasks.evaluation import ImageClassification, agreed_classes
from ff_lightning.tasks.language import FFLanguageModel


class _MadeToFit:
    """Makes the twin that fits the network; apart, since the command line reads arguments off a ``__new__``."""

    def __new__(cls, network: Network | None = None, **kwargs: Any) -> Any:
        """Make a twin of images or of text; a copy is made without a network."""
        kind: type = cls
        if cls is BackpropTwin:
            kind = TextTwin if isinstance(network, TokenStack) else ImageTwin
        if kind not in (TextTwin, ImageTwin):
            raise InputError(
                f"`{cls.__name__}` is a subclass of `BackpropTwin`, which is final: subclass a task instead."
            )
        return super().__new__(kind, **({} if network is None else {"network": network}), **kwargs)


class BackpropTwin(_MadeToFit, FFLightningModule):
    """The network as one block (:meth:`~ff_lightning.stacks.Network.as_one_block`), trained by backprop throughout.

    Images and vectors carry no label, and a linear softmax stands on top of the last block. Of a language model, the
    layers are one block under one softmax over all tokens. The same engine drives it, as a network of one block:
    optimizer, schedulers, accumulation and clipping mean the same; so do evaluation and prediction.

    It is made as the one or the other, whatever its network calls for. What only FF has, such as negatives, it does not
    take.

    Args:
        network: the network that FF would train; gradients flow through all of it here.
        num_classes: number of classes, if the network does not know it.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.

    Raises:
        InputError: neither the network nor ``num_classes`` says how many classes there are, or they disagree.
    """

    def __init__(self, network: Network, *, num_classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)  # never run: it tells the command line which arguments there are


class ImageTwin(BackpropTwin, ImageClassification):
    """The twin of a network of images, vectors or events."""

    def __init__(self, network: Network, *, num_classes: int | None = None, **kwargs: Any) -> None:
        need_network(network, "BackpropTwin")
        whole = network.as_one_block(agreed_classes(num_classes, network))
        ImageClassification.__init__(self, whole, **kwargs)

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """One loss: cross-entropy of the softmax on top, nats."""
        yield from self.network.local_losses(Signal(*self.checked(batch)), self.step_context())

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of images ``(B, …)``."""
        (block,) = self.network
        logits: Tensor = block.goodness(block(x))
        return logits


class TextTwin(BackpropTwin, FFLanguageModel):
    """The twin of a language model."""

    def __init__(self, network: TokenStack, *, num_classes: int | None = None, **kwargs: Any) -> None:
        FFLanguageModel.__init__(self, network.as_one_block(), **kwargs)
