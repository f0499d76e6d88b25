"""Fully connected stacks (Hinton 2022, 2212.13345, section 3)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.blocks import Block, ContrastiveBlock
from ff_lightning.candidates import CandidateLoss
from ff_lightning.errors import InputError, finite, is_whole, share, tell_left_out, whole, whole_numbers
from ff_lightning.goodness import Goodness, MeanOfSquares, WeightedEnergy, accumulation_dtype
from ff_lightning.losses import ContrastiveLoss, SimilarityMatching, SymBa
from ff_lightning.networks.heads import ClassParts, Head, check_beside, classes_of
from ff_lightning.normalization import PeerNormalisation, UnitRMS
from ff_lightning.signals import Labelled
from ff_lightning.stacks import BlockStack, HandedUp

LABEL_SCALE = 10.0
"""Value of the hot label input by default."""


class DenseReLU(nn.Module):
    """Linear map and ReLU of flattened samples, ``(N, …)`` to ``(N, out_features)``.

    Args:
        in_features: values a sample.
        out_features: units.
        batch_norm: bring every unit to its mean and variance over the batch, before the ReLU.
        slope: of the ReLU below 0.
    """

    def __init__(self, in_features: int, out_features: int, *, batch_norm: bool = False, slope: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        initialise(self.linear)
        self.norm = nn.BatchNorm1d(out_features) if batch_norm else None
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = x.flatten(1)
        refuse_other_size(x, self.linear.in_features)
        z = self.linear(x)
        if self.norm is not None:
            z = self.norm(z)
        return F.leaky_relu(z, self.slope, inplace=True) if self.slope else F.relu(z, inplace=True)


class InputDropout(nn.Dropout):
    """Dropout whose masks are drawn several times faster on a CPU: a random number of 64 bits serves four values.

    There the share that is dropped is rounded to a multiple of 1/65536, and what is left is scaled by that share.
    """

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if not self.p or not self.training or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        dropped = min(round(2**16 * self.p), 2**16 - 1)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 2**15
        return x * kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))


class LabelledReLU(nn.Module):
    """First layer of a supervised stack: the normalised image with a one-hot label written beside or into it.

    The image part of the pre-activation is computed once, however many labels an image carries, and the label
    adds a column. A plain tensor is taken as images without a label (all label inputs 0).

    Args:
        in_features: pixels of an image.
        out_features: units.
        num_classes: length of the one-hot label.
        label_scale: value of the hot label input; the image around it has unit RMS.
        overlay: write the label over the first ``num_classes`` pixels, as Hinton does (section 3.3), instead of
            appending it.
        dropout: share of the pixels that is dropped in training, the same ones for all labels of an image.
        image_norm: what an image passes first, which leaves it a unit RMS;
            :class:`~ff_lightning.normalization.UnitRMS` by default.

    Shape:
        - Input: :class:`Labelled` with image ``(B, …)`` and labels ``(S, B)``, or a tensor ``(B, …)``.
        - Output: ``(S * B, out_features)``, or ``(B, out_features)``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        num_classes: int,
        label_scale: float = LABEL_SCALE,
        overlay: bool = True,
        dropout: float = 0.0,
        image_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        share("dropout", dropout)
        if overlay and in_features <= num_classes:
            raise InputError(
                f"Passed `in_features={in_features}` with `num_classes={num_classes}` and `overlay=True`. The label "
                "needs fewer pixels than the image has."
            )
        self.num_classes = num_classes
        self.in_features = in_features
        self.label_scale = label_scale
        self.skip = num_classes if overlay else 0
        self.image = nn.Linear(in_features - self.skip, out_features)
        self.label = nn.Linear(num_classes, out_features, bias=False)
        initialise(self.image)
        nn.init.normal_(self.label.weight, std=in_features**-0.5)
        self.norm = UnitRMS() if image_norm is None else image_norm
        self.dropout = InputDropout(dropout)

    def image_part(self, image: Tensor) -> Tensor:
        """The image part of the pre-activation, ``(B, out_features)``, which no label changes."""
        image = image.flatten(1)
        refuse_other_size(image, self.in_features)
        z: Tensor = self.image(self.dropout(self.norm(image)[:, self.skip :]))
        return z

    def forward(self, x: Tensor | Labelled) -> Tensor:  # noqa: D102
        return labelled_relu(x, self.image_part, self.label, self.label_scale)


class MLP(BlockStack):
    """Stack of fully connected ReLU blocks; the first one normalises its input.

    What the blocks learn is said by ``loss``. With a loss of two streams, the default, a one-hot label enters the first
    block and a wrong one makes a negative (tier T1). With a loss over candidates inputs carry no label, and every block
    gives every class a goodness (T1 or T2, by the loss).

    Args:
        in_features: values a sample, for example 784 pixels.
        widths: units of each block.
        num_classes: classes whose one-hot label enters the first block, ``None`` for inputs without a label; or those
            that every block gives a goodness.
        label_scale: value of the hot label input against an image of unit RMS; left out, with a line in the log, where
            inputs carry no label.
        overlay: write the label over the first pixels instead of appending it; left out likewise.
        goodness: copied for every block; mean of squares by default, or
            :class:`~ff_lightning.goodness.WeightedEnergy` for a loss over candidates.
        loss: copied for every block; :class:`~ff_lightning.losses.SymBa` by default.
        norm: copied for every block; what is done to activities that are passed on.
        peer_weight: strength of peer normalisation; 0 for none.
        dropout: share of the input's values that is dropped in training, the same ones for positives and negatives
            that share an image.
        image_norm: what an input passes first, which leaves it a unit RMS;
            :class:`~ff_lightning.normalization.UnitRMS` by default.
        batch_norm: put batch normalisation into every layer; not with a label in the input, where positives and
            negatives would share their statistics.
        slope: of the ReLU below 0; 0 with a label in the input.
        matching: beside a loss over candidates, matches activities with labels; sized for every block.
        head: private layers below the goodness of every block; for a loss over candidates.
        handed_up: see :class:`~ff_lightning.stacks.BlockStack`.

    Raises:
        InputError: a width, ``in_features`` or ``num_classes`` that makes no sense, or parts that do not go together.
    """

    contrastive = ContrastiveBlock
    """What a block is that contrasts two streams."""

    def __init__(
        self,
        in_features: int,
        widths: Sequence[int],
        *,
        num_classes: int | None = 10,
        label_scale: float = LABEL_SCALE,
        overlay: bool = True,
        goodness: Goodness | None = None,
        loss: ContrastiveLoss | CandidateLoss | None = None,
        norm: UnitRMS | nn.Module | None = None,
        peer_weight: float = 0.0,
        dropout: float = 0.0,
        image_norm: nn.Module | None = None,
        batch_norm: bool = False,
        slope: float = 0.0,
        matching: SimilarityMatching | None = None,
        head: Head | None = None,
        handed_up: HandedUp = "before_update",
    ) -> None:
        check_dense(in_features, widths, num_classes, dropout=dropout, peer_weight=peer_weight)
        of_classes = isinstance(loss, CandidateLoss)
        check_parts(of_classes, num_classes, goodness, peer_weight, batch_norm, slope)
        check_beside(loss, matching, head)
        finite("label_scale", label_scale, least=0)
        image_norm = UnitRMS() if image_norm is None else image_norm
        dense = partial(DenseReLU, batch_norm=batch_norm, slope=slope)
        first: nn.Module
        if num_classes is None or of_classes:
            # An overlay of a recipe may have brought another loss.
            tell_left_out(
                "whose inputs carry no label",
                label_scale=None if label_scale == LABEL_SCALE else label_scale,
                overlay=None if overlay else overlay,
            )
            first = nn.Sequential(image_norm, InputDropout(dropout), dense(in_features, widths[0]))
        else:
            first = LabelledReLU(
                in_features,
                widths[0],
                num_classes=num_classes,
                label_scale=label_scale,
                overlay=overlay,
                dropout=dropout,
                image_norm=image_norm,
            )
        layers = [first, *(dense(*sizes) for sizes in pairwise(widths))]
        if isinstance(loss, CandidateLoss):
            assert num_classes is not None
            parts = ClassParts(goodness or WeightedEnergy(num_classes), loss, norm or UnitRMS(), matching, head)
            blocks: list[Block] = [*parts.blocks(layers, [(width,) for width in widths])]
        else:
            blocks = [
                self.contrastive(
                    layer,
                    copy.deepcopy(goodness) or MeanOfSquares(),
                    copy.deepcopy(loss) or SymBa(),
                    norm=copy.deepcopy(norm),
                    peer=PeerNormalisation(width, weight=peer_weight) if peer_weight else None,
                )
                for layer, width in zip(layers, widths, strict=True)
            ]
        super().__init__(blocks, handed_up=handed_up)
        self.in_features = in_features
        self.num_classes = num_classes
        self.out_features = widths[-1]


def check_dense(
    in_features: int, widths: Sequence[int], num_classes: int | None, *, dropout: float, peer_weight: float
) -> None:
    """Check the arguments of :class:`MLP`.

    Raises:
        InputError: names the one that makes no sense.
    """
    whole("in_features", in_features, least=1)
    whole_numbers("widths", widths, least=1)
    share("dropout", dropout)
    finite("peer_weight", peer_weight, least=0)
    if num_classes is not None and not is_whole(num_classes, least=2):
        raise InputError(
            f"Passed `num_classes={num_classes!r}`. `num_classes` must be a whole number, at least 2, or None."
        )


def check_parts(
    of_classes: bool,
    num_classes: int | None,
    goodness: Goodness | None,
    peer_weight: float,
    batch_norm: bool,
    slope: float,
) -> None:
    """Check that the parts of an :class:`MLP` go together.

    Raises:
        InputError: names the one that does not go with the loss.
    """
    share("slope", slope)
    if of_classes and num_classes is None:
        raise InputError("Passed `num_classes=None` with a loss over candidates. Say how many classes there are.")
    if of_classes and peer_weight:
        raise InputError(
            f"Passed `peer_weight={peer_weight}` with a loss over candidates. It compares activities of positives with "
            "each other: leave it out, or use a loss of two streams."
        )
    if of_classes and goodness is not None:
        classes_of(goodness, num_classes)
    if not of_classes and num_classes is not None and (batch_norm or slope):
        name, value = ("batch_norm", batch_norm) if batch_norm else ("slope", slope)
        raise InputError(
            f"Passed `{name}={value}` with a label in the input. Leave it out, or pass a loss over candidates, or "
            "`num_classes=None`."
        )


def labelled_relu(
    x: Tensor | Labelled, image_part: Callable[[Tensor], Tensor], label: nn.Linear, label_scale: float
) -> Tensor:
    """ReLU of an image part, computed once for all labels of an image, and a label part.

    Args:
        x: images ``(B, …)`` with labels ``(S, B)``, or without (all label inputs 0).
        image_part: of the pre-activation, ``(B, D)``.
        label: from one-hot labels to the label part.
        label_scale: value of the hot label input.

    Returns:
        ``(S * B, D)``, or ``(B, D)``.
    """
    if isinstance(x, Tensor):
        return F.relu(image_part(x), inplace=True)
    z = image_part(x.image) if x.image_part is None else x.image_part
    if type(label) is not nn.Linear:  # what a user put in its place
        hot = F.one_hot(x.labels, label.in_features).to(x.image.dtype) * label_scale
        return F.relu(label(hot).add_(z).flatten(0, 1), inplace=True)
    if not torch.is_grad_enabled() and z.device.type == "cpu":
        z = z.to(accumulation_dtype(z))  # in which sums and ReLU are faster there than in half precision
    h: Tensor = _LabelledReLU.apply(z, label.weight, x.labels, label_scale)  # type: ignore[no-untyped-call]
    return h


class _LabelledReLU(torch.autograd.Function):
    """``relu(z + weight @ one_hot(labels) * scale)``: a label picks a column, which is no matrix product."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, labels: Tensor, scale: float) -> Tensor:
        columns = (weight.to(z.dtype) * scale).T.contiguous()
        h = F.embedding(labels, columns).add_(z).relu_().flatten(0, 1)
        ctx.save_for_backward(h, labels)
        ctx.scale, ctx.columns, ctx.dtype = scale, len(columns), weight.dtype
        return h

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        h, labels = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad, h, 0)
        hot = F.one_hot(labels.flatten(), ctx.columns).to(h.dtype) * ctx.scale  # the product sums in float32
        to_z = sum(grad.view(*labels.shape, -1)) if ctx.needs_input_grad[0] else None
        return to_z, (grad.T @ hot).to(ctx.dtype), None, None  # type: ignore[return-value]


def initialise(linear: nn.Linear) -> None:
    """Weights of variance ``1 / fan_in``: an input of unit RMS gives pre-activations of unit variance; bias 0."""
    nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
    nn.init.zeros_(linear.bias)


def refuse_other_size(x: Tensor, in_features: int) -> None:
    """Check that samples have the size a layer was built for.

    Raises:
        InputError: names both sizes.
    """
    if x.shape[-1] != in_features:
        raise InputError(
            f"Passed samples of {x.shape[-1]} values. The network was built with `in_features={in_features}`."
        )
    if not torch.is_floating_point(x):
        raise InputError(f"Passed samples of dtype {x.dtype}. They must be floating point, for images in [0, 1].")
