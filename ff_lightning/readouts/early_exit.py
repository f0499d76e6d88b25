"""Early exit: stop at the block at which the answer is clear."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ff_lightning.errors import InputError
from ff_lightning.readouts.goodness import Answer, Readout, all_labels, swept
from ff_lightning.signals import Labelled
from ff_lightning.stacks import BlockStack


class EarlyExit(Readout):
    """:class:`~ff_lightning.readouts.GoodnessReadout` that asks no further block once the answer is clear.

    After every block, an image whose best class leads the second best by the block's margin is answered; only the
    others go on to the next block. The last block answers whatever is left. So the average cost falls with the share
    of easy images, for the same weights.

    Args:
        margins: for every block but the last, the lead that suffices, in units of goodness summed up to that block;
            ``inf`` never answers. :meth:`calibrated` finds them.
        first_block: see :class:`~ff_lightning.readouts.Readout`; blocks below do not answer.

    Raises:
        InputError: a margin is negative or NaN.
    """

    def __init__(self, margins: Sequence[float], *, first_block: int = 0) -> None:
        super().__init__(first_block)
        if not all(margin >= 0 for margin in margins):
            raise InputError(f"Passed `margins={list(margins)}`. `margins` must not be negative.")
        self.margins = [float(margin) for margin in margins]

    @classmethod
    def calibrated(cls, goodness: Tensor, labels: Tensor, *, tolerance: float, first_block: int = 0) -> EarlyExit:
        """Margins that answer as early as they can without losing more accuracy than allowed.

        From the lowest block upwards: of the images that come to a block, as many as possible are answered there, those
        with the greatest lead first, while the answers lost against the last block, less those won, stay within an
        equal share of the allowance for each block but the last. What a block leaves of its share goes to the next.

        Args:
            goodness: ``(L, B, C)`` of validation images, as of :func:`~ff_lightning.readouts.label_goodness`.
            labels: ``(B,)`` int64, their classes.
            tolerance: accuracy that may be lost on them, in ``[0, 1]``.
            first_block: see :class:`~ff_lightning.readouts.Readout`.

        Raises:
            InputError: ``tolerance`` is out of range.
        """
        if not 0 <= tolerance <= 1:
            raise InputError(f"Passed `tolerance={tolerance}`. `tolerance` must be in [0, 1].")
        sums = goodness[first_block:].cumsum(0)
        right = sums.argmax(2) == labels
        going_on = torch.ones_like(labels, dtype=torch.bool)
        margins, allowed = [math.inf] * first_block, 0.0
        for scores, correct in zip(sums[:-1], right[:-1], strict=True):
            allowed += tolerance * len(labels) / (len(sums) - 1)
            margin, lost = _margin(lead(scores)[going_on], (right[-1].int() - correct.int())[going_on], allowed)
            margins.append(margin)
            allowed -= lost
            going_on &= lead(scores) < margin
        return cls(margins, first_block=first_block)

    def check(self, network: BlockStack) -> None:
        """Check that there is a margin for every block but the last.

        Raises:
            InputError: there are more or fewer, ``first_block`` lies above the stack, or blocks read more than the one
                below.
        """
        super().check(network)
        if type(network).activities is not BlockStack.activities:
            raise InputError(
                f"Passed `readout=EarlyExit` with a {type(network).__name__}, which passes activities on in a way of "
                "its own. An early exit needs blocks that read the one below and nothing else."
            )
        if len(self.margins) != len(network) - 1:
            raise InputError(
                f"Passed {len(self.margins)} `margins`. The network has {len(network)} blocks, and all but the last "
                "need one."
            )

    def forward(self, network: BlockStack, image: Tensor, num_classes: int) -> Tensor:  # noqa: D102
        return self.answer(network, image, num_classes).scores

    def answer(self, network: BlockStack, image: Tensor, num_classes: int) -> Answer:
        """Scores of images ``(B, …)``, summed up to the block that answered, and that block."""
        parts = [self._some(network, some, num_classes) for some in swept(network, image, num_classes)]
        return Answer(torch.cat([part.scores for part in parts]), torch.cat([part.block for part in parts]))

    @torch.no_grad()
    def _some(self, network: BlockStack, image: Tensor, num_classes: int) -> Answer:
        sweep = not network.gives_classes
        x = Labelled(image, all_labels(len(image), num_classes, image.device)) if sweep else image
        rows = torch.arange(len(image), device=image.device)  # of the images that go on
        scores = torch.zeros(len(image), num_classes, device=image.device)
        answered = torch.full_like(rows, len(network) - 1)
        for index, block in enumerate(network):
            h: Tensor = block(x)
            if index >= self.first_block:
                g = block.goodness(h)
                scores = scores.to(g.dtype).index_add(0, rows, g.view(num_classes, -1).T if sweep else g)
                unclear = lead(scores[rows]) < (self.margins[index] if index < len(self.margins) else 0.0)
                answered[rows[~unclear]] = index
                rows = rows[unclear]
                h = kept(h, unclear)
                x = kept_input(x, unclear)
            if not len(rows):
                break
            x = block.pass_on(x, h)
        return Answer(scores, answered)


def kept(h: Tensor, unclear: Tensor) -> Tensor:
    """Rows ``(S * B, …)`` of the images that go on, of every label; ``unclear`` is ``(B,)``."""
    return h.view(-1, len(unclear), *h.shape[1:])[:, unclear].flatten(0, 1)


def kept_input(x: Any, unclear: Tensor) -> Any:
    """What a block received, cut to the images that go on: a tensor, labels beside an image, or several tensors."""
    if isinstance(x, Tensor):
        return kept(x, unclear)
    if isinstance(x, Labelled):
        return replace(x, labels=x.labels[:, unclear])  # of the image, nothing is passed on
    return replace(x, **{part.name: kept(getattr(x, part.name), unclear) for part in fields(x)})


def lead(scores: Tensor) -> Tensor:
    """By how much the best class is ahead of the second best, ``(B,)``."""
    best, second = scores.topk(2, dim=1).values.unbind(1)
    return best - second


def _margin(leads: Tensor, losses: Tensor, allowed: float) -> tuple[float, float]:
    """The smallest margin that loses no more answers than allowed, and how many it loses.

    Args:
        leads: ``(N,)`` of the images that come to a block.
        losses: ``(N,)``, 1 where an answer would be lost by stopping, -1 where one would be won.
        allowed: answers that may be lost.
    """
    leads, order = leads.sort(descending=True)
    lost = losses[order].cumsum(0)
    last_of_its_lead = torch.cat([leads[1:] != leads[:-1], leads.new_ones(len(leads[:1]), dtype=torch.bool)])
    fitting = torch.nonzero((lost <= allowed) & last_of_its_lead)
    if not len(fitting):
        return math.inf, 0.0
    place = int(fitting[-1])
    return float(leads[place]), float(lost[place])
