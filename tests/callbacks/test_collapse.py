from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ff_lightning.callbacks import StopOnCollapse
from ff_lightning.errors import InputError
from ff_lightning.schedules import Greedy
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


@pytest.mark.parametrize("wrong", [{"min_separation": 1.5}, {"patience": 0}])
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        StopOnCollapse(**wrong)
