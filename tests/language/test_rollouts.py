"""SleepBuffer: what is kept, what is replaced and when, what a step gets of it; with real networks and real text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ff_lightning.errors import InputError
from ff_lightning.language.generation import Sampler, continued, stream
from ff_lightning.language.rollouts import SleepBuffer
from ff_lightning.language.stack import TokenStack
from ff_lightning.normalization import frozen_statistics
from tests.texts import CONTEXT, awake, gpt, hinton_gpt, hinton_mlp, window_mlp, windows


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def buffer(**options: Any) -> SleepBuffer:
    return SleepBuffer(**{"context": CONTEXT, "sequences": 10, "prefix": (3, 7), "rows": 5} | options)


def refreshed(kept: SleepBuffer, network: TokenStack, update: int = 0, seed: int = 0, rows: int = 4) -> SleepBuffer:
    """After one refresh from other real rows for every update."""
    kept.refresh(network, windows(rows, start=1000 * update)[:, :-1], update, seeded(seed))
    return kept


def replaced(before: Tensor, after: Tensor) -> list[int]:
    return (before != after).any(1).nonzero().flatten().tolist()


@pytest.mark.parametrize("make", [gpt, hinton_gpt, hinton_mlp, window_mlp])
def test_sequences_go_on_with_what_the_network_draws(make: Any) -> None:
    """The numbers of the generator make the same text by `stream`, here without caches."""
    network, generator = awake(make()), seeded(3)
    kept = refreshed(buffer(temperature=0.7), network, seed=3)
    known = int(torch.randint(3, 8, (), generator=generator))
    prompts = windows(4)[:, :known].repeat(3, 1)[:10]
    draws = stream(network, prompts, CONTEXT - known, Sampler(0.7), generator, use_cache=False)
    assert torch.equal(kept.tokens, continued(prompts, draws))
    assert kept.starts.tolist() == [known] * 10
    assert len(torch.unique(kept.tokens, dim=0)) > 4, "rows with one beginning are continued differently"
    assert not any(p.grad is not None or kept.tokens.requires_grad for p in network.parameters())


def test_a_cold_draw_is_the_likeliest_token() -> None:
    network = awake(hinton_gpt())
    kept = refreshed(buffer(temperature=1e-4), network)
    start = int(kept.starts[0])
    likeliest = network(kept.tokens[:, :-1]).argmax(-1)
    assert torch.equal(kept.tokens[:, start:], likeliest[:, start - 1 :])


def test_every_number_of_real_tokens_occurs() -> None:
    network, kept = window_mlp(widths=[4]), buffer(sequences=2, renew=1.0)
    starts = {int(refreshed(kept, network, seed=seed).starts[0]) for seed in range(60)}
    assert starts == {3, 4, 5, 6, 7}
    short = windows(4)[:, :5]  # at least one token of a step must be the model's own
    for seed in range(20):
        kept.refresh(network, short, seed, seeded(seed))
        assert int(kept.starts.max()) <= 4


@pytest.mark.parametrize(("renew", "count"), [(0.3, 3), (0.01, 1), (0.25, 2), (1.0, 10)])
def test_the_oldest_are_replaced_first(renew: float, count: int) -> None:
    network, kept = awake(window_mlp()), buffer(renew=renew)
    refreshed(kept, network)
    assert all(bool(row.any()) for row in kept.tokens), "the first time all are made"
    for update in range(1, 8):
        before = kept.tokens.clone()
        refreshed(kept, network, update, seed=update)
        places = sorted(((update - 1) * count + place) % 10 for place in range(count))
        assert replaced(before, kept.tokens) == places
        for place in places:
            start = int(kept.starts[place])
            real = windows(4, start=1000 * update)[:, :start]
            assert bool((kept.tokens[place, :start] == real).all(1).any()), "the batch of this update is continued"


def test_when_a_refresh_is_due() -> None:
    network, kept = window_mlp(widths=[4]), buffer(refresh_every=3)
    done = []
    for batch in range(14):  # two batches an update
        update = 5 + batch // 2
        if kept.due(update):
            refreshed(kept, network, update)
            done.append(batch)
    assert done == [0, 2, 8], "at once, then before the updates 6 and 9, on the first of their batches"


def test_only_training_refreshes() -> None:
    """Where nothing is there yet, an evaluation or a look gets what training would make, and leaves no trace."""
    network, kept = window_mlp(widths=[4]), buffer(refresh_every=3)
    real = windows(4)[:, :-1]
    made = refreshed(buffer(), network, seed=1)

    def looked(update: int) -> SleepBuffer:
        with frozen_statistics(kept):
            found = kept.ready(network, real, update, seeded(1))
        kept.eval()
        again = kept.ready(network, real, update, seeded(1))
        kept.train()
        assert torch.equal(found.tokens, again.tokens)
        return again

    assert torch.equal(looked(0).tokens, made.tokens)
    assert int(kept.refreshed_at) == -1
    assert not kept.tokens.any()
    assert kept.ready(network, real, 0, seeded(1)) is kept
    assert torch.equal(kept.tokens, made.tokens)
    assert looked(3) is kept
    assert int(kept.refreshed_at) == 0
    assert kept.ready(network, real, 3, seeded(2)) is kept
    assert int(kept.refreshed_at) == 3


def test_a_step_gets_rows_of_all_and_knows_what_is_made_up() -> None:
    kept = refreshed(buffer(rows=5000), awake(window_mlp()))
    kept.starts[:4] = torch.tensor([3, 5, 7, 15])
    kept.tokens[:, 0] = torch.arange(10)  # so that a row can be told
    dreams = kept.draw(12, seeded())
    rows = dreams.h[:, 0]
    assert torch.equal(dreams.h, kept.tokens[rows, :12])
    assert torch.equal(dreams.dreamed.int().argmax(1), kept.starts[rows])
    assert torch.equal(dreams.dreamed.sum(1), 12 - kept.starts[rows])
    counts = torch.bincount(rows, minlength=10)
    assert counts[3] == 0, "nothing in it is made up so far"
    assert bool(((counts[[0, 1, 2, 4, 5, 6, 7, 8, 9]] - 5000 / 9).abs() < 5 * (5000 / 9) ** 0.5).all())
    assert torch.equal(kept.draw(12, seeded()).h, dreams.h)
    assert not torch.equal(kept.draw(12, seeded(1)).h, dreams.h)


def test_texts_that_are_too_short_are_refused() -> None:
    kept = buffer(prefix=(6, 9))
    with pytest.raises(InputError, match=r"sequences of 6 tokens to a `SleepBuffer\(prefix=\(6, 9\)\)`"):
        kept.refresh(window_mlp(), windows(4)[:, :6], 0, seeded())
    refreshed(kept, window_mlp())
    with pytest.raises(InputError, match=r"sequences of 6 tokens .* at least [6789] real ones"):
        kept.draw(6, seeded())


def test_what_is_kept_is_saved() -> None:
    kept = refreshed(buffer(renew=0.3), awake(window_mlp()), update=6)
    again = buffer()
    again.load_state_dict(kept.state_dict())
    assert torch.equal(again.tokens, kept.tokens)
    assert (int(again.refreshed_at), int(again.oldest)) == (6, 0)
    assert torch.equal(again.draw(9, seeded()).dreamed, kept.draw(9, seeded()).dreamed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequences": 0}, r"SleepBuffer\(sequences=0\).*at least 1"),
        ({"refresh_every": 0}, r"refresh_every=0"),
        ({"rows": -1}, r"rows=-1"),
        ({"prefix": (0, 4)}, r"prefix=\(0, 4\)\)` with `context=16`"),
        ({"prefix": (5, 4)}, r"prefix=\(5, 4\)"),
        ({"prefix": (5, 16)}, r"prefix=\(5, 16\).*below `context`"),
        ({"sequences": 2.5}, r"SleepBuffer\(sequences=2\.5\).*whole number"),
        ({"sequences": "a"}, "sequences='a'"),
        ({"refresh_every": 2.5}, r"refresh_every=2\.5"),
        ({"context": "8"}, "context='8'"),
        ({"prefix": 4}, "prefix=4.*smallest and the largest"),
        ({"prefix": "48"}, "prefix='48'"),
        ({"prefix": (4,)}, r"prefix=\(4,\)"),
        ({"prefix": (1.5, 3)}, r"prefix=\(1\.5, 3\)"),
        ({"renew": 0.0}, r"renew=0\.0"),
        ({"renew": 1.1}, r"renew=1\.1.*\(0, 1\]"),
        ({"temperature": 0.0}, r"temperature=0\.0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        buffer(**options)
