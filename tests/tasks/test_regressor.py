"""Numbers by goodness of candidates: real patients, the expected loss, what is refused."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import ff_lightning as ff
from ff_lightning.candidates import Softmax
from ff_lightning.data import TableDataModule
from ff_lightning.networks import MLP, ClassMLP
from ff_lightning.readouts import ChosenBlocks, GoodnessReadout, LastBlock
from tests.training import assert_same_weights, trainer, weights

FAST = partial(torch.optim.Adam, lr=2e-3)


def regressor(kind: Any = ff.FFRegressor, **arguments: Any) -> Any:
    """A small network with the same weights at every call."""
    torch.manual_seed(0)
    network = ClassMLP(10, [32, 32], num_classes=16)
    module = kind(network, **{"low": 25.0, "high": 346.0, "optimizer": FAST} | arguments)
    module.seed = 0
    return module


def data(**options: Any) -> TableDataModule:
    return TableDataModule("diabetes", target="number", **options)


@pytest.mark.parametrize("kind", [ff.FFRegressor, ff.BackpropTwin])
def test_it_and_its_twin_explain_how_diabetes_progresses(tmp_path: Path, kind: Any) -> None:
    module, patients = regressor(kind), data()
    run = trainer(tmp_path, max_epochs=15, num_sanity_val_steps=1, check_val_every_n_epoch=15)
    run.fit(module, patients)
    assert run.callback_metrics["val/r2"] > 0.25
    (tested,) = run.test(module, patients, verbose=False)
    ((x, y),) = patients.test_dataloader()
    predicted = module(x)
    assert tested["test/r2"] == pytest.approx(1 - float((y - predicted).square().sum() / (y - y.mean()).square().sum()))
    assert tested["test/mae"] == pytest.approx(float((y - predicted).abs().mean()), rel=1e-5)
    assert tested["test/r2"] > 0.3
    (said,) = run.predict(module, DataLoader(x, batch_size=100))
    assert torch.equal(said.values, predicted)
    assert (said.deviations > 0).all()


def test_candidates_lie_around_a_number_with_the_spread_that_was_asked_for() -> None:
    module = regressor(low=0.0, high=30.0, spread=1.5)
    assert module.numbers.tolist() == [2.0 * index for index in range(16)]
    y = torch.full((20000,), 13.0)
    drawn = module.numbers[module.near(y, torch.Generator().manual_seed(0))]
    assert drawn.mean().item() == pytest.approx(13.0, abs=0.1)
    assert drawn.std().item() == pytest.approx(3.0, abs=0.1)
    assert module.near(torch.tensor([-99.0, 999.0]), torch.Generator().manual_seed(0)).tolist()[0] < 8
    assert torch.equal(module.near(torch.tensor([-99.0]), torch.Generator()), module.near(y[:1] * 0, torch.Generator()))


def test_the_prediction_is_the_mean_of_the_candidates_by_their_probability() -> None:
    module = regressor(low=0.0, high=15.0)
    scores = torch.full((1, 16), -torch.inf)
    scores[0, 3], scores[0, 7] = math.log(0.25), math.log(0.75)
    value, deviation = (part.item() for part in module.mean(scores))
    assert value == pytest.approx(0.25 * 3 + 0.75 * 7)
    assert deviation == pytest.approx(math.sqrt(0.25 * 3**2 + 0.75 * 1))


def test_the_probability_is_that_which_the_loss_trains() -> None:
    """Goodness of a tenth, under ten times the scale, says the same."""
    x, found = torch.randn(20, 10), []
    for scale in (1.0, 10.0):
        torch.manual_seed(0)
        network = ClassMLP(10, [32, 32], num_classes=16, loss=Softmax(scale=scale))
        for block in network:
            torch.nn.init.normal_(block.goodness.weight, std=1 / scale)
        for readout in (None, LastBlock()):
            found.append(ff.FFRegressor(network, low=0.0, high=15.0, readout=readout).eval().predicted(x))
    for plain, scaled in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(plain.values, scaled.values)
        torch.testing.assert_close(plain.deviations, scaled.deviations)
    assert found[0].values.std() > 0.1


def test_no_gradient_crosses_a_block() -> None:
    module = regressor()
    module.may_look = lambda: True
    x, y = torch.randn(8, 10), torch.rand(8) * 300
    for step in module.local_losses((x, y)):
        step.loss.backward()
        touched = {name.split(".")[1] for name, p in module.network.named_parameters() if p.grad is not None}
        assert touched == {str(step.block)}
        module.zero_grad()


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Drawn candidates and negatives, too: bit for bit."""
    whole, half, rest = regressor(), regressor(), regressor()
    trainer(tmp_path, max_epochs=4, enable_checkpointing=False).fit(whole, data())
    first = trainer(tmp_path, max_epochs=4, limit_val_batches=0, enable_checkpointing=False)
    first.fit_loop.max_epochs = 2
    first.fit(half, data())
    first.save_checkpoint(tmp_path / "half.ckpt")
    trainer(tmp_path, max_epochs=4).fit(rest, data(), ckpt_path=tmp_path / "half.ckpt")
    assert_same_weights(weights(whole.network), weights(rest.network))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: regressor(low=None), "`low=None` and `high=346.0`.*`target='number'`"),
        (lambda: regressor(low=5.0, high=5.0), "`low=5.0` and `high=5.0`"),
        (lambda: regressor(spread=0.0), "`spread=0.0`.*positive"),
        (lambda: regressor(readout=GoodnessReadout(first_block=2)), "`first_block=2`.*at most 1"),
        (
            lambda: regressor(readout=ChosenBlocks(2)),
            "`readout=ChosenBlocks`, which chooses by right",
        ),
        (lambda: ff.FFRegressor(MLP(10, [8], overlay=False), low=0.0, high=1.0), "`network=MLP`.*every candidate"),
        (lambda: ff.BackpropTwin(ClassMLP(10, [8]), high=1.0), "Passed `high` to the twin of a network"),
    ],
)
def test_what_does_not_fit_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ff.InputError, match=message):
        build()


@pytest.mark.parametrize(
    "y", [torch.arange(6), torch.arange(6.0, dtype=torch.float64).unsqueeze(1), torch.arange(6, dtype=torch.uint8)]
)
def test_numbers_of_any_type_are_cast(y: torch.Tensor) -> None:
    x, numbers = regressor().checked({"features": torch.randn(6, 10), "target": y})
    assert (numbers.shape, numbers.dtype) == ((6,), torch.float32)
    with pytest.raises(ff.InputError, match="a real number for each"):
        regressor().checked((x, y.view(-1, 2)))


def test_the_variance_of_one_number_is_not_explained(tmp_path: Path) -> None:
    rows = DataLoader(TensorDataset(torch.randn(1, 10), torch.ones(1)))
    run = trainer(tmp_path)
    run.validate(regressor(), rows, verbose=False)
    assert math.isnan(run.callback_metrics["val/r2"])
    assert math.isfinite(run.callback_metrics["val/mae"])
