"""Anomalies among real digits: they are found, the threshold holds, and training takes normal samples alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader

import ff_lightning as ff
from ff_lightning.blocks import ContrastiveBlock
from ff_lightning.data import ImageDataModule
from ff_lightning.goodness import MeanOfSquares, SumOfSquares
from ff_lightning.losses import SymBa, ThresholdLoss
from ff_lightning.negatives import AnyOf, Averaged, Hardest, HybridMask, MixedEntries
from ff_lightning.networks import MLP, ConvNet, DenseReLU
from ff_lightning.stacks import BlockStack
from tests.training import assert_same_weights, trainer, weights


def data() -> ImageDataModule:
    return ImageDataModule("digits", normal=range(5), validation=0.2, batch_size=50)


def detector(kind: Any = ff.FFAnomalyDetector, **arguments: Any) -> Any:
    """A small network with the same weights at every call."""
    torch.manual_seed(0)
    anomalies = AnyOf([HybridMask(2), MixedEntries(), Averaged()])
    network = MLP(64, [128, 128], num_classes=None)
    module = kind(network, **{"anomalies": anomalies, "optimizer": partial(torch.optim.Adam, lr=2e-3)} | arguments)
    module.seed = 0
    return module


@pytest.mark.parametrize("kind", [ff.FFAnomalyDetector, ff.BackpropTwin])
def test_it_and_its_twin_find_digits_that_they_never_saw(tmp_path: Path, kind: Any) -> None:
    module, images = detector(kind), data()
    run = trainer(tmp_path, max_epochs=12, num_sanity_val_steps=1, check_val_every_n_epoch=12)
    run.fit(module, images)
    assert run.callback_metrics["val/auroc"] > (0.95 if kind is ff.FFAnomalyDetector else 0.9)
    (tested,) = run.test(module, images, verbose=False)
    assert tested["test/auroc"] > 0.85
    scores, labels = [], []
    for x, y in images.test_dataloader():
        scores.append(module.predict_step((x, y), 0))
        labels.append(y)
    ((found, anomalous), labels) = scores[0], torch.cat(labels)
    assert tested["test/auroc"] == pytest.approx(roc_auc_score(labels, found))
    assert tested["test/detected"] == pytest.approx(float(anomalous[labels == 1].float().mean()))
    assert tested["test/false_alarms"] == pytest.approx(float(anomalous[labels == 0].float().mean()))
    assert tested["test/false_alarms"] < 0.2
    lines = list(scores[0].lines([]))
    assert [line[0] == "anomaly" for line in lines] == anomalous.tolist()


def test_the_order_of_large_goodness_counts(tmp_path: Path) -> None:
    """A goodness of hundreds, as sums of squares have, is as well told as a small one."""
    network = MLP(64, [400], num_classes=None, goodness=SumOfSquares(), loss=ThresholdLoss(200.0, scale=0.05))
    module, images = ff.FFAnomalyDetector(network, optimizer=partial(torch.optim.Adam, lr=1e-3)), data()
    run = trainer(tmp_path, max_epochs=1)
    run.fit(module, images)
    x, y = (torch.cat(column) for column in zip(*images.val_dataloader(), strict=True))
    (goodness,) = module.network.goodness(x)
    assert goodness.abs().min() > 20
    expected = roc_auc_score(y, -goodness)
    assert run.callback_metrics["val/auroc/block_0"].item() == pytest.approx(expected, abs=1e-6) != 0.5


def test_the_threshold_lets_through_the_share_that_was_asked_for_and_is_kept(tmp_path: Path) -> None:
    module, images = detector(false_alarms=0.25), data()
    run = trainer(tmp_path, max_epochs=1)
    run.fit(module, images)
    normal = torch.cat([x[y == 0] for x, y in images.val_dataloader()])
    assert module.predicted(normal).anomalous.float().mean().item() == pytest.approx(0.25, abs=0.01)
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = detector()
    again.load_state_dict(torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"])
    assert torch.equal(again.eval()(normal), module.eval()(normal))
    assert again.threshold == module.threshold != 0


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Negatives that ask the model, too: bit for bit."""
    mined = {"anomalies": Hardest(HybridMask(2), pool=2)}
    whole, half, rest = detector(**mined), detector(**mined), detector(**mined)
    trainer(tmp_path, max_epochs=2).fit(whole, data())
    first = trainer(tmp_path, max_epochs=2)
    first.fit_loop.max_epochs = 1
    first.fit(half, data())
    first.save_checkpoint(tmp_path / "half.ckpt")
    trainer(tmp_path, max_epochs=2).fit(rest, data(), ckpt_path=tmp_path / "half.ckpt")
    assert_same_weights(weights(whole), weights(rest))


def test_a_look_at_a_pool_of_negatives_moves_no_running_value() -> None:
    torch.manual_seed(0)
    layers = [DenseReLU(64, 16, batch_norm=True), DenseReLU(16, 12, batch_norm=True)]
    network = BlockStack([ContrastiveBlock(layer, MeanOfSquares(), SymBa()) for layer in layers])
    module = ff.FFAnomalyDetector(network, anomalies=Hardest(pool=2))
    module.generator = lambda stream=0: torch.Generator().manual_seed(stream)
    list(module.local_losses(torch.rand(8, 1, 8, 8)))
    assert [int(block.layer.norm.num_batches_tracked) for block in network] == [1, 1]


def test_samples_alone_are_normal(tmp_path: Path) -> None:
    images = data()
    images.setup("fit")
    alone = DataLoader(torch.cat([x for x, _ in images.train_dataloader()]), batch_size=100)
    run = trainer(tmp_path)
    run.fit(module := detector(), alone, alone)
    assert module.threshold != 0
    assert run.callback_metrics["val/auroc"].isnan(), "nobody can say"


def trained_on(labels: torch.Tensor) -> None:
    module = detector()
    module.may_look = lambda: True
    module.pairs((torch.rand(4, 1, 8, 8), labels))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ff.FFAnomalyDetector(MLP(64, [8])), "`network=MLP`, which knows of classes"),
        (lambda: ff.FFAnomalyDetector(ConvNet((1, 8, 8), (4,), pool_after=())), "`network=ConvNet`, which knows of"),
        (lambda: detector(false_alarms=1.0), "`false_alarms=1.0`"),
        (lambda: trained_on(torch.tensor([0, 0, 1, 0])), "training batch with 1 anomalies"),
        (lambda: trained_on(torch.tensor([0, 3, 1, 0])), "labels such as 3"),
        (lambda: trained_on(torch.zeros(3)), r"4 samples and labels of shape \(3,\)"),
    ],
)
def test_what_does_not_fit_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ff.InputError, match=message):
        build()
