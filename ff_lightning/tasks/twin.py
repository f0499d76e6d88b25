"""The twin: the same network trained end to end by backprop, under the same recipe."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ff_lightning.candidates import EachLabel
from ff_lightning.errors import InputError
from ff_lightning.language.stack import TokenStack
from ff_lightning.module import FFLightningModule
from ff_lightning.negatives import SampleNegatives
from ff_lightning.signals import LocalStep, Signal
from ff_lightning.stacks import Network, need_network
from ff_lightning.tasks.anomaly import FFAnomalyDetector
from ff_lightning.tasks.evaluation import ImageClassification, agreed_classes
from ff_lightning.tasks.language import FFLanguageModel
from ff_lightning.tasks.multi_label import FFMultiLabel
from ff_lightning.tasks.regressor import FFRegressor


class _MadeToFit:
    """Makes the twin that fits the network; apart, since the command line reads arguments off a ``__new__``."""

    def __new__(cls, network: Network | None = None, **kwargs: Any) -> Any:
        """Make a twin of what the network and the arguments call for; a copy is made without a network."""
        kind: type = cls
        if cls is BackpropTwin:
            need_network(network, "BackpropTwin")
            assert network is not None
            kind = _kind_of(network, **kwargs)
        if kind not in KINDS:
            raise InputError(
                f"`{cls.__name__}` is a subclass of `BackpropTwin`, which is final: subclass a task instead."
            )
        return super().__new__(kind, **({} if network is None else {"network": network}), **kwargs)


class BackpropTwin(_MadeToFit, FFLightningModule):
    """The network as one block (:meth:`~ff_lightning.stacks.Network.as_one_block`), trained by backprop throughout.

    Images and vectors carry no label, and a linear softmax stands on top of the last block. Of a language model, the
    layers are one block under one softmax over all tokens. The same engine drives it, as a network of one block:
    optimizer, schedulers, accumulation and clipping mean the same; so do evaluation and prediction.

    It is made as the one or the other, whatever its network calls for. A network whose blocks learn several labels by
    :class:`~ff_lightning.candidates.EachLabel` has a twin that does so, too, by the loss of the last of them; with
    ``low`` and ``high`` it predicts numbers, as :class:`~ff_lightning.FFRegressor`, and with ``anomalies`` it tells
    normal samples from these, as :class:`~ff_lightning.FFAnomalyDetector`. What only FF has, such as wrong labels, it
    does not take.

    Args:
        network: the network that FF would train; gradients flow through all of it here.
        num_classes: number of classes, if the network does not know it.
        low: the lowest number that can be predicted, where numbers are.
        high: the highest.
        spread: see :class:`~ff_lightning.FFRegressor`, where numbers are predicted; its default by default.
        anomalies: makes what normal samples are told from, where anomalies are to be found.
        false_alarms: see :class:`~ff_lightning.FFAnomalyDetector`, where anomalies are to be found; likewise.
        first_block: of :class:`~ff_lightning.FFMultiLabel`; left out, with a line in the log, since a twin is one
            block.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.

    Raises:
        InputError: neither the network nor ``num_classes`` says how many classes there are, or they disagree; or an
            argument was passed for which the network has no use.
    """

    def __init__(
        self,
        network: Network,
        *,
        num_classes: int | None = None,
        low: float | None = None,
        high: float | None = None,
        spread: float | None = None,
        anomalies: SampleNegatives | None = None,
        false_alarms: float | None = None,
        first_block: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)  # never run: it tells the command line which arguments there are


class ImageTwin(BackpropTwin, ImageClassification):
    """The twin of a network of images, vectors or events."""

    def __init__(self, network: Network, *, num_classes: int | None = None, **kwargs: Any) -> None:
        need_network(network, "BackpropTwin")
        whole = network.as_one_block(agreed_classes(num_classes, network))
        ImageClassification.__init__(self, whole, **_own(kwargs))

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """One loss: cross-entropy of the softmax on top, nats."""
        yield from self.network.local_losses(Signal(*self.checked(batch)), self.step_context())

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of images ``(B, …)``."""
        (block,) = self.network
        logits: Tensor = block.goodness(block(self.taken(x)))
        return logits


class TextTwin(BackpropTwin, FFLanguageModel):
    """The twin of a language model."""

    def __init__(self, network: TokenStack, *, num_classes: int | None = None, **kwargs: Any) -> None:
        _refuse_classes(num_classes, network.vocab_size, "predicts the next of its tokens")
        FFLanguageModel.__init__(self, network.as_one_block(), **_own(kwargs))


class NumberTwin(BackpropTwin, FFRegressor):
    """The twin of a network that predicts numbers: a linear softmax over the candidates on top."""

    def __init__(self, network: Network, *, num_classes: int | None = None, **kwargs: Any) -> None:
        whole = network.as_one_block(agreed_classes(num_classes, network))
        FFRegressor.__init__(self, whole, **_own(kwargs, "low", "high", "spread"))


class LabelsTwin(BackpropTwin, FFMultiLabel):
    """The twin of a network of several labels: a linear layer on top says of each whether it is there."""

    def __init__(self, network: Network, *, num_classes: int | None = None, **kwargs: Any) -> None:
        whole = network.as_one_block(agreed_classes(num_classes, network))
        of_labels = [loss for loss in _losses(network) if isinstance(loss, EachLabel)]
        for block in whole:
            block.loss = copy.deepcopy(of_labels[-1])
        own = _own(kwargs, "first_block")
        if first_block := own.pop("first_block", None):
            rank_zero_info(f"Left out of the twin, which is one block: `first_block={first_block}`.")
        FFMultiLabel.__init__(self, whole, **own)


class AnomalyTwin(BackpropTwin, FFAnomalyDetector):
    """The twin of a detector of anomalies: a linear layer on top tells normal samples from what is made of them."""

    def __init__(self, network: Network, *, num_classes: int | None = None, **kwargs: Any) -> None:
        known = getattr(network, "num_classes", None)
        _refuse_classes(num_classes, 2 if known is None else known, "tells normal samples from anomalies")
        FFAnomalyDetector.__init__(self, network.as_one_judge(), **_own(kwargs, "anomalies", "false_alarms"))


KINDS = (ImageTwin, TextTwin, NumberTwin, LabelsTwin, AnomalyTwin)
"""What a twin is made as."""

OF_ONE_KIND = ("low", "high", "spread", "anomalies", "false_alarms", "first_block")
"""Arguments that twins of one kind take and others do not; ``None`` of any says that it was not given."""


def _kind_of(network: Network, **kwargs: Any) -> type:
    """The twin that network and arguments call for."""
    if isinstance(network, TokenStack):
        kind: type = TextTwin
    elif kwargs.get("anomalies") is not None:
        kind = AnomalyTwin
    elif kwargs.get("low") is not None:
        kind = NumberTwin
    else:
        kind = LabelsTwin if any(isinstance(loss, EachLabel) for loss in _losses(network)) else ImageTwin
    return kind


def _losses(network: Network) -> list[Any]:
    """The loss of every block, ``None`` where it has none."""
    return [getattr(block, "loss", None) for block in network]


def _own(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    """Arguments of a twin that were given: those of other kinds are refused.

    Args:
        arguments: of the twin.
        *names: which of :data:`OF_ONE_KIND` are for its kind.
    """
    given = {name: value for name, value in arguments.items() if name not in OF_ONE_KIND or value is not None}
    if passed := [name for name in OF_ONE_KIND if name in given and name not in names]:
        raise InputError(f"Passed `{passed[0]}` to the twin of a network that has no use for it. Leave it out.")
    return given


def _refuse_classes(num_classes: int | None, known: int, does: str) -> None:
    """Refuse a number of classes that a twin has no use for; ``known`` says the same as the network or the data."""
    if num_classes not in (None, known):
        raise InputError(f"Passed `num_classes={num_classes}` to a twin that {does}. Leave `num_classes` out.")
