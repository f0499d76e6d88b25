"""`AudioDataModule`: recordings with one label each as spectrograms, decoded once and kept in memory."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ff_lightning.data.arguments import check_source, check_whole
from ff_lightning.data.classes import check_same_classes
from ff_lightning.data.order import mixed_once, rank_of
from ff_lightning.data.recordings import at_peak, fitted
from ff_lightning.data.sound_augment import SoundAugment
from ff_lightning.data.sound_loader import (
    PEAK,
    ShuffledSoundLoader,
    SingleSounds,
    SoundLoader,
    Sounds,
    TrainingBatches,
)
from ff_lightning.data.sound_sources import Rows, SoundSource, joined, open_sounds
from ff_lightning.data.spectrograms import LogMel
from ff_lightning.data.splits import Part, check_part, parted
from ff_lightning.errors import InputError, check_seeds, positive


class AudioDataModule(LightningDataModule):
    """Spectrograms and class labels of short recordings, such as spoken words.

    A recording is mixed to one channel, resampled, brought to a peak of 1, and padded with silence or cut on both sides
    to a length. All are kept in memory as 16-bit samples; spectrograms are made batch by batch, in training of samples
    that were changed at random. The test split is read by `test` only, so `predict` gets the validation recordings.

    Needs the extra `audio` of the package.

    Args:
        source: A folder with one folder of recordings (WAV, FLAC, OGG, MP3) a class, or with folders `train`,
            `validation` and `test` of such, of which the last two may also lie beside the classes; a folder with
            Parquet files named after their splits, or one such file; the id of a set on the hub; or the name of a
            folder in the one that the environment variable `FF_LIGHTNING_DATA` names.
        audio_column: Name of the column of recordings; None if there is only one.
        label_column: Name of the column of labels, numbers or words; None for "label", or the only one.
        group_column: Name of the column that says to which group a recording belongs, such as its speaker: no group is
            in two parts then. Of class folders it can be "folder": the folder below the class folder.
        rate: Samples a second.
        seconds: Length of a recording.
        features: Makes spectrograms; `LogMel()` by default.
        augment: Changes recordings in training at random; None for no change.
        batch_size: Training recordings in a batch of one device.
        eval_batch_size: Largest number of recordings in a batch of one device elsewhere.
        validation: Share, number or groups of the recordings not in the test split, for validation; 0 for no
            validation. None for the set's own validation split or, if it has none, a tenth. Unless groups are parted,
            every class keeps its share.
        test: Share, number or groups of all recordings, whatever the set's own splits, for the test. None for its own
            test split.
        split_seed: Seed of the choice of validation and test recordings and of `limit`.
        limit: Use at most so many of the training recordings; None for all.
        shuffle_seed: Seed of the order of training and of `augment`.

    Shape:
        Batches are (x, y): (B, 1, height, frames) float32 and (B,) int64.

    Raises:
        InputError: A number is out of range.
    """

    def __init__(
        self,
        source: str,
        *,
        audio_column: str | None = None,
        label_column: str | None = None,
        group_column: str | None = None,
        rate: int = 8000,
        seconds: float = 1.0,
        features: LogMel | None = None,
        augment: SoundAugment | None = None,
        batch_size: int = 50,
        eval_batch_size: int = 500,
        validation: Part | None = None,
        test: Part | None = None,
        split_seed: int = 0,
        limit: int | None = None,
        shuffle_seed: int = 0,
    ) -> None:
        super().__init__()
        source = check_source(self, source, instead="Write recordings as .wav files, in one folder a class.")
        for name, value, least in (
            ("rate", rate, 1),
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("limit", 1 if limit is None else limit, 1),
        ):
            check_whole(self, name, value, least=least)
        check_seeds(self, split_seed=split_seed, shuffle_seed=shuffle_seed)
        check_part(self, "validation", validation, grouped=group_column is not None)
        check_part(self, "test", test, grouped=group_column is not None)
        self.save_hyperparameters(ignore=["features", "augment", "strung"])  # objects, which no checkpoint may hold
        self.source = source
        self.columns = {"audio_column": audio_column, "label_column": label_column, "group_column": group_column}
        self.rate = rate
        self.seconds = positive("seconds", seconds)
        self.samples = round(rate * seconds)
        self.features = LogMel() if features is None else features
        if not self.features.frames(self.samples, rate):
            raise InputError(f"Passed `AudioDataModule(seconds={seconds})`. It must be at least one `hop` long.")
        self.augment = augment
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.validation = validation
        self.test = test
        self.split_seed = split_seed
        self.limit = limit
        self.shuffle_seed = shuffle_seed
        self._parts: dict[str, Sounds] = {}
        self._rows: dict[str, tuple[Rows, Tensor]] = {}

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def class_names(self) -> list[str]:
        """A name for each class."""
        return self._source.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """One channel, rows and frames of a spectrogram."""
        return 1, self.features.height, self.features.frames(self.samples, self.rate)

    @property
    def in_features(self) -> int:
        """Values of a spectrogram: what a network without a grid takes."""
        return math.prod(self.image_shape)

    def row_names(self, split: str, rows: Sequence[int]) -> list[str]:
        """What to call recordings of a split, their files or numbers; after `setup`.

        Args:
            split: "train", "validation" or "test".
            rows: places of recordings among those that are given.
        """
        source, numbers = self._rows[split]
        return source.called(numbers[torch.tensor(rows, dtype=torch.int64)])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that it alone can read recordings: their form, their classes, the spectrogram."""
        return {
            "image_shape": list(self.image_shape),
            "class_names": self.class_names,
            "rate": self.rate,
            "seconds": self.seconds,
            "features": asdict(self.features),
            "named": self._source.named,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint was trained with the same classes.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            InputError: It was not.
        """
        names = self.class_names if self._source.named and state_dict.get("named", True) else None
        check_same_classes(state_dict.get("class_names"), names, len(self.class_names), self.source)

    def prepare_data(self) -> None:
        """Download what is on the hub, in one process a machine."""
        self._source  # noqa: B018 - the others open it in `setup`

    def setup(self, stage: str | None = None) -> None:
        """Decode the recordings of a stage.

        Args:
            stage: "fit", "validate", "predict" or "test"; None for all.

        Raises:
            InputError: The source has no usable recordings and labels, or too few.
        """
        training, test = self._training_and_test
        if stage != "test" and "train" not in self._parts:
            self._read_training(training)
        if stage in ("test", None) and "test" not in self._parts:
            if test is None:
                raise InputError(
                    f"{self.source!r} has no test split. Cut one from its recordings, such as a fifth: "
                    "`AudioDataModule(test=0.2)`."
                )
            self._decode("test", *test)

    def train_dataloader(self) -> SoundLoader | ShuffledSoundLoader:
        """Shuffle and augment; in one order, and as they are, with the trainer's `overfit_batches`."""
        trainer = self.trainer
        if trainer is not None and trainer.overfit_batches:  # type: ignore[attr-defined]
            return self._in_order("train")
        rank, world_size = rank_of(trainer)
        return ShuffledSoundLoader(
            self._training_batches(),
            batch_size=self.batch_size,
            seed=self.shuffle_seed,
            limit_batches=1.0 if trainer is None else trainer.limit_train_batches,
            rank=rank,
            world_size=world_size,
        )

    def val_dataloader(self) -> SoundLoader | list[SoundLoader]:
        """Give the validation recordings in order; no loader if there are none."""
        return self._in_order("validation") if "validation" in self._parts else []

    def test_dataloader(self) -> SoundLoader:
        """Give the test recordings in order."""
        return self._in_order("test")

    def predict_dataloader(self) -> SoundLoader | list[SoundLoader]:
        """Give the validation recordings in order; no loader if there are none."""
        return self.val_dataloader()

    @cached_property
    def _source(self) -> SoundSource:
        source = open_sounds(self.source, **self.columns)
        if len(source.class_names) < 2:
            raise InputError(
                f"{self.source!r} has one class, {source.class_names[0]!r}. A classifier needs two or more."
            )
        return source

    @cached_property
    def _training_and_test(self) -> tuple[Rows, tuple[Rows, Tensor] | None]:
        """All rows that are not for the test; and those for the test, a table and its rows."""
        splits = self._source.splits
        if self.test is None:
            test = splits.get("test")
            return splits["train"], None if test is None else (test, torch.arange(len(test.labels)))
        everything = joined([splits[name] for name in ("train", "validation", "test") if name in splits])
        stay, taken = parted(everything.labels, everything.groups, self.test, seed=self.split_seed, argument="test")
        if not len(taken):
            return everything, None
        return everything.take(stay), (everything, taken)

    def _read_training(self, training: Rows) -> None:
        """Choose those for training and for validation, and decode no others."""
        own = self._source.splits.get("validation") if self.test is None else None
        if own is not None and self.validation is None:
            stay = torch.arange(len(training.labels))
            self._decode("validation", own, torch.arange(len(own.labels)))
        else:
            training = training if own is None else joined([training, own])
            asked = 0.1 if self.validation is None else self.validation
            stay, taken = parted(training.labels, training.groups, asked, seed=self.split_seed, argument="validation")
            if len(taken):
                self._decode("validation", training, taken)
        if self.limit is not None:
            order = torch.randperm(len(stay), generator=torch.Generator().manual_seed(self.split_seed))
            stay = stay[order[: self.limit].sort().values]
        self._decode("train", training, stay)

    def _decode(self, part: str, source: Rows, rows: Tensor) -> None:
        """Decode some rows as a part, and remember which they are."""
        waves = torch.empty(len(rows), self.samples, dtype=torch.int16)
        longer = 0
        for index, wave in enumerate(source.decoded(rows, self.rate)):
            longer += len(wave) > self.samples
            waves[index] = fitted(at_peak(wave) * PEAK, self.samples).round_()
        if longer:
            rank_zero_info(f"Cut {longer} of {len(rows)} recordings to their middle {self.seconds} seconds.")
        self._parts[part] = Sounds(waves, source.labels[rows], self.rate)
        self._rows[part] = (source, rows)

    def _training_batches(self) -> TrainingBatches:
        return SingleSounds(self._parts["train"], self.features, self.augment)

    def _in_order(self, part: str) -> SoundLoader:
        rank, world_size = rank_of(self.trainer)
        batch_size = self.batch_size if part == "train" else self.eval_batch_size
        sounds = self._parts[part]
        if part == "train":
            order = mixed_once(len(sounds.labels), self.shuffle_seed)
            sounds = sounds._replace(waves=sounds.waves[order], labels=sounds.labels[order])
        return SoundLoader(SingleSounds(sounds, self.features), batch_size=batch_size, rank=rank, world_size=world_size)
