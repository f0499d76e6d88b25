"""Pictures of a folder, of whatever size, brought to the shape of the images that a model was trained on."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ff_lightning.data.sources import opened
from ff_lightning.errors import InputError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""How the names of pictures end, in any case."""


def find_pictures(folder: str | Path) -> list[Path]:
    """List the pictures in a folder and the folders below it, by name; other files are passed over.

    Raises:
        InputError: There is no such folder, or no picture in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"Passed `folder={folder}`. There is no such folder.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        raise InputError(f"Passed `folder={folder}`. It holds no picture: no file that ends in {', '.join(ENDINGS)}.")
    return found


def read_picture(path: Path, image_shape: Sequence[int]) -> Tensor:
    """Read a picture, turn it upright, make it grey or RGB, and resize it without keeping its proportions.

    Args:
        path: The file.
        image_shape: Channels (1 or 3), height, width.

    Returns:
        image_shape, float32 in [0, 1].

    Raises:
        InputError: The file is no picture that can be read, or the shape has another number of channels.
    """
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise InputError(f"Passed `image_shape={tuple(image_shape)}`. Pictures have 1 or 3 channels.")
    try:
        image = opened(BytesIO(path.read_bytes())).convert("L" if channels == 1 else "RGB")
        image = image.resize((width, height), Image.Resampling.BILINEAR)  # averages over what it shrinks
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"Cannot read the picture {path}: {error}.") from error
    pixels = torch.from_numpy(np.array(image)).float().div_(255)
    return pixels.view(height, width, channels).permute(2, 0, 1)


def picture_batches(paths: Sequence[Path], image_shape: Sequence[int], *, batch_size: int) -> Iterator[Tensor]:
    """Give batches of pictures in order, (B, C, H, W), reading each batch when it is asked for."""
    for start in range(0, len(paths), batch_size):
        some = paths[start : start + batch_size]
        yield torch.stack([read_picture(path, image_shape) for path in some])
