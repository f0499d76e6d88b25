"""What is done to every batch: a look for NaN, a seed for layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

import ff_lightning as ff
from ff_lightning.candidates import EachLabel
from ff_lightning.engine.batches import refuse_non_finite, seed_default_generator, seeded_generator
from ff_lightning.errors import InputError
from ff_lightning.networks import ConvNet
from tests import texts
from tests.training import classifier, digits, mlp, trainer

BAD = torch.tensor([[1.0, float("nan")], [float("inf"), 2.0]])


@pytest.mark.parametrize("batch", [BAD, (BAD, torch.zeros(2)), {"x": [torch.zeros(1), BAD]}, BAD.half()])
def test_nan_and_inf_are_found_wherever_they_are(batch: Any) -> None:
    with pytest.raises(InputError, match="Batch 7 holds NaN or infinite values"):
        refuse_non_finite(batch, "Batch 7")


@pytest.mark.parametrize("batch", [torch.full((2,), 3e38), (torch.zeros(2), torch.arange(3)), {"text": "nan"}, ()])
def test_finite_batches_pass_even_if_their_sum_overflows(batch: Any) -> None:
    assert refuse_non_finite(batch, "Batch 7") is None


def test_seeding_makes_layers_draw_the_same_again() -> None:
    drop = torch.nn.Dropout(0.5)
    draws = []
    for seed in (3, 3, 4):
        seed_default_generator(seed, torch.device("cpu"))
        draws.append(drop(torch.ones(50)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**23, 0.5, "1", True])
def test_a_seed_beyond_what_torch_takes_is_named(seed: Any) -> None:
    for whole in (0, -1, 2**64 - 1):
        seeded_generator(whole, torch.device("cpu"))
    with pytest.raises(InputError, match=r"Passed `seed=.*whole number from -2\*\*63 to 2\*\*64 - 1"):
        seeded_generator(seed, torch.device("cpu"))


class Send(pl.Callback):
    """Sends a batch to a GPU, in the middle of a training."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def on_train_batch_start(self, run: pl.Trainer, module: Any, *_: Any) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(type(module), "device", torch.device("cuda"))
            self.sent = module._on_before_batch_transfer(self.batch)
            self.looks_later = module.may_look()


def sent(module: ff.FFLightningModule, good: Any, batch: Any, folder: Path) -> Send:
    """What a training on good batches makes of another one."""
    send = Send(batch)
    trainer(folder, max_steps=1, callbacks=[send]).fit(module, DataLoader([good], batch_size=None))
    return send


X, Y = digits(8)
PAIR, TOKENS, MAPS = (X, Y), texts.windows(4), X.view(-1, 1, 8, 8)


def of_labels() -> ff.FFMultiLabel:
    return ff.FFMultiLabel(ConvNet((1, 8, 8), (10,), pool_after=(), loss=EachLabel(), num_classes=10))


@pytest.mark.parametrize(
    ("make", "good", "bad", "message"),
    [
        (classifier, PAIR, (X, Y + 3), "labels from 3 to 10"),
        (classifier, PAIR, (X, torch.full_like(Y, -100)), "labels of -100"),
        (classifier, PAIR, (X * float("nan"), Y), "A training batch of epoch 0 holds NaN"),
        (lambda: texts.model(network=texts.gpt()), TOKENS, TOKENS + 100, "Passed tokens from"),
        (of_labels, (MAPS, torch.zeros(8, 10)), (MAPS, torch.full((8, 10), 2)), "neither 0 nor 1"),
        (lambda: ff.FFAnomalyDetector(mlp(num_classes=None)), X, (X, torch.ones(8)), "8 anomalies"),
    ],
)
def test_a_batch_is_looked_at_before_it_is_sent(make: Any, good: Any, bad: Any, message: str, tmp_path: Path) -> None:
    """On a GPU a label that is no class ends the process, and nobody looks at most batches there."""
    with pytest.raises(InputError, match=message):
        sent(make(), good, bad, tmp_path)


@pytest.mark.parametrize("is_pair", [True, False])
def test_what_is_sent_is_the_batch(is_pair: bool, tmp_path: Path) -> None:
    module, batch = (classifier(), PAIR) if is_pair else (texts.model(network=texts.gpt()), TOKENS)
    found = sent(module, batch, batch, tmp_path)
    for one, other in zip(tree_leaves(found.sent), tree_leaves(batch), strict=True):
        assert torch.equal(one, other)
    assert not found.looks_later, "on the device, at a step that is not logged"


def test_what_is_on_a_device_already_is_not_looked_at(tmp_path: Path) -> None:
    batch = (torch.zeros(8, 64, device="meta"), Y + 100)
    assert sent(classifier(), PAIR, batch, tmp_path).sent is batch
