"""``ff-lightning probe``: the fit against scikit-learn, a trained network on its own and on other images, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import ff_lightning as ff
from ff_lightning.cli import main
from ff_lightning.cli.probe import ProbeData, features_of, opened, passed_on
from ff_lightning.networks import ResNet
from ff_lightning.readouts.probe import fitted_probe, pooled
from ff_lightning.stacks import BlockStack
from tests.command_line import error_of
from tests.networks.every import CLASSES, MAPS, NETWORKS, text
from tests.training import ADAM, digits


def test_the_fit_is_that_of_logistic_regression() -> None:
    x, y = digits(600, torch.float64)
    train, other = (x[:400], y[:400]), (x[400:], y[400:])
    decay = 1e-2
    found = fitted_probe(*train, other, 10, [decay])
    scaled = ((train[0] - found.mean) * found.scale).numpy()
    theirs = LogisticRegression(C=1 / (2 * decay * 400), tol=1e-8, max_iter=2000).fit(scaled, train[1].numpy())
    mine = found.scores(train[0]).softmax(1).numpy()
    np.testing.assert_allclose(mine, theirs.predict_proba(scaled), atol=2e-3)


def test_validation_chooses_how_strongly_weights_are_held_down() -> None:
    """Labels are noise in the few training samples of one kind, and clear in validation."""
    x, y = digits(300)
    chosen = fitted_probe(x[:200], y[:200], (x[200:], y[200:]), 10)
    accuracies = [
        fitted_probe(x[:200], y[:200], (x[200:], y[200:]), 10, [d]).accuracy(x[200:], y[200:]) for d in (1.0, 1e-3)
    ]
    assert chosen.accuracy(x[200:], y[200:]) >= max(accuracies) - 0.02


def test_maps_are_averaged_over_the_finest_grid_that_fits() -> None:
    h = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    assert torch.equal(pooled(h, 48), h.flatten(1))
    assert torch.equal(pooled(h, 47).view(2, 3, 3, 3), torch.nn.functional.adaptive_avg_pool2d(h, 3))
    assert torch.equal(pooled(h, 1), h.mean((2, 3)))


def received(network: BlockStack) -> list[torch.Tensor]:
    """What the layers of all blocks but the first are given of the images."""
    seen: list[torch.Tensor] = []
    hooks = [
        block.layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
        for block in list(network)[1:]
    ]
    with torch.no_grad():
        network(MAPS)
    for hook in hooks:
        hook.remove()
    return seen


def test_features_of_a_residual_network_are_what_the_next_block_receives() -> None:
    """At joints, too, where a shortcut is added or put beside."""
    torch.manual_seed(0)
    network = ResNet((1, 8, 8), 10, stages=2, layers_per_stage=2)
    model = ff.FFClassifier(network, optimizer=ADAM).eval()
    given = received(network)
    for block, x in enumerate(given):
        features, classes = features_of(model, block, [(MAPS[:5], CLASSES[:5]), (MAPS[5:], CLASSES[5:])], 10_000)
        assert torch.equal(features, x.flatten(1))
        assert torch.equal(classes, CLASSES)
    assert [x.shape[1] for x in given] == [10, 10, 20, 20]


@pytest.mark.parametrize("name", [name for name, kind in NETWORKS.items() if kind.receives is not text])
def test_what_is_read_of_a_block_is_what_every_network_passes_on(name: str) -> None:
    network = NETWORKS[name].build().eval()
    with torch.no_grad():
        read = [passed_on(network, block, MAPS) for block in range(len(network))]
        torch.testing.assert_close(read[-1], network(MAPS))
    if isinstance(network, BlockStack):
        for mine, given in zip(read[:-1], received(network), strict=True):
            assert torch.equal(mine, given)


@pytest.fixture
def own_run(digits_run: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint of a trained classifier, since a probe writes beside it."""
    shutil.copy(digits_run / "last.ckpt", tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_every_block_of_a_trained_network_is_probed(own_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--ckpt_path", str(own_run), "--data.limit", "600"]) == 0
    shown = capsys.readouterr().out
    record = json.loads((own_run.parent / "probe/digits.json").read_text())
    assert [line["block"] for line in record["blocks"]] == ["pixels", 0, 1, 2]
    assert record["training_images"] == 600
    assert (record["blocks"][0]["features"], record["blocks"][1]["features"]) == (64, 500)
    assert all(line["validation"] > 90 for line in record["blocks"])
    assert "test" not in record["blocks"][0]
    assert (own_run.parent / "probe/digits.md").read_text().strip() in shown
    assert f"| 1 | 500 | {record['blocks'][2]['validation']:.2f} |" in shown


def test_other_images_are_probed_by_a_network_that_never_saw_them(own_run: Path, tmp_path: Path) -> None:
    """Digits mirrored and with two classes: what was learned serves, and there are test images."""
    x, y = digits(600)
    pixels = (x.view(-1, 8, 8).flip(2) * 255).to(torch.uint8).numpy()
    parities = (y % 2).numpy()
    np.savez(
        tmp_path / "parities.npz",
        x_train=pixels[:400],
        y_train=parities[:400],
        x_test=pixels[400:],
        y_test=parities[400:],
    )
    words = ["--data.source", str(tmp_path / "parities.npz"), "--data.validation", "100", "--test", "true"]
    assert main(["probe", "--ckpt_path", str(own_run), *words]) == 0
    record = json.loads((own_run.parent / "probe/parities.npz.json").read_text())
    assert record["classes"] == 2
    assert all(line["test"] > 80 for line in record["blocks"])


def other_digits(path: Path, count: int) -> str:
    """A file of digits, of the shape of those of a training."""
    x, y = digits(count)
    np.savez(path, x_train=(x.view(-1, 8, 8) * 255).to(torch.uint8).numpy(), y_train=y.numpy())
    return str(path)


OF_THE_TRAINING = {"source": "digits", "validation": 500, "limit": 100, "split_seed": 3, "label_column": None}


def test_other_images_are_read_whole_whatever_the_training_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """More than the limit of the training, and fewer than its validation images."""
    source = other_digits(tmp_path / "other.npz", 400)
    with caplog.at_level("INFO"):
        data = opened(ProbeData(source), OF_THE_TRAINING, (1, 8, 8), 50)
    assert len(data.train_dataloader().images) + len(data.val_dataloader().images) == 400
    said = f"{source} is not what the network was trained on: `limit=100`, `validation=500`, `split_seed=3` of the"
    assert [said in line for line in caplog.messages if line.startswith("Left out")] == [True]
    caplog.clear()
    with caplog.at_level("INFO"):
        data = opened(ProbeData(source, limit=30, validation=70), OF_THE_TRAINING, (1, 8, 8), 50)
    assert (len(data.train_dataloader().images), len(data.val_dataloader().images)) == (30, 70)
    assert "trained on: `split_seed=3` of the training." in caplog.text


@pytest.mark.parametrize("source", [None, "digits"])
def test_images_of_the_training_are_those_that_it_read(source: str | None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        data = opened(ProbeData(source), OF_THE_TRAINING, (1, 8, 8), 50)
    assert (len(data.train_dataloader().images), len(data.val_dataloader().images)) == (100, 500)
    assert "Left out" not in caplog.text


def test_other_images_are_brought_to_the_size_of_a_network_whose_own_were(tmp_path: Path) -> None:
    source = other_digits(tmp_path / "other.npz", 40)
    data = opened(ProbeData(source), {"source": "photos", "resize": "most"}, (1, 6, 4), 50)
    assert data.image_shape == (1, 6, 4)


def test_what_cannot_be_probed_is_refused(own_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.savez(
        tmp_path / "large.npz",
        **{
            f"{kind}_{split}": value
            for split in ("train", "test")
            for kind, value in (("x", np.zeros((20, 9, 9), np.uint8)), ("y", np.arange(20) % 2))
        },
    )
    said = error_of(capsys, "probe", "--ckpt_path", str(own_run), "--data.source", str(tmp_path / "large.npz"))
    assert said.endswith("whose images have shape (1, 9, 9). The network takes (1, 8, 8): use `--data.resize 8`.")
    said = error_of(capsys, "probe", "--ckpt_path", str(own_run), "--data.validation", "0")
    assert said == "Passed `data.validation=0`. A probe is chosen and judged on validation images."
    assert error_of(capsys, "probe", "--ckpt_path", "none.ckpt").startswith("Passed `ckpt_path=none.ckpt`.")
