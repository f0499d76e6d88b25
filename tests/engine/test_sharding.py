"""Blocks sharded over two real processes by FSDP2, under `ModelParallelStrategy`, equal those under `ddp`."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

import ff_lightning as ff
from ff_lightning.callbacks import SampleText
from ff_lightning.cli.models import load_language_model
from ff_lightning.engine.checkpoints import AtomicCheckpointIO, check_checkpoint, unfinished
from ff_lightning.engine.sharding import replace_folder
from tests import texts
from tests.ddp_cases import RESUMED
from tests.sharded_cases import CASES, fit
from tests.training import assert_same_weights, classifier, loader, trainer

BATCHES = 7
EXACT = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture
def two_ranks(two_ranks_folder: Path) -> Path:
    """Folder with the checkpoints of every case after training on two ranks."""
    return two_ranks_folder / "sharded"


def weights(folder: Path, name: str, how: str = "sharded") -> dict[str, Tensor]:
    state = torch.load(folder / f"{name}, {how}.ckpt", weights_only=True)["state_dict"]
    return {key: value for key, value in state.items() if key != "sent"}


@pytest.mark.parametrize("case", CASES)
def test_sharded_blocks_equal_whole_ones(two_ranks: Path, case: str) -> None:
    """Weights, moving θ, peer means and rollouts, with own negatives, accumulation, clipping and uneven batches."""
    assert_same_weights(weights(two_ranks, case), weights(two_ranks, case, "ddp"), **EXACT)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_sharded_blocks_equal_whole_ones_in_low_precision(two_ranks: Path, precision: str) -> None:
    first, second = weights(two_ranks, precision), weights(two_ranks, precision, "ddp")
    kinds = {value.dtype for name, value in first.items() if "weight" in name}
    assert kinds == {torch.float32 if precision == "bf16-mixed" else torch.bfloat16}
    assert_same_weights(first, second, rtol=0.02, atol=2e-3)


def test_a_block_is_gathered_once_and_its_gradients_sent_once(two_ranks: Path) -> None:
    assert torch.load(two_ranks / "collectives.pt", weights_only=True) == {
        "gloo:all_gather [[520]]": BATCHES,  # half of a block of 1040 parameters
        "gloo:all_gather [[136]]": 2 * BATCHES,
        "gloo:all_reduce [[1040]]": BATCHES,  # gloo has no reduce-scatter of its own
        "gloo:all_reduce [[272]]": 2 * BATCHES,
        "gloo:all_reduce [[16]]": 3,  # the first batch sets peer means
        "gloo:all_reduce [[]]": 3 + 1,  # and θ; at the end, whether all weights are finite
        "gloo:barrier []": 1,
        "gloo:all_reduce [[102]]": BATCHES,  # afterwards the running values of all blocks travel together
        "gloo:broadcast [[1]]": BATCHES,  # Lightning asks whether a rank is to stop
    }


@pytest.mark.parametrize("source", ["a file", "a folder", "one process"])
def test_a_stop_between_batches_that_share_an_update_changes_nothing(two_ranks: Path, source: str) -> None:
    assert_same_weights(weights(two_ranks, f"resumed from {source}"), weights(two_ranks, RESUMED), **EXACT)


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no:UserWarning")
def test_one_process_goes_on_from_sharded_blocks(two_ranks: Path, tmp_path: Path) -> None:
    _, module = fit(tmp_path, RESUMED, sharded=False, ranks=1, resume=two_ranks / "between.ckpt")
    ours = {name: value for name, value in module.state_dict().items() if name != "sent"}
    assert_same_weights(ours, weights(two_ranks, RESUMED), **EXACT)


def test_all_ranks_generate_the_same(two_ranks: Path) -> None:
    first, second = (torch.load(two_ranks / f"words, rank {rank}.pt", weights_only=True) for rank in range(2))
    assert first.shape == (1, 23)
    assert torch.equal(first, second)


def test_a_folder_is_opened_and_refused_where_one_file_is_needed(two_ranks: Path, tmp_path: Path) -> None:
    folder = two_ranks / "parts" / "between.ckpt"
    assert sorted(file.name for file in folder.iterdir()) == [
        ".metadata",
        "__0_0.distcp",
        "__1_0.distcp",
        "checksums.json",
        "meta.pt",
    ]
    assert [file.name for file in folder.parent.iterdir()] == ["between.ckpt"], "nothing is left beside it"
    assert check_checkpoint(folder)["ff_lightning"]["seed"] >= 0
    for read in (AtomicCheckpointIO().load_checkpoint, load_language_model):
        with pytest.raises(ff.InputError, match=r"a folder that `ModelParallelStrategy` wrote"):
            read(folder)


def test_tensor_parallelism_is_refused(two_ranks: Path) -> None:
    assert (
        "use `ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)`"
        in (two_ranks / "refused.txt").read_text()
    )


def test_a_folder_takes_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_text("old")
    part = unfinished(tmp_path / "a.ckpt")
    part.mkdir()
    replace_folder(part, tmp_path / "a.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]
    assert (tmp_path / "a.ckpt").is_dir()


def test_a_write_that_fails_leaves_the_previous_folder(tmp_path: Path, alone: None) -> None:
    run = trainer(tmp_path, strategy=ModelParallelStrategy(), max_steps=1)
    module = classifier()
    run.fit(module, loader(40, 20))
    path = tmp_path / "last.ckpt"
    run.save_checkpoint(path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    module.network[0].layer.label.weight.data.mul_(2)
    module.on_save_checkpoint = lambda checkpoint: checkpoint.update(broken=lambda: None)
    with pytest.raises((AttributeError, pickle.PicklingError)):  # the parts are written, what belongs to them is not
        run.save_checkpoint(path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert unfinished(path).exists()


class Elsewhere(ff.FFClassifier):
    """Computes a loss past the blocks, where FSDP2 does not see it."""

    def local_losses(self, batch: Any) -> Any:
        for step in super().local_losses(batch):
            yield ff.LocalStep(step.block, torch.zeros((), requires_grad=True))


@pytest.mark.parametrize(
    ("make", "sizes", "says"),
    [
        (lambda: classifier(), {"data_parallel_size": 1, "tensor_parallel_size": 1}, None),
        (lambda: texts.model(), {}, r"`MuonAdamW`. Muon needs whole matrices: use `torch.optim.AdamW`"),
        (lambda: Elsewhere(classifier().network), {}, r"compute its activities by `block\(x\)`"),
    ],
)
def test_what_cannot_be_sharded_is_refused(
    make: Any, sizes: dict[str, int], says: str | None, tmp_path: Path, alone: None
) -> None:
    run = trainer(tmp_path, strategy=ModelParallelStrategy(**sizes), max_steps=1)
    if says is None:
        run.fit(make(), loader(40, 20))
        assert run.global_step == 1
        return
    with pytest.raises(ff.InputError, match=says):
        run.fit(make(), texts.Batches(8, 8) if "Muon" in says else loader(40, 20))


def test_samples_are_refused(tmp_path: Path, alone: None) -> None:
    module = texts.model(optimizer=torch.optim.AdamW)
    run = trainer(tmp_path, strategy=ModelParallelStrategy(), callbacks=[SampleText()], max_steps=1)
    with pytest.raises(ff.InputError, match=r"`SampleText` with `ModelParallelStrategy`"):
        run.fit(module, texts.Batches(8, 8))
