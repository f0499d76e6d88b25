"""Models and their data from checkpoints: which validation images are read again, and what is said of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ff_lightning.cli.models import validation_of
from ff_lightning.data import EventDataModule, ImageDataModule
from ff_lightning.errors import InputError

HERE = "ff_lightning.data"


def kept(data: Any) -> dict[str, Any]:
    """What a checkpoint of a training on some data, built in Python, keeps of it."""
    return {"datamodule_hyper_parameters": dict(data.hparams), type(data).__name__: data.state_dict()}


def told(class_path: str, **arguments: Any) -> dict[str, Any]:
    """What one of the command line keeps."""
    return {"datamodule_hyper_parameters": {"_class_path": class_path, "_instantiator": "a.b", **arguments}}


def event_folder(folder: Path) -> Path:
    """Three recordings of two events."""
    for name in range(3):
        (folder / f"{name}.bs2").write_bytes(bytes([3, 5, 0b1000_0000, 0, 7, 33, 0, 0b0000_0100, 0x93, 0xE0]))
    (folder / "train3.txt").write_text("#sample #class\n0\t1\n1\t0\n2\t1\n")
    (folder / "test1.txt").write_text("0 1\n")
    return folder


def opened(content: dict[str, Any]) -> Any:
    return validation_of(content, "a.ckpt", "check", True)


@pytest.mark.parametrize("class_path", [f"{HERE}.ImageDataModule", f"{HERE}.images.ImageDataModule", None])
def test_images_of_the_training_are_read_again(class_path: str | None) -> None:
    given = {"source": "digits", "validation": 30, "eval_batch_size": 30}
    content = kept(ImageDataModule(**given)) if class_path is None else told(class_path, **given, augment={"shift": 1})
    ((x, _),) = opened(content).val_dataloader()
    assert x.shape == (30, 1, 8, 8)


@pytest.mark.parametrize("in_python", [False, True])
def test_so_are_events_as_events(in_python: bool, tmp_path: Path) -> None:
    given = {"source": str(event_folder(tmp_path)), "steps": 3, "validation": 2}
    content = kept(EventDataModule(**given)) if in_python else told(f"{HERE}.EventDataModule", **given)
    ((x, _),) = opened(content).val_dataloader()
    assert x.shape == (2, 3, 2, 34, 34)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (told(f"{HERE}.AudioDataModule", source="words", audio_column=None), "is no ImageDataModule. Leave"),
        (told(f"{HERE}.TextDataModule", source="pydoc"), "is no ImageDataModule. Leave"),
        ({"datamodule_hyper_parameters": {"source": "wine"}, "TableDataModule": {}}, "is no ImageDataModule. Leave"),
        (told("somebody.Images", source="digits"), "by `--trust my_package`"),
        (told(f"{HERE}.ImageDataModule", source="digits", sharpness=1), "passes `sharpness` to `ImageDataModule`"),
        (told(f"{HERE}.ImageDataModule", source="digits", validation=0), "without validation images. Leave"),
        ({}, "does not say on which images it was trained. Leave"),
    ],
)
def test_other_data_is_refused_by_its_class(content: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as refused:
        opened(content)
    line = str(refused.value)
    assert line.startswith("Passed `check=True` with `ckpt_path=a.ckpt`. It")
    assert says in line
    assert line.endswith("Leave `check` out.")
    assert "\n" not in line
