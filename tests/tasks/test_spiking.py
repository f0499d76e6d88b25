"""Event-driven FF on real digits: learns at every time step, resumes exactly, on ranks as in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import ff_lightning as ff
from ff_lightning.data import ImageDataModule
from ff_lightning.negatives import HardWrongLabel
from ff_lightning.networks import LatencyEncoding, RateEncoding
from ff_lightning.readouts import LinearReadout
from tests.spiking import ADAM, classifier, network
from tests.tasks import rank_cases
from tests.training import assert_same_weights, digits, trainer, weights


def data(batch_size: int = 100) -> ImageDataModule:
    return ImageDataModule("digits", batch_size=batch_size)


@pytest.mark.parametrize(
    ("settings", "task", "least"),
    [
        ({"encoding": RateEncoding(6)}, {}, 0.87),
        ({"encoding": LatencyEncoding(6)}, {"negatives": HardWrongLabel(0.02, candidates=2)}, 0.6),
        ({"encoding": RateEncoding(6), "learn_every": 2}, {"readout": LinearReadout(160, 10, first_block=0)}, 0.8),
    ],
    ids=["rate", "latency, hard negatives", "linear readout"],
)
def test_it_learns_digits(tmp_path: Path, settings: dict[str, Any], task: dict[str, Any], least: float) -> None:
    stack = network(widths=(100, 60), **settings)
    run = trainer(tmp_path, max_epochs=4, num_sanity_val_steps=0, check_val_every_n_epoch=4)
    run.fit(classifier(stack, **task), data(50))
    assert run.callback_metrics["val/accuracy"] > least
    assert run.global_step == 4 * 26, "one a batch, however many time steps"


def test_the_twin_learns_through_time(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_epochs=4, num_sanity_val_steps=0, check_val_every_n_epoch=4)
    run.fit(ff.BackpropTwin(network(widths=(60, 60)), optimizer=ADAM), data(50))
    assert run.callback_metrics["val/accuracy"] > 0.8


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_resume_equals_never_stopped(tmp_path: Path, precision: str) -> None:
    """Frames and negatives are drawn anew for every batch, and come again after a stop in mid-epoch."""

    def fit(seed: int, **resume: Any) -> ff.FFSpikingClassifier:
        torch.manual_seed(seed)
        module = classifier(network(encoding=RateEncoding(3)))
        module.seed = seed
        saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)
        settings = {"enable_checkpointing": True, "callbacks": [saved], "num_sanity_val_steps": 0}
        run = trainer(tmp_path, max_epochs=2, limit_train_batches=4, precision=precision, **settings)
        run.fit(module, data(), **resume)
        return module

    whole = fit(0)
    again = fit(7, ckpt_path=tmp_path / "step=5.ckpt", weights_only=True)
    assert_same_weights(weights(whole), weights(again))


def test_precisions_stay_close(tmp_path: Path) -> None:
    accuracy = []
    for precision in ("32-true", "bf16-mixed", "64-true"):
        run = trainer(tmp_path, max_epochs=4, precision=precision, num_sanity_val_steps=0, check_val_every_n_epoch=4)
        run.fit(classifier(network(widths=(60, 60))), data(50))
        accuracy.append(float(run.callback_metrics["val/accuracy"]))
    assert min(accuracy) > 0.7
    assert max(accuracy) - min(accuracy) < 0.08


def test_a_sample_is_judged_as_if_it_were_alone() -> None:
    module = classifier(network(encoding=RateEncoding(6))).eval()
    x = digits(12)[0]
    order = torch.randperm(12)
    alone = torch.cat([module(one[None]) for one in x])
    torch.testing.assert_close(module(x), alone)
    torch.testing.assert_close(module(x[order]), alone[order])


def test_two_ranks_equal_one_process(two_ranks_folder: Path, tmp_path: Path) -> None:
    one = rank_cases.fit(tmp_path, "spiking", ranks=1)
    for rank in range(2):
        two = torch.load(two_ranks_folder / "tasks" / f"spiking, rank {rank}.pt", weights_only=True)
        assert_same_weights(one, two, rtol=1e-9, atol=1e-12)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ff.InputError, match="`accumulate_batches=2` to a task that updates its blocks several times"):
        classifier(accumulate_batches=2)
    with pytest.raises(ff.InputError, match="use 'streamed'"):
        classifier(update="fused")
    with pytest.raises(ff.InputError, match=r"`network=MLP`.*SpikingMLP"):
        ff.FFSpikingClassifier(ff.networks.MLP(64, [8]))
