"""Pictures of any size and kind become images of the shape asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from ff_lightning.data.pictures import find_pictures, picture_batches, read_picture
from ff_lightning.errors import InputError


def digit(index: int = 0) -> Image.Image:
    return Image.fromarray((load_digits().images[index] * 255 / 16).astype(np.uint8))


def test_a_picture_of_the_right_size_is_kept_exactly(tmp_path: Path) -> None:
    digit().save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png", (1, 8, 8))
    assert found.dtype == torch.float32
    assert torch.equal(found[0] * 255, torch.from_numpy(np.array(digit())).float())


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA", "CMYK"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 9)])
def test_any_kind_and_size_becomes_what_is_asked_for(mode: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    name = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    digit().resize((40, 56), Image.Resampling.NEAREST).convert(mode).save(name)
    found = read_picture(name, shape)
    expected = read_picture(name, (1, 8, 8))
    assert found.shape == shape
    assert 0 <= found.min() < found.max() <= 1
    plain = torch.from_numpy(np.array(digit())).float() / 255
    assert (expected[0] - plain).abs().mean() < (0.3 if mode == "1" else 0.1)


def test_a_large_picture_is_averaged_not_sampled(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[::2] = 200
    Image.fromarray(stripes).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png", (1, 8, 8)) * 255
    assert (found - 100).abs().max() < 8


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    digit().resize((80, 80)).rotate(90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    digit().resize((80, 80)).save(tmp_path / "plain.jpg", quality=95)
    turned, plain = (read_picture(tmp_path / f"{name}.jpg", (1, 8, 8)) for name in ("turned", "plain"))
    assert (turned - plain).abs().max() < 0.05


def test_pictures_are_found_below_too_by_name_and_others_passed_over(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.PNG", "a.jpeg", "sub/c.jpg"):
        digit().save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    paths = find_pictures(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in paths] == ["a.jpeg", "b.PNG", "sub/c.jpg"]
    batches = list(picture_batches(paths, (1, 8, 8), batch_size=2))
    assert [len(batch) for batch in batches] == [2, 1]
    assert torch.equal(batches[1][0], read_picture(paths[2], (1, 8, 8)))


def broken(folder: Path) -> object:
    digit().save(folder / "whole.png")
    (folder / "a.png").write_bytes((folder / "whole.png").read_bytes()[:60])
    return read_picture(folder / "a.png", (1, 8, 8))


def deep(folder: Path) -> object:
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(folder / "a.png")
    return read_picture(folder / "a.png", (1, 8, 8))


def text(folder: Path) -> object:
    (folder / "a.png").write_text("not a picture")
    return read_picture(folder / "a.png", (1, 8, 8))


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (broken, "Cannot read the picture .*a.png: "),
        (deep, "a.png: it has more than 8 bits a channel"),
        (text, "Cannot read the picture .*a.png: cannot identify"),
        (find_pictures, "It holds no picture: no file that ends in .png, .jpg"),
        (lambda folder: find_pictures(folder / "none"), "There is no such folder"),
        (lambda folder: read_picture(folder, (2, 8, 8)), r"Passed `image_shape=\(2, 8, 8\)`. Pictures have 1 or 3"),
    ],
)
def test_what_cannot_be_read_is_named(read: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read(tmp_path)
