"""Local losses over candidates, classes or next tokens, each of which a block gives a goodness.

A block gives every candidate ``v`` a goodness ``G(v)``, and predicts with ``softmax(F)``, ``F = below + G``, where
``below`` is what it starts from or corrects. Its positives are the true candidates; its negatives are drawn from a
prediction of the model itself, the true one among them (*collisions are kept*: positive and negative then cancel
exactly where the model is right). Every loss is a mean over samples or positions.

With one negative ``v`` drawn from the block's own ``softmax(F)``, the linear contrast ``F(v) - F(y)`` has in
expectation the gradient of the cross-entropy (self-contrastive estimation, Goodfellow 2014, 1412.6515): what the
contrast learns is log-probability. :class:`Softmax` is the same without the sampling noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.distributed import eager
from ff_lightning.errors import InputError, finite, positive, positive_numbers
from ff_lightning.goodness import accumulation_dtype
from ff_lightning.losses import ContrastiveLoss, SymBa
from ff_lightning.parts import Part
from ff_lightning.processor import running_sums
from ff_lightning.signals import Contrast, true_and_hardest

GROUPED_FROM = 8192
"""Candidates from which on a draw finds a group of them first: to add up all probabilities in order takes longer."""
GROUP = 32
"""Candidates of a group."""


@dataclass(frozen=True)
class Slopes:
    """A contrast at every position, and how steep it is there.

    Attributes:
        loss: ``(B, T)``.
        g_pos: ``(B, T)``, its derivative with respect to the goodness of the real token.
        g_neg: ``(B, T, K)``, with respect to the goodness of each negative.
    """

    loss: Tensor
    g_pos: Tensor
    g_neg: Tensor


class CandidateLoss(Part, nn.Module, ABC):
    """Local loss of a block that scores candidates.

    Shape:
        - ``logits``: ``(…, C)``, the block's current prediction ``F``, unnormalised.
        - ``targets``: ``(…)`` int64, the true candidates.
        - ``below``: ``(…, C)`` or ``(C,)``, the prediction that the block starts from or corrects, constant; ``None``
          for nothing, as for classes.
    """

    @abstractmethod
    def forward(
        self, logits: Tensor, targets: Tensor, generator: torch.Generator | None = None, below: Tensor | None = None
    ) -> Contrast:
        """Loss of a block; negatives are drawn with ``generator``."""

    def among_many(
        self,
        activities: Tensor,
        readout: tuple[Tensor, Tensor],
        targets: Tensor,
        generator: torch.Generator | None = None,
        below: Tensor | None = None,
    ) -> Contrast:
        """The same loss where there are many candidates, before their logits are computed.

        Args:
            activities: ``(…, width)`` float, what the readout reads.
            readout: weight ``(C, width)`` and bias ``(C,)``.
            targets: as for :meth:`forward`.
            generator: as for :meth:`forward`.
            below: as for :meth:`forward`.
        """
        found: Contrast = self(_logits(activities, readout, below), targets, generator, below)
        return found

    def calibrated(self, logits: Tensor, below: Tensor) -> Tensor:
        """Log-probability, up to a constant, that the goodness learned by this loss stands for.

        Args:
            logits: ``(…, C)``, the block's prediction ``F``.
            below: ``(…, C)`` or ``(C,)``, what it starts from; ``()``, 0, for nothing.
        """
        del below
        return logits

    def of_classes(self, goodness: Tensor) -> Tensor:
        """The same of classes, whose goodness ``(…, C)`` starts from nothing."""
        return self.calibrated(goodness, goodness.new_zeros(()))

    def compared(self, goodness: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What is logged of classes: goodness of the true one and of the best wrong one, each ``(B,)``.

        Args:
            goodness: ``(B, C)``, detached.
            targets: ``(B,)`` int64, or what else the loss takes.
        """
        return true_and_hardest(goodness, targets)


class Softmax(CandidateLoss):
    """Cross-entropy over all candidates: the limit of infinitely many own negatives (tier T2), in nats.

    (CwC, arXiv 2312.12668; DeeperForward.) Strictly local all the same.

    Args:
        scale: inverse temperature, per unit of goodness; positive. What a block starts from is not goodness.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = positive("scale", scale)

    def forward(  # noqa: D102
        self, logits: Tensor, targets: Tensor, generator: torch.Generator | None = None, below: Tensor | None = None
    ) -> Contrast:
        del generator
        said = self.calibrated(logits, logits.new_zeros(()) if below is None else below)
        return Contrast(F.cross_entropy(said.flatten(0, -2), targets.flatten()))

    def calibrated(self, logits: Tensor, below: Tensor) -> Tensor:  # noqa: D102
        return _scaled(self.scale, logits, below)


class WrongCandidate(CandidateLoss):
    """The true candidate against one wrong one, all equally likely (tier T1).

    With :class:`~ff_lightning.losses.SymBa` the optimum of ``alpha * G`` is log-probability; of another contrast nobody
    says what the goodness stands for.

    Args:
        loss: contrasts the goodness of both; :class:`~ff_lightning.losses.SymBa` by default.
    """

    def __init__(self, loss: ContrastiveLoss | None = None) -> None:
        super().__init__()
        self.loss = SymBa() if loss is None else loss

    def forward(  # noqa: D102
        self, logits: Tensor, targets: Tensor, generator: torch.Generator | None = None, below: Tensor | None = None
    ) -> Contrast:
        away = torch.randint(1, logits.shape[-1], targets.shape, generator=generator, device=targets.device)
        chosen = torch.stack([targets, (targets + away) % logits.shape[-1]], -1)
        if below is not None and isinstance(self.loss, SymBa):
            logits = self.calibrated(logits, below) / self.loss.alpha
        g_pos, g_neg = logits.gather(-1, chosen).unbind(-1)
        return Contrast(self.loss(g_pos, g_neg), g_pos.detach(), g_neg.detach())

    def calibrated(self, logits: Tensor, below: Tensor) -> Tensor:  # noqa: D102
        return _scaled(self.loss.alpha, logits, below) if isinstance(self.loss, SymBa) else logits


class SampledContrast(CandidateLoss, ABC):
    """A loss with explicit negatives (tier T1).

    Args:
        negatives: ``K``, tokens drawn for every position.
        even: spread the draws evenly; see :func:`draw_shares`. The expected gradient is the same.
    """

    def __init__(self, negatives: int = 16, *, even: bool = True) -> None:
        super().__init__()
        if isinstance(negatives, bool) or not isinstance(negatives, int) or negatives < 1:
            raise InputError(f"Passed `negatives={negatives}`. `negatives` must be a whole number, 1 or more.")
        self.negatives = negatives
        self.even = even

    def draw(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """Share of each token among the negatives drawn from ``softmax(logits)``, ``(B, T, V)``."""
        return draw_shares(logits.detach(), self.negatives, generator, even=self.even)

    def source(self, logits: Tensor, below: Tensor) -> Tensor:
        """The prediction, as logits ``(B, T, V)``, that negatives are drawn from: the block's own."""
        del below
        return logits

    @abstractmethod
    def goodness(self, logits: Tensor, below: Tensor) -> Tensor:
        """What is contrasted, ``(B, T, V)``."""

    @abstractmethod
    def slopes(self, g_pos: Tensor, g_neg: Tensor) -> Slopes:
        """Loss and its derivatives for goodness of the real tokens ``(B, T)`` and of the negatives ``(B, T, K)``."""

    def among_many(
        self,
        activities: Tensor,
        readout: tuple[Tensor, Tensor],
        targets: Tensor,
        generator: torch.Generator | None = None,
        below: Tensor | None = None,
    ) -> Contrast:
        """The same contrast among many candidates, of which only those compared have a gradient.

        The prediction over all candidates is needed to draw from, and costs a forward pass; the backward pass is that
        of ``K + 1`` candidates a position, however many there are. Loss and gradient are those of :meth:`forward`.

        Args:
            activities: see :class:`CandidateLoss`, as the others.
            readout: weight ``(C, width)`` and bias ``(C,)``.
            targets: the true candidates.
            generator: source of randomness.
            below: prediction that the block starts from.
        """
        weight, bias = readout
        with torch.no_grad():
            logits = _logits(activities, readout, below)
            below = logits.new_zeros(logits.shape[-1]) if below is None else below
            drawn = draw_tokens(self.source(logits, below), self.negatives, generator, even=self.even)
            goodness = self.goodness(logits, below)
            g_pos = goodness.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
            g_neg = goodness.gather(-1, drawn)
            found = self.slopes(g_pos, g_neg)
            compared = torch.cat([drawn, targets.unsqueeze(-1)], -1).flatten(0, -2)
            shares = torch.cat([found.g_neg, found.g_pos.unsqueeze(-1)], -1).flatten(0, -2).to(weight.dtype)
        directions = F.embedding_bag(compared, weight, mode="sum", per_sample_weights=shares)
        biases = F.embedding_bag(compared, bias.unsqueeze(-1), mode="sum", per_sample_weights=shares)
        slope = (activities.flatten(0, -2) * directions).sum(-1).mean() + biases.mean()
        return Contrast(slope + (found.loss.mean() - slope).detach(), g_pos, g_neg.mean(-1))


class LinearContrast(SampledContrast):
    """Mean over ``K`` negatives of ``F(v) - F(y)``, with ``v`` drawn from the block's own prediction (tier T1).

    Its value is near 0 throughout training, since negatives follow the block; only its gradient means something.

    Args:
        negatives: ``K``, tokens drawn for every position.
        even: spread the draws evenly; see :func:`draw_shares`.
    """

    def forward(  # noqa: D102
        self, logits: Tensor, targets: Tensor, generator: torch.Generator | None = None, below: Tensor | None = None
    ) -> Contrast:
        del below
        real = targets.unsqueeze(-1)
        g_pos = logits.detach().gather(-1, real)
        pushes = self.draw(logits, generator)
        pushes.scatter_add_(-1, real, pushes.new_full(real.shape, -1))
        contrast = (pushes * logits).sum(-1)  # one pass back over the logits, not one for each side
        g_pos = g_pos.squeeze(-1)
        return Contrast(contrast.mean(), g_pos, contrast.detach() + g_pos)

    def slopes(self, g_pos: Tensor, g_neg: Tensor) -> Slopes:  # noqa: D102
        loss = g_neg.mean(-1) - g_pos
        return Slopes(loss, -torch.ones_like(g_pos), torch.full_like(g_neg, 1 / self.negatives))

    def goodness(self, logits: Tensor, below: Tensor) -> Tensor:  # noqa: D102
        del below
        return logits


class LogisticContrast(SampledContrast):
    """Hinton's logistic loss on the goodness that a block adds to ``below`` (tier T1).

    ``softplus(θ - G(y)) + mean_k softplus(G(v_k) - θ)`` with ``G = F - below``. Negatives from ``softmax(below)``
    have their optimum at ``G = log p - log q``, so ``F`` is log-probability. Negatives from the block's own
    ``softmax(F)`` have it at half of that: the prediction then counts ``G`` twice.

    Args:
        negatives: ``K``, tokens drawn for every position.
        threshold: θ, in units of goodness.
        from_below: draw negatives from the prediction below instead of the block's own.
        even: spread the draws evenly; see :func:`draw_shares`.
    """

    def __init__(
        self, negatives: int = 16, *, threshold: float = 0.0, from_below: bool = False, even: bool = True
    ) -> None:
        super().__init__(negatives, even=even)
        self.theta = finite("threshold", threshold, owner=self)
        self.from_below = from_below

    def forward(  # noqa: D102
        self, logits: Tensor, targets: Tensor, generator: torch.Generator | None = None, below: Tensor | None = None
    ) -> Contrast:
        below = logits.new_zeros(logits.shape[-1]) if below is None else below
        shares = self.draw(self.source(logits, below), generator)
        goodness = self.goodness(logits, below)
        g_pos = goodness.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        push = (shares * F.softplus(goodness - self.theta)).sum(-1)
        loss = F.softplus(self.theta - g_pos).mean() + push.mean()
        return Contrast(loss, g_pos.detach(), (shares * goodness.detach()).sum(-1))

    def source(self, logits: Tensor, below: Tensor) -> Tensor:
        """The prediction that negatives are drawn from, the block's own or the one below."""
        return below.expand_as(logits) if self.from_below else logits

    def goodness(self, logits: Tensor, below: Tensor) -> Tensor:  # noqa: D102
        return logits - below

    def slopes(self, g_pos: Tensor, g_neg: Tensor) -> Slopes:  # noqa: D102
        loss = F.softplus(self.theta - g_pos) + F.softplus(g_neg - self.theta).mean(-1)
        return Slopes(loss, -(self.theta - g_pos).sigmoid(), (g_neg - self.theta).sigmoid() / self.negatives)

    def calibrated(self, logits: Tensor, below: Tensor) -> Tensor:  # noqa: D102
        return logits if self.from_below else 2 * logits - below


class EachLabel(CandidateLoss):
    """Every label for itself: samples that have it against samples that lack it (tier T1).

    ``softplus(scale * (θ - G(k)))`` of samples with label ``k``, ``softplus(scale * (G(k) - θ))`` of those without it,
    a mean over samples and labels: Hinton's logistic loss (2212.13345, section 2), with real samples as negatives. A
    label is predicted where its goodness exceeds θ, with the probability ``σ(scale * (G - θ))``.

    Args:
        threshold: θ, in units of goodness; finite.
        scale: inverse temperature of the logistic, per unit of goodness; positive.
        weights: how much a sample with a label counts against one without it, a number for each label, for labels that
            are rare; all 1 by default.

    Shape:
        - ``logits``: ``(B, K)``, goodness of ``K`` labels.
        - ``targets``: ``(B, K)``, 1 where a label is there, else 0; any dtype.
    """

    weights: Tensor | None

    def __init__(self, threshold: float = 0.0, *, scale: float = 1.0, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.theta = finite("threshold", threshold, owner=self)
        self.scale = positive("scale", scale)
        weights = None if weights is None else positive_numbers("weights", weights, owner=self)
        self.register_buffer("weights", None if weights is None else torch.tensor(weights), persistent=False)

    def forward(  # noqa: D102
        self, logits: Tensor, targets: Tensor, generator: torch.Generator | None = None, below: Tensor | None = None
    ) -> Contrast:
        del generator, below
        self._check(logits, targets)
        scores = self.scores(logits)
        return Contrast(F.binary_cross_entropy_with_logits(scores, targets.to(scores.dtype), pos_weight=self.weights))

    def scores(self, goodness: Tensor) -> Tensor:
        """Logits of the labels, of goodness ``(…, K)``: above 0 where one is predicted."""
        return self.scale * (goodness - self.theta)

    def compared(self, goodness: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """What is logged: goodness of the weakest label that is there and of the strongest that is not, ``(B,)`` each.

        Where there is none, θ stands for it.
        """
        there = targets.bool()
        weakest = goodness.masked_fill(~there, torch.inf).amin(1)
        strongest = goodness.masked_fill(there, -torch.inf).amax(1)
        theta = torch.full_like(weakest, self.theta)
        return torch.where(there.any(1), weakest, theta), torch.where(there.all(1), theta, strongest)

    def _check(self, logits: Tensor, targets: Tensor) -> None:
        if logits.shape != targets.shape:
            raise InputError(
                f"Passed labels of shape {tuple(targets.shape)} to a loss of {logits.shape[-1]} labels, each of "
                f"which may be there or not. They must be {tuple(logits.shape)}, 0 or 1."
            )
        if self.weights is not None and self.weights.shape != logits.shape[1:]:
            raise InputError(
                f"Passed `EachLabel(weights=…)` of {len(self.weights)} numbers for {logits.shape[1]} labels. "
                "There must be one for each."
            )


def _logits(activities: Tensor, readout: tuple[Tensor, Tensor], below: Tensor | None) -> Tensor:
    """Prediction over all candidates, ``(…, C)``, at least float32, which the matrix product may not be."""
    weight, bias = readout
    if below is not None and below.dim() == 1:  # with the bias, not in one more pass over all logits
        bias, below = bias + below, None
    logits = F.linear(activities, weight, bias)
    logits = logits.to(accumulation_dtype(logits))
    return logits if below is None else below + logits


def _scaled(scale: float, logits: Tensor, below: Tensor) -> Tensor:
    """A prediction whose goodness counts ``scale`` times; what it starts from counts once."""
    return logits if scale == 1 else below + scale * (logits - below)


@eager
@torch.no_grad()
def draw_tokens(logits: Tensor, count: int, generator: torch.Generator | None = None, *, even: bool = False) -> Tensor:
    """Draw tokens from ``softmax(logits)``, with replacement.

    By inverse transform sampling, which for a vocabulary of characters is as fast as ``torch.multinomial`` and has
    no limit on the number of tokens.

    Args:
        logits: ``(…, V)``. Probabilities, their sums and random numbers are at least float32: bfloat16 has 256 places
            in [0.5, 1), and tokens between two places would never be drawn.
        count: ``K``.
        generator: source of randomness; torch's own by default.
        even: one random number places all draws; see :func:`draw_shares`. Independent draws by default.

    Returns:
        ``(…, K)`` int64.
    """
    probabilities = logits.softmax(-1, dtype=accumulation_dtype(logits))
    shape = (*logits.shape[:-1], 1 if even else count)
    noise = torch.rand(*shape, generator=generator, device=logits.device, dtype=probabilities.dtype)
    if even:
        noise = (noise + torch.arange(count, device=logits.device)) / count
    if logits.shape[-1] < GROUPED_FROM:
        return _first_above(running_sums(probabilities, -1), noise)
    return _of_groups(probabilities, noise)


def _of_groups(probabilities: Tensor, noise: Tensor) -> Tensor:
    """Tokens at places ``(…, K)`` in [0, 1): the group that each is in, and where it is in there."""
    size = probabilities.shape[-1]
    whole = size // GROUP * GROUP
    masses = probabilities[..., :whole].view(*probabilities.shape[:-1], -1, GROUP).sum(-1)
    if whole < size:
        masses = torch.cat([masses, probabilities[..., whole:].sum(-1, keepdim=True)], -1)
    edges = running_sums(masses, -1)
    group = _first_above(edges, noise)
    mass = masses.gather(-1, group)
    further = (noise * edges[..., -1:] - (edges.gather(-1, group) - mass)) / mass
    tokens = group.unsqueeze(-1) * GROUP + torch.arange(GROUP, device=group.device)
    inside = probabilities.gather(-1, tokens.clamp_max(size - 1).flatten(-2)).view_as(tokens)
    inside = inside.masked_fill(tokens >= size, 0)
    place = _first_above(running_sums(inside, -1), further.clamp_min(0).unsqueeze(-1))
    return group * GROUP + place.squeeze(-1)


def _first_above(edges: Tensor, noise: Tensor) -> Tensor:
    """The first of running sums ``(…, V)`` that is above a share of their last one, for each of ``(…, K)`` shares."""
    total = edges[..., -1:]
    # Rounded up to the total, a place would lie behind the last one, whatever its probability.
    place = torch.minimum(noise * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(edges, place, right=True).clamp_max_(edges.shape[-1] - 1)


@torch.no_grad()
def draw_one(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one of several, by a race of exponential clocks: what ``torch.multinomial`` does, and the same draws.

    That looks at the probabilities first, for which the host waits for the device.

    Args:
        probabilities: ``(…, C)``, 0 or more; their sum does not matter.
        generator: source of randomness; torch's own by default.

    Returns:
        ``(…,)`` int64.
    """
    clocks = torch.empty_like(probabilities).exponential_(generator=generator)
    return probabilities.div(clocks).argmax(-1)


@eager
@torch.no_grad()
def draw_shares(logits: Tensor, count: int, generator: torch.Generator | None = None, *, even: bool = True) -> Tensor:
    """Draw tokens from ``softmax(logits)``, with replacement, and count them.

    Args:
        logits: ``(…, V)``; see :func:`draw_tokens`.
        count: ``K``.
        generator: source of randomness; torch's own by default.
        even: one random number places all ``K`` draws, which lie ``1 / K`` of the probability apart (systematic
            sampling): token ``v`` is drawn ``K p(v)`` times, rounded up or down at random. A mean over the draws has
            the same expectation as with independent ones and less noise, and no search is needed.

    Returns:
        ``(…, V)``, at least float32: the number of draws of each token over ``K``.
    """
    dtype = accumulation_dtype(logits)
    if not even:
        drawn = draw_tokens(logits, count, generator)
        shares = torch.zeros_like(logits, dtype=dtype)
        return shares.scatter_add_(-1, drawn, torch.ones_like(drawn, dtype=dtype)).div_(count)
    edges = running_sums(logits.softmax(-1, dtype=dtype), -1)
    edges = edges.mul_(count / edges[..., -1:])
    offset = torch.rand(*logits.shape[:-1], 1, generator=generator, device=logits.device, dtype=dtype)
    counts = edges.sub_(offset).ceil_()
    counts[..., -1] = count  # whatever the rounding of the sums
    return counts.diff(dim=-1, prepend=torch.zeros_like(offset)).div_(count)
