"""Two real processes with the stock `ddp` strategies equal one process on the joined batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ff_lightning.data.strings import ShuffledRows
from tests.ddp_cases import CASES, NOT_EQUAL, RESUMED, Language, fit, strings
from tests.training import assert_same_weights, weights

BATCHES = 14


@pytest.fixture
def two_ranks(two_ranks_folder: Path) -> Path:
    """Folder with the weights of every case after training on two ranks."""
    return two_ranks_folder / "ddp"


def load(folder: Path, case: str, rank: int) -> dict[str, Tensor]:
    return torch.load(folder / f"{case}, rank {rank}.pt", weights_only=True)


@pytest.mark.parametrize("case", [name for name in CASES if name not in NOT_EQUAL])
@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no:UserWarning")
def test_two_ranks_equal_one_process(two_ranks: Path, tmp_path: Path, case: str) -> None:
    """Weights, moving θ and peer means agree, and each byte of gradient is sent once an update."""
    first, second = load(two_ranks, case, 0), load(two_ranks, case, 1)
    assert_same_weights(first, second)
    collectives, sent = first.pop("sent").tolist()
    module = fit(tmp_path, case, ranks=1)
    one = weights(module)
    assert one.pop("sent").tolist() == [0, 0]
    assert_same_weights(one, first, rtol=1e-9, atol=1e-12)
    updates = 4 if CASES[case].arguments.get("accumulate_batches") else BATCHES
    assert collectives == len(module.network) * updates, "one collective a block and update"
    assert sent == sum(p.nbytes for p in module.parameters()) * updates


def test_nothing_else_is_sent(two_ranks: Path) -> None:
    """What the backend sees: DDP's reducer is silent, and gradients of three blocks travel once."""
    counts = load(two_ranks, "collectives", 0)
    assert counts == {
        "gloo:all_reduce [[1040]]": BATCHES,  # 64 to 16 units, with their biases
        "gloo:all_reduce [[272]]": 2 * BATCHES,
        "gloo:all_reduce [[16]]": 3,  # the first batch sets peer means
        "gloo:all_reduce [[]]": 3 + 1,  # and θ; at the end, whether all weights are finite
        "gloo:barrier []": 1,
        "gloo:all_reduce [[102]]": BATCHES,  # afterwards the running values of all blocks travel together
        "gloo:broadcast [[1]]": BATCHES,  # Lightning asks whether a rank is to stop
        "gloo:broadcast [[2]]": 1,  # DDP sends all buffers once, before the first step
        "gloo:broadcast [[153]]": 1,
    }


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no:UserWarning")
def test_a_stop_between_batches_that_share_an_update_changes_nothing(two_ranks: Path, tmp_path: Path) -> None:
    """Each rank has its own gradients then; one process goes on with their mean."""
    whole = load(two_ranks, RESUMED, 1)
    del whole["sent"]
    again = load(two_ranks, "resumed", 1)
    one = weights(fit(tmp_path, RESUMED, ranks=1, resume=two_ranks / "between.ckpt"))
    del again["sent"], one["sent"]
    assert_same_weights(whole, again)
    assert_same_weights(whole, one, rtol=1e-9, atol=1e-12)
    gradients = torch.load(two_ranks / "between.ckpt", weights_only=True)["ff_lightning"]["gradients"]
    assert not torch.equal(gradients[0][0][0], gradients[1][0][0])


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no:UserWarning")
def test_batch_statistics_are_those_of_a_rank_and_running_ones_of_all(two_ranks: Path, tmp_path: Path) -> None:
    """A rank normalises by its own part of a batch, as under any `ddp`; what is kept for evaluation is equal."""
    case = "conv, batch statistics"
    first = load(two_ranks, case, 0)
    assert_same_weights(first, load(two_ranks, case, 1))
    one = weights(fit(tmp_path, case, ranks=1))
    for name in ("network.blocks.0.layer.0.weight", "network.blocks.1.layer.1.running_mean"):
        assert not torch.allclose(one[name], first[name], rtol=1e-9)
        torch.testing.assert_close(one[name], first[name], rtol=0.2, atol=0.05)


def test_an_overflow_on_one_rank_skips_the_block_on_all(two_ranks: Path) -> None:
    """Updates of two batches each; the scaler sees gradients after they are averaged."""
    first, second = (torch.load(two_ranks / f"overflow, rank {rank}.pt", weights_only=True) for rank in range(2))
    assert_same_weights(first["weights"], second["weights"])
    rests, all_move = [False] * 3, [True] * 3
    assert first["moved"] == second["moved"] == [rests, all_move, rests, [True, False, True], rests, all_move]
    assert first["scale"] == second["scale"] == 512.0


def test_the_group_is_left_before_the_interpreter_ends(two_ranks: Path) -> None:
    """Else threads of gloo abort some runs that succeeded."""
    assert {(two_ranks / f"at exit, rank {rank}.txt").read_text() for rank in (0, 1)} == {"group: False"}


def test_compiled_blocks_equal_others_on_two_ranks(two_ranks: Path) -> None:
    compiled = load(two_ranks, "compiled", 0)
    assert_same_weights(compiled, load(two_ranks, "compiled", 1))
    assert_same_weights(compiled, load(two_ranks, "not compiled", 0), rtol=1e-9, atol=1e-12)


@pytest.mark.ranks
def test_own_negatives_differ_between_ranks_and_come_again(two_ranks: Path, tmp_path: Path) -> None:
    case = "gpt, muon, own negatives"
    assert_same_weights(load(two_ranks, case, 0), load(two_ranks, "own negatives again", 0))
    module = fit(tmp_path, case, ranks=1)
    assert isinstance(module, Language)
    noise = [torch.rand(4, generator=module.draw(half, 0)) for half in (0, 1, 0)]
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    spawned = weights(fit(tmp_path, case, ranks=2, strategy="ddp_spawn"))
    assert_same_weights(spawned, load(two_ranks, case, 0))


def test_a_gradient_missing_on_one_rank_counts_as_zero(two_ranks: Path) -> None:
    for rank in range(2):
        gate = load(two_ranks, "branch", rank)["network.blocks.1.gate"]
        assert gate.item() == pytest.approx(-0.1 * BATCHES * 0.5)


def test_rollouts_are_made_by_all_ranks_and_the_same_on_all(two_ranks: Path) -> None:
    """Of 11 sequences, ranks make 6 each, of which one is left over; later 6 of them are made anew, 3 by each."""
    first, second = load(two_ranks, "rollouts", 0), load(two_ranks, "rollouts", 1)
    assert_same_weights(first, second)
    assert (int(first["rollouts.refreshed_at"]), int(first["rollouts.oldest"])) == (2, 6)
    data = strings()
    data.setup("fit")
    for rank, places in ((0, {2: [0, 1, 2]}), (1, {0: [6, 7, 8, 9, 10], 2: [3, 4, 5]})):
        batches = list(ShuffledRows(data.rows("train"), batch_size=4, rank=rank, world_size=2))
        for update, kept in places.items():
            starts = {int(first["rollouts.starts"][place]) for place in kept}
            assert len(starts) == 1
            start = starts.pop()
            prompts = batches[update][torch.arange(len(kept)) % 4, :start]
            assert torch.equal(first["rollouts.tokens"][kept, :start], prompts)
