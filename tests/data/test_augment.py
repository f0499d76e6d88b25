import pytest
import torch

from ff_lightning.data.augment import ShiftAndFlip, mirror, translate
from ff_lightning.data.sources import Digits

PIXELS = Digits().read("test").pixels


def test_translate_equals_moving_pixel_by_pixel() -> None:
    images = PIXELS[:25].repeat(1, 3, 1, 1)[..., :6]  # not square, 3 channels
    dy, dx = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3)).T
    moved = translate(images, dy, dx, limit=2)
    expected = torch.zeros_like(images)
    for n in range(25):
        for row in range(8):
            for column in range(6):
                to_row, to_column = row + int(dy[n]), column + int(dx[n])
                if 0 <= to_row < 8 and 0 <= to_column < 6:
                    expected[n, :, to_row, to_column] = images[n, :, row, column]
    assert torch.equal(moved, expected)
    assert moved.dtype == torch.uint8


def test_mirror_flips_columns_of_the_chosen_only() -> None:
    chosen = torch.tensor([True, False])
    flipped = mirror(PIXELS[:2], chosen)
    assert torch.equal(flipped[0, 0, :, 0], PIXELS[0, 0, :, 7])
    assert torch.equal(flipped[1], PIXELS[1])


@pytest.mark.parametrize(("noise", "move"), [(0.0, -1), (0.34, 0), (0.9999, 1)])
def test_noise_covers_all_shifts(noise: float, move: int) -> None:
    images = PIXELS[:5]
    moved = ShiftAndFlip(shift=1)(images, torch.full((5, 3), noise))
    assert torch.equal(moved, translate(images, torch.full((5,), move), torch.full((5,), move), limit=1))


def test_an_image_depends_on_its_own_noise_only() -> None:
    augment = ShiftAndFlip(shift=2, flip=True)
    noise = torch.rand(len(PIXELS), 3, generator=torch.Generator().manual_seed(0))
    together = augment(PIXELS, noise)
    assert torch.equal(together[100:], augment(PIXELS[100:], noise[100:]))
    assert not torch.equal(together, PIXELS)


def test_half_of_the_images_are_flipped() -> None:
    images = torch.zeros(2000, 1, 1, 2, dtype=torch.uint8)
    images[..., 0] = 1
    noise = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0))
    assert 0.45 < ShiftAndFlip(flip=True)(images, noise)[..., 1].float().mean() < 0.55
