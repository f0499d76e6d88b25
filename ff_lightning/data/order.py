"""Which rows of a set are in which batch: shared by any number of ranks, and resumable at any batch.

Lightning injects distributed samplers only into `torch.utils.data.DataLoader`, so these loaders cut the share of
their rank themselves. What a row is and how a batch is made of rows is said by subclasses.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from ff_lightning.errors import InputError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

Batch = TypeVar("Batch")


class SharedLoader(ABC, Generic[Batch]):
    """Batches of rows that are shared by all ranks.

    Args:
        size: Number of rows over all ranks.
        batch_size: Number of rows in a batch of one rank.
        rank: Which share to give, 0 to world_size - 1.
        world_size: Number of shares.

    Raises:
        InputError: There are fewer rows than ranks.
    """

    rows: ClassVar[str]
    """What the rows are called in messages, in the plural."""
    workers: int = 0
    """Threads that make batches ahead of their use; 0 to make each when it is asked for."""

    def __init__(self, size: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.size = size
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        if size < world_size:
            raise InputError(
                f"A split of {size} {self.rows} cannot be shared by {world_size} processes. Use fewer devices."
            )

    @property
    def global_batch(self) -> int:
        """Number of rows in a full batch over all ranks."""
        return self.batch_size * self.world_size

    @abstractmethod
    def __len__(self) -> int:
        """Count the batches, the same on every rank."""

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """Give the batches of this rank."""


class OrderedLoader(SharedLoader[Batch]):
    """Rows in their order, each seen once and by exactly one rank, for evaluation.

    Nothing is repeated or dropped. All ranks have equally many batches, whose sizes differ by at most one row, so
    `batch_size` is the largest size, not that of each batch. (Over several ranks, with `batch_size=1` or fewer than
    two rows a rank, a batch can hold one more.)
    """

    def __len__(self) -> int:
        """Count the batches, the same on every rank."""
        needed = -(-self.size // self.global_batch)
        return min(needed, self.size // self.world_size)  # so that no batch is empty

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches of this rank from the first to the last."""
        yield from made_ahead((partial(self._take, rows) for rows in self.shares()), self.workers)

    def shares(self) -> Iterator[slice]:
        """Give the rows of each batch of this rank."""
        pieces = len(self) * self.world_size
        for piece in range(self.rank, pieces, self.world_size):
            yield slice(piece * self.size // pieces, (piece + 1) * self.size // pieces)

    @abstractmethod
    def _take(self, rows: slice) -> Batch:
        """Make a batch of some rows."""


class ResumableLoader(SharedLoader[Batch]):
    """Training epochs that go on after any batch, on any number of ranks.

    Every iteration is the next epoch, except that the first one after `load_state_dict` finishes the epoch that was
    interrupted.

    Args:
        size: Number of rows over all ranks.
        batch_size: Number of rows in a batch of one rank.
        seed: Seed of everything random.
        limit_batches: Where the trainer ends an epoch, as in its `limit_train_batches`: a share of the batches (a
            float) or their number (an int). It decides whether an epoch was over when a state was taken.
        rank: Which share to give, 0 to world_size - 1.
        world_size: Number of shares.

    Raises:
        InputError: There are fewer rows than ranks.
    """

    def __init__(
        self,
        size: int,
        *,
        batch_size: int,
        seed: int = 0,
        limit_batches: int | float = 1.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(size, batch_size=batch_size, rank=rank, world_size=world_size)
        self.seed = seed
        self.limit_batches = limit_batches
        self._epoch = 0
        self._given = 0  # batches given in this epoch
        self._started = False
        self._resuming = False

    @property
    def epoch_batches(self) -> int:
        """Number of batches after which the trainer ends an epoch."""
        limit = self.limit_batches
        return min(int(limit * len(self)) if isinstance(limit, float) else limit, len(self))

    batch_sampler = None
    """Lightning asks for it where it evaluates a loader that has a sampler, such as that of a training."""

    @property
    def sampler(self) -> "ResumableLoader[Batch]":
        """Itself, since Lightning calls `loader.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to begin with; without effect once begun or resumed.

        After a resume Lightning's own number can run ahead: it counts an epoch cut short by `max_steps`, and an empty
        one after a resume at an epoch's end under `max_steps`.
        """
        if not self._started:
            self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches of this rank that are still to come in the epoch."""
        # A generator, so this runs at the first `next`: Lightning calls `iter` more than once, and
        # before it has set the epoch.
        if self._resuming and self._given < self.epoch_batches:
            epoch, first = self._epoch, self._given
        else:
            epoch, first = self._epoch + self._started, 0
        self._resuming, self._started = False, True
        for batch, content in enumerate(self._rest(epoch, first), start=first + 1):
            self._epoch, self._given = epoch, batch
            yield content

    def state_dict(self) -> dict[str, Any]:
        """Return how far training has come, the same on every rank; a batch given is one used."""
        return {"epoch": self._epoch, "batches": self._given, "plan": self._plan()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next iteration go on where the state was taken.

        Args:
            state_dict: What `state_dict` returned, on any number of ranks.

        Raises:
            InputError: An epoch was under way with other rows, another seed or another number of rows in the batches
                of all ranks together.
        """
        if 0 < state_dict["batches"] < self.epoch_batches and state_dict["plan"] != self._plan():
            raise InputError(
                f"The checkpoint is from the middle of an epoch with {state_dict['plan']}, now it "
                f"is {self._plan()}. These must be the same to resume there."
            )
        self._epoch, self._given = state_dict["epoch"], state_dict["batches"]
        self._resuming = self._started = True

    def _plan(self) -> dict[str, int]:
        """Return what must not change within an epoch."""
        return {self.rows: self.size, f"{self.rows} a batch": self.global_batch, "seed": self.seed}

    @abstractmethod
    def _rest(self, epoch: int, first: int) -> Iterator[Batch]:
        """Give the share of this rank in the batches from `first` to the last of an epoch."""


class PermutedLoader(ResumableLoader[Batch]):
    """Rows in a new order in every epoch, the same for any number of ranks.

    Batch i of all ranks together is `order[i * B * W : (i + 1) * B * W]` and rank r takes its r-th slice. The last
    batch is split evenly too, which drops at most W - 1 rows of an epoch. The order depends on (seed, epoch) alone.
    """

    def __len__(self) -> int:
        """Count the batches of a whole epoch, the same on every rank."""
        full, rest = divmod(self.size, self.global_batch)
        return full + (rest >= self.world_size)

    def _rest(self, epoch: int, first: int) -> Iterator[Batch]:
        order = self._order(seeded(self.seed, epoch))
        return made_ahead((self._maker(order, epoch, batch) for batch in range(first, len(self))), self.workers)

    def _maker(self, order: torch.Tensor, epoch: int, batch: int) -> Callable[[], Batch]:
        everyone = order[batch * self.global_batch : (batch + 1) * self.global_batch]
        share = len(everyone) // self.world_size
        return partial(self._take, everyone, slice(self.rank * share, (self.rank + 1) * share), epoch, batch)

    def _order(self, generator: torch.Generator) -> torch.Tensor:
        """Draw the order of the rows in an epoch, (size,) int64."""
        return torch.randperm(self.size, generator=generator)

    @abstractmethod
    def _take(self, everyone: torch.Tensor, mine: slice, epoch: int, batch: int) -> Batch:
        """Make the share of this rank, `everyone[mine]`, of a batch of rows of all ranks."""


def made_ahead(makers: Iterable[Callable[[], Batch]], workers: int) -> Iterator[Batch]:
    """Make batches by threads before they are asked for, and give them in order.

    Args:
        makers: each makes one batch.
        workers: threads, and batches that wait; 0 to make each batch when it is asked for.
    """
    if not workers:
        yield from (make() for make in makers)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        waiting: deque[Future[Batch]] = deque()
        for make in makers:
            waiting.append(pool.submit(make))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # an epoch may end early
        pool.shutdown(cancel_futures=True)


def balanced_order(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw as many rows as there are, all classes equally often.

    A row of a small class comes several times, but not before all of its class have come.

    Args:
        labels: (N,) int64.
        generator: of the order.

    Returns:
        (N,) int64, rows.
    """
    classes = torch.unique(labels)
    counts = torch.full_like(classes, len(labels) // len(classes))
    counts[torch.randperm(len(classes), generator=generator)[: len(labels) % len(classes)]] += 1
    chosen = []
    for label, count in zip(classes.tolist(), counts.tolist(), strict=True):
        rows = (labels == label).nonzero()[:, 0]
        turns = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(-(-count // len(rows)))]
        chosen += [torch.cat(turns)[:count]] if turns else []
    order = torch.cat(chosen)
    return order[torch.randperm(len(order), generator=generator)]


def seeded(*key: int) -> torch.Generator:
    """Return a generator whose stream depends on every number of the key."""
    digest = blake2b(repr(key).encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def rank_of(trainer: "Trainer | None") -> tuple[int, int]:
    """Return the rank's share of a batch and the number of shares; ranks may have the same one."""
    share = None if trainer is None else trainer.distributed_sampler_kwargs
    return (0, 1) if share is None else (share["rank"], share["num_replicas"])


def mixed_once(size: int, seed: int) -> Tensor:
    """An order of rows, (size,) int64, for a training that repeats its first batches: a file may be sorted by class."""
    return torch.randperm(size, generator=seeded(seed))
