"""The generative circuit of predictive Forward-Forward: predictions of the layer below, down to the image.

They learn by a rule that needs nothing but what meets at a synapse (Ororbia and Mali 2023, 2301.01452, section 3);
:mod:`ff_lightning.networks.predictive` puts the two circuits together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.blocks import Block
from ff_lightning.errors import InputError, positive
from ff_lightning.goodness import squared_norm
from ff_lightning.normalization import RunningMean, UnitRMS
from ff_lightning.signals import BlockContext, Contrast, Signal


class Prediction(nn.Module):
    """Predicts the layer below from the direction of the one above, and learns by error times activity.

    The gradient of the squared error passes the bounds of a prediction as if there were none, so what a synapse
    learns is the error below times the activity above: a Hebbian rule (2301.01452, section 3). It starts from
    predicting nothing.

    Args:
        above: units above.
        below: units below, or pixels.
        ceiling: largest value that is predicted, 1 for pixels; ``None`` for none. The smallest is 0.

    Shape:
        ``(N, above)``, which is brought to unit RMS first, to ``(N, below)``.
    """

    def __init__(self, above: int, below: int, *, ceiling: float | None = None) -> None:
        super().__init__()
        self.norm: nn.Module = UnitRMS()
        self.linear = nn.Linear(above, below)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.ceiling = ceiling

    def forward(self, above: Tensor) -> Tensor:  # noqa: D102
        predicted: Tensor = _Clipped.apply(self.drive(above), self.ceiling)  # type: ignore[no-untyped-call]
        return predicted

    def drive(self, above: Tensor) -> Tensor:
        """What reaches the units below, before it is clipped."""
        driven: Tensor = self.linear(self.norm(above))
        return driven


@dataclass(frozen=True, kw_only=True)
class PredictionSignal(Signal):
    """Activities ``h`` ``(B, above)``, and those of the layer below that they are to predict.

    Attributes:
        below: ``(B, below)``.
    """

    below: Tensor


class PredictionBlock(Block):
    """One layer of the generative circuit, trained by the error of its prediction.

    Args:
        layer: predicts the layer below.
    """

    layer: Prediction

    def __init__(self, layer: Prediction) -> None:
        super().__init__(layer, norm=nn.Identity())

    def judge(self, h: Tensor, signal: Signal, context: BlockContext) -> Contrast:
        """Squared error of the prediction ``h``, summed over the units below, a mean over the batch."""
        del context
        assert isinstance(signal, PredictionSignal)
        return Contrast(squared_norm(h - signal.below).mean())


class LatentPrediction(Prediction):
    """Predicts the top layer from a latent state, which nothing drives but the error of its own prediction.

    The latent state is of any sign and length. From it the same rule learns as Oja's subspace rule does: the latent
    units come to span the main directions in which the top layer varies. The synapses of a latent unit count by their
    direction alone, as if scaled to unit length. Without that they grow for as long as they learn, until steps along
    the error overshoot and latent states mean nothing any more.

    Args:
        latents: units of the latent state.
        below: units of the top layer.
        rate: step of the latent state along the error.

    Raises:
        InputError: the rate is not positive.
    """

    def __init__(self, latents: int, below: int, rate: float) -> None:
        super().__init__(latents, below)
        self.norm = nn.Identity()
        nn.init.orthogonal_(self.linear.weight)
        self.rate = positive("latent_rate", rate)

    def directions(self) -> Tensor:
        """Synapses ``(units, latents)``, those of every latent unit of unit length."""
        return F.normalize(self.linear.weight, dim=0)

    def drive(self, above: Tensor) -> Tensor:
        """The latent state along its directions."""
        return F.linear(above, self.directions(), self.linear.bias)

    @torch.no_grad()
    def infer(self, top: Tensor, steps: int) -> Tensor:
        """Latent states ``(B, latents)`` of top-layer activities ``(B, units)``: from zero along the error."""
        latent, back = top.new_zeros(len(top), self.linear.in_features), self.directions().T
        for _ in range(steps):
            latent = latent + self.rate * F.linear(top - self(latent), back)
        return latent


class LatentPrior(nn.Module):
    """What the latent state of each class looks like: a mixture of Gaussians whose components are the classes.

    Mean and covariance of every class follow the latent states of training, as running values.

    Args:
        num_classes: components.
        latents: units of the latent state.
        momentum: share of the old moments that stays at each training batch.
    """

    def __init__(self, num_classes: int, latents: int, *, momentum: float = 0.99) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.counts = RunningMean((num_classes,), momentum=momentum, start=0.0)
        self.sums = RunningMean((num_classes, latents), momentum=momentum, start=0.0)
        self.products = RunningMean((num_classes, latents, latents), momentum=momentum, start=0.0)

    @torch.no_grad()
    def note(self, latent: Tensor, labels: Tensor) -> None:
        """Take in latent states ``(B, latents)`` of images of classes ``(B,)``, at the end of the batch."""
        latent = latent.to(self.sums.value.dtype)
        member = F.one_hot(labels, self.num_classes).to(latent.dtype)
        with torch.autocast(latent.device.type, enabled=False):
            sums = member.T @ latent
            products = torch.einsum("bc,bi,bj->cij", member, latent, latent)
        for moment, value in ((self.counts, member.sum(0)), (self.sums, sums), (self.products, products)):
            moment.note(value / len(labels))

    @torch.no_grad()
    def sample(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw latent states ``(N, latents)`` of classes ``(N,)``.

        Raises:
            InputError: no image of one of the classes has been seen in training.
        """
        counts, sums, products = self.counts.value, self.sums.value, self.products.value
        if not bool((counts[labels] > 0).all()):
            raise InputError("Passed labels of classes that no training image had. Train first, then sample.")
        mean = sums / counts.unsqueeze(1)
        covariance = products / counts[:, None, None] - mean.unsqueeze(2) * mean.unsqueeze(1)
        values, vectors = torch.linalg.eigh(covariance[counts > 0].double())
        root = torch.zeros_like(covariance)
        root[counts > 0] = (vectors * values.clamp_min(0).sqrt().unsqueeze(1)).to(root.dtype)
        noise = torch.randn(len(labels), mean.shape[1], 1, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean[labels] + (root[labels] @ noise).squeeze(2)


class _Clipped(torch.autograd.Function):
    """``x`` from 0 to a ceiling, with gradient 1 everywhere."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, ceiling: float | None) -> Tensor:
        return x.clamp(0.0, ceiling)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
