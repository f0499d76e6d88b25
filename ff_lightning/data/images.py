"""`ImageDataModule`: images of one shape, with one label each or with none."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ff_lightning.data.arguments import check_counts, check_source, check_validation, check_whole, count_of
from ff_lightning.data.augment import Distort, ShiftAndFlip
from ff_lightning.data.classes import check_same_classes
from ff_lightning.data.loader import ImageSet, MemoryLoader, ShuffledLoader
from ff_lightning.data.order import mixed_once, rank_of
from ff_lightning.data.pictures import Look, Mode, Size
from ff_lightning.data.sources import Source, open_source
from ff_lightning.data.splits import stratified
from ff_lightning.data.targets import NORMALITY, as_anomalies, normal_classes, only_normal
from ff_lightning.errors import InputError, check_seeds, finite


class ImageDataModule(LightningDataModule):
    """Images and class labels from scikit-learn, a local folder or file, or the hub.

    A split called `validation`, `valid`, `val` or `dev` is used for validation. Without one, validation is cut from the
    training split. The test split is read by `test` only, so `predict` gets the validation images. What is left out of
    a folder is said in the log.

    Args:
        source: "digits" (scikit-learn's, nothing is downloaded); a local folder with one folder of pictures a class,
            with a table of classes (`metadata.csv`), or with pictures alone, which have no classes; Parquet files named
            after their splits; a `.npz` file of arrays; a `.csv` file with a column a pixel; or the id of a set on the
            hub, such as `ylecun/mnist`. If the environment variable `FF_LIGHTNING_DATA` names a folder with a copy of
            MNIST, Fashion-MNIST or CIFAR-10, their hub ids read that; a folder in it can be given by its name alone.
        image_column: Name of the image column of a table, or of the column of files of a `metadata.csv`; None if there
            is only one. Refused where there is no table.
        label_column: Name of the label column of a table; None if there is only one, or one called `label`. Refused
            where there is no table.
        separator: What stands between the labels of a picture that may have several, in the table of a folder of
            pictures, such as ";"; None for one class each.
        normal: Names of the classes that are normal, if anomalies are to be found: images of all others are left out of
            the training, and are anomalies elsewhere, label 1 beside 0.
        resize: [height, width] that pictures are brought to, without keeping their proportions, or one number for both;
            "most" for the size of most of them; None to refuse pictures of different sizes.
        mode: "grey" or "rgb"; None for "rgb" if some pictures are in colour.
        ground: What stands behind transparent pixels, by name or as "#rrggbb".
        batch_size: Training images in a batch of one device.
        eval_batch_size: Largest number of images in a batch of one device elsewhere.
        validation: Share (a float) or number (an int) of training images for validation, where there is no split of
            that name; 0 for no validation.
        stratified: Whether validation gets the same share of every class; None for "if the pictures are a folder or
            arrays". Of the digits and of tables with images, as sets of the hub are, validation is chosen at random
            then: the results in the documentation are of that choice.
        split_seed: Seed of the choice of validation images and of `limit`.
        shift: Translate training images by up to so many pixels on either axis, with zero fill.
        flip: Flip half of the training images left to right.
        crop: Smallest share of the area of a training image that is cut out and enlarged again; 1 for no crop.
        colour: Brightness, contrast and saturation of training images change by up to this share; 0 for no change.
        mix: Largest share of another training image that is laid over, at most 0.5, since the label stays; 0 for none.
        cutout: Side of a square of zeros in training images, in pixels; 0 for none.
        rotate: Turn training images by up to so many degrees either way, with zero fill.
        transform: Any callable on a batch of training images (B, C, H, W) float32 in [0, 1] that returns such a batch,
            such as one of torchvision's `transforms.v2`; it comes last. Not kept in checkpoints.
        balance: Draw every class equally often in training, for classes of unequal size.
        limit: Use at most so many of the training images; None for all.
        shuffle_seed: Seed of the order of training and of all that is random about its images.
        memory: Gigabytes of decoded pictures of a split that are kept in memory; larger splits are decoded when their
            batches are needed.
        workers: Threads that decode then.

    Attributes:
        num_classes: Number of classes or labels; None for images without classes, and where anomalies are to be found.
        class_names: A name for each class, if they have any.
        image_shape: Channels, height, width; found without decoding a picture.
        in_features: Values of an image.

    Shape:
        Batches are (x, y): (B, C, H, W) float32 in [0, 1] and (B,) int64, or for several labels (B, num_classes)
        float32, 1 where one is there; or x alone, of images without classes.

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
        separator: str | None = None,
        normal: Sequence[str | int] = (),
        resize: Size | None = None,
        mode: Mode | None = None,
        ground: str = "white",
        batch_size: int = 250,
        eval_batch_size: int = 1000,
        validation: int | float = 0.1,
        stratified: bool | None = None,
        split_seed: int = 0,
        shift: int = 0,
        flip: bool = False,
        crop: float = 1.0,
        colour: float = 0.0,
        mix: float = 0.0,
        cutout: int = 0,
        rotate: float = 0.0,
        transform: Callable[..., Any] | None = None,
        balance: bool = False,
        limit: int | None = None,
        shuffle_seed: int = 0,
        memory: float = 4.0,
        workers: int = 4,
    ) -> None:
        super().__init__()
        source = check_source(
            self,
            source,
            instead="Write arrays with `numpy.savez('set.npz', x_train=…, y_train=…)`, and pass its path.",
        )
        check_whole(self, "batch_size", batch_size, least=1)
        check_whole(self, "eval_batch_size", eval_batch_size, least=1)
        check_whole(self, "shift", shift, least=0)
        check_whole(self, "workers", workers, least=1)
        if limit is not None:
            check_whole(self, "limit", limit, least=1)
        check_seeds(self, split_seed=split_seed, shuffle_seed=shuffle_seed)
        check_validation(self, validation, rows="images")
        if transform is not None and not callable(transform):
            raise InputError(f"Passed `transform={transform!r}`. It must be a callable on a batch of images.")
        if separator is not None and (not separator or normal or balance):
            raise InputError(
                f"Passed `separator={separator!r}`. It must not be empty, and `normal` and `balance` are for "
                "images with one class each."
            )
        normal = [normal] if isinstance(normal, str) else [str(name) for name in normal]
        self.save_hyperparameters(ignore=["transform"])
        self.source = source
        self.image_column = image_column
        self.label_column = label_column
        self.separator = separator
        self.normal = normal
        self.look = Look(resize, mode, ground)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.validation = validation
        self.stratified = stratified
        self.split_seed = split_seed
        self.augment = ShiftAndFlip(shift, flip)
        self.distort = Distort(crop, colour, mix, cutout, rotate)
        self.transform = transform
        self.balance = balance
        self.limit = limit
        self.shuffle_seed = shuffle_seed
        self.memory = finite("memory", memory, least=0, owner=self)
        self.workers = workers
        self._opened: Source | None = None
        self._splits: dict[str, ImageSet] = {}
        self._rows: dict[str, Tensor] = {}

    @property
    def num_classes(self) -> int | None:
        """Number of classes or labels; None for images without classes, and where anomalies are to be found.

        Raises:
            InputError: There is one class alone.
        """
        if self.normal:
            return None
        source = self._open()
        if source.num_classes == 1:
            name = repr(source.class_names[0]) if source.class_names else "0"
            raise InputError(f"{self.source!r} has one class, {name}. A classifier needs two or more.")
        return source.num_classes or None

    @property
    def class_names(self) -> list[str] | None:
        """A name for each class, if they have any."""
        return NORMALITY if self.normal else self._open().class_names

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height, width."""
        return self._open().image_shape

    @property
    def in_features(self) -> int:
        """Values of an image, C * H * W: what a network without a grid takes."""
        return math.prod(self.image_shape)

    def row_names(self, split: str, rows: Sequence[int]) -> list[str]:
        """What to call images of a split, their files or numbers; after `setup`.

        Args:
            split: "train", "validation" or "test".
            rows: places of images among those that are given.
        """
        source = self._open()
        of, numbers = ("train", self._rows[split]) if split in self._rows else (split, None)
        return [source.name(of, row if numbers is None else int(numbers[row])) for row in rows]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the images, so that it alone can read pictures: their shape and their classes."""
        return {
            "image_shape": list(self.image_shape),
            "class_names": self.class_names,
            "ground": self.look.ground,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint was trained with the same classes, where both have names.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            InputError: It was not.
        """
        check_same_classes(state_dict.get("class_names"), self.class_names, self.num_classes, self.source)

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
            self._splits["test"] = as_anomalies(test, self._normal()) if self.normal else test

    def train_dataloader(self) -> MemoryLoader | ShuffledLoader:
        """Shuffle and augment; in one order, and as they are, with the trainer's `overfit_batches`."""
        images, trainer = self._splits["train"], self.trainer
        rank, world_size = rank_of(self.trainer)
        if trainer is not None and trainer.overfit_batches:  # type: ignore[attr-defined]
            images = images.take(mixed_once(len(images), self.shuffle_seed))
            return MemoryLoader(images, batch_size=self.batch_size, rank=rank, world_size=world_size)
        return ShuffledLoader(
            images,
            batch_size=self.batch_size,
            seed=self.shuffle_seed,
            augment=self.augment if self.augment.shift or self.augment.flip else None,
            distort=self.distort if self.distort.changes else None,
            transform=self.transform,
            balance=self.balance,
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
                separator=self.separator,
                look=self.look,
                memory=self.memory,
                workers=self.workers,
            )
        return self._opened

    def _read_training_images(self) -> None:
        """Choose those for training and for validation, and decode no others."""
        source = self._open()
        self._check_shift()
        total, own = source.size("train"), "validation" in source.splits and bool(self.validation)
        order = torch.randperm(total, generator=torch.Generator().manual_seed(self.split_seed))
        validation = order[:0] if own else self._chosen(source, total, order)
        left = torch.ones(total, dtype=torch.bool)
        left[validation] = False
        training = order[left[order]][: self.limit]
        rows = torch.cat([training, validation]).sort().values
        images = source.read("train", None if len(rows) == total else rows)
        self._rows = {"train": training, "validation": validation}
        self._splits["train"] = images.take(torch.searchsorted(rows, training))
        if own:
            del self._rows["validation"]
            self._splits["validation"] = source.read("validation")
            rank_zero_info(
                f"The validation images are those of {self.source!r}; `validation={self.validation}` is unused."
            )
        elif len(validation):
            self._splits["validation"] = images.take(torch.searchsorted(rows, validation))
        if self.normal:
            normal = self._normal()
            if "validation" in self._splits:
                self._splits["validation"] = as_anomalies(self._splits["validation"], normal)
            self._splits["train"], left = only_normal(self._splits["train"], normal)
            self._rows["train"] = training[left]

    def _normal(self) -> Tensor:
        """Numbers of the classes that are normal."""
        source = self._open()
        names = source.class_names or [str(number) for number in range(source.num_classes)]
        if not names:
            raise InputError(f"Passed `normal={self.normal}` for images without classes.")
        return normal_classes(self.normal, names, type(self).__name__)

    def _chosen(self, source: Source, total: int, order: Tensor) -> Tensor:
        """Rows of the training split that are kept for validation."""
        asked = self.validation
        count = count_of(asked, total)
        if asked:
            passed = f"{type(self).__name__}(validation={asked})"
            check_counts(passed, {"validation": count}, total, rows="training images")
        even = source.stratified if self.stratified is None else self.stratified
        return stratified(source.labels("train") if even else None, total, count, order)

    def _check_shift(self) -> None:
        if min(self.image_shape[1:]) <= self.augment.shift:
            raise InputError(
                f"Passed `ImageDataModule(shift={self.augment.shift})`. `shift` must be smaller than "
                f"the images of {self.source!r}, whose shape is {self.image_shape}."
            )

    def _sequential(self, split: str) -> MemoryLoader:
        rank, world_size = rank_of(self.trainer)
        return MemoryLoader(
            self._splits[split],
            batch_size=self.eval_batch_size,
            rank=rank,
            world_size=world_size,
        )
