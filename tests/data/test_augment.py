import pytest
import torch

from ff_lightning.data.augment import Distort, ShiftAndFlip, crop, cut_out, mirror, recolour, rotate, translate
from ff_lightning.data.sources import Digits
from ff_lightning.errors import InputError

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


FLOATS = PIXELS.float() / 16


def noise(rows: int = len(PIXELS), seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, Distort(rotate=1).draws, generator=torch.Generator().manual_seed(seed))


def test_a_crop_shows_its_part_enlarged() -> None:
    images = FLOATS[:3]
    whole = crop(images, torch.ones(3), torch.rand(3), torch.rand(3))
    assert torch.allclose(whole, images, atol=1e-6)
    corner = crop(images, torch.full((3,), 0.25), torch.zeros(3), torch.ones(3))  # top right
    assert torch.allclose(corner[..., ::7, ::7], images[..., 0:4:3, 4:8:3] * 1.0, atol=0.6)
    assert torch.allclose(corner.mean((1, 2, 3)), images[..., :4, 4:].mean((1, 2, 3)), atol=0.1)


@pytest.mark.parametrize(("angle", "turns"), [(0.0, 0), (90.0, 1), (180.0, 2), (-90.0, 3)])
def test_an_image_is_turned_counterclockwise_about_its_centre(angle: float, turns: int) -> None:
    turned = rotate(FLOATS[:5], torch.full((5,), angle))
    assert torch.allclose(turned, FLOATS[:5].rot90(turns, (2, 3)), atol=1e-5)


def test_a_small_turn_keeps_the_middle_and_fills_with_zeros() -> None:
    ones = torch.ones(2, 1, 9, 15)  # not square: a turn is one of pixels
    turned = rotate(ones, torch.tensor([10.0, -10.0]))
    assert torch.equal(turned[0], turned[1].flip(-1)) or torch.allclose(turned[0], turned[1].flip(-1), atol=1e-5)
    assert torch.allclose(turned[..., 3:6, 4:11], ones[..., 3:6, 4:11])
    assert turned[..., 0, 0].max() < 1
    dot = torch.zeros(1, 1, 9, 15)
    dot[0, 0, 4, 11] = 1  # four to the right of the centre: upwards of it after a quarter turn
    assert rotate(dot, torch.tensor([90.0])).argmax() == 0 * 15 + 7


def test_angles_are_even_up_to_the_largest_and_others_draw_what_they_drew() -> None:
    distort, plain = Distort(rotate=30.0, cutout=2), Distort(cutout=2)
    assert (distort.draws, plain.draws) == (10, 9)
    turned = Distort(rotate=30.0)(FLOATS, noise())
    angles = 30 * (2 * noise()[:, 9] - 1)
    assert torch.allclose(turned, rotate(FLOATS, angles))
    assert torch.equal(plain(FLOATS, noise()), plain(FLOATS, noise()[:, :9]))


def test_colours_change_by_their_factors() -> None:
    images = torch.rand(4, 3, 5, 5) * 0.5 + 0.1
    one = torch.ones(4)
    assert torch.allclose(recolour(images, one, one, one), images, atol=1e-6)
    assert torch.allclose(recolour(images, one * 1.2, one, one), images * 1.2, atol=1e-6)
    grey = recolour(images, one, one, one * 0)
    assert torch.allclose(grey, images.mean(1, keepdim=True).expand_as(images), atol=1e-6)
    flat = recolour(images, one, one * 0, one)
    assert torch.allclose(flat, images.mean((1, 2, 3), keepdim=True).expand_as(images), atol=1e-6)


def test_a_square_is_cut_out_and_nothing_else() -> None:
    cut = cut_out(torch.ones(2, 1, 6, 7), torch.tensor([2, 0]), torch.tensor([3, 6]), side=3)
    assert (cut == 0).sum((1, 2, 3)).tolist() == [9, 4]
    assert not cut[0, 0, 1:4, 2:5].any()
    assert not cut[1, 0, :2, 5:].any()


def test_mixing_lays_at_most_so_much_of_another_over() -> None:
    others = FLOATS.roll(1, 0)
    mixed = Distort(mix=0.3)(FLOATS, noise(), others)
    weights = (mixed - FLOATS).flatten(1).norm(dim=1) / (others - FLOATS).flatten(1).norm(dim=1)
    assert weights.max() < 0.3001
    assert weights.max() > 0.25


def test_distortions_are_of_each_image_alone_and_repeat() -> None:
    distort = Distort(crop=0.5, colour=0.3, mix=0.4, cutout=3)
    others = FLOATS.roll(1, 0)
    together = distort(FLOATS, noise(), others)
    assert torch.equal(together, distort(FLOATS, noise(), others))
    assert torch.allclose(together[100:], distort(FLOATS[100:], noise()[100:], others[100:]), atol=1e-6)
    assert together.min() >= 0
    assert together.max() <= 1
    assert not torch.equal(together, FLOATS)


@pytest.mark.parametrize(
    ("name", "value"),
    [("crop", 0.0), ("crop", 1.5), ("colour", 1.0), ("mix", 0.6), ("cutout", -1), ("cutout", 2.5), ("rotate", 181)],
)
def test_distortions_out_of_range(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"Passed `{name}={value}`"):
        Distort(**{name: value})
