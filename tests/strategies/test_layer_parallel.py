"""Two real processes that each train some of the blocks equal one process that trains all of them, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch import nn

import ff_lightning as ff
from ff_lightning.callbacks import GoodnessMonitor
from ff_lightning.errors import InputError
from ff_lightning.language import HintonMLP
from ff_lightning.losses import MovingThresholdLoss
from ff_lightning.networks import Lookahead
from ff_lightning.readouts import LinearReadout
from ff_lightning.strategies import LayerParallelStrategy
from ff_lightning.strategies.layer_parallel import refuse_task
from tests.strategies.layer_cases import BATCHES, CASES, RESUMED, WIDTH, Seen, fit
from tests.training import assert_same_weights, classifier, mlp, trainer, weights

pytestmark = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before:UserWarning")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As each of the ranks has: with more, sums are in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def two_ranks(two_ranks_folder: Path) -> Path:
    """Folder with what two ranks have made of every case."""
    return two_ranks_folder / "layers"


def load(folder: Path, name: str, rank: int) -> dict[str, Any]:
    return torch.load(folder / f"{name}, rank {rank}.pt", weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_equal_one_process(two_ranks: Path, tmp_path: Path, case: str) -> None:
    """Both ranks end with the whole network, and a checkpoint of two ranks is one of a single process."""
    module = fit(tmp_path, case, ranks=1)
    for rank in range(2):
        assert_same_weights(weights(module), load(two_ranks, case, rank))
    module.trainer.save_checkpoint(tmp_path / "one.ckpt")
    one, two = (torch.load(p, weights_only=True) for p in (tmp_path / "one.ckpt", two_ranks / f"{case}.ckpt"))
    assert one.keys() == two.keys()
    assert one["lr_schedulers"] == two["lr_schedulers"]
    for a, b in zip(one["optimizer_states"], two["optimizer_states"], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_checkpoint_of_either_goes_on_as_the_other(two_ranks: Path, tmp_path: Path) -> None:
    """Also one that was made between two batches that share an update."""
    whole = weights(fit(tmp_path, RESUMED, ranks=1, resume=two_ranks / "two.ckpt"))
    assert_same_weights(whole, load(two_ranks, RESUMED, 0))
    assert_same_weights(whole, load(two_ranks, "resumed", 0))
    assert_same_weights(whole, load(two_ranks, "resumed", 1))


def test_the_metrics_of_every_block_are_on_every_rank(two_ranks: Path, tmp_path: Path) -> None:
    seen = Seen()
    fit(tmp_path, "mlp, uniform, sgd", ranks=1, callbacks=[GoodnessMonitor(), seen], log_every_n_steps=4)
    for rank in range(2):
        found = load(two_ranks, "told", rank)["seen"]
        for one, two in zip(seen.metrics, found, strict=True):
            assert one.keys() == two.keys()
            for name, value in one.items():
                exact = {"rtol": 0, "atol": 0} if name.startswith("train") else {}  # evaluation is shared by rows
                torch.testing.assert_close(value, two[name], **exact)
    for name in ("loss", "goodness_pos", "margin", "gradient_norm"):
        assert {f"train/{name}/block_{index}" for index in range(4)} < seen.metrics[-1].keys()


def test_signals_travel_forward_and_nothing_else(two_ranks: Path) -> None:
    """An envelope, activities of both streams and labels a batch; collectives on the logged steps alone."""
    sent, received = (load(two_ranks, "told", rank)["sent"] for rank in range(2))
    messages = {
        "[[8192]]": BATCHES,
        f"[[400, {WIDTH}]]": BATCHES - 1,
        "[[200]]": BATCHES - 1,
        f"[[100, {WIDTH}]]": 1,
        "[[50]]": 1,
    }
    assert {name: count for name, count in sent.items() if "all_gather" not in name} == {
        f"gloo:send {shape}": count for shape, count in messages.items()
    }
    assert {name: count for name, count in received.items() if "all_gather" not in name} == {
        f"gloo:recv {shape}": count for shape, count in messages.items()
    }
    logged = 2  # of steps 8 to 14: each gathers values and those of the monitor, and looks whether they are finite
    assert sum(count for name, count in sent.items() if "all_gather" in name) == 2 * 3 * logged, "two a gathering"


def test_all_ranks_stop_before_the_same_batch(two_ranks: Path) -> None:
    """The first rank alone is told to stop, and sends word."""
    assert [load(two_ranks, "told", rank)["stopped_at"] for rank in range(2)] == [4, 4]


def test_what_would_go_wrong_is_refused_on_all_ranks(two_ranks: Path) -> None:
    for rank in range(2):
        assert "1 rising numbers from 1 to 3" in load(two_ranks, "told", rank)["refused"]


@pytest.mark.parametrize(
    ("strategy", "flags", "message"),
    [
        ({}, {"callbacks": [WeightAveraging()]}, "averages weights.*strategy='ddp'"),
        ({}, {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]}, "'bf16-mixed'"),
        ({"cluster_environment": SLURMEnvironment()}, {}, "auto_requeue=False"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    tmp_path: Path, strategy: dict[str, Any], flags: dict[str, Any], message: str
) -> None:
    run = trainer(tmp_path, **flags)
    run.strategy._lightning_module = classifier()
    with pytest.raises(InputError, match=message):
        LayerParallelStrategy(**strategy).refuse(run)


def two_ahead() -> ff.BlockStack:
    network = mlp(3)
    network.look_ahead(Lookahead(horizon=2))
    return network


def threshold_that_moves_under_lookahead() -> ff.BlockStack:
    network = mlp(2, loss=MovingThresholdLoss())
    network.look_ahead(Lookahead())
    return network


def with_vocabulary(below: str | None, *, learns: bool = True) -> Any:
    """A small Llama whose readout learns with the last block, and a goal of the lower ones."""
    pytest.importorskip("transformers", reason="needs the extra `transformers`")
    from ff_lightning import finetuning

    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = {"model_type": "llama", "num_attention_heads": 2, "tie_word_embeddings": False, **sizes}
    goal = None if below is None else getattr(finetuning, below)()
    return ff.FFLanguageModel(
        finetuning.CausalLM(config, layers_per_block=1, context=8, below=goal, train_vocabulary=learns)
    )


class Holding(nn.Module):
    """A goal that holds a module of another block where no child of it is."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.held = [part]


def holding() -> ff.FFClassifier:
    network = mlp(2)
    network[0].goal = Holding(network[1].layer)
    return classifier(network=network)


def rollouts() -> ff.FFLanguageModel:
    return ff.FFLanguageModel(HintonMLP(20, window=2, widths=[8, 8], context=8))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: classifier(update="fused"), "update='streamed'"),
        (lambda: classifier(readout=LinearReadout(32, 10)), "readout of all of them; use `strategy='ddp'`"),
        (lambda: classifier(network=two_ahead()), r"one block of the next; use `Lookahead\(horizon=1\)`"),
        (lambda: classifier(network=threshold_that_moves_under_lookahead()), "running values.*use `strategy='ddp'`"),
        (rollouts, "the whole network makes its negatives"),
        (lambda: with_vocabulary("NextToken"), r"reads what another block learns[^\n]*use `train_vocabulary=False`"),
        (holding, "reads what another block learns"),
        (pl.LightningModule, "trains an `FFLightningModule`"),
    ],
)
def test_tasks_that_need_more_than_the_block_below_are_refused(module: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        refuse_task(module())
    refuse_task(classifier())


def test_a_vocabulary_may_learn_that_no_lower_goal_reads() -> None:
    for below, learns in ((None, True), ("Reconstruction", True), ("NextToken", False)):
        refuse_task(with_vocabulary(below, learns=learns))


@pytest.mark.parametrize("cuts", [2, "2", [1.5], [True], [0]])
def test_cuts_that_are_no_list_of_blocks_are_refused(cuts: Any) -> None:
    says = r"^Passed `cuts=[^\n]*`. `cuts` must be a list of whole numbers, at least 1.$"
    with pytest.raises(InputError, match=says):
        LayerParallelStrategy(cuts=cuts)
    assert LayerParallelStrategy(cuts=(2, 3)).cuts == [2, 3]
