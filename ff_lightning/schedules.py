"""When each block learns, and how its learning rate falls.

A :class:`Schedule` gives every block a period of the training. Outside its period a block rests: its forward
pass still feeds the blocks above. Learning-rate schedulers are torch's own, one a block, stepped once for each
of the block's updates; :class:`HoldThenDecay` is one that needs no step count in a recipe.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ff_lightning.errors import InputError, is_number, whole
from ff_lightning.parts import Part


class Schedule(Part, ABC):
    """Order of training, and how fast the upper blocks learn.

    Args:
        depth_decay: the learning rate of each block is this share of the rate of the block below; in ``(0, 1]``.
    """

    depth_decay: float = 1.0

    def __init__(self, *, depth_decay: float = 1.0) -> None:
        if not (is_number(depth_decay) and 0 < depth_decay <= 1):
            raise InputError(f"Passed `depth_decay={depth_decay}`. `depth_decay` must be in (0, 1].")
        self.depth_decay = depth_decay

    def rests(self, block: int) -> bool:
        """Whether a block rests although its period is not over; none does, as a rule."""
        del block
        return False

    @abstractmethod
    def periods(self, depth: int) -> list[tuple[float, float]]:
        """Start and stop of every block's learning, as fractions of the training.

        Args:
            depth: number of blocks.

        Returns:
            One ``(start, stop)`` a block, with ``0 <= start < stop <= 1``, or ``(0, 0)`` for one that never learns.
        """

    def rate(self, index: int, depth: int) -> float:
        """Share of the optimizer's learning rate at which a block learns.

        Args:
            index: of the block.
            depth: number of blocks.
        """
        del depth
        return float(self.depth_decay**index)


class Simultaneous(Schedule):
    """Every block learns at every step; each sees the lower ones change. Arguments: see :class:`Schedule`."""

    def periods(self, depth: int) -> list[tuple[float, float]]:
        """All blocks from start to end; see :class:`Schedule`."""
        return [(0.0, 1.0)] * depth


class Staggered(Schedule):
    """Block ``k`` starts ``k * delay`` into the training, and all learn to the end.

    Args:
        delay: fraction of the training between the starts of two neighbours, in ``[0, 1)``.
        depth_decay: see :class:`Schedule`.

    >>> Staggered(0.25).periods(3)
    [(0.0, 1.0), (0.25, 1.0), (0.5, 1.0)]
    """

    def __init__(self, delay: float = 0.1, *, depth_decay: float = 1.0) -> None:
        super().__init__(depth_decay=depth_decay)
        if not (is_number(delay) and 0 <= delay < 1):
            raise InputError(f"Passed `delay={delay}`. `delay` must be in [0, 1).")
        self.delay = delay

    def periods(self, depth: int) -> list[tuple[float, float]]:
        """Delayed starts; see :class:`Schedule`."""
        if (depth - 1) * self.delay >= 1:
            raise InputError(
                f"Passed `delay={self.delay}` for {depth} blocks. The last one would start at "
                f"{(depth - 1) * self.delay:g} of the training; `delay` must be below {1 / (depth - 1):g}."
            )
        return [(index * self.delay, 1.0) for index in range(depth)]


class Greedy(Schedule):
    """One block after the other.

    A task whose readout learns counts it as one more block, the last.

    Args:
        shares: lengths of the blocks' times relative to each other, such as epochs; equal by default. A single block,
            such as a twin, has all the time whatever they are.
        depth_decay: see :class:`Schedule`.

    >>> Greedy().periods(2)
    [(0.0, 0.5), (0.5, 1.0)]
    >>> Greedy([3, 1]).periods(2)
    [(0.0, 0.75), (0.75, 1.0)]
    """

    def __init__(self, shares: Sequence[float] | None = None, *, depth_decay: float = 1.0) -> None:
        super().__init__(depth_decay=depth_decay)
        if shares is not None and (not shares or not all(is_number(share) and share > 0 for share in shares)):
            raise InputError(f"Passed `shares={list(shares)}`. `shares` needs one positive number a block.")
        self.shares = shares

    def periods(self, depth: int) -> list[tuple[float, float]]:
        """Shares side by side; see :class:`Schedule`."""
        shares = [1.0] * depth if self.shares is None or depth == 1 else self.shares
        if len(shares) != depth:
            raise InputError(
                f"Passed `shares={list(shares)}` for {depth} blocks, a readout that learns counted among them. "
                "`shares` needs one number a block."
            )
        *_, whole = sums = list(accumulate(shares))
        return list(pairwise([0.0, *(end / whole for end in sums)]))


class ReadoutLast(Schedule):
    """All blocks learn together; then they rest, and the readout alone learns to read what they have become.

    For tasks whose readout learns, which count it as one more block, the last. A readout that learns beside the blocks
    follows them while they change. Hinton's, too, is trained after them (2212.13345, section 3.2).

    Args:
        share: the readout's part of the training, at its end, in ``(0, 1)``. A single block, such as a twin, has all
            the time whatever it is.
        depth_decay: see :class:`Schedule`.

    >>> ReadoutLast(0.25).periods(3)
    [(0.0, 0.75), (0.0, 0.75), (0.75, 1.0)]
    """

    def __init__(self, share: float = 0.2, *, depth_decay: float = 1.0) -> None:
        super().__init__(depth_decay=depth_decay)
        if not (is_number(share) and 0 < share < 1):
            raise InputError(f"Passed `share={share}`. `share` must be in (0, 1).")
        self.share = share

    def periods(self, depth: int) -> list[tuple[float, float]]:
        """All below the last end where it begins; see :class:`Schedule`."""
        begins = 1 - self.share if depth > 1 else 0.0
        return [(0.0, begins)] * (depth - 1) + [(begins, 1.0)]


class Periods(Schedule):
    """Every block has a start and a stop of its own: CwC's interleaved layer training (arXiv 2312.12668, section 3.3).

    There all blocks start together, and the lower ones stop first. A single block, such as a twin, has all the time
    whatever they are.

    Args:
        periods: ``[start, stop]`` of every block, as shares of the training, ``0 <= start < stop <= 1``; of a task
            whose readout learns, that of the readout, too, as the last.
        depth_decay: see :class:`Schedule`.

    >>> Periods([[0, 0.5], [0, 0.75], [0.25, 1]]).periods(3)
    [(0.0, 0.5), (0.0, 0.75), (0.25, 1.0)]
    """

    def __init__(self, periods: Sequence[Sequence[float]], *, depth_decay: float = 1.0) -> None:
        super().__init__(depth_decay=depth_decay)
        given = [list(period) for period in periods]
        if not given or not all(len(period) == 2 and 0 <= period[0] < period[1] <= 1 for period in given):
            raise InputError(
                f"Passed `periods={given}`. `periods` needs `[start, stop]` for every block, shares of the training "
                "with 0 <= start < stop <= 1."
            )
        self.given = [(float(start), float(stop)) for start, stop in given]

    def periods(self, depth: int) -> list[tuple[float, float]]:
        """As they were given; see :class:`Schedule`."""
        given = [(0.0, 1.0)] if depth == 1 else self.given
        if len(given) != depth:
            raise InputError(
                f"Passed `periods` of {len(given)} blocks for {depth}, a readout that learns counted among them. "
                "`periods` needs `[start, stop]` for each."
            )
        return given


class RestOnPlateau(Schedule):
    """All blocks learn from the start; each rests for good when its own loss on validation data stops to fall.

    The loss of every block is measured at every validation, which costs a second forward pass of the validation data.
    Where negatives are drawn from a block's own prediction the loss means nothing (only its gradient does), and the
    logistic loss between the true class and the wrong one that the block likes best stands for it. When all have come
    to rest the training ends. What was measured is kept in checkpoints.

    Args:
        patience: validations in a row without a better loss, after which a block rests; 1 or more.
        least: what a better loss is below the best one by, at least; not negative.
        depth_decay: see :class:`Schedule`.
    """

    def __init__(self, patience: int = 3, *, least: float = 0.0, depth_decay: float = 1.0) -> None:
        super().__init__(depth_decay=depth_decay)
        self.patience = whole("patience", patience, least=1, owner=self)
        if not 0 <= least < math.inf:
            raise InputError(f"Passed `RestOnPlateau(least={least})`. `least` must be finite and not negative.")
        self.least = least
        self.best: dict[int, float] = {}
        self.waited: dict[int, int] = {}

    def periods(self, depth: int) -> list[tuple[float, float]]:
        """All blocks from start to end; see :class:`Schedule`."""
        return [(0.0, 1.0)] * depth

    def observe(self, losses: Mapping[int, float]) -> None:
        """Take in the losses of blocks that still learn, by their index, at the end of a validation."""
        for block, loss in losses.items():
            if loss < self.best.get(block, math.inf) - self.least:
                self.best[block], self.waited[block] = loss, 0
            else:
                self.waited[block] = self.waited.get(block, 0) + 1

    def rests(self, block: int) -> bool:
        """Whether the loss of a block has stopped to fall."""
        return self.waited.get(block, 0) >= self.patience

    def state_dict(self) -> dict[str, dict[int, float] | dict[int, int]]:
        """What was measured, for a checkpoint."""
        return {"best": dict(self.best), "waited": dict(self.waited)}

    def load_state_dict(self, state: Mapping[str, Mapping[int, float]]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self.best = {int(block): float(loss) for block, loss in state["best"].items()}
        self.waited = {int(block): int(count) for block, count in state["waited"].items()}


class Rates(Schedule):
    """Every block at a rate of its own, or at rest, from start to end: for fine-tuning.

    Args:
        rates: for every block the share of the optimizer's learning rate, not negative; a block with 0 rests. A task
            whose readout learns counts it as one more block, the last, which rests or has the whole rate. A single
            block, such as a twin, has the whole rate whatever they are.

    Raises:
        InputError: a rate is negative or not finite, or all blocks rest.

    >>> Rates([0, 0.3, 1]).periods(3)
    [(0.0, 0.0), (0.0, 1.0), (0.0, 1.0)]
    """

    def __init__(self, rates: Sequence[float]) -> None:
        super().__init__()
        if not all(0 <= rate < math.inf for rate in rates) or not any(rates):
            raise InputError(
                f"Passed `rates={list(rates)}`. `rates` needs one number a block, not negative, and 0 for one that "
                "rests; at least one block must learn."
            )
        self.rates = [float(rate) for rate in rates]

    def periods(self, depth: int) -> list[tuple[float, float]]:
        """The whole training, or nothing; see :class:`Schedule`."""
        if depth == 1:
            return [(0.0, 1.0)]
        if len(self.rates) != depth:
            raise InputError(
                f"Passed `rates={self.rates}` for {depth} blocks, a readout that learns counted among them. `rates` "
                "needs one number a block."
            )
        return [(0.0, 1.0 if rate else 0.0) for rate in self.rates]

    def rate(self, index: int, depth: int) -> float:
        """That of the block, whatever the depth decay; see :class:`Schedule`."""
        return 1.0 if depth == 1 or index >= len(self.rates) else self.rates[index]


def update_ranges(schedule: Schedule, depth: int, total: int | None) -> list[range]:
    """Turn the periods of a schedule into ranges of updates.

    Args:
        schedule: order of training.
        depth: number of blocks.
        total: updates of the whole training; ``None`` if it has no known end.

    Returns:
        For every block the update numbers, counted from 0, at which it learns.

    Raises:
        InputError: the schedule needs an end that the training does not have.
    """
    periods = schedule.periods(whole("depth", depth, least=1))
    if total is None:
        if any(period not in ((0.0, 1.0), (0.0, 0.0)) for period in periods):
            raise InputError(
                f"Passed `schedule={type(schedule).__name__}` to a training without an end. Give the Trainer "
                "`max_epochs` or `max_steps`."
            )
        return [range(2**62 if stop else 0) for _, stop in periods]
    bounds = [(round(start * total), round(stop * total)) for start, stop in periods]
    return [range(start, 2**62 if stop >= total else stop) for start, stop in bounds]


class HoldThenDecay(LRScheduler):
    """Linear warm-up, constant rate, then a linear fall to ``final`` of the base rate.

    :class:`~ff_lightning.FFLightningModule` sets ``total_updates`` to the number of updates that the block will
    get, so a recipe speaks of shares of the training and not of steps.

    Args:
        optimizer: whose learning rate is set.
        warmup: share of the updates over which the rate rises from near 0.
        hold: share of the updates after which the fall begins.
        final: rate at the end, as a share of the base rate.
        total_updates: updates in all; ``None`` leaves it to the module (until then the rate does not fall).
            A resumed run takes the length of the training it is resumed in.
        last_epoch: as in torch: number of steps taken before, -1 for a new run.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        warmup: float = 0.0,
        hold: float = 0.5,
        final: float = 0.0,
        total_updates: int | None = None,
        last_epoch: int = -1,
    ) -> None:
        if not (is_number(warmup) and is_number(hold) and 0 <= warmup <= hold <= 1):
            raise InputError(f"Passed `warmup={warmup}, hold={hold}`. Needed: 0 <= warmup <= hold <= 1.")
        if not (is_number(final) and 0 <= final <= 1):
            raise InputError(f"Passed `final={final}`. `final` must be in [0, 1].")
        self.warmup, self.hold, self.final = warmup, hold, final
        self.total_updates = None if total_updates is None else whole("total_updates", total_updates, least=0)
        self.follows_training = total_updates is None
        super().__init__(optimizer, last_epoch)

    def set_total(self, total_updates: int) -> None:
        """Fix the number of updates, and set the rate of the first one accordingly."""
        self.total_updates = total_updates
        self._last_lr = [*self.get_lr()]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """Learning rate of every parameter group for the next update."""
        return [base * self._factor(self.last_epoch) for base in self.base_lrs]  # type: ignore[misc]

    def _factor(self, done: int) -> float:
        if self.total_updates is None:
            return 1.0
        progress = min(done / max(self.total_updates, 1), 1.0)
        if progress < self.warmup:
            return (done + 1) / (self.warmup * self.total_updates + 1)
        if progress <= self.hold:
            return 1.0
        fall = (progress - self.hold) / (1 - self.hold)
        return 1 - fall * (1 - self.final)
