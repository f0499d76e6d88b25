from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console

from ff_lightning.callbacks import TrainingProgress
from ff_lightning.callbacks.progress import clock, count_items, item_name
from ff_lightning.language import GPT
from ff_lightning.tasks import FFLanguageModel
from tests.training import classifier, loader, trainer


class Shown(TrainingProgress):
    """Keeps what would be shown."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        self.values.append(self.words(trainer, pl_module))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_bar_says_how_fast_and_how_long(tmp_path: Path, accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(1000))
    monkeypatch.setattr("ff_lightning.callbacks.progress.time.monotonic", lambda: 100 + next(seconds))
    shown = Shown()
    module = classifier(depth=1, accumulate_batches=accumulate)
    trainer(tmp_path, callbacks=[shown], enable_progress_bar=True, max_epochs=2).fit(module, loader(200, 50))
    assert "images/s" not in shown.values[0]
    rates = [float(values["images/s"]) for values in shown.values[1:]]
    assert all(0 < rate <= 50 for rate in rates), "a batch of 50 takes at least one tick"
    assert shown.values[-1]["left"] == "0:00"
    assert shown.values[1]["left"] != "0:00"


def test_the_bar_is_told_as_often_as_it_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a second, and of the last batch."""
    told: list[int] = []
    tenths = iter(range(1000))
    monkeypatch.setattr("ff_lightning.callbacks.progress.time.monotonic", lambda: 100 + next(tenths) / 10)
    monkeypatch.setattr(RichProgressBar, "on_train_batch_end", lambda *args: told.append(args[-1]))
    trainer(tmp_path, callbacks=[TrainingProgress()], enable_progress_bar=True).fit(classifier(1), loader(130, 10))
    assert told == [0, 10, 12]


@pytest.mark.parametrize("width", [80, 40])
def test_the_bar_is_one_line_and_is_left_once(tmp_path: Path, width: int) -> None:
    """What does not fit is cut at the end, and the bar is left as it is before others print."""
    bar = TrainingProgress()
    module = classifier(depth=1)
    trainer(tmp_path, callbacks=[bar], enable_progress_bar=True, max_epochs=2).fit(module, loader(200, 50))
    bar.shown.words = {"left": "0:00", "train/loss": -0.25} | {f"val/metric_{index}": 1.0 for index in range(20)}
    drawn = Console(width=width, force_terminal=True, file=io.StringIO()).render_lines(bar.progress.get_renderable())
    lines = ["".join(segment.text for segment in line) for line in drawn]
    assert len(lines) == 1, lines
    assert len(lines[0]) <= width
    assert "left 0:00" in lines[0]
    assert lines[0].rstrip().endswith("…")
    assert not bar.progress.live.is_started


def test_tokens_that_are_predicted_count(tmp_path: Path) -> None:
    model = FFLanguageModel(GPT(vocab_size=5, context=8, width=8, layers=1, heads=1))
    assert (item_name(model), count_items(model, torch.zeros(3, 9, dtype=torch.long))) == ("tokens", 24)
    images = classifier(depth=1)
    assert (item_name(images), count_items(images, (torch.zeros(3, 64), torch.zeros(3)))) == ("images", 3)


def test_times_are_short() -> None:
    assert [clock(seconds) for seconds in (0, 59.9, 3600)] == ["0:00", "0:59", "1:00:00"]
