"""What labels add to a convolution: waves pixel by pixel, learned planes, a bias; sizes and errors."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch.nn import functional as F

from ff_lightning.errors import InputError
from ff_lightning.networks import LabelBias, LabelPart, LearnedPlanes, WavePlanes
from ff_lightning.optim import HiddenMatrix
from tests import references_conv

PARTS = pytest.mark.parametrize("kind", [WavePlanes, LearnedPlanes, LabelBias])


def sized(part: LabelPart, classes: int = 10) -> LabelPart:
    torch.manual_seed(0)
    return part.sized(classes, 6, 3, (5, 7))


@pytest.mark.parametrize("classes", [2, 10, 13])
@pytest.mark.parametrize("wavelengths", [(4.0, 6.0, 9.0), (3.5,)])
def test_waves_are_those_drawn_pixel_by_pixel(classes: int, wavelengths: tuple[float, ...]) -> None:
    planes = sized(WavePlanes(wavelengths), classes).planes
    assert planes.shape == (classes, 1, 5, 7)
    expected = [references_conv.wave(label, classes, 5, 7, wavelengths) for label in range(classes)]
    torch.testing.assert_close(planes.squeeze(1), torch.tensor(expected))


def test_no_wave_is_another_one_moved() -> None:
    """Magnitudes of the spectrum, which a shift does not change, differ between ten classes."""
    planes = WavePlanes().sized(10, 1, 3, (28, 28)).planes.squeeze(1)
    spectra = torch.fft.rfft2(planes).abs().flatten(1)
    likeness = F.cosine_similarity(spectra, spectra.unsqueeze(1), dim=-1) - torch.eye(10)
    assert likeness.max() < 0.5


def test_only_the_filters_of_waves_are_learned() -> None:
    part = sized(WavePlanes())
    assert [name for name, _ in part.named_parameters()] == ["filters"]
    assert "planes" in part.state_dict()
    assert {name for name, _ in sized(LearnedPlanes()).named_parameters()} == {"planes", "filters"}
    assert isinstance(part.filters, HiddenMatrix)


@PARTS
def test_every_class_adds_something_else(kind: type[LabelPart]) -> None:
    table = sized(kind(scale=2.0))()
    assert table.shape == ((10, 6, 1, 1) if kind is LabelBias else (10, 6, 5, 7))
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(table, 2))
    plain = sized(kind(scale=1.0))()
    torch.testing.assert_close(table, 2 * plain)
    assert 0.3 < plain.detach().square().mean() < 3


def test_planes_are_seen_by_filters_of_their_own() -> None:
    part = sized(LearnedPlanes(1.0))
    torch.testing.assert_close(part(), F.conv2d(part.planes, part.filters, padding=1))


@PARTS
def test_layers_share_nothing(kind: type[LabelPart]) -> None:
    part = kind()
    first, second = part.sized(10, 6, 3, (5, 7)), part.sized(10, 8, 5, (4, 4))
    own = {id(p) for p in first.parameters()}
    assert own
    assert not own & {id(p) for p in second.parameters()}
    assert not list(part.parameters())
    assert len(second()) == 10
    torch.testing.assert_close(copy.deepcopy(first)(), first())


@PARTS
def test_a_part_without_a_size_is_refused(kind: type[LabelPart]) -> None:
    with pytest.raises(InputError, match=f"Called a `{kind.__name__}` without"):
        kind()()


@pytest.mark.parametrize("wavelengths", [(), (1.5,), (4.0, float("inf"))])
def test_waves_that_no_grid_of_pixels_shows_are_refused(wavelengths: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=r"Passed `wavelengths=\[.*each at least 2 pixels"):
        WavePlanes(wavelengths)


def test_a_scale_must_be_positive() -> None:
    with pytest.raises(InputError, match="`scale=0"):
        LabelBias(0.0)
