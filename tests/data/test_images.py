from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ff_lightning.data import ImageDataModule, MemoryLoader, ShuffledLoader
from ff_lightning.data.sources import LOCAL_COPIES, Digits
from ff_lightning.errors import InputError
from ff_lightning.networks import MLP
from tests.training import classifier


def ready(source: str = "digits", stage: str = "fit", **options: Any) -> ImageDataModule:
    data = ImageDataModule(source, **options)
    data.prepare_data()
    data.setup(stage)
    return data


def contents(loader: Any) -> list[tuple[int, ...]]:
    """All images of a loader with their label, sorted."""
    return sorted(
        (int(y), *x.flatten().mul(16).int().tolist()) for xs, ys in loader for x, y in zip(xs, ys, strict=True)
    )


class Counter(pl.LightningModule):
    """Counts the images of each stage."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.train_batches: list[Tensor] = []
        self.images = {"validation": 0, "test": 0, "predict": 0}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.train_batches.append(batch[0])
        return self.weight * batch[0].mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.images["validation"] += len(batch[1])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.images["test"] += len(batch[1])

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.images["predict"] += len(batch[1])
        return batch[1]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"max_epochs": 1, **options},
    )


def test_batches_have_the_documented_form() -> None:
    data = ready(batch_size=100)
    assert (data.num_classes, data.image_shape) == (10, (1, 8, 8))
    assert data.class_names == list("0123456789")
    x, y = next(iter(data.train_dataloader()))
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((100, 1, 8, 8), torch.float32, (100,), torch.int64)
    assert (x.min(), x.max()) == (0, 1)


def test_splits_neither_overlap_nor_lose_an_image() -> None:
    data = ready(validation=300)
    train, validation = contents(data.train_dataloader()), contents(data.val_dataloader())
    assert (len(train), len(validation)) == (1137, 300)
    assert not set(train) & set(validation)
    everything = Digits().read("train")
    assert sorted(train + validation) == contents(MemoryLoader(everything, batch_size=1000))


def test_the_split_depends_on_its_seed_alone() -> None:
    expected = contents(ready().val_dataloader())
    assert contents(ready(shuffle_seed=1, batch_size=3, shift=1).val_dataloader()) == expected
    assert contents(ready(split_seed=1).val_dataloader()) != expected


def test_order_depends_on_the_shuffle_seed() -> None:
    labels = [next(iter(ready(shuffle_seed=seed).train_dataloader()))[1] for seed in (0, 0, 1)]
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])


@pytest.mark.parametrize(("validation", "count"), [(0.1, 144), (0.25, 359), (1, 1), (0.0, 0), (0, 0)])
def test_validation_is_a_share_or_a_number(validation: float, count: int) -> None:
    data = ready(validation=validation, limit=50)
    loaders = data.val_dataloader()
    assert len(contents(loaders)) == count
    assert len(contents(data.train_dataloader())) == 50


def test_limit_keeps_the_validation_images() -> None:
    some, all_ = ready(limit=64), ready()
    assert set(contents(some.train_dataloader())) < set(contents(all_.train_dataloader()))
    assert contents(some.val_dataloader()) == contents(all_.val_dataloader())


def test_a_limit_takes_the_images_that_are_first_without_it() -> None:
    some, all_ = (ready(limit=limit)._splits["train"] for limit in (64, None))
    assert torch.equal(some.pixels, all_.pixels[:64])
    assert torch.equal(some.labels, all_.labels[:64])


def test_only_training_images_are_augmented() -> None:
    plain, moved = ready(), ready(shift=1, flip=True)
    assert contents(moved.val_dataloader()) == contents(plain.val_dataloader())
    (x, y), (moved_x, moved_y) = (next(iter(data.train_dataloader())) for data in (plain, moved))
    assert torch.equal(y, moved_y)
    assert not torch.equal(x, moved_x)


def test_trainer_runs_every_stage() -> None:
    module, data = Counter(), ImageDataModule(batch_size=500, eval_batch_size=100)
    trainer().fit(module, data)
    trainer().test(module, data, verbose=False)
    trainer().predict(module, data)
    assert [len(x) for x in module.train_batches] == [500, 500, 293]
    assert module.images == {"validation": 144, "test": 360, "predict": 144}


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")  # as was asked for
def test_trainer_accepts_no_validation() -> None:
    module = Counter()
    trainer(max_epochs=2).fit(module, ImageDataModule(batch_size=500, validation=0))
    assert len(module.train_batches) == 6
    assert module.images["validation"] == 0


def test_test_stage_reads_only_the_test_split() -> None:
    data = ready(stage="test")
    assert len(contents(data.test_dataloader())) == 360
    assert data.num_classes == 10
    with pytest.raises(KeyError):
        data.train_dataloader()


def test_overfitting_repeats_the_same_batches() -> None:
    module = Counter()
    trainer(max_epochs=3, overfit_batches=1).fit(module, ImageDataModule(batch_size=64, shift=1))
    assert torch.equal(module.train_batches[0], module.train_batches[2])


def test_overfitting_takes_images_of_several_classes(tmp_path: Path) -> None:
    """Folders of classes are read one after the other."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "sorted.npz", x_train=pixels, y_train=np.repeat([0, 1], 20))
    data = ImageDataModule(str(tmp_path / "sorted.npz"), batch_size=10, validation=0)
    data.setup("fit")
    data.trainer = trainer(overfit_batches=1)
    first, again = (next(iter(data.train_dataloader())) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert len(first[1].unique()) == 2


def test_trainer_limit_reaches_the_loader() -> None:
    data = ImageDataModule(batch_size=100)
    for limit, batches in [(3, 3), (0.5, 6), (100, 13), (1.0, 13)]:
        trainer(limit_train_batches=limit).fit(Counter(), data)
        loader = data.train_dataloader()
        assert isinstance(loader, ShuffledLoader)
        assert loader.epoch_batches == batches


def noisy(images: Tensor) -> Tensor:
    return images + torch.rand(images.shape)


def test_any_callable_transforms_training_batches_from_the_seed() -> None:
    options: dict[str, Any] = {"batch_size": 100, "transform": noisy, "limit": 200}
    plain, first, again = ready(batch_size=100, limit=200), ready(**options), ready(**options)
    torch.manual_seed(5)
    batches = [[x for x, _ in data.train_dataloader()] for data in (plain, first, again)]
    assert torch.equal(torch.cat(batches[1]), torch.cat(batches[2]))
    moved = torch.cat(batches[1]) - torch.cat(batches[0])
    assert moved.min() >= 0
    assert not torch.equal(moved[:100], moved[100:])  # every batch has its own
    assert contents(first.val_dataloader()) == contents(plain.val_dataloader())
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(5)))  # ours is untouched
    with pytest.raises(InputError, match=r"`transform` that turns images .* \(100, 1, 8, 8\) into .* \(100, 64\)"):
        next(iter(ready(batch_size=100, transform=lambda x: x.flatten(1)).train_dataloader()))


@pytest.mark.parametrize("option", [{"crop": 0.5}, {"colour": 0.4}, {"mix": 0.4}, {"cutout": 3}])
def test_augmentations_change_training_images_alone_and_do_not_depend_on_ranks(option: dict[str, Any]) -> None:
    data, plain = ready(batch_size=100, **option), ready(batch_size=100)
    assert contents(data.val_dataloader()) == contents(plain.val_dataloader())
    (x, y), (plain_x, plain_y) = (next(iter(each.train_dataloader())) for each in (data, plain))
    assert torch.equal(y, plain_y)
    assert not torch.equal(x, plain_x)
    images = data._splits["train"]
    halves = [
        next(iter(ShuffledLoader(images, batch_size=50, distort=data.distort, rank=rank, world_size=2)))[0]
        for rank in (0, 1)
    ]
    assert torch.allclose(torch.cat(halves), x, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": 3}, "Passed `transform=3`"),
        ({"workers": 0}, "workers=0.*at least 1"),
        ({"mode": "gray"}, "Passed `mode='gray'`"),
        ({"batch_size": 0}, "batch_size=0.*at least 1"),
        ({"batch_size": 2.5}, "batch_size=2.5.*whole number"),
        ({"eval_batch_size": -1}, "eval_batch_size=-1.*at least 1"),
        ({"shift": -1}, "shift=-1.*at least 0"),
        ({"shift": True}, "shift=True.*whole number"),
        ({"limit": 0}, "limit=0.*at least 1"),
        ({"validation": -1}, "validation=-1.*at least 0"),
        ({"validation": 1.0}, "validation=1.0.*below 1"),
        ({"validation": float("nan")}, "validation=nan.*below 1"),
    ],
)
def test_numbers_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageDataModule(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1437}, "Of 1437 training images this leaves 0 for training and 1437"),
        ({"validation": 5000}, r"leaves 0 for training.*Pass a share, such as `--data\.validation 0\.1`"),
        ({"validation": 0.0001}, "this leaves 1437 for training and 0 for validation"),
        ({"shift": 8}, "shift=8.*smaller than the images"),
    ],
)
def test_options_that_do_not_fit_the_set(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ready(**options)


@pytest.mark.usefixtures("shared_data")
def test_mnist() -> None:
    data = ready("ylecun/mnist", validation=10_000, limit=1000)
    assert (data.num_classes, data.image_shape) == (10, (1, 28, 28))
    assert data.class_names == list("0123456789")
    x, y = next(iter(data.train_dataloader()))
    assert 0.12 < x.mean() < 0.14  # 0.1307 over all of MNIST
    assert len(y.unique()) == 10
    assert [len(y) for _, y in data.val_dataloader()] == [1000] * 10


@pytest.mark.usefixtures("shared_data")
def test_fashion_mnist() -> None:
    data = ready("zalando-datasets/fashion_mnist", stage="test")
    assert data.class_names is not None
    assert data.class_names[0] == "T - shirt / top"
    labels = torch.cat([y for _, y in data.test_dataloader()])
    assert labels.bincount().tolist() == [1000] * 10


def folder_of(root: Path, names: Sequence[str]) -> str:
    """Digits 0, 1 and so on in folders of these names."""
    digits = Digits().read("train")
    for digit, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in (digits.labels == digit).nonzero()[:12, 0].tolist():
            Image.fromarray(digits.pixels[index, 0].numpy() * 15).save(root / name / f"{index}.png")
    return str(root)


def test_a_checkpoint_is_not_evaluated_or_trained_on_with_other_classes(tmp_path: Path) -> None:
    same, other = folder_of(tmp_path / "same", ["0", "1", "2"]), folder_of(tmp_path / "other", ["zero", "1", "2"])
    module, path = classifier(network=MLP(64, [20], num_classes=3)), tmp_path / "last.ckpt"
    run = trainer(max_steps=1)
    run.fit(module, ImageDataModule(same))
    run.save_checkpoint(path)
    options: dict[str, Any] = {"ckpt_path": path, "verbose": False, "weights_only": True}
    assert trainer().validate(module, ImageDataModule(same), **options)
    assert trainer().validate(module, ImageDataModule(arrays_of(tmp_path / "set.npz", 3)), **options)
    for go in (trainer().validate, trainer().fit, trainer().predict):
        with pytest.raises(InputError, match=r"3 classes, .*other' has 3, and the first that differs, 0, was '0'"):
            go(module, datamodule=ImageDataModule(other), ckpt_path=path, weights_only=True)
    trainer(max_steps=2).fit(module, ImageDataModule(same), ckpt_path=path, weights_only=True)


def arrays_of(path: Path, classes: int) -> str:
    """The same digits without names."""
    digits = Digits().read("train")
    chosen = (digits.labels < classes).nonzero()[:36, 0]
    np.savez(path, x=digits.pixels[chosen, 0].numpy(), y=digits.labels[chosen].numpy())
    return str(path)


def test_states_of_earlier_versions_and_of_anomalies() -> None:
    data = ImageDataModule("digits")
    data.load_state_dict(data.state_dict())
    data.load_state_dict({"image_shape": [1, 8, 8]})  # before classes were kept
    with pytest.raises(InputError, match="10 classes, 'digits' has 2, and the first that differs, 0, was '0'"):
        ImageDataModule("digits", normal=["0"]).load_state_dict(data.state_dict())


@pytest.mark.usefixtures("shared_data")
@pytest.mark.parametrize(("name", "copy"), LOCAL_COPIES.items())
def test_a_set_of_the_hub_has_the_classes_of_its_copy(name: str, copy: str) -> None:
    ImageDataModule(copy).load_state_dict(ImageDataModule(name).state_dict())


def test_lightning_evaluates_the_loader_of_a_training() -> None:
    """Which has a sampler, and so is asked for more."""
    images = ImageDataModule("digits", batch_size=100)
    module = classifier(depth=1)
    run = trainer(max_steps=1)
    run.fit(module, images)
    run.validate(module, images.train_dataloader(), verbose=False)
    assert 0 <= run.callback_metrics["val/accuracy"] <= 1
