"""`ImageDataModule`: images of one shape with one label each, decoded once and kept in memory."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from ff_lightning.data.arguments import check_validation, check_whole
from ff_lightning.data.augment import ShiftAndFlip
from ff_lightning.data.loader import Images, MemoryLoader, ShuffledLoader
from ff_lightning.data.order import rank_of
from ff_lightning.data.sources import Source, open_source
from ff_lightning.errors import InputError


class ImageDataModule(LightningDataModule):
    """Images and class labels from scikit-learn, a local folder, a Parquet file or the hub.

    Validation is cut from the training split; the test split is read by `test` only, so `predict`
    gets the validation images.

    Args:
        source: "digits" (scikit-learn's, nothing is downloaded); a local folder with Parquet files
            named after their splits or with one folder of images a class; a Parquet file; or the
            id of a set on the hub, such as `ylecun/mnist`. If the environment variable
            `FF_LIGHTNING_DATA` names a folder with a copy of MNIST, Fashion-MNIST or CIFAR-10, their
            hub ids read that; a folder in it can be given by its name alone.
        image_column: Name of the image column; None if there is only one.
        label_column: Name of the label column; None if there is only one.
        batch_size: Training images in a batch of one device.
        eval_batch_size: Largest number of images in a batch of one device elsewhere.
        validation: Share (a float) or number (an int) of training images for validation; 0 for no
            validation.
        split_seed: Seed of the choice of validation images and of `limit`.
        shift: Translate training images by up to so many pixels on either axis, with zero fill.
        flip: Flip half of the training images left to right.
        limit: Use at most so many of the training images; None for all.
        shuffle_seed: Seed of the order of training and of `shift` and `flip`.

    Shape:
        Batches are (x, y): (B, C, H, W) float32 in [0, 1] and (B,) int64.

    Raises:
        InputError: A number is out of range.

    Example:
        >>> data = ImageDataModule("digits", batch_size=100, validation=0.2)
        >>> data.setup("fit")
        >>> data.image_shape, data.num_classes, len(data.train_dataloader())
        ((1, 8, 8), 10, 12)
    """

    def __init__(
        self,
        source: str = "digits",
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        batch_size: int = 250,
        eval_batch_size: int = 1000,
        validation: int | float = 0.1,
        split_seed: int = 0,
        shift: int = 0,
        flip: bool = False,
        limit: int | None = None,
        shuffle_seed: int = 0,
    ) -> None:
        super().__init__()
        check_whole(self, "batch_size", batch_size, least=1)
        check_whole(self, "eval_batch_size", eval_batch_size, least=1)
        check_whole(self, "shift", shift, least=0)
        if limit is not None:
            check_whole(self, "limit", limit, least=1)
        check_validation(self, validation, rows="images")
        self.save_hyperparameters()
        self.source = source
        self.image_column = image_column
        self.label_column = label_column
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.validation = validation
        self.split_seed = split_seed
        self.augment = ShiftAndFlip(shift, flip)
        self.limit = limit
        self.shuffle_seed = shuffle_seed
        self._opened: Source | None = None
        self._splits: dict[str, Images] = {}

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._open().num_classes

    @property
    def class_names(self) -> list[str] | None:
        """A name for each class, if they have any."""
        return self._open().class_names

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height, width."""
        return self._open().image_shape

    @property
    def in_features(self) -> int:
        """Values of an image, C * H * W: what a network without a grid takes."""
        return math.prod(self.image_shape)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the images, so that it alone can read pictures: their shape and their classes."""
        return {"image_shape": list(self.image_shape), "class_names": self.class_names}

    def prepare_data(self) -> None:
        """Download what is on the hub, in one process a machine."""
        self._open()  # the others open it in `setup`

    def setup(self, stage: str | None = None) -> None:
        """Decode the splits of a stage.

        Args:
            stage: "fit", "validate", "predict" or "test"; None for all.

        Raises:
            InputError: The source has no usable images and labels, or too few.
        """
        if stage != "test" and "train" not in self._splits:
            self._read_training_images()
        if stage in ("test", None) and "test" not in self._splits:
            test = self._open().read("test")
            shape = tuple(test.pixels.shape[1:])
            if shape != self.image_shape:
                raise InputError(
                    f"Test images of {self.source!r} are (channels, height, width) {shape}, "
                    f"training images {self.image_shape}. They must be alike."
                )
            self._splits["test"] = test

    def train_dataloader(self) -> MemoryLoader | ShuffledLoader:
        """Shuffle and augment; neither with the trainer's `overfit_batches`."""
        images, trainer = self._splits["train"], self.trainer
        rank, world_size = rank_of(self.trainer)
        if trainer is not None and trainer.overfit_batches:  # type: ignore[attr-defined]
            return MemoryLoader(
                images,
                batch_size=self.batch_size,
                rank=rank,
                world_size=world_size,
            )
        return ShuffledLoader(
            images,
            batch_size=self.batch_size,
            seed=self.shuffle_seed,
            augment=self.augment if self.augment.shift or self.augment.flip else None,
            limit_batches=1.0 if trainer is None else trainer.limit_train_batches,
            rank=rank,
            world_size=world_size,
        )

    def val_dataloader(self) -> MemoryLoader | list[MemoryLoader]:
        """Give the validation images in order; no loader if there are none."""
        return self._sequential("validation") if "validation" in self._splits else []

    def test_dataloader(self) -> MemoryLoader:
        """Give the test images in order."""
        return self._sequential("test")

    def predict_dataloader(self) -> MemoryLoader | list[MemoryLoader]:
        """Give the validation images in order; no loader if there are none."""
        return self.val_dataloader()

    def _open(self) -> Source:
        if self._opened is None:
            self._opened = open_source(
                self.source,
                image_column=self.image_column,
                label_column=self.label_column,
            )
        return self._opened

    def _read_training_images(self) -> None:
        """Choose those for training and for validation, and decode no others."""
        source = self._open()
        total, asked = source.size("train"), self.validation
        count = round(total * asked) if isinstance(asked, float) else min(asked, total)
        if count == total or (count == 0 and asked):
            raise InputError(
                f"Passed `ImageDataModule(validation={asked})`. Of {total} training images this leaves "
                f"{total - count} for training and {count} for validation."
            )
        if min(self.image_shape[1:]) <= self.augment.shift:
            raise InputError(
                f"Passed `ImageDataModule(shift={self.augment.shift})`. `shift` must be smaller than "
                f"the images of {self.source!r}, whose shape is {self.image_shape}."
            )
        order = torch.randperm(total, generator=torch.Generator().manual_seed(self.split_seed))
        training, validation = order[count:][: self.limit], order[:count].sort().values
        rows = torch.cat([training, validation]).sort().values
        images = source.read("train", None if len(rows) == total else rows)
        self._splits["train"] = images.take(torch.searchsorted(rows, training))
        if count:
            self._splits["validation"] = images.take(torch.searchsorted(rows, validation))

    def _sequential(self, split: str) -> MemoryLoader:
        rank, world_size = rank_of(self.trainer)
        return MemoryLoader(
            self._splits[split],
            batch_size=self.eval_batch_size,
            rank=rank,
            world_size=world_size,
        )
