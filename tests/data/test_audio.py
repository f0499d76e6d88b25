"""`AudioDataModule`: every source, every way to part it, and what cannot be used."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from ff_lightning.cli.predictions import write_predictions
from ff_lightning.data import AudioDataModule, LogMel, SoundAugment, SpottingDataModule
from ff_lightning.data.sound_loader import SoundLoader
from ff_lightning.errors import InputError
from tests.data.sounds import SPEAKERS, encoded, parquet, tone, word_folders


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return word_folders(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training and test splits with the columns of Speech Commands."""
    root = tmp_path_factory.mktemp("commands")
    parquet(root / "train.parquet", 4)
    parquet(root / "validation.parquet", 1)
    parquet(root / "test.parquet", 2)
    return root


def ready(source: Path, stage: str | None = "fit", **options: Any) -> AudioDataModule:
    data = AudioDataModule(str(source), **({"seconds": 0.5} | options))
    data.setup(stage)
    return data


def labels(loader: Any) -> list[int]:
    return torch.cat([y for _, y in loader]).tolist()


def test_class_folders_are_read(folders: Path) -> None:
    data = ready(folders, None, test=0.25, validation=0.2, batch_size=10)
    assert data.class_names == ["high", "low"]
    assert data.image_shape == (1, 40, 31)
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (10, 1, 40, 31)
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    sizes = [len(labels(loader)) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    assert sizes == [22, 5, 9]


def test_overfitting_repeats_the_same_recordings_of_several_classes(folders: Path) -> None:
    data = ready(folders, "fit", validation=0, batch_size=10)
    data.trainer = pl.Trainer(overfit_batches=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    first, again = (next(iter(data.train_dataloader())) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert len(first[1].unique()) == 2, "folders are read one after the other"


def test_every_class_keeps_its_share(folders: Path) -> None:
    data = ready(folders, None, test=12, validation=8)
    assert sorted(labels(data.test_dataloader())) == [0] * 6 + [1] * 6
    assert sorted(labels(data.val_dataloader())) == [0] * 4 + [1] * 4


def test_tables_keep_their_own_splits(commands: Path) -> None:
    data = ready(commands, None, rate=16000, seconds=1.0, group_column="speaker_id")
    assert data.class_names == ["high", "low"]
    sizes = [len(labels(loader)) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    assert sizes == [24, 6, 12]


def test_a_speaker_is_left_out_of_all_splits(commands: Path) -> None:
    data = ready(commands, None, group_column="speaker_id", test="bob", validation="ann")
    sizes = [len(labels(loader)) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    assert sizes == [14, 14, 14]
    rows, _ = data._training_and_test
    assert set(rows.groups or ()) == {"ann", "cyd"}


@pytest.mark.parametrize("seed", range(3))
def test_no_group_is_in_two_parts(folders: Path, seed: int) -> None:
    data = ready(folders, None, group_column="folder", test=0.3, validation=0.3, split_seed=seed)
    sizes = [len(labels(loader)) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())]
    assert sizes == [12, 12, 12]
    training, test = data._training_and_test
    assert test is not None
    assert set(training.groups or ()).isdisjoint({(test[0].groups or ())[row] for row in test[1].tolist()})


def test_labels_can_be_words_in_a_table(tmp_path: Path) -> None:
    import datasets

    audio = [{"bytes": encoded(tone(300.0 + 900 * (row % 2), seed=row)), "path": None} for row in range(20)]
    words = ["no" if row % 2 else "yes" for row in range(20)]
    datasets.Dataset.from_dict({"audio": audio, "word": words}).to_parquet(str(tmp_path / "words.parquet"))
    data = ready(tmp_path / "words.parquet", test=0.2)
    assert data.class_names == ["no", "yes"]
    assert data.num_classes == 2


@pytest.mark.parametrize(("content", "said"), [(b"no sound", "Format not recognised"), (None, "there is none")])
def test_a_broken_row_of_a_table_is_named(content: bytes | None, said: str, tmp_path: Path) -> None:
    import datasets

    sounds = [encoded(tone(400.0)), encoded(tone(400.0)), content, encoded(tone(400.0))]
    audio = [{"bytes": sound, "path": None} for sound in sounds]
    datasets.Dataset.from_dict({"audio": audio, "label": [0, 1, 0, 1]}).to_parquet(str(tmp_path / "words.parquet"))
    with pytest.raises(InputError, match=f"recording 2 of the train split of .*{said}"):
        ready(tmp_path / "words.parquet", validation=0)


def test_training_depends_on_the_seed_alone(folders: Path) -> None:
    augment = SoundAugment(shift=0.05, speed=0.1, noise=[0, 10], stretch=0.1, band_mask=5, time_mask=0.1)
    first, again, other = (
        next(iter(ready(folders, test=0.2, augment=augment, shuffle_seed=seed).train_dataloader()))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_an_epoch_goes_on_after_any_batch(folders: Path) -> None:
    data = ready(folders, test=0.2, augment=SoundAugment(noise=[0, 10]), batch_size=4)
    whole, half, rest = (data.train_dataloader() for _ in range(3))
    batches, running = list(whole), iter(half)
    next(running), next(running)
    rest.load_state_dict(half.state_dict())
    for (x, y), (x_rest, y_rest) in zip(batches[2:], rest, strict=True):
        assert torch.equal(x, x_rest)
        assert torch.equal(y, y_rest)


def test_short_long_and_silent_recordings_are_used(tmp_path: Path) -> None:
    for word in ("no", "yes"):
        (tmp_path / word).mkdir()
        for index, wave in enumerate((tone(400.0, 0.001), tone(400.0, 3.0), 0 * tone(400.0), tone(400.0))):
            (tmp_path / word / f"{index}.wav").write_bytes(encoded(wave))
    x, _ = next(iter(ready(tmp_path, validation=0, test=2).train_dataloader()))
    assert torch.isfinite(x).all()
    assert x.shape[1:] == (1, 40, 31)


def test_mfcc_have_their_own_height(folders: Path) -> None:
    data = ready(folders, test=0.2, features=LogMel(coefficients=13))
    assert data.image_shape == (1, 13, 31)
    assert next(iter(data.train_dataloader()))[0].shape[1:] == (1, 13, 31)


def test_the_checkpoint_keeps_how_to_read_recordings(folders: Path) -> None:
    kept = ready(folders, test=0.2).state_dict()
    assert LogMel(**kept["features"]) == LogMel()
    assert (kept["rate"], kept["seconds"], kept["class_names"]) == (8000, 0.5, ["high", "low"])


def test_a_checkpoint_of_other_classes_is_refused(folders: Path, commands: Path, tmp_path: Path) -> None:
    data = AudioDataModule(str(folders))
    data.load_state_dict(data.state_dict())
    AudioDataModule(str(commands)).load_state_dict(data.state_dict())  # the same words in a table
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a_high").symlink_to(folders / "low")
    (tmp_path / "words" / "low").symlink_to(folders / "high")
    other = AudioDataModule(str(tmp_path / "words"))
    with pytest.raises(InputError, match=r"2 classes, .*words' has 2, and the first that differs, 0, was 'high' and"):
        other.load_state_dict(data.state_dict())
    with pytest.raises(InputError, match="first that differs, 0"):
        SpottingDataModule(str(tmp_path / "words")).load_state_dict(SpottingDataModule(str(folders)).state_dict())


def test_classes_that_are_numbers_have_no_names_to_compare(folders: Path, tmp_path: Path) -> None:
    import datasets

    audio = [{"bytes": encoded(tone(400.0)), "path": None} for _ in range(6)]
    kept = AudioDataModule(str(folders)).state_dict()
    for labels in ([0, 1], [0, 1, 2]):
        table = datasets.Dataset.from_dict({"audio": audio, "label": (labels * 3)[:6]})
        table.to_parquet(str(tmp_path / f"{len(labels)}.parquet"))
    two, three = (AudioDataModule(str(tmp_path / f"{count}.parquet")) for count in (2, 3))
    two.load_state_dict(kept)
    AudioDataModule(str(folders)).load_state_dict(two.state_dict())
    with pytest.raises(InputError, match=r"trained with 2 classes, .* has 3. Pass"):
        three.load_state_dict(kept)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate": 0}, "rate"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": 0.001}, "hop"),
        ({"validation": 1.5}, "validation"),
        ({"test": "ann"}, "group_column"),
        ({"limit": 0}, "limit"),
    ],
)
def test_impossible_arguments_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        AudioDataModule("anywhere", **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "no test split"),
        ({"test": 36}, "leaves 0"),
        ({"test": 0.2, "validation": 40}, "validation=40"),
        ({"test": "dan", "group_column": "folder"}, "no group 'dan' among ann, bob, cyd"),
        ({"test": list(SPEAKERS), "group_column": "folder"}, "takes all"),
        ({"group_column": "speaker"}, "can only be 'folder'"),
        ({"label_column": "label"}, "no columns"),
    ],
)
def test_what_the_set_does_not_offer_is_named(folders: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ready(folders, None, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group_column": "utterance_id", "test": 3}, r"group called '3'.*\['3'\]"),
        ({"group_column": "who"}, "columns of .* are file, audio, label"),
        ({"audio_column": "file"}, "audio_column='file'"),
        ({"label_column": "audio"}, "label_column='audio'"),
    ],
)
def test_columns_that_do_not_fit_are_named(commands: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ready(commands, **options)


def test_one_class_and_no_class_are_refused(tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    with pytest.raises(InputError, match="one folder a class"):
        ready(tmp_path)
    (tmp_path / "only" / "a.wav").write_bytes(encoded(tone(400.0)))
    with pytest.raises(InputError, match="one class, 'only'"):
        ready(tmp_path)


def test_folders_of_recordings_are_read_as_those_of_pictures(tmp_path: Path) -> None:
    for split in ("Training", "dev"):
        for word in ("10", "9", ".ipynb_checkpoints"):
            (tmp_path / split / word).mkdir(parents=True)
            for index in range(2):
                (tmp_path / split / word / f"{index}.wav").write_bytes(encoded(tone(400.0)))
    data = ready(tmp_path)
    assert data.class_names == ["9", "10"]
    assert [len(data._parts[part].labels) for part in ("train", "validation")] == [4, 4]
    (tmp_path / "dev" / "stray.wav").write_bytes(encoded(tone(400.0)))
    with pytest.raises(InputError, match=r"stray\.wav lies in none of the class folders 9, 10"):
        ready(tmp_path)


def test_a_broken_file_among_good_ones_is_named(tmp_path: Path) -> None:
    word_folders(tmp_path, 2)
    (tmp_path / "high" / "ann" / "bad.wav").write_text("no sound")
    with pytest.raises(InputError, match=r"high/ann/bad\.wav"):
        ready(tmp_path, None, test=1)


@pytest.mark.skipif("FF_LIGHTNING_DATA" not in os.environ, reason="needs FF_LIGHTNING_DATA with fsdd")
def test_the_spoken_digits_are_read_with_their_speakers() -> None:
    data = AudioDataModule("fsdd", group_column="speaker", test="theo", limit=100)
    assert data.num_classes == 10
    training, test = data._training_and_test
    assert test is not None
    assert (len(training.labels), len(test[1])) == (2500, 500)


@pytest.mark.parametrize("ranks", [1, 2])
def test_predictions_name_the_files(ranks: int, folders: Path, tmp_path: Path) -> None:
    data = ready(folders, None, test=9, validation=8, eval_batch_size=3)
    expected = [str(folders / name) for name in ("high", "low")]
    written: list[str] = []
    for rank in range(ranks):
        loader = data.val_dataloader()
        assert isinstance(loader, SoundLoader)
        loader.rank, loader.world_size = rank, ranks
        batches = [Named(y) for _, y in loader]
        trainer: Any = SimpleNamespace(datamodule=data, predict_dataloaders=loader)
        assert write_predictions(batches, trainer, tmp_path / "p.csv")
        with (tmp_path / "p.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        assert all(line["name"].startswith(expected[int(line["label"])]) for line in lines)
        written += [line["name"] for line in lines]
    assert sorted(written) == sorted(data.row_names("validation", range(8)))
    assert len(set(written)) == 8
    assert len({*written, *data.row_names("train", range(19)), *data.row_names("test", range(9))}) == 36


class Named(tuple[torch.Tensor, ...]):
    """Labels, written as predictions."""

    def __new__(cls, labels: torch.Tensor) -> Named:
        return super().__new__(cls, (labels,))

    def headings(self, labels: list[str]) -> list[str]:
        return ["label"]

    def lines(self, labels: list[str]) -> list[list[int]]:
        return [[label] for label in self[0].tolist()]


def test_recordings_of_a_table_are_called_by_number_and_file(commands: Path, tmp_path: Path) -> None:
    import datasets

    data = ready(commands, None, rate=16000, seconds=1.0)
    assert data.row_names("test", [0, 11]) == [
        f"recording {row} of the test split of {str(commands)!r}" for row in (0, 11)
    ]
    audio = [{"bytes": encoded(tone(300.0 + 900 * (row % 2))), "path": f"{row}.wav"} for row in range(8)]
    table = datasets.Dataset.from_dict({"audio": audio, "label": [row % 2 for row in range(8)]})
    table.to_parquet(str(tmp_path / "words.parquet"))
    data = ready(tmp_path / "words.parquet", validation=2)
    (name, other) = data.row_names("validation", [1, 0])
    assert name > other
    number = int(name.split()[1])
    assert name == f"recording {number} of the train split of {str(tmp_path / 'words.parquet')!r} ({number}.wav)"


def test_folders_of_a_split_beside_the_classes_are_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder called after a split is it if it has folders of the classes, else a class of that name."""
    for place in ("no", "yes", "test/no", "test/yes", "val/no", "dev/ann"):
        (tmp_path / place).mkdir(parents=True)
        for index in range(2):
            (tmp_path / place / f"{index}.wav").write_bytes(encoded(tone(400.0)))
    data = ready(tmp_path, None)
    assert data.class_names == ["dev", "no", "yes"]
    assert [len(data._parts[part].labels) for part in ("train", "validation", "test")] == [6, 2, 4]
    (tmp_path / "train").mkdir()
    for place in ("no", "yes"):
        (tmp_path / place).rename(tmp_path / "train" / place)
    (tmp_path / "dev/ann").rename(tmp_path / "dev/yes")
    (tmp_path / "holdout").mkdir()
    with caplog.at_level("INFO"):
        data = ready(tmp_path, None)
    assert [len(data._parts[part].labels) for part in ("train", "validation", "test")] == [4, 4, 4]
    assert f"{tmp_path}: Left out: holdout, called after no split." in caplog.text
