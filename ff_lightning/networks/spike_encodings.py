"""How samples become spikes, one frame a time step; no frame is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from ff_lightning.errors import InputError
from ff_lightning.parts import Part


class SpikeEncoding(Part, ABC):
    """Turns samples into frames of spikes.

    Args:
        steps: number of time steps, at least 1.
    """

    def __init__(self, steps: int = 10) -> None:
        if not isinstance(steps, int) or steps < 1:
            raise InputError(
                f"Passed `{type(self).__name__}(steps={steps})`. `steps` must be a whole number, 1 or more."
            )
        self.steps = steps

    @abstractmethod
    def frames(self, x: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """Yield ``steps`` frames.

        Args:
            x: ``(B, …)`` floating.
            generator: source of randomness on the device of ``x``, for an evaluation: one draw serves all samples, so
                that the spikes of one do not depend on the others. By default torch's own, with a draw for each.

        Yields:
            ``(B, D)``, zeros and ones of the dtype of ``x``.
        """


class RateEncoding(SpikeEncoding):
    """Poisson code: at every step a pixel of intensity ``x`` in [0, 1] spikes with probability ``rate * x``.

    Args:
        steps: number of time steps.
        rate: probability that a pixel of intensity 1 spikes at a step, in (0, 1].
    """

    def __init__(self, steps: int = 10, *, rate: float = 1.0) -> None:
        super().__init__(steps)
        if not 0 < rate <= 1:
            raise InputError(f"Passed `RateEncoding(rate={rate})`. `rate` must be in (0, 1].")
        self.rate = rate

    def frames(self, x: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:  # noqa: D102
        probability = x.flatten(1) * self.rate
        shape = probability.shape if generator is None else (1, *probability.shape[1:])
        for _ in range(self.steps):
            drawn = torch.rand(shape, generator=generator, device=x.device)  # float32 in every precision
            yield (drawn < probability).to(x.dtype)


class LatencyEncoding(SpikeEncoding):
    """A pixel spikes once, the sooner the brighter: at step ``round((1 - x) * (steps - 1))``; black ones never."""

    def frames(self, x: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:  # noqa: D102
        del generator
        x = x.flatten(1)
        when = ((1 - x) * (self.steps - 1)).round().masked_fill(x <= 0, -1)
        for step in range(self.steps):
            yield (when == step).to(x.dtype)


class FrameEncoding(SpikeEncoding):
    """Samples that are frames already, ``(B, T, …)``, such as those of :class:`~ff_lightning.data.EventDataModule`."""

    def frames(self, x: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:  # noqa: D102
        del generator
        if x.dim() < 3 or x.shape[1] != self.steps:
            raise InputError(
                f"Passed samples of shape {tuple(x.shape)}. `FrameEncoding(steps={self.steps})` needs "
                f"(B, {self.steps}, …)."
            )
        for step in range(self.steps):
            yield x[:, step].flatten(1)
