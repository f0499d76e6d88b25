"""Blocks through `torch.compile`: the same losses, names and checkpoints, in far fewer graphs than blocks."""

from __future__ import annotations

import copy
import pickle
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

import ff_lightning as ff
from ff_lightning.engine.compilation import compile_steps
from ff_lightning.losses import MovingThresholdLoss
from ff_lightning.readouts import LinearReadout
from tests import texts
from tests.training import assert_same_weights, classifier, loader, mlp, trainer, weights

needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="torch.compile needs a C++ compiler to make code for a CPU"
)
# Of what torch says to itself while it traces.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
GRAPHS_ALONE = partial(compile_steps, backend="aot_eager")
"""Compiles to the graphs that the compiler makes code of, and makes none."""
ADAMW = partial(torch.optim.AdamW, eps=1e-3)
"""Whose step is not a whole one where a gradient is nothing but rounding, which compiled code does elsewhere."""


class Losses(pl.Callback):
    """Records the loss of every batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, run: pl.Trainer, *_: Any) -> None:
        self.values.append(float(run.callback_metrics["train/loss"]))


def image_model(**kwargs: Any) -> ff.FFClassifier:
    torch.manual_seed(0)
    network = mlp(3, 16, loss=MovingThresholdLoss(), peer_weight=0.1)
    return classifier(network=network, readout=LinearReadout(32, 10), clip_norm=0.5, **kwargs)


def text_model(**kwargs: Any) -> ff.FFLanguageModel:
    return texts.model(network=texts.gpt(layers=1), optimizer=ADAMW, **kwargs)


@pytest.mark.parametrize("network", [pytest.param("mlp", marks=needs_compiler), "gpt"])
def test_compiled_blocks_learn_the_same(network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses to 1e-5, and a resumed run goes on from a checkpoint of either kind.

    C++ is made of the MLP alone. Of a GPT it takes a minute on a machine that has made none; its graphs are what is
    ours.
    """
    if network == "gpt":
        monkeypatch.setattr("ff_lightning.module.compile_steps", GRAPHS_ALONE)
    make: Any = image_model if network == "mlp" else text_model
    data: Any = loader(120, 20) if network == "mlp" else texts.Batches(48, 8)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    runs = {}
    for compiled in (False, True):
        losses, module = Losses(), make(compile_blocks=compiled)
        run = trainer(tmp_path, callbacks=[losses], log_every_n_steps=1, max_steps=4)
        run.fit(module, data)
        run.save_checkpoint(tmp_path / f"{compiled}.ckpt")
        runs[compiled] = (losses.values, module)
    assert runs[True][0] == pytest.approx(runs[False][0], rel=1e-5, abs=1e-5)
    assert list(weights(runs[True][1])) == list(weights(runs[False][1]))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 8
    copy.deepcopy(runs[True][1].network)  # nothing compiled is left in the blocks
    pickle.dumps(runs[True][1].network)
    ends = []
    for first in (False, True):
        module = make(compile_blocks=not first)
        run = trainer(tmp_path, max_steps=6, max_epochs=3)
        run.fit(module, data, ckpt_path=tmp_path / f"{first}.ckpt", weights_only=True)
        assert run.global_step == 6
        ends.append(weights(module.network))
    assert_same_weights(*ends, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_a_twin_is_compiled_as_a_whole(tmp_path: Path) -> None:
    ends = []
    for compiled in (False, True):
        torch.manual_seed(0)
        module = ff.BackpropTwin(mlp(1, 16), compile_blocks=compiled)
        trainer(tmp_path, max_steps=3).fit(module, loader(60, 20))
        ends.append(weights(module.network))
        pickle.dumps(module.network)  # nothing compiled is left
    assert_same_weights(*ends, rtol=1e-4, atol=1e-5)


def test_a_module_that_is_compiled_as_a_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ff.InputError, match=r"pass `compile_blocks=True` to the module"):
        trainer(tmp_path).fit(torch.compile(classifier()), loader(40, 20))


def test_sharded_blocks_are_not_compiled(tmp_path: Path, alone: None) -> None:
    run = trainer(tmp_path, strategy=ModelParallelStrategy(), max_steps=1)
    with pytest.raises(ff.InputError, match=r"Sharded blocks are not compiled: use `strategy='ddp'`"):
        run.fit(classifier(compile_blocks=True), loader(40, 20))
