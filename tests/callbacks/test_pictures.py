from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.data import DataLoader

import ff_lightning as ff
from ff_lightning.callbacks import BlockPictures, ClassificationPictures
from ff_lightning.callbacks.drawings import draw_confusion, draw_goodness, receptive_fields, tiled
from ff_lightning.callbacks.pictures import _label_goodness, clearest_and_hardest
from ff_lightning.data import ImageDataModule
from ff_lightning.language import GPT
from tests.training import ADAM, classifier, conv, loader, mlp, trainer

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


def test_a_training_leaves_pictures_in_the_folder_and_in_tensorboard(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    run = trainer(tmp_path, logger=logger, callbacks=[ClassificationPictures(), BlockPictures()], log_every_n_steps=1)
    data = ImageDataModule("digits", batch_size=700)
    run.fit(classifier(), data)
    names = {"validation", "fields", "labels"}
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == names
    events = b"".join(path.read_bytes() for path in tmp_path.glob("events*"))
    assert all(f"pictures/{name}".encode() in events for name in names)


def test_what_was_frozen_stays_so_while_pictures_are_drawn() -> None:
    module = classifier(network=conv(batch_statistics=True))
    frozen, free = module.network[0].layer[1], module.network[1].layer[1]
    frozen.eval()
    assert _label_goodness(module, DATA.dataset.tensors[0][:20].view(-1, 1, 8, 8)) is not None
    assert free.training
    assert not frozen.training


def test_the_last_validation_alone_is_counted(tmp_path: Path) -> None:
    module = classifier()
    trainer(tmp_path, callbacks=[ClassificationPictures()], max_epochs=2).fit(module, DATA, DATA)
    assert int(module.val_metrics.confusion.compute().sum()) == 300


def test_a_language_model_leaves_histograms_and_losses(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(5, (20, 9), generator=torch.Generator().manual_seed(0))
    model = ff.FFLanguageModel(GPT(vocab_size=5, context=8, width=8, layers=2, heads=1), optimizer=ADAM)
    callback = BlockPictures()
    data = DataLoader(tokens, batch_size=10)
    trainer(tmp_path, callbacks=[callback], log_every_n_steps=1, max_epochs=2).fit(model, data, data)
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == {"goodness", "losses"}
    assert [step for step, _ in callback._losses] == [2, 4]
    assert [len(values) for _, values in callback._losses] == [2, 2]


def test_the_losses_of_a_resumed_training_begin_where_the_training_did(tmp_path: Path) -> None:
    tokens = torch.randint(5, (20, 9), generator=torch.Generator().manual_seed(0))
    data, callbacks = DataLoader(tokens, batch_size=10), [BlockPictures(), BlockPictures()]
    for epochs, callback in enumerate(callbacks, start=1):
        torch.manual_seed(0)
        model = ff.FFLanguageModel(GPT(vocab_size=5, context=8, width=8, layers=2, heads=1), optimizer=ADAM)
        run = trainer(tmp_path, callbacks=[callback], max_epochs=epochs)
        run.fit(model, data, data, ckpt_path=str(tmp_path / "a.ckpt") if epochs > 1 else None)
        run.save_checkpoint(tmp_path / "a.ckpt")
    first, both = (callback._losses for callback in callbacks)
    assert [step for step, _ in both] == [2, 4]
    assert both[:1] == first
    kept = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]["BlockPictures"]["losses"]
    assert kept == [[step, values] for step, values in both]
    trainer(tmp_path, callbacks=[callbacks[1]]).fit(model, data, data)
    assert [step for step, _ in callbacks[1]._losses] == [2], "another training"


def test_fields_are_the_weights_of_the_units_as_images() -> None:
    layer = mlp(1, width=16, overlay=True)[0].layer
    fields = receptive_fields(layer, (1, 8, 8))
    assert fields is not None
    assert fields.shape == (16, 1, 8, 8)
    assert fields[:, 0].flatten(1)[:, :10].abs().max() == 0, "the label is written there"
    strongest = layer.image.weight.norm(dim=1).argmax()
    assert torch.equal(fields[0].flatten()[10:], layer.image.weight[strongest])
    assert receptive_fields(layer, (1, 9, 9)) is None


def test_images_are_put_beside_and_below_each_other() -> None:
    images = torch.arange(24.0).view(2, 3, 2, 2)
    mosaic = tiled(images)
    assert mosaic.shape == (7, 10)
    for row, column in np.ndindex(2, 3):
        top, left = 1 + 3 * row, 1 + 3 * column
        assert torch.equal(mosaic[top : top + 2, left : left + 2], images[row, column])
    assert int(mosaic.isnan().sum()) == mosaic.numel() - images.numel()


def test_the_clearest_and_the_hardest_image_are_found() -> None:
    goodness = torch.tensor([[[1.0, 0.0], [0.0, 9.0], [5.0, 0.0]], [[1.0, 0.0], [0.0, 9.0], [5.0, 0.0]]])
    assert clearest_and_hardest(goodness, torch.tensor([0, 1, 1])) == [1, 2]


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
