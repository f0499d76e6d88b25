"""Early exit: stop at the block at which the answer is clear."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ff_lightning.distributed import gather_rows
from ff_lightning.errors import InputError, is_number
from ff_lightning.processor import running_sums
from ff_lightning.readouts.goodness import Answer, Readout, all_labels, swept
from ff_lightning.signals import Labelled
from ff_lightning.stacks import BlockStack, Network


class EarlyExit(Readout):
    """:class:`~ff_lightning.readouts.GoodnessReadout` that asks no further block once the answer is clear.

    After every block, an image whose best class leads the second best by the block's margin is answered; only the
    others go on to the next block. The last block answers whatever is left. So the average cost falls with the share
    of easy images, for the same weights.

    Args:
        margins: for every block but the last, the lead that suffices, in units of goodness summed up to that block;
            ``inf`` never answers.
        tolerance: accuracy that may be lost on validation images, in ``[0, 1]``, when margins are chosen by them;
            ``None`` keeps the margins as they are.
        first_block: see :class:`~ff_lightning.readouts.Readout`; blocks below do not answer.

    Raises:
        InputError: a margin is negative or NaN, or the tolerance out of range.
    """

    leads: Tensor

    def __init__(self, margins: Sequence[float], *, tolerance: float | None = None, first_block: int = 0) -> None:
        super().__init__(first_block)
        if not all(margin >= 0 for margin in margins):
            raise InputError(f"Passed `margins={list(margins)}`. `margins` must not be negative.")
        if tolerance is not None and not (is_number(tolerance) and 0 <= tolerance <= 1):
            raise InputError(f"Passed `tolerance={tolerance}`. `tolerance` must be in [0, 1].")
        self.tolerance = tolerance
        self.register_buffer("leads", torch.tensor([float(margin) for margin in margins], dtype=torch.float64))
        self._observed: list[tuple[Tensor, Tensor]] = []

    @property
    def margins(self) -> list[float]:
        """The lead that suffices, for every block but the last."""
        margins: list[float] = self.leads.tolist()
        return margins

    def observe(self, goodness: Tensor, labels: Tensor) -> None:  # noqa: D102
        if self.tolerance is not None:
            self._observed.append((goodness, labels))

    def choose(self) -> None:
        """Find the margins that answer as early as they can without losing more accuracy than allowed.

        An answer is lost where the block is wrong and the last block would have been right; it is won the other way
        round. The allowance, ``tolerance`` times the number of images, is shared out equally among all blocks but the
        last. From the lowest block upwards, each answers the images with the greatest lead, as many as it can while
        answers lost less answers won stay within its share. What it leaves of its share goes to the next block.
        """
        if self.tolerance is None or not self._observed:
            return
        rows = gather_rows(torch.cat([goodness.transpose(0, 1) for goodness, _ in self._observed]))
        labels = gather_rows(torch.cat([labels for _, labels in self._observed]))
        self._observed = []
        sums = running_sums(rows.transpose(0, 1)[self.first_block :], 0)
        right = sums.argmax(2) == labels
        going_on = torch.ones_like(labels, dtype=torch.bool)
        margins, allowed = [math.inf] * self.first_block, 0.0
        for scores, correct in zip(sums[:-1], right[:-1], strict=True):
            allowed += self.tolerance * len(labels) / (len(sums) - 1)
            margin, lost = _margin(lead(scores)[going_on], (right[-1].int() - correct.int())[going_on], allowed)
            margins.append(margin)
            allowed -= lost
            going_on &= lead(scores) < margin
        self.leads.copy_(torch.tensor(margins))

    def check(self, network: Network) -> None:
        """Check that there is a margin for every block but the last.

        Raises:
            InputError: there are more or fewer, ``first_block`` lies above the stack, or blocks read more than the one
                below.
        """
        super().check(network)
        if not isinstance(network, BlockStack):
            raise InputError(
                f"Passed `readout=EarlyExit` with a {type(network).__name__}, which passes activities on in a way of "
                "its own. An early exit needs blocks that read the one below and nothing else."
            )
        if len(self.leads) != len(network) - 1:
            raise InputError(
                f"Passed {len(self.leads)} `margins`. The network has {len(network)} blocks, and all but the last "
                "need one."
            )

    def forward(self, network: Network, image: Tensor, num_classes: int) -> Tensor:  # noqa: D102
        return self.answer(network, image, num_classes).scores

    def answer(self, network: Network, image: Tensor, num_classes: int) -> Answer:
        """Scores of images ``(B, …)``, summed up to the block that answered, and that block."""
        parts = [self._some(network, some, num_classes) for some in swept(network, image, num_classes)]
        return Answer(torch.cat([part.scores for part in parts]), torch.cat([part.block for part in parts]))

    @torch.no_grad()
    def _some(self, network: Network, image: Tensor, num_classes: int) -> Answer:
        sweep = not network.gives_classes
        x = Labelled(image, all_labels(len(image), num_classes, image.device)) if sweep else image
        rows = torch.arange(len(image), device=image.device)  # of the images that go on
        scores = torch.zeros(len(image), num_classes, device=image.device)
        answered = torch.full_like(rows, len(network) - 1)
        margins = [*self.margins, 0.0]
        for index, block in enumerate(network):
            h: Tensor = block(x)
            if index >= self.first_block:
                g = block.goodness(h)
                scores = scores.to(g.dtype).index_add(0, rows, g.view(num_classes, -1).T if sweep else g)
                unclear = lead(scores[rows]) < margins[index]
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
