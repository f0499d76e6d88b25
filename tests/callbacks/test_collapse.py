from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from ff_lightning.callbacks import StopOnCollapse
from ff_lightning.errors import InputError
from ff_lightning.losses import SymBa
from ff_lightning.networks import LatencyEncoding, SpikingMLP
from ff_lightning.schedules import Greedy
from ff_lightning.signals import LocalStep, Signal, StepContext
from tests import spiking
from tests.training import classifier, loader, mlp, trainer

DATA = loader(300, 50)


def test_a_network_of_dead_units_is_stopped_and_the_block_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = mlp(2)
    with torch.no_grad():
        network[1].layer.linear.weight.zero_()
        network[1].layer.linear.bias.fill_(-1)
    run = trainer(tmp_path, callbacks=[StopOnCollapse(patience=2)], log_every_n_steps=2, max_epochs=5)
    run.fit(classifier(network=network), DATA)
    assert run.global_step == 4
    assert "the separation of block 1 was at most 0.55 on the last 2 logged steps" in caplog.text


def test_a_healthy_training_goes_on(tmp_path: Path) -> None:
    run = trainer(tmp_path, callbacks=[StopOnCollapse(patience=10)], log_every_n_steps=1, max_epochs=3)
    run.fit(classifier(depth=2), DATA)
    assert run.global_step == 18


def test_a_block_that_waits_for_its_turn_does_not_count(tmp_path: Path) -> None:
    network = mlp(2)
    with torch.no_grad():
        network[1].layer.linear.weight.zero_()
        network[1].layer.linear.bias.fill_(-1)
    run = trainer(tmp_path, callbacks=[StopOnCollapse(0.2, patience=2)], log_every_n_steps=1, max_epochs=1)
    run.fit(classifier(network=network, schedule=Greedy()), DATA)
    assert run.global_step == 5, "its turn comes after three of six updates"


HOPELESS = 0.999
"""A separation that no block reaches, so that every logged step counts."""


@pytest.mark.parametrize("every", [1, 2])
def test_a_step_counts_once_however_many_losses_or_batches_it_has(tmp_path: Path, every: int) -> None:
    for module in (spiking.classifier(), classifier(accumulate_batches=3)):
        stop = StopOnCollapse(HOPELESS, patience=2)
        run = trainer(tmp_path, callbacks=[stop], log_every_n_steps=every, max_epochs=5)
        run.fit(module, loader(450, 25))
        assert run.global_step == 2 * every


class Flickering(SpikingMLP):
    """Says that all is told apart at the second moment in time, and nothing at any other."""

    def local_losses(self, signal: Signal, context: StepContext = StepContext()) -> Iterator[LocalStep]:
        for place, step in enumerate(super().local_losses(signal, context)):
            moment = place // len(self)
            yield replace(step, g_pos=step.g_neg + int(moment == 1))


def test_a_block_counts_by_its_best_moment(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Flickering(64, [16, 12], encoding=LatencyEncoding(4), loss=SymBa(60.0))
    run = trainer(tmp_path, callbacks=[StopOnCollapse(0.5, patience=1)], log_every_n_steps=1)
    run.fit(spiking.classifier(network), DATA)
    assert run.global_step == 6


def stopping(folder: Path, patience: int, updates: int, ckpt: Path | None = None, **options: Any) -> pl.Trainer:
    stop = StopOnCollapse(HOPELESS, patience=patience)
    run = trainer(folder, callbacks=[stop], log_every_n_steps=1, max_epochs=-1, max_steps=updates)
    run.fit(classifier(1, **options), loader(300, 50), ckpt_path=None if ckpt is None else str(ckpt))
    run.save_checkpoint(folder / "last.ckpt")
    return run


UNFINISHED = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before:UserWarning")


@UNFINISHED
@pytest.mark.parametrize("options", [{}, {"accumulate_batches": 2}], ids=["batch", "two batches"])
def test_a_run_that_is_resumed_again_and_again_stops_where_it_would_have(
    options: dict[str, Any], tmp_path: Path
) -> None:
    assert stopping(tmp_path, 7, 20, **options).global_step == 7
    done = [stopping(tmp_path, 7, 3, **options).global_step]
    done += [stopping(tmp_path, 7, up_to, tmp_path / "last.ckpt", **options).global_step for up_to in (6, 20)]
    assert done == [3, 6, 7]
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["StopOnCollapse"]
    assert state == {"low": {}, "best": {}}


@UNFINISHED
def test_who_goes_on_after_a_collapse_gets_as_many_steps_again(tmp_path: Path) -> None:
    assert stopping(tmp_path, 2, 20).global_step == 2
    assert stopping(tmp_path, 2, 20, tmp_path / "last.ckpt").global_step == 4


def test_another_training_with_the_same_callback_counts_anew(tmp_path: Path) -> None:
    stop = StopOnCollapse(HOPELESS, patience=5)
    for _ in range(2):
        run = trainer(tmp_path, callbacks=[stop], log_every_n_steps=1, max_steps=4)
        run.fit(classifier(1), DATA)
        assert run.global_step == 4


def test_blocks_of_other_processes_count_and_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = mlp(1)
    monkeypatch.setattr(network.stage, "gather", lambda own: [own, {7: 0.4}] if isinstance(own, dict) else [own])
    run = trainer(tmp_path, callbacks=[StopOnCollapse(0.5, patience=3)], log_every_n_steps=1)
    run.fit(classifier(network=network), DATA)
    assert run.global_step == 3
    assert "the separation of block 7 was at most 0.5" in caplog.text


@pytest.mark.parametrize("wrong", [{"min_separation": 1.5}, {"patience": 0}])
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        StopOnCollapse(**wrong)
