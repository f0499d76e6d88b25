"""Negatives: data that a block should answer weakly.

Supervised FF pairs an image with a wrong label; unsupervised FF needs images whose long-range correlations are
wrong although the short-range ones are right (Hinton 2022, 2212.13345, sections 3.2 and 3.3). Every draw takes
its generator from the caller, so that a resumed run draws the same negatives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ff_lightning.candidates import draw_one
from ff_lightning.errors import InputError, is_number, positive, whole
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
    except RuntimeError as error:  # on a host it looks at all of them; on their way to a GPU a module has looked
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
        if not (is_number(uniform) and 0 <= uniform <= 1):
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
        drawn = draw_one(belief.T, generator)
        return wrong.T.gather(1, drawn.unsqueeze(1)).squeeze(1)

    def _steps(self, batch: int, wrong_classes: int, generator: torch.Generator) -> Tensor:
        """Distances from the true class to the labels that compete, ``(S, B)`` or ``(S, 1)``, counted from 0."""
        if self.candidates is None or self.candidates >= wrong_classes:
            return torch.arange(wrong_classes, device=generator.device).unsqueeze(1)
        order = torch.rand((wrong_classes, batch), generator=generator, device=generator.device).argsort(0)
        return order[: self.candidates]


SampleJudge = Callable[[Tensor], Tensor]
"""What a model thinks of samples now: goodness ``(N,)`` of samples ``(N, …)``. It costs a forward pass."""


class SampleNegatives(Part, ABC):
    """Makes a negative out of every sample of a batch: rows, images, whatever has entries."""

    @abstractmethod
    def __call__(self, x: Tensor, generator: torch.Generator, judge: SampleJudge | None = None) -> Tensor:
        """Make negatives.

        Args:
            x: ``(B, …)`` floating, real samples; is not changed.
            generator: source of randomness, on the device of ``x``.
            judge: what the model itself thinks of samples now, for kinds that ask it.

        Returns:
            ``(B, …)``, of the same dtype.
        """


class Noise(SampleNegatives):
    """A sample and normal noise on all its entries.

    Blocks learn what noise looks like, and little of the data: a weak kind of negative; see :class:`MixedEntries`.

    Args:
        scale: standard deviation of the noise, in units of the data.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = positive("scale", scale)

    def __call__(self, x: Tensor, generator: torch.Generator, judge: SampleJudge | None = None) -> Tensor:
        """Make negatives; see :class:`SampleNegatives`."""
        return x + self.scale * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


class Masked(SampleNegatives):
    """A sample some of whose entries are missing.

    Args:
        least: smallest share of the entries that are set to ``value``; drawn evenly for every sample.
        most: largest share.
        value: what stands there instead.
    """

    def __init__(self, least: float = 0.1, most: float = 0.5, *, value: float = 0.0) -> None:
        self.least, self.most = shares("least", least, "most", most)
        self.value = value

    def __call__(self, x: Tensor, generator: torch.Generator, judge: SampleJudge | None = None) -> Tensor:
        """Make negatives; see :class:`SampleNegatives`."""
        return x.masked_fill(chosen_entries(x, self.least, self.most, generator), self.value)


class MixedEntries(SampleNegatives):
    """A sample some of whose entries are those of other samples: every entry is real, what they say together is not.

    Args:
        least: smallest share of the entries that are replaced; drawn evenly for every sample.
        most: largest share.
        partners: ``"one"`` takes all of them from one other sample, ``"many"`` each from any sample.
    """

    def __init__(self, least: float = 0.1, most: float = 0.5, *, partners: Literal["one", "many"] = "one") -> None:
        self.least, self.most = shares("least", least, "most", most)
        if partners not in ("one", "many"):
            raise InputError(f"Passed `partners={partners!r}`. `partners` must be 'one' or 'many'.")
        self.partners = partners

    def __call__(self, x: Tensor, generator: torch.Generator, judge: SampleJudge | None = None) -> Tensor:
        """Make negatives; see :class:`SampleNegatives`."""
        replaced = chosen_entries(x, self.least, self.most, generator)
        if self.partners == "one":
            return torch.where(replaced, x[other_images(len(x), generator)], x)
        rows = torch.randint(0, len(x), x.shape, generator=generator, device=x.device)
        return torch.where(replaced, x.gather(0, rows), x)


class Averaged(SampleNegatives):
    """The weighted mean of a sample and another one, which lies between real samples.

    Args:
        least: smallest weight of the other sample; drawn evenly for every sample.
        most: largest weight.
    """

    def __init__(self, least: float = 0.3, most: float = 0.7) -> None:
        self.least, self.most = shares("least", least, "most", most)

    def __call__(self, x: Tensor, generator: torch.Generator, judge: SampleJudge | None = None) -> Tensor:
        """Make negatives; see :class:`SampleNegatives`."""
        weight = drawn_shares(x, self.least, self.most, generator)
        return torch.lerp(x, x[other_images(len(x), generator)], weight)


class AnyOf(SampleNegatives):
    """A negative of one of several kinds, all equally likely, drawn for every sample.

    Args:
        kinds: two or more.
    """

    def __init__(self, kinds: Sequence[SampleNegatives]) -> None:
        if len(kinds) < 2:
            raise InputError(f"Passed `kinds` of {len(kinds)} kinds of negatives. `kinds` needs two or more.")
        self.kinds = list(kinds)

    def __call__(self, x: Tensor, generator: torch.Generator, judge: SampleJudge | None = None) -> Tensor:
        """Make negatives; see :class:`SampleNegatives`."""
        kind = torch.randint(0, len(self.kinds), (len(x),), generator=generator, device=x.device)
        made = torch.stack([negatives(x, generator, judge) for negatives in self.kinds])
        return made[kind, torch.arange(len(x), device=x.device)]


class Hardest(SampleNegatives):
    """The negative of several with the highest goodness: mined from a pool by what the model itself thinks now.

    Args:
        of: makes the pool; :class:`MixedEntries` by default.
        pool: negatives made for every sample, 2 or more. The cost grows with it.
    """

    def __init__(self, of: SampleNegatives | None = None, *, pool: int = 4) -> None:
        self.of = MixedEntries() if of is None else of
        self.pool = whole("pool", pool, least=2)

    def __call__(self, x: Tensor, generator: torch.Generator, judge: SampleJudge | None = None) -> Tensor:
        """Make negatives; see :class:`SampleNegatives`."""
        if judge is None:
            raise InputError(
                "Called `Hardest` without `judge`. The task must say what the model thinks of samples now."
            )
        made = torch.stack([self.of(x, generator, judge) for _ in range(self.pool)])
        goodness = judge(made.flatten(0, 1)).view(self.pool, len(x))
        return made[goodness.argmax(0), torch.arange(len(x), device=x.device)]


def shares(first: str, least: float, second: str, most: float) -> tuple[float, float]:
    """Check a range of shares.

    Raises:
        InputError: they are not shares, or the first is larger than the second.
    """
    if not 0 <= least <= most <= 1 or most == 0:
        raise InputError(
            f"Passed `{first}={least}` and `{second}={most}`. They must be shares in [0, 1], the second above 0 "
            "and not below the first."
        )
    return float(least), float(most)


def drawn_shares(x: Tensor, least: float, most: float, generator: torch.Generator) -> Tensor:
    """A share for every sample, drawn evenly from ``least`` to ``most``: ``(B, 1, …)`` beside ``x`` ``(B, …)``."""
    if x.dim() < 2:
        raise InputError(f"Passed samples of shape {tuple(x.shape)}. They must be (B, D) or (B, C, H, W).")
    drawn = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype)
    return (least + (most - least) * drawn).view(-1, *[1] * (x.dim() - 1))


def chosen_entries(x: Tensor, least: float, most: float, generator: torch.Generator) -> Tensor:
    """Entries of every sample, a share of them drawn evenly from ``least`` to ``most``: bool, of the shape of ``x``."""
    share = drawn_shares(x, least, most, generator)
    return torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) < share


class HybridMask(SampleNegatives):
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

    def __call__(self, x: Tensor, generator: torch.Generator, judge: SampleJudge | None = None) -> Tensor:
        """Join every image with another one of the batch.

        Args:
            x: ``(B, C, H, W)``, at least two images.
            generator: source of randomness, on the device of ``x``.
            judge: is not asked.

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
        raise InputError(
            f"Passed a batch of {batch} images. A pair of different images needs at least 2: choose another batch "
            "size, or leave a smaller last batch out, as `DataLoader(drop_last=True)` does."
        )
    device = generator.device
    return (
        torch.arange(batch, device=device) - torch.randint(1, batch, (1,), generator=generator, device=device)
    ) % batch
