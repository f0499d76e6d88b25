"""Pictures of whatever size and kind, brought to the shape of the images that a network takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageFile, ImageOps
from torch import Tensor

from ff_lightning.data.files import existing_folder, find_files, left_out
from ff_lightning.errors import InputError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""How the names of pictures end, in any case."""

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
"""What is opened, whatever the name says; others could run programs, as EPS does."""

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises on broken files."""

ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9", "GIF": b";"}
"""How files end that are whole, as a rule; WebP says its length, which Pillow checks as it opens one."""

GREY = ("1", "L", "LA", "La", "I", "F")
ORIENTATION = 0x0112
Mode = Literal["grey", "rgb"]
Size = int | Sequence[int] | Literal["most"]
"""(height, width), one number for both, or the size of most pictures."""


@dataclass(frozen=True)
class Look:
    """What pictures are brought to.

    Args:
        resize: (height, width), or one number for both; "most" for the size of most pictures; ``None`` to refuse
            pictures of different sizes.
        mode: "grey" or "rgb"; ``None`` for "rgb" if some are in colour.
        ground: what stands behind transparent pixels, by name or as "#rrggbb".

    Raises:
        InputError: one of them makes no sense.
    """

    resize: Size | None = None
    mode: Mode | None = None
    ground: str = "white"

    def __post_init__(self) -> None:
        if self.resize not in (None, "most"):
            sides = list(self.resize) if isinstance(self.resize, Sequence) else [self.resize]
            if len(sides) not in (1, 2) or any(type(side) is not int or side < 1 for side in sides):
                raise InputError(
                    f"Passed `resize={self.resize}`. It must be a number of pixels, [height, width], 'most' for the "
                    "size of most pictures, or None to refuse pictures of different sizes."
                )
        if self.mode not in (None, "grey", "rgb"):
            raise InputError(f"Passed `mode={self.mode!r}`. `mode` must be 'grey', 'rgb' or None.")
        check_ground(self.ground)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, if they were given."""
        if self.resize is None or isinstance(self.resize, str):
            return None
        sides = [self.resize] if isinstance(self.resize, int) else list(self.resize)
        return sides[0], sides[-1]


def check_ground(ground: str) -> tuple[int, ...]:
    """Red, green and blue of a colour, from 0 to 255.

    Raises:
        InputError: it is none.
    """
    try:
        return ImageColor.getrgb(ground)[:3]
    except ValueError as error:
        raise InputError(
            f"Passed `ground={ground!r}`. `ground` must be a colour, such as 'white', 'black' or '#ff8800'."
        ) from error


def is_picture(path: Path) -> bool:
    """Whether a file is a picture, by its name."""
    return path.suffix.lower() in ENDINGS


def open_picture(file: str | Path | BytesIO, ground: str = "white") -> Image.Image:
    """Open a picture, turn it upright, put a ground behind what is transparent, and bring it to 8 bits a channel.

    Of several pictures in a file the first one is read. Values of 16 bits are divided by 257, those of float, which
    must lie in [0, 1], multiplied by 255.

    Returns:
        A picture of mode L or RGB.

    Raises:
        OSError, SyntaxError, ValueError, DecompressionBombError: it is none that can be read.
    """
    with Image.open(file, formats=FORMATS) as opened:
        opened.load()
        return _plain(opened, ground)


def _plain(image: Image.Image, ground: str) -> Image.Image:
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image)
    if image.has_transparency_data:
        grey = image.mode in GREY
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, (*check_ground(ground), 255)), over)
        return image.convert("L" if grey and ImageColor.getcolor(ground, "RGB") == _grey(ground) else "RGB")
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode in GREY else "RGB")


def _grey(ground: str) -> tuple[int, ...]:
    return (check_ground(ground)[0],) * 3


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    least, most = values.min(), values.max()
    if image.mode.startswith("I") and least >= 0 and most < 1 << 16:
        return Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))
    if image.mode == "F" and least >= 0 and most <= 1:
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    raise ValueError(f"its values go from {least} to {most}; read are 8 or 16 bits a channel, or float in [0, 1]")


def glance(file: str | Path | BytesIO, *, to_the_end: bool = False) -> tuple[Mode, tuple[int, int]]:
    """Mode, and height and width of a picture, from its beginning alone.

    Args:
        file: the picture.
        to_the_end: look at its end, too, and decode it if it does not end as whole ones do.

    Raises:
        OSError, SyntaxError, ValueError, DecompressionBombError: it is none that can be read.
    """
    with Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if "exif" in image.info and image.getexif().get(ORIENTATION, 1) >= 5:  # it lies on its side
            width, height = height, width
        if to_the_end and not _ends_well(image):
            open_picture(file)
        return "grey" if image.mode.startswith(GREY) else "rgb", (height, width)


def _ends_well(image: ImageFile.ImageFile) -> bool:
    """Whether a picture that was opened, and not decoded, ends as its format asks for."""
    end = ENDS.get(image.format or "", b"")
    assert image.fp is not None
    image.fp.seek(-len(end), SEEK_END)
    return image.fp.read() == end


def shaped(image: Image.Image, shape: Sequence[int]) -> NDArray[np.uint8]:
    """Bring a picture to channels, height and width, without keeping its proportions.

    Returns:
        (height, width, channels).
    """
    channels, height, width = shape
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)  # averages over what it shrinks
    return np.array(image).reshape(height, width, channels)


def find_pictures(folder: str | Path) -> list[Path]:
    """List the pictures in a folder and the folders below it, by name; what is left out is said.

    Raises:
        InputError: There is no such folder, or no picture in it.
    """
    folder = existing_folder(folder)
    files, hidden = find_files(folder)
    found = [path for path in files if is_picture(path)]
    if not found:
        raise InputError(f"Passed `folder={folder}`. It holds no picture: no file that ends in {', '.join(ENDINGS)}.")
    if said := left_out(hidden, [path for path in files if not is_picture(path)], what="files that are no pictures"):
        rank_zero_info(said)
    return found


def read_picture(path: Path, image_shape: Sequence[int], ground: str = "white") -> Tensor:
    """Read a picture, turn it upright, make it grey or RGB, and resize it without keeping its proportions.

    Args:
        path: The file.
        image_shape: Channels (1 or 3), height, width.
        ground: What stands behind transparent pixels.

    Returns:
        image_shape, float32 in [0, 1].

    Raises:
        InputError: The file is no picture that can be read, or the shape has another number of channels.
    """
    if len(image_shape) != 3 or image_shape[0] not in (1, 3):
        raise InputError(f"Passed `image_shape={tuple(image_shape)}`. Pictures have 1 or 3 channels.")
    try:
        pixels = shaped(open_picture(path, ground), image_shape)
    except UNREADABLE as error:
        raise InputError(f"Cannot read the picture {path}: {error}.") from error
    return torch.from_numpy(pixels).float().div_(255).permute(2, 0, 1)


def picture_batches(
    paths: Sequence[Path], image_shape: Sequence[int], *, batch_size: int, ground: str = "white"
) -> Iterator[Tensor]:
    """Give batches of pictures in order, (B, C, H, W), reading each batch when it is asked for."""
    for start in range(0, len(paths), batch_size):
        some = paths[start : start + batch_size]
        yield torch.stack([read_picture(path, image_shape, ground) for path in some])
