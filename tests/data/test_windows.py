from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ff_lightning.data.windows import OrderedWindows, RandomWindows
from ff_lightning.errors import InputError

PLACES = np.arange(1001, dtype=np.uint16)  # each token is its own place, to follow it


def ordered(size: int = 1000, **options: Any) -> OrderedWindows:
    return OrderedWindows(PLACES[:size], **{"context": 10, "batch_size": 8} | options)


def at_random(size: int = 1000, **options: Any) -> RandomWindows:
    return RandomWindows(PLACES[:size], **{"context": 10, "batch_size": 8, "batches_per_epoch": 5} | options)


def stream(loader: RandomWindows, batches: int) -> Tensor:
    """Take so many batches over as many epochs as it needs."""
    taken: list[Tensor] = []
    while len(taken) < batches:
        for batch in loader:
            taken.append(batch)
            if len(taken) == batches:
                break
    return torch.stack(taken)


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_windows_are_consecutive_tokens(kind: type) -> None:
    for loader in (OrderedWindows, RandomWindows):
        batch = next(iter(loader(PLACES.astype(kind), context=10, batch_size=8)))
        assert (batch.shape[1:], batch.dtype) == ((11,), torch.int64)
        assert torch.equal(batch - batch[:, :1], torch.arange(11).expand(len(batch), -1))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("size", [1000, 1001, 991, 990, 41])
def test_evaluation_predicts_each_token_once(size: int, world_size: int) -> None:
    loaders = [ordered(size, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [list(loader) for loader in loaders]
    assert {len(each) for each in batches} == {len(loaders[0])}
    targets = [batch[:, 1:].flatten() for step in zip(*batches, strict=True) for batch in step]
    assert torch.equal(torch.cat(targets), torch.arange(1, (size - 1) // 10 * 10 + 1))
    assert max(len(batch) for each in batches for batch in each) <= 8


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_cut_the_global_batch(world_size: int) -> None:
    together = stream(at_random(batch_size=6 * world_size), 12)
    shares = [stream(at_random(batch_size=6, rank=rank, world_size=world_size), 12) for rank in range(world_size)]
    assert torch.equal(torch.cat(shares, dim=1), together)


def test_all_places_are_equally_likely() -> None:
    starts = stream(at_random(31, batch_size=100), 100)[:, :, 0].flatten()
    counts = starts.bincount()
    assert len(counts) == 21  # the first and the last possible place among them
    assert counts.min() > 380  # 476 expected, standard deviation 21
    assert counts.max() < 580


def test_order_depends_on_seed_epoch_and_batch() -> None:
    batches = stream(at_random(seed=3), 15)
    assert torch.equal(batches, stream(at_random(seed=3), 15))
    assert not torch.equal(batches, stream(at_random(seed=4), 15))
    assert len({tuple(batch.flatten().tolist()) for batch in batches}) == 15


@pytest.mark.parametrize(("size", "world_size", "count"), [(1000, 1, 12), (1000, 2, 6), (1000, 3, 4), (20, 1, 1)])
def test_an_epoch_predicts_as_many_tokens_as_there_are(size: int, world_size: int, count: int) -> None:
    assert len(at_random(size, batches_per_epoch=None, world_size=world_size)) == count


def test_epoch_can_be_chosen_before_the_first_batch_only() -> None:
    expected, chosen = stream(at_random(), 20), at_random()
    chosen.sampler.set_epoch(2)
    assert torch.equal(torch.stack(list(chosen)), expected[10:15])
    chosen.sampler.set_epoch(7)
    assert torch.equal(torch.stack(list(chosen)), expected[15:])


@pytest.mark.parametrize("after", [1, 4, 5, 6, 10, 13])
def test_state_resumes_on_any_number_of_ranks(after: int) -> None:
    full = stream(at_random(batch_size=20), 15)
    interrupted = at_random(batch_size=10, rank=1, world_size=2)
    stream(interrupted, after)
    resumed = at_random(batch_size=20)
    resumed.load_state_dict(interrupted.state_dict())
    assert torch.equal(stream(resumed, 15 - after), full[after:])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"batch_size": 9}, "'places a batch': 8.*'places a batch': 9"),
        ({"context": 9}, "'context': 10.*'context': 9"),
        ({"seed": 1}, "'seed': 0.*'seed': 1"),
        ({"batches_per_epoch": 6}, "'batches an epoch': 5.*'batches an epoch': 6"),
        ({"size": 999}, "'places': 990.*'places': 989"),
    ],
)
def test_state_of_other_batches_is_refused_within_an_epoch_only(other: dict[str, Any], message: str) -> None:
    loader = at_random()
    stream(loader, 2)
    with pytest.raises(InputError, match=message):
        at_random(**other).load_state_dict(loader.state_dict())
    stream(loader, 5)
    if "batches_per_epoch" not in other:
        at_random(**other).load_state_dict(loader.state_dict())


@pytest.mark.parametrize("make", [ordered, at_random])
def test_text_shorter_than_a_window(make: Any) -> None:
    assert next(iter(make(11))).shape[1] == 11
    with pytest.raises(InputError, match=r"10 tokens is shorter than a window of `context=10`"):
        make(10)


@pytest.mark.parametrize(("make", "rows"), [(ordered, "1 windows"), (at_random, "1 places")])
def test_fewer_windows_than_ranks(make: Any, rows: str) -> None:
    with pytest.raises(InputError, match=f"{rows} cannot be shared by 2 processes"):
        make(11, world_size=2)
