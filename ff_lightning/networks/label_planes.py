"""Labels for convolutions: what a label adds to the pre-activations of a layer, over the whole plane.

A label written into a few pixels meets few of the fields that a filter sees. Here every field carries it. A convolution
is linear, so filters over an image with a label plane beside it give the sum of an image part, which no label changes,
and a label part, which no image changes: a table with an entry for each class.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.errors import InputError, positive
from ff_lightning.optim import HiddenMatrix
from ff_lightning.parts import Part


class LabelPart(Part, nn.Module, ABC):
    """The label part of a layer.

    Args:
        scale: factor of all it adds; the image part has variance 1 when training begins, about.

    Attributes:
        every_block: whether each block of a network has one of its own, or the first block alone.
    """

    every_block = False

    def __init__(self, scale: float = 0.3) -> None:
        super().__init__()
        self.scale = positive("scale", scale)

    @abstractmethod
    def sized(self, num_classes: int, filters: int, kernel_size: int, plane: tuple[int, int]) -> Self:
        """One of the same kind for a layer, which shares nothing with this one.

        Args:
            num_classes: ``C``.
            filters: of the layer.
            kernel_size: side of a filter.
            plane: height and width of what the layer sees.
        """

    @abstractmethod
    def forward(self) -> Tensor:
        """What each class adds, ``(C, filters, height, width)``, or ``(C, filters, 1, 1)`` where it is constant."""


class _Planes(LabelPart, ABC):
    """A picture for every class, which filters of their own see beside the image.

    A picture added to the image is the special case in which they are those of the image.
    """

    planes: Tensor | None

    def __init__(self, scale: float = 0.3) -> None:
        super().__init__(scale)
        self.register_buffer("planes", None)
        self.filters: nn.Parameter | None = None

    def sized(self, num_classes: int, filters: int, kernel_size: int, plane: tuple[int, int]) -> Self:
        """See :meth:`LabelPart.sized`."""
        part = copy.deepcopy(self)
        part.planes = self.drawn(num_classes, plane)
        part.filters = HiddenMatrix(torch.randn(filters, 1, kernel_size, kernel_size) / kernel_size)
        return part

    @abstractmethod
    def drawn(self, num_classes: int, plane: tuple[int, int]) -> Tensor:
        """New pictures, ``(C, 1, height, width)`` of mean square 1, about."""

    def forward(self) -> Tensor:
        """What each class adds; see :class:`LabelPart`."""
        if self.planes is None or self.filters is None:
            raise InputError(f"Called a `{type(self).__name__}` without planes. Let a network size it.")
        return self.scale * F.conv2d(self.planes, self.filters, padding=self.filters.shape[-1] // 2)


class WavePlanes(_Planes):
    """A wave for each class, with a wavelength, a phase and an orientation of its own; the waves are not learned.

    Spatially extended labels by Fourier patterns (Scodellaro et al. 2023, arXiv 2312.14924; there added to the image).
    Class ``c`` of ``C`` has the angle ``π c / C``, the phase ``2 π c / C``, and one of the wavelengths in turn.

    Args:
        wavelengths: in pixels, each at least 2.
        scale: see :class:`LabelPart`.
    """

    def __init__(self, wavelengths: Sequence[float] = (4.0, 6.0, 9.0), *, scale: float = 0.3) -> None:
        super().__init__(scale)
        if not wavelengths or not all(2 <= length < math.inf for length in wavelengths):
            raise InputError(f"Passed `wavelengths={list(wavelengths)}`. Needed: one or more, each at least 2 pixels.")
        self.wavelengths = tuple(wavelengths)

    def drawn(self, num_classes: int, plane: tuple[int, int]) -> Tensor:
        """The waves, ``(C, 1, height, width)``, of mean square 1."""
        classes = torch.arange(num_classes, dtype=torch.float64).view(-1, 1, 1)
        length = torch.tensor(self.wavelengths, dtype=torch.float64).repeat(num_classes)[:num_classes].view(-1, 1, 1)
        angle, phase = math.pi * classes / num_classes, 2 * math.pi * classes / num_classes
        row, column = (torch.arange(side, dtype=torch.float64) for side in plane)
        distance = angle.cos() * column + angle.sin() * row.unsqueeze(1)
        wave = (2 * math.pi * distance / length + phase).cos()
        return (wave * wave.square().mean((1, 2), keepdim=True).rsqrt()).unsqueeze(1).float()


class LearnedPlanes(_Planes):
    """A learned picture for each class, as in Trifecta: an embedding of the label in the form of a plane.

    It stands beside the image as one more channel (Dooms et al. 2023, arXiv 2311.18130). The first block learns it by
    its local loss, and nothing else does.
    """

    def drawn(self, num_classes: int, plane: tuple[int, int]) -> Tensor:
        """Noise to start from, ``(C, 1, height, width)``."""
        return nn.Parameter(torch.randn(num_classes, 1, *plane))


class LabelBias(LabelPart):
    """A learned bias for each class and channel, the same over the whole plane, in every block.

    Each block is told the label anew, so that it cannot fade on its way up. Labels then travel beside the activities.
    """

    every_block = True

    def __init__(self, scale: float = 0.3) -> None:
        super().__init__(scale)
        self.weight: nn.Parameter | None = None

    def sized(self, num_classes: int, filters: int, kernel_size: int, plane: tuple[int, int]) -> Self:
        """See :meth:`LabelPart.sized`."""
        del kernel_size, plane
        part = copy.deepcopy(self)
        part.weight = nn.Parameter(torch.randn(num_classes, filters))
        return part

    def forward(self) -> Tensor:
        """What each class adds; see :class:`LabelPart`."""
        if self.weight is None:
            raise InputError("Called a `LabelBias` without weights. Let a network size it.")
        return self.scale * self.weight[:, :, None, None]
