"""Pictures of any size and kind become images of the shape asked for."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from ff_lightning.data.pictures import (
    UNREADABLE,
    Look,
    find_pictures,
    glance,
    open_picture,
    picture_batches,
    read_picture,
)
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
    (tmp_path / "._a.jpeg").write_bytes(b"what a system writes for itself")
    paths = find_pictures(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in paths] == ["a.jpeg", "b.PNG", "sub/c.jpg"]
    batches = list(picture_batches(paths, (1, 8, 8), batch_size=2))
    assert [len(batch) for batch in batches] == [2, 1]
    assert torch.equal(batches[1][0], read_picture(paths[2], (1, 8, 8)))


INK = torch.zeros(8, 8).bool()
INK[2:6, 3:5] = True


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
@pytest.mark.parametrize("ground", ["white", "#808080", "black"])
def test_transparent_pixels_show_the_ground(mode: str, ground: str, tmp_path: Path) -> None:
    """Black ink on nothing: all values of the colours are 0."""
    alpha = np.where(INK.numpy(), 255, 0).astype(np.uint8)
    picture = Image.fromarray(np.dstack([np.zeros((8, 8, 3), np.uint8), alpha]))
    if mode == "P":
        quantized = Image.fromarray(np.where(INK.numpy(), 1, 0).astype(np.uint8)).convert("P")
        quantized.putpalette([0, 0, 0, 0, 0, 0])
        quantized.save(tmp_path / "a.png", transparency=0)
    elif mode == "L":  # one grey value is transparent
        Image.fromarray(np.where(INK.numpy(), 0, 7).astype(np.uint8)).save(tmp_path / "a.png", transparency=7)
    else:
        picture.convert(mode).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png", (1, 8, 8), ground)
    value = {"white": 1.0, "#808080": 128 / 255, "black": 0.0}[ground]
    assert torch.allclose(found[0], torch.where(INK, 0.0, value))


@pytest.mark.parametrize(("kind", "ending"), [(np.uint16, "png"), (np.uint16, "tiff"), (np.float32, "tiff")])
def test_deep_pictures_are_scaled(kind: type, ending: str, tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.float32).reshape(8, 8) / 63
    Image.fromarray((grey * (65535 if kind is np.uint16 else 1)).astype(kind)).save(tmp_path / f"a.{ending}")
    found = read_picture(tmp_path / f"a.{ending}", (1, 8, 8))[0]
    assert torch.allclose(found, torch.from_numpy(grey), atol=0.6 / 255)


def test_a_picture_on_its_side_has_the_size_it_is_seen_in(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    digit().resize((40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert glance(tmp_path / "turned.jpg") == ("grey", (40, 20))
    assert open_picture(tmp_path / "turned.jpg").size == (20, 40)


def broken(folder: Path) -> object:
    digit().save(folder / "whole.png")
    (folder / "a.png").write_bytes((folder / "whole.png").read_bytes()[:60])
    return read_picture(folder / "a.png", (1, 8, 8))


def deep(folder: Path) -> object:
    Image.fromarray(np.full((8, 8), 2, dtype=np.float32)).save(folder / "a.tiff")
    (folder / "a.tiff").rename(folder / "a.png")
    return read_picture(folder / "a.png", (1, 8, 8))


def text(folder: Path) -> object:
    (folder / "a.png").write_text("not a picture")
    return read_picture(folder / "a.png", (1, 8, 8))


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (broken, "Cannot read the picture .*a.png: "),
        (deep, "a.png: its values go from 2.0 to 2.0; read are 8 or 16 bits"),
        (text, "Cannot read the picture .*a.png: cannot identify"),
        (find_pictures, "It holds no picture: no file that ends in .png, .jpg"),
        (lambda folder: find_pictures(folder / "none"), "There is no such folder"),
        (lambda _: find_pictures(__file__), "It is a file: name the folder around it"),
        (lambda folder: Look(ground="whit"), "Passed `ground='whit'`. `ground` must be a colour"),
        (lambda folder: Look(resize=[8, 8, 3]), "Passed `resize=.8, 8, 3.`. It must be a number of pixels"),
        (lambda folder: Look(resize=0), "Passed `resize=0`"),
        (lambda folder: Look(resize=True), "Passed `resize=True`"),
        (lambda folder: Look(resize="much"), "Passed `resize=much`"),
        (lambda folder: read_picture(folder, (2, 8, 8)), r"Passed `image_shape=\(2, 8, 8\)`. Pictures have 1 or 3"),
    ],
)
def test_what_cannot_be_read_is_named(read: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_glance_to_the_end_finds_pictures_that_are_cut_off(kind: str) -> None:
    file = BytesIO()
    digit().resize((64, 64)).save(file, kind)
    encoded = file.getvalue()
    for whole in (encoded, encoded + b"more"):
        assert glance(BytesIO(whole), to_the_end=True)[1] == (64, 64)
    if kind in ("PNG", "JPEG", "GIF", "WEBP"):  # of others the beginning alone is looked at
        with pytest.raises(UNREADABLE):
            glance(BytesIO(encoded[: len(encoded) // 2]), to_the_end=True)
