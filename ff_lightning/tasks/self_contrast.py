"""Self-contrastive FF: features from pairs of images, read by a linear softmax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from ff_lightning.engine.casting import images_of
from ff_lightning.errors import InputError
from ff_lightning.negatives import other_images
from ff_lightning.networks.scff import PairSignal, SelfContrastStack
from ff_lightning.readouts import LinearReadout
from ff_lightning.signals import LocalStep
from ff_lightning.tasks.representation import FFRepresentation


class FFSelfContrast(FFRepresentation):
    """Features learned from images beside themselves against images beside others (SCFF, arXiv 2409.11593). Tier T1.

    The blocks never see a label. With a :class:`~ff_lightning.schedules.Greedy` schedule, which is the authors', one
    block learns after the other and the readout last; whatever does not learn at a step and feeds nothing that does is
    not computed.

    Args:
        network: a self-contrastive stack.
        readout: the linear softmax.
        num_classes: number of classes; that of the readout by default.
        readout_optimizer: builds the optimizer of the readout; ``optimizer`` by default.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.

    Raises:
        InputError: `negatives` were passed, or see :class:`~ff_lightning.FFRepresentation`.
    """

    def __init__(
        self,
        network: SelfContrastStack,
        readout: LinearReadout,
        *,
        num_classes: int | None = None,
        readout_optimizer: OptimizerCallable | None = None,
        **kwargs: Any,
    ) -> None:
        if (negatives := kwargs.get("negatives")) is not None:
            raise InputError(
                f"Passed `negatives={type(negatives).__name__}` to an `FFSelfContrast`, which contrasts images with "
                "others of the batch. Leave `negatives` out."
            )
        super().__init__(network, readout, num_classes=num_classes, **kwargs)
        self.make_readout_optimizer = readout_optimizer

    def optimizer_of(self, index: int) -> OptimizerCallable:
        """The readout may have one of its own."""
        own = self.make_readout_optimizer if index == len(self.network) else None
        return super().optimizer_of(index) if own is None else own

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """The readout's loss, on the blocks before their update, then those of the blocks without labels."""
        x, y = (images_of(batch, self.sample_dtype), None) if isinstance(batch, Tensor) else self.checked(batch)
        context, top = self.step_context(), len(self.network)
        if context.learns(top) and y is not None:
            yield LocalStep(top, self.readout.local_loss(self.network, x, y))
        partner = other_images(len(x), self.generator())
        yield from self.network.local_losses(PairSignal(x, partner=partner), context)
