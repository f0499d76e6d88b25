"""The spotter: what it finds does not depend on what comes later, and its threshold is kept."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

import ff_lightning as ff
from ff_lightning.errors import InputError
from ff_lightning.networks import CausalConvNet, FrameEnergy
from ff_lightning.readouts.detection import Matched
from ff_lightning.tasks.spotting import FoundWords, words_of


def spotter(**options: Any) -> ff.FFSpotter:
    torch.manual_seed(0)
    network = CausalConvNet(8, [12, 12], kernel_size=3, goodness=FrameEnergy(4, memory=2))
    for block in network:
        torch.nn.init.normal_(block.goodness.weight)  # type: ignore[arg-type]
    return ff.FFSpotter(network, **({"num_classes": 4} | options)).eval()


def test_what_is_found_early_does_not_depend_on_what_comes_later() -> None:
    module, x = spotter(), torch.randn(1, 1, 8, 200)
    module.threshold.fill_(0.0)
    other = x.clone()
    other[..., 150:] = torch.randn(1, 1, 8, 50)
    (one,), (two,) = module.events(x), module.events(other)
    settled = 150 - 13  # events look so many frames ahead
    assert one.frame[one.frame < settled].tolist() == two.frame[two.frame < settled].tolist()
    assert len(one.frame[one.frame < settled]) > 2
    assert set(one.label.tolist()) <= {0, 1, 2}, "the last class is no word"


def test_events_reach_the_threshold_that_a_checkpoint_keeps() -> None:
    module, x = spotter(), torch.randn(2, 1, 8, 300)
    module.threshold.fill_(0.4)
    again = spotter()
    again.load_state_dict(module.state_dict())
    for one, two in zip(module.events(x), again.predict_step((x, None), 0), strict=True):
        assert (one.score >= 0.4).all()
        assert torch.equal(one.frame, two.frame)


def test_every_recording_of_a_batch_is_evaluated() -> None:
    """A batch of two counts as two batches of one."""
    x, y = torch.randn(2, 1, 8, 300, dtype=torch.float64), torch.full((2, 300), 3)
    words = [torch.tensor([[0, 100], [1, 200]]), torch.tensor([[2, 50]])]
    found = []
    for batches in ([(x, y, words)], [(x[:1], y[:1], words[0]), (x[1:], y[1:], words[1:])]):
        loader: DataLoader[Any] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
        trainer = pl.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False)
        found.append(trainer.test(spotter(), loader, verbose=False))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2, 1, 8, 30), "type Tensor with 0 parts"),
        ((torch.zeros(2, 1, 8, 30), torch.zeros(2, dtype=torch.long)), r"shape \(2,\).*shape \(2, 30\)"),
        ((torch.zeros(2, 1, 8, 30), torch.zeros(2, 30)), r"dtype torch.float32.*whole numbers"),
        ((torch.zeros(2, 1, 8, 30), torch.full((2, 30), 4)), "classes of frames from 4 to 4.*0 to 3, or -1"),
        ((torch.zeros(2, 8, 30), torch.zeros(2, 30)), r"shape \(2, 8, 30\).*\(B, 1, 8, T\)"),
        ((torch.zeros(2, 1, 9, 30), torch.zeros(2, 30)), r"shape \(2, 1, 9, 30\).*\(B, 1, 8, T\)"),
        ((torch.zeros(2, 1, 8, 30, dtype=torch.uint8), torch.zeros(2, 30)), r"dtype torch.uint8.*floating point"),
    ],
)
def test_batches_of_another_form_are_refused(batch: Any, message: str) -> None:
    module = spotter()
    module.trainer = pl.Trainer(logger=False, enable_progress_bar=False)
    with pytest.raises(InputError, match=message):
        module.checked(batch)


def test_words_that_are_missing_are_named() -> None:
    x, y, words = torch.zeros(2, 1, 8, 30), torch.zeros(2, 30), torch.zeros(3, 2)
    for batch in ((x, y), (x, y, words), (x, y, [words, words[:, :1]])):
        with pytest.raises(InputError, match="in a batch of 2"):
            words_of(batch, 2)


def test_other_numbers_of_classes_are_named() -> None:
    with pytest.raises(InputError, match=r"num_classes=5.*num_classes=4"):
        spotter(num_classes=5)
    with pytest.raises(InputError, match="false_alarms"):
        spotter(false_alarms=0.0)


def test_what_was_found_is_counted_over_recordings_and_then_forgotten() -> None:
    found = FoundWords()
    assert found.matched() is None
    for score, right in (([0.9, 0.2], [True, False]), ([], []), ([0.8], [True])):
        found.update(Matched(torch.tensor(score), torch.tensor(right, dtype=torch.bool), words=2, minutes=0.5))
    matched = found.matched()
    assert matched is not None
    assert (matched.words, matched.minutes) == (6, 1.5)
    assert matched.score.tolist() == pytest.approx([0.9, 0.2, 0.8])
    assert matched.detected(matched.threshold(0.5)) == pytest.approx(2 / 6)
    assert found.matched() is None


def test_an_evaluation_outside_of_inference_mode_goes_on_with_its_sums() -> None:
    """A validation, and then the validation of a training, on one module."""
    found = FoundWords()
    nothing = Matched(torch.zeros(0), torch.zeros(0, dtype=torch.bool), words=2, minutes=0.5)
    with torch.inference_mode():
        found.update(nothing)
        found.reset()
        found.update(nothing)
    found.update(nothing)
    matched = found.matched()
    assert matched is not None
    assert (matched.words, matched.minutes) == (4, 1.0)
