"""Negatives: data that a block should answer weakly.

Supervised FF pairs an image with a wrong label; unsupervised FF needs images whose long-range correlations are
wrong although the short-range ones are right (Hinton 2022, 2212.13345, sections 3.2 and 3.3). Every draw takes
its generator from the caller, so that a resumed run draws the same negatives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ff_lightning.errors import InputError, positive, whole
from ff_lightning.parts import Part


def overlay_labels(x: Tensor, labels: Tensor, num_classes: int, *, scale: float = 1.0) -> Tensor:
    """Write one-hot labels over the first pixels of flattened images (2212.13345, section 3.3).

    :class:`~ff_lightning.networks.LabelledReLU` does the same without building the images.

    Args:
        x: ``(B, …)`` images.
        labels: ``(B,)`` int64.
        num_classes: number of pixels that are replaced.
        scale: value of the hot pixel.

    Returns:
        ``(B, D)``, a new tensor.

    >>> overlay_labels(torch.full((1, 4), 0.5), torch.tensor([1]), 2)
    tensor([[0.0000, 1.0000, 0.5000, 0.5000]])
    """
    if x.dim() < 2:
        raise InputError(f"Passed images of shape {tuple(x.shape)}. They must be (B, D) or (B, C, H, W).")
    flat = x.flatten(1)
    if flat.shape[1] <= num_classes:
        raise InputError(
            f"Passed images of {flat.shape[1]} pixels with `num_classes={num_classes}`. The overlay needs more "
            "pixels than classes."
        )
    try:
        label = F.one_hot(labels, num_classes).to(flat.dtype) * scale
    except RuntimeError as error:  # it looks at all of them, which on a GPU is not done twice
        raise InputError(f"Passed labels that are not whole numbers from 0 to {num_classes - 1}: {error}") from error
    if len(label) != len(flat):
        raise InputError(f"Passed {len(label)} labels for {len(flat)} images. There must be one for each.")
    return torch.cat([label, flat[:, num_classes:]], dim=1)


Judge = Callable[[Tensor, int], Tensor]
"""What a model thinks of labels: ``judge(labels, n)`` gives the goodness of ``labels`` ``(S, B)``, summed over
the model's ``n`` lowest blocks, ``(S, B)``. It costs a forward pass of these blocks."""


class LabelNegatives(Part, ABC):
    """Draws a wrong label for every sample."""

    @abstractmethod
    def __call__(self, labels: Tensor, num_classes: int, judge: Judge, generator: torch.Generator) -> Tensor:
        """Draw wrong labels.

        Args:
            labels: ``(B,)`` int64, the true classes.
            num_classes: number of classes.
            judge: what the model itself thinks of labels now.
            generator: source of randomness, on the device of ``labels``.

        Returns:
            ``(B,)`` int64; never the true class.
        """


def need_wrong_label(num_classes: int) -> None:
    """Refuse to look for a wrong label where there is none.

    Raises:
        InputError: there are fewer than two classes.
    """
    whole("num_classes", num_classes, least=2)


class UniformWrongLabel(LabelNegatives):
    """A wrong label, all equally likely."""

    def __call__(self, labels: Tensor, num_classes: int, judge: Judge, generator: torch.Generator) -> Tensor:
        """Draw wrong labels; see :class:`LabelNegatives`."""
        need_wrong_label(num_classes)
        step = torch.randint(1, num_classes, labels.shape, generator=generator, device=labels.device)
        return (labels + step) % num_classes


class HardWrongLabel(LabelNegatives):
    """A wrong label drawn in proportion to how much the model itself believes in it now.

    Hinton draws hard labels from a forward pass with a neutral label (2212.13345, section 3.3); here they come
    from the model's own goodness of wrong labels. The first block alone is enough, and cheap, because its image
    part is computed once for all labels.

    Args:
        temperature: the draw is from ``softmax(goodness / temperature)`` over the competing wrong labels;
            positive, in units of goodness. One over the steepness of the loss is a good start.
        uniform: share of the probability that is spread evenly over them, in ``[0, 1]``.
        candidates: how many wrong labels compete, drawn evenly for every sample; all of them by default. The
            cost grows with it.
        blocks: how many of the lowest blocks judge the labels.
    """

    def __init__(
        self, temperature: float = 1.0, *, uniform: float = 0.1, candidates: int | None = None, blocks: int = 1
    ) -> None:
        if not 0 <= uniform <= 1:
            raise InputError(f"Passed `uniform={uniform}`. `uniform` must be in [0, 1].")
        if candidates is not None:
            whole("candidates", candidates, least=1)
        whole("blocks", blocks, least=1)
        self.temperature = positive("temperature", temperature)
        self.uniform = uniform
        self.candidates = candidates
        self.blocks = blocks

    def __call__(self, labels: Tensor, num_classes: int, judge: Judge, generator: torch.Generator) -> Tensor:
        """Draw wrong labels; see :class:`LabelNegatives`."""
        need_wrong_label(num_classes)
        wrong = (labels + 1 + self._steps(len(labels), num_classes - 1, generator)) % num_classes
        belief = (judge(wrong, self.blocks) / self.temperature).softmax(0)
        belief = (1 - self.uniform) * belief + self.uniform / len(wrong)
        drawn = torch.multinomial(belief.T, 1, generator=generator)
        return wrong.T.gather(1, drawn).squeeze(1)

    def _steps(self, batch: int, wrong_classes: int, generator: torch.Generator) -> Tensor:
        """Distances from the true class to the labels that compete, ``(S, B)`` or ``(S, 1)``, counted from 0."""
        if self.candidates is None or self.candidates >= wrong_classes:
            return torch.arange(wrong_classes, device=generator.device).unsqueeze(1)
        order = torch.rand((wrong_classes, batch), generator=generator, device=generator.device).argsort(0)
        return order[: self.candidates]


class HybridMask(Part):
    """Negative images for unsupervised FF: two images joined along a mask of large blobs (section 3.2).

    The mask starts as random bits, is blurred repeatedly with ``[1/4, 1/2, 1/4]`` in both directions and cut at
    one half. A hybrid has the short-range statistics of real images and the wrong long-range ones.

    Args:
        blurs: how often the mask is blurred; more blurs make larger blobs.
    """

    def __init__(self, blurs: int = 6) -> None:
        self.blurs = whole("blurs", blurs, least=0)

    def mask(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Draw masks.

        Args:
            shape: ``(B, H, W)``.
            generator: source of randomness; its device is the masks' device.

        Returns:
            ``(B, 1, H, W)`` bool.
        """
        device = generator.device
        mask = (torch.rand((shape[0], 1, *shape[1:]), generator=generator, device=device) > 0.5).float()
        with torch.autocast(device.type, enabled=False):  # the same masks in every precision
            rows, columns = (blurring(size, self.blurs, device) for size in shape[1:])
            mask = rows @ mask @ columns.T
        return mask > 0.5

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Join every image with another one of the batch.

        Args:
            x: ``(B, C, H, W)``, at least two images.
            generator: source of randomness, on the device of ``x``.

        Returns:
            ``(B, C, H, W)`` hybrids.
        """
        if x.dim() != 4 or x.shape[0] < 2:
            raise InputError(
                f"Passed images of shape {tuple(x.shape)}. Hybrid masks need (B, C, H, W) with B at least 2."
            )
        others = other_images(x.shape[0], generator)
        mask = self.mask((x.shape[0], x.shape[2], x.shape[3]), generator)
        return torch.where(mask, x, x[others])


def blurring(size: int, times: int, device: torch.device) -> Tensor:
    """Matrix ``(size, size)`` that blurs a row of values ``times`` times with ``[1/4, 1/2, 1/4]``.

    Beyond an end stands what stands at the end.
    """
    eye = torch.eye(size, device=device)
    once = eye / 2 + (torch.cat([eye[:1], eye[:-1]]) + torch.cat([eye[1:], eye[-1:]])) / 4
    blur: Tensor = torch.linalg.matrix_power(once, times)
    return blur


def other_images(batch: int, generator: torch.Generator) -> Tensor:
    """For every image of a batch another one, so many places further round; all distances are equally likely.

    Self-contrast (SCFF, arXiv 2409.11593) pairs every image with itself for a positive and with the other one for a
    negative; :class:`HybridMask` joins the two.

    Args:
        batch: ``B``, number of images, at least 2.
        generator: source of randomness; its device is that of the result.

    Returns:
        ``(B,)`` int64, places in the batch, each of them once.
    """
    if batch < 2:
        raise InputError(f"Passed a batch of {batch} images. A pair of different images needs at least 2.")
    device = generator.device
    return (
        torch.arange(batch, device=device) - torch.randint(1, batch, (1,), generator=generator, device=device)
    ) % batch
