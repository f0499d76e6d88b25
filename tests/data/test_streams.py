"""Running recordings: every word once, at the time that is said, and the same for the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils._pytree import tree_leaves

from ff_lightning.data import LogMel, SoundAugment, SpottingDataModule, Strung
from ff_lightning.data.sound_loader import PEAK, SoundLoader, Sounds
from ff_lightning.data.streams import EvaluationStreams, Word, frame_labels
from ff_lightning.engine.hyperparameters import PLAIN
from ff_lightning.errors import InputError
from ff_lightning.signals import UNJUDGED
from tests.data.sounds import word_folders


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SpottingDataModule:
    source = str(word_folders(tmp_path_factory.mktemp("words")))
    augment = SoundAugment(speed=0.1, band_mask=4)
    data = SpottingDataModule(source, seconds=0.6, test=0.25, validation=0.25, words=4, batch_size=6, augment=augment)
    data.setup()
    return data


def test_words_lie_where_they_are_said_to_lie() -> None:
    waves = torch.zeros(3, 1000, dtype=torch.int16)
    for row, length in enumerate((300, 500, 700)):
        waves[row, 100 : 100 + length] = (row + 1) * PEAK // 4
    sounds = Sounds(waves, torch.tensor([5, 6, 7]), 1000)
    quiet = Strung(gap=(0.1, 0.3), noise=(200.0, 200.0), loudness=0.0)
    stream = quiet.string(sounds, [2, 0, 1], None, torch.Generator().manual_seed(0))
    assert [(word.label, word.stop - word.start) for word in stream.words] == [(7, 700), (5, 300), (6, 500)]
    sounding = stream.wave.abs() > 0.1
    assert int(sounding.sum()) == 1500
    assert all(sounding[word.start : word.stop].all() for word in stream.words)
    gaps = [after.start - before.stop for before, after in zip(stream.words, stream.words[1:], strict=False)]
    assert all(100 <= gap <= 300 for gap in gaps)
    assert len(quiet.string(sounds, [2, 0, 1], 1200, torch.Generator().manual_seed(0)).wave) == 1200


def test_frames_are_labelled_at_the_end_of_a_word() -> None:
    labels = frame_labels([Word(3, 1000, 2000)], frames=50, step=100, rate=1000, no_word=9)
    ends = [(frame + 1) * 100 for frame in range(50)]
    said = dict(zip(ends, labels.tolist(), strict=True))
    assert {said[end] for end in (2000, 2100)} == {3}
    assert {said[end] for end in range(1100, 2000, 100)} == {UNJUDGED}
    assert said[2200] == UNJUDGED
    assert said[1000] == said[2400] == 9


def test_overfitting_repeats_the_same_words(data: SpottingDataModule) -> None:
    data.trainer = pl.Trainer(overfit_batches=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    first, again = (next(iter(data.train_dataloader())) for _ in range(2))
    data.trainer = None
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_every_word_is_in_one_recording_of_the_evaluation(data: SpottingDataModule) -> None:
    words = torch.cat([ends for _, _, ends in data.test_dataloader()])
    assert sorted(words[:, 0].tolist()) == sorted(data._parts["test"].labels.tolist())
    for (x, y, _), (x_again, y_again, _) in zip(data.test_dataloader(), data.test_dataloader(), strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)
        assert y.shape == (1, x.shape[3])
        assert set(y.unique().tolist()) <= {UNJUDGED, 0, 1, data.no_word}


def test_every_word_is_evaluated_by_one_of_several_ranks(data: SpottingDataModule) -> None:
    """Also where a share is two recordings: they follow each other, and each sounds as it does alone."""
    sounds, features = data._parts["test"], data.features
    made = EvaluationStreams(sounds, features, data.strung, 3, data.no_word)
    assert len(made) == 3
    shares = [list(SoundLoader(made, batch_size=1, rank=rank, world_size=2)) for rank in range(2)]
    words = torch.cat([words for share in shares for _, _, words in share])
    assert sorted(words[:, 0].tolist()) == sorted(sounds.labels.tolist())
    ((x, y, words),) = shares[1]
    step, first = features.step(sounds.rate), made.stream(1)
    (x_first, y_first, words_first), (_, y_second, words_second) = (made.batch(slice(at, at + 1)) for at in (1, 2))
    frames = x_first.shape[3]
    assert torch.equal(x[..., :frames], x_first)
    assert torch.equal(words[: len(words_first)], words_first)
    later = words[len(words_first) :] - words_second
    assert set(later[:, 0].tolist()) == {0}
    assert set(later[:, 1].tolist()) <= {len(first.wave) // step, len(first.wave) // step + 1}
    assert y.shape == (1, x.shape[3])
    assert y.unique().tolist() == torch.cat([y_first, y_second], 1).unique().tolist()
    assert torch.equal(y[:, : frames - 1], y_first[:, : frames - 1])


def test_training_is_strung_anew_in_every_epoch(data: SpottingDataModule) -> None:
    loader = data.train_dataloader()
    first, second = list(loader), list(loader)
    assert first[0][0].shape == (6, 1, 40, 187)
    assert not torch.equal(first[0][0], second[0][0])
    assert all((y >= 0).any() and (y < data.no_word).any() for _, y in first)
    again = list(data.train_dataloader())
    assert all(torch.equal(x, x_again) for (x, _), (x_again, _) in zip(first, again, strict=True))


def test_a_checkpoint_holds_no_object(data: SpottingDataModule) -> None:
    kept = SpottingDataModule("anywhere", strung=Strung(), features=LogMel(level=9.0), augment=SoundAugment()).hparams
    assert kept["source"] == "anywhere"
    for content in (dict(kept), dict(data.hparams), data.state_dict()):
        assert all(isinstance(leaf, PLAIN) for leaf in tree_leaves(content))


def test_impossible_numbers_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gap"):
        Strung(gap=(2.0, 1.0))
    with pytest.raises(InputError, match="level=None"):
        SpottingDataModule(str(tmp_path), features=LogMel())


@pytest.mark.parametrize(("augment", "said"), [({"shift": 0.5}, "shift=0.5"), ({"noise": [0, 9]}, r"noise=\[0, 9\]")])
def test_changes_that_words_do_not_get_are_refused(augment: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=rf"Passed `SpottingDataModule\(augment=SoundAugment\({said}\)\)`. Words in a"):
        SpottingDataModule("anywhere", augment=SoundAugment(**augment))


def test_a_batch_size_that_has_no_effect_is_said(data: SpottingDataModule, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert SpottingDataModule("anywhere").eval_batch_size == data.eval_batch_size == 1
        assert "unused" not in caplog.text
        SpottingDataModule("anywhere", eval_batch_size=8)
    assert "Running recordings are evaluated one at a time; `eval_batch_size=8` is unused." in caplog.text
    with pytest.raises(InputError, match="eval_batch_size=0"):
        SpottingDataModule("anywhere", eval_batch_size=0)


def test_running_recordings_are_called_by_their_numbers(data: SpottingDataModule) -> None:
    assert data.row_names("validation", [0, 1]) == [
        "running recording 0 of validation",
        "running recording 1 of validation",
    ]
