"""Lightning's averaging of weights under block-wise updates, as the overlay `with/ema` uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

from ff_lightning.data import ImageDataModule
from ff_lightning.losses import MovingThresholdLoss
from tests.readers import SaveAt
from tests.training import assert_same_weights, classifier, loader, mlp, trainer, weights

DATA = loader(200, 50)  # 4 batches
OVERLAY = yaml.safe_load((Path(__file__).parents[2] / "recipes/with/ema.yaml").read_text())
ARGUMENTS = OVERLAY["trainer"]["callbacks+"][0]["init_args"]


class Trace(pl.Callback):
    """Keeps the weights after every update, and those that a validation sees."""

    def __init__(self) -> None:
        self.after: list[dict[str, Tensor]] = []
        self.seen: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if len(self.after) < trainer.global_step:
            self.after.append(weights(pl_module.network))

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append(weights(pl_module.network))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_validation_sees_the_average_of_all_updates_and_training_does_not(tmp_path: Path, accumulate: int) -> None:
    trace, module = Trace(), classifier(depth=2, accumulate_batches=accumulate)
    callbacks = [EMAWeightAveraging(**ARGUMENTS), trace]
    trainer(tmp_path, callbacks=callbacks, num_sanity_val_steps=0).fit(module, DATA, DATA)
    assert len(trace.after) == 4 // accumulate
    decay = ARGUMENTS["decay"]
    expected = trace.after[0]
    for later in trace.after[1:]:
        expected = {name: decay * value + (1 - decay) * later[name] for name, value in expected.items()}
    assert_same_weights(trace.seen[-1], expected, rtol=1e-5, atol=1e-6)
    assert_same_weights(weights(module.network), expected, rtol=1e-5, atol=1e-6)

    plain = Trace()
    module = classifier(depth=2, accumulate_batches=accumulate)
    trainer(tmp_path, callbacks=[plain], num_sanity_val_steps=0).fit(module, DATA, DATA)
    assert_same_weights(plain.after[-1], trace.after[-1])


def test_state_is_not_averaged(tmp_path: Path) -> None:
    module = classifier(network=mlp(2, loss=MovingThresholdLoss()))
    trace = Trace()
    trainer(tmp_path, callbacks=[EMAWeightAveraging(**ARGUMENTS), trace]).fit(module, DATA, DATA)
    buffers = {name for name, _ in module.network.named_buffers()} & module.network.state_dict().keys()
    assert buffers
    for name in buffers:
        assert torch.equal(trace.seen[-1][name], trace.after[-1][name])


def test_a_resumed_training_goes_on_exactly(tmp_path: Path) -> None:
    path = tmp_path / "stop.ckpt"
    whole, resumed = classifier(depth=2), classifier(depth=2)
    data = [ImageDataModule("digits", batch_size=280) for _ in range(2)]
    trainer(tmp_path, callbacks=[EMAWeightAveraging(**ARGUMENTS), SaveAt(2, path)]).fit(whole, data[0])
    callbacks = [EMAWeightAveraging(**ARGUMENTS)]
    trainer(tmp_path, callbacks=callbacks).fit(resumed, data[1], ckpt_path=path, weights_only=True)
    assert_same_weights(weights(resumed), weights(whole))
