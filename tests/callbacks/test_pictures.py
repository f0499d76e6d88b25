from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import ff_lightning as ff
from ff_lightning.callbacks import ClassificationPictures
from ff_lightning.callbacks.drawings import draw_confusion, draw_goodness
from tests.training import ADAM, classifier, loader, mlp, trainer

DATA = loader(300, 100)


def test_a_test_leaves_a_picture_and_says_where(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer(tmp_path, callbacks=[ClassificationPictures()]).test(classifier(), DATA, verbose=False)
    assert f"Wrote {tmp_path / 'pictures/test.png'}" in caplog.text
    with Image.open(tmp_path / "pictures/test.png") as picture:
        assert picture.width > 1000
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_the_folder_can_be_chosen(tmp_path: Path) -> None:
    callback = ClassificationPictures(str(tmp_path / "elsewhere"))
    trainer(tmp_path, callbacks=[callback]).test(classifier(), DATA, verbose=False)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["test.png"]


def test_a_twin_has_a_confusion_matrix_alone(tmp_path: Path) -> None:
    twin = ff.BackpropTwin(mlp(), optimizer=ADAM)
    trainer(tmp_path, callbacks=[ClassificationPictures()]).test(twin, DATA, verbose=False)
    with Image.open(tmp_path / "pictures/test.png") as picture:
        assert picture.width < 1.3 * picture.height


def test_a_second_test_does_not_count_the_first(tmp_path: Path) -> None:
    module = classifier()
    run = trainer(tmp_path, callbacks=[ClassificationPictures()])
    run.test(module, DATA, verbose=False)
    run.test(module, DATA, verbose=False)
    assert int(module.test_metrics.confusion.compute().sum()) == 300


def test_a_training_draws_nothing(tmp_path: Path) -> None:
    trainer(tmp_path, callbacks=[ClassificationPictures()]).fit(classifier(), DATA, DATA)
    assert not (tmp_path / "pictures").exists()


def test_the_matrix_shows_every_count_and_the_error() -> None:
    ax = Figure().subplots()
    draw_confusion(ax, torch.tensor([[5, 1], [0, 4]]), ["cat", "dog"])
    assert [text.get_text() for text in ax.texts] == ["5", "1", "4"]
    assert ax.get_title() == "1 of 10 test images misclassified (10.00 % error)"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["cat", "dog"]


def test_the_histograms_are_of_the_true_of_all_wrong_and_of_the_hardest_label() -> None:
    ax = Figure().subplots()
    goodness = torch.tensor([[9.0, 1.0, 2.0], [3.0, 8.0, 1.0]])
    draw_goodness(ax, goodness, torch.tensor([0, 1]))
    spans = []
    for patch in ax.patches:
        x, y = patch.get_path().vertices.T
        spans += [(x[y > 0].min(), x[y > 0].max())]
    bin_width = 8 / 50
    assert spans[0] == pytest.approx((8, 9), abs=bin_width)
    assert spans[1] == pytest.approx((1, 3), abs=bin_width)
    assert spans[2] == pytest.approx((2, 3), abs=bin_width)
