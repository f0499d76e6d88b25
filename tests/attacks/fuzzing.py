"""Public functions with whatever numbers and shapes come: a right result, or an `InputError` in one line.

Every target is a strategy that gives one call; the call checks its own result. `hypothesis` looks for one that raises
anything else, or whose result is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

import ff_lightning as ff
from ff_lightning import candidates, goodness, losses, negatives, normalization, schedules
from ff_lightning.data import packing
from ff_lightning.data.arguments import check_validation, check_whole
from ff_lightning.data.tokenizers import ByteTokenizer, CharacterTokenizer
from ff_lightning.language.generation import Sampler

Call = Callable[[], Any]

STRANGE = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-300, 5e-324, 1e-45, 1e308, -1.0, 1.0, 0.5, 2.5]
FOREIGN = [
    np.float32(0.5),
    np.float64(0.25),
    np.float32("nan"),
    np.int64(3),
    np.uint8(2),
    np.bool_(True),
    Fraction(1, 3),
]
WRONG = [True, False, None, "0.5", "a", torch.tensor(0.5), [1.0], 1j]
usual = st.floats(0.01, 0.99)
number = st.one_of(usual, usual, st.sampled_from([*STRANGE, *FOREIGN, *WRONG]), st.floats(), st.integers(-3, 40))
small = st.one_of(st.integers(1, 6), st.integers(-2, 12), st.sampled_from([*STRANGE, *FOREIGN, *WRONG]))
"""What may be passed for a number, and for a small whole number: often what is right, and anything else."""

seeds = st.integers(0, 2**31)


@st.composite
def tensors(draw: st.DrawFn, least: int = 0, most: int = 4, wild: bool = True) -> Tensor:
    """Tensors of a few sizes, also without any dimension or any row, with values of any size and of any type."""
    shape = draw(st.lists(st.integers(1, 6), min_size=least, max_size=most))
    if wild and shape and draw(st.integers(0, 15)) == 0:
        shape[draw(st.integers(0, len(shape) - 1))] = 0
    if wild and draw(st.integers(0, 15)) == 0:
        return torch.ones(shape, dtype=draw(st.sampled_from([torch.long, torch.bool, torch.uint8])))
    size = draw(st.sampled_from([1.0, 1e-30, 1e4, 1e30] if wild else [1.0]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16] if wild else [torch.float32]))
    return (torch.randn(shape, generator=torch.Generator().manual_seed(draw(seeds))) * size).to(dtype)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check(holds: Any, what: str) -> None:
    if not bool(holds):
        raise AssertionError(what)


# Losses ----------------------------------------------------------------------------


def loss_of(
    make: Call, g_pos: Tensor, g_neg: Tensor, mean: Callable[[Any, Tensor, Tensor], Tensor], pairs: bool
) -> Call:
    """A loss against its formula, one sample at a time in float64."""

    def call() -> None:
        loss = make()
        result = loss(g_pos, g_neg)
        check(result.shape == (), "a loss is one number")
        check(not pairs or g_pos.shape == g_neg.shape, "pairs of different shapes were taken")
        exact = mean(loss, g_pos.double(), g_neg.double())
        close = torch.isclose(result.double(), exact, rtol=0.05 if g_pos.dtype == torch.bfloat16 else 1e-4, atol=1e-4)
        check(close or not result.isfinite() or not exact.isfinite(), f"{result} is not {exact}")
        check(
            not exact.isfinite() or exact.abs() > 1e37 or result.isfinite(),
            f"{loss} overflows at {exact}, {g_pos.dtype}",
        )

    return call


def _softplus(x: Tensor) -> Tensor:
    return torch.clamp_min(x, 0) + torch.log1p(torch.exp(-x.abs()))


@st.composite
def loss_calls(draw: st.DrawFn) -> Call:
    first = draw(tensors())
    second = draw(st.one_of(st.just(torch.flip(first, [0]) if first.dim() else first), tensors())).to(first.dtype)
    a, b, c = draw(number), draw(number), draw(number)
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return loss_of(
            lambda: losses.SymBa(a), first, second, lambda m, p, n: _softplus(-m.alpha * (p - n)).mean(), pairs=True
        )
    if kind == 1:

        def swish(m: Any, p: Tensor, n: Tensor) -> Tensor:
            x = -m.alpha * (p - n)
            return (x * torch.sigmoid(x)).mean()

        return loss_of(lambda: losses.Swish(a), first, second, swish, pairs=True)
    if kind == 2:

        def threshold(m: Any, p: Tensor, n: Tensor) -> Tensor:
            theta = m.theta.double()
            return _softplus(m.scale * (theta - p)).mean() + _softplus(m.scale * (n - theta)).mean()

        return loss_of(lambda: losses.ThresholdLoss(a, scale=b), first, second, threshold, pairs=False)
    if kind == 3:

        def two(m: Any, p: Tensor, n: Tensor) -> Tensor:
            length = p.reshape(len(p), -1).square().sum(1).sqrt().mean()
            return _softplus(m.positive - p).mean() + _softplus(n - m.negative).mean() + m.penalty * length

        return loss_of(lambda: losses.TwoThresholdLoss(a, b, penalty=c), first, second, two, pairs=False)

    def moving() -> None:
        loss = losses.MovingThresholdLoss(momentum=a, scale=b)
        check(loss(first, second).shape == (), "a loss is one number")
        exact = (first.double().mean() + second.double().mean()) / 2
        check(
            torch.isclose(loss.threshold.double(), exact, rtol=0.05, atol=1e-2 * float(first.abs().max()) + 1e-6), "θ"
        )

    return moving


# Goodness and normalisation ----------------------------------------------------------------------------


@st.composite
def goodness_calls(draw: st.DrawFn) -> Call:
    h, n, m = draw(tensors()), draw(small), draw(small)
    kind = draw(
        st.sampled_from(["SumOfSquares", "MeanOfSquares", "MeanActivity", "RectifiedEnergy", "groups", "weighted"])
    )

    def call() -> None:
        x = h.double()
        if kind == "groups":
            result = goodness.ChannelGroups(n)(h)  # type: ignore[arg-type]
            check(result.shape == (len(h), n), "one goodness a class")
            exact = x.reshape(len(h), n, -1).square().mean(-1)  # type: ignore[arg-type]
        elif kind == "weighted":
            of = goodness.ProjectedActivity(n, h.shape[1:], grid=m)  # type: ignore[arg-type]
            result, exact = of(h), torch.zeros(len(h), n)  # type: ignore[arg-type]
        elif kind == "RectifiedEnergy":
            result, exact = goodness.RectifiedEnergy()(h), x.relu().square().mean(1)
        else:
            result = getattr(goodness, kind)(n)(h)
            events = x.flatten(x.dim() - n)  # type: ignore[operator]
            exact = {
                "SumOfSquares": events.square().sum(-1),
                "MeanOfSquares": events.square().mean(-1),
                "MeanActivity": events.mean(-1),
            }[kind]
        check(result.shape == exact.shape, f"shape {result.shape}")
        check(result.dtype == goodness.accumulation_dtype(h), f"dtype {result.dtype}")
        fits = exact.abs() < 1e36
        check(
            torch.allclose(result.double()[fits], exact.double()[fits], rtol=1e-2, atol=1e-30),
            f"{result} is not {exact}",
        )

    return call


@st.composite
def norm_calls(draw: st.DrawFn) -> Call:
    h, eps, n, weight, momentum = draw(tensors()), draw(number), draw(small), draw(number), draw(number)
    kind = draw(st.sampled_from(["UnitLength", "UnitRMS", "Standardise", "GroupStandard", "PeerNormalisation"]))

    def call() -> None:
        if kind == "PeerNormalisation":
            peers = normalization.PeerNormalisation(n, weight=weight, momentum=momentum)  # type: ignore[arg-type]
            result = peers(h)
            check(result.shape == () and (result >= 0 or not h.double().square().mean().isfinite()), "a loss above 0")
            check(peers.means.value.shape == (n,), "one mean a unit")
            return
        norm = normalization.GroupStandard(n, eps=eps) if kind == "GroupStandard" else getattr(normalization, kind)(eps)  # type: ignore[arg-type]
        result = norm(h)
        check(result.shape == h.shape and result.dtype == h.dtype, "shape and dtype are kept")
        if h.dtype != torch.bfloat16 and kind == "UnitLength" and bool((h.abs() < 1e18).all()):
            lengths = result.double().flatten(1).square().sum(1).sqrt()
            check((lengths < 1.01).all(), "nothing is longer than 1")

    return call


# Negatives and samplers ----------------------------------------------------------------------------


@st.composite
def negative_calls(draw: st.DrawFn) -> Call:
    classes = draw(st.integers(1, 6))
    labels = torch.tensor(draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=8)))
    a, b, c, d, seed = draw(number), draw(number), draw(st.one_of(st.none(), small)), draw(small), draw(seeds)
    g = torch.randn(classes, 8, generator=generator(seed)) * draw(st.sampled_from([1.0, 1e30, 0.0]))
    kind, x = draw(st.integers(0, 3)), draw(tensors(wild=False))

    def judge(wrong: Tensor, blocks: int) -> Tensor:
        return g.gather(0, wrong.clamp(0, classes - 1).expand(-1, len(labels)))

    def wrong_labels() -> None:
        draws = (
            negatives.UniformWrongLabel()
            if kind == 0
            else negatives.HardWrongLabel(a, uniform=b, candidates=c, blocks=d)
        )  # type: ignore[arg-type]
        drawn = draws(labels, classes, judge, generator(seed))
        check(drawn.shape == labels.shape and (drawn != labels).all(), "never the true label")
        check(((drawn >= 0) & (drawn < classes)).all(), "a class")

    def hybrids() -> None:
        result = negatives.HybridMask(d)(x, generator(seed))  # type: ignore[arg-type]
        check(result.shape == x.shape, "one hybrid an image")
        check(torch.isin(result, x).all(), "every pixel is of an image")

    def overlays() -> None:
        some = torch.randint(-1, classes + 1, (len(x),), generator=generator(seed))
        result = negatives.overlay_labels(x, some, classes)
        flat = x.flatten(1)
        check(((some >= 0) & (some < classes)).all(), "labels that are none")
        check(result.shape == flat.shape and torch.equal(result[:, classes:], flat[:, classes:]), "the rest stays")
        check(torch.equal(result[:, :classes].argmax(1), some), "the label is written")

    return [wrong_labels, wrong_labels, hybrids, overlays if x.dim() else hybrids][kind]


@st.composite
def sampler_calls(draw: st.DrawFn) -> Call:
    logits = draw(tensors(1, 3)).float()
    temperature, top_k, top_p, seed = (
        draw(number),
        draw(st.one_of(st.none(), small)),
        draw(st.one_of(st.none(), number)),
        draw(seeds),
    )

    def call() -> None:
        sampler = Sampler(temperature, top_k=top_k, top_p=top_p)  # type: ignore[arg-type]
        allowed = sampler.allowed(logits)
        check(not allowed.isnan().any(), "NaN among what may be drawn")
        for _ in range(4):
            drawn = sampler(logits, generator(seed))
            check(drawn.shape == logits.shape[:-1], "one token a prediction")
            check((allowed.gather(-1, drawn.unsqueeze(-1)) > -torch.inf).all(), "a token that may not be drawn")
            chance = allowed.softmax(-1).gather(-1, drawn.unsqueeze(-1))
            check((chance > 0).all(), "a token of probability 0")

    return call


@st.composite
def candidate_calls(draw: st.DrawFn) -> Call:
    classes, batch, length = draw(st.integers(2, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    seed, count, scale = draw(seeds), draw(small), draw(number)
    logits = torch.randn(batch, length, classes, generator=generator(seed)) * draw(st.sampled_from([1.0, 1e4]))
    targets = torch.randint(classes, (batch, length), generator=generator(seed + 1))
    below = torch.randn(batch, length, classes, generator=generator(seed + 2))
    kind = draw(st.integers(0, 3))

    def call() -> None:
        make: list[Call] = [
            lambda: candidates.Softmax(scale=scale),  # type: ignore[arg-type]
            lambda: candidates.WrongCandidate(),
            lambda: candidates.LinearContrast(count),  # type: ignore[arg-type]
            lambda: candidates.LogisticContrast(count),  # type: ignore[arg-type]
        ]
        contrast = make[kind]()(logits, targets, generator(seed), below)
        check(contrast.loss.shape == (), "a loss is one number")
        check(contrast.loss.isfinite() or (kind == 0 and scale > 1e30), "a finite loss")

    return call


# Schedules, packing, arguments ----------------------------------------------------------------------------


@st.composite
def schedule_calls(draw: st.DrawFn) -> Call:
    depth, total = draw(st.integers(-1, 6)), draw(st.one_of(st.none(), st.integers(0, 5000)))
    a, b, c, d = draw(number), draw(number), draw(number), draw(st.one_of(st.none(), small))
    shares = draw(st.one_of(st.none(), st.lists(number, max_size=5)))
    kind = draw(st.integers(0, 4))

    def windows() -> None:
        make: list[Call] = [
            lambda: schedules.Simultaneous(depth_decay=b),
            lambda: schedules.Staggered(a, depth_decay=b),
            lambda: schedules.Greedy(shares, depth_decay=b),
            lambda: schedules.ReadoutLast(a, depth_decay=b),
        ]
        schedule = make[kind]()
        ranges = schedules.update_ranges(schedule, depth, total)
        check(len(ranges) == depth, "a range a block")
        check(all(0 <= each.start <= each.stop for each in ranges), f"ranges {ranges}")
        check(total is None or all(each.start <= total for each in ranges), "within the training")

    def rates() -> None:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        schedule = schedules.HoldThenDecay(optimizer, warmup=a, hold=b, final=c, total_updates=d)  # type: ignore[arg-type]
        for _ in range(6):
            rate = schedule.get_last_lr()[0]
            check(0 <= rate <= 0.1 + 1e-9, f"a rate of {rate}")
            optimizer.step()
            schedule.step()

    return windows if kind < 4 else rates


@st.composite
def packing_calls(draw: st.DrawFn) -> Call:
    documents = draw(st.lists(st.text(max_size=8), max_size=5))
    first, seed = draw(st.integers(-3, 30)), draw(st.text(max_size=3))
    owner, value, least = object(), draw(number), draw(st.integers(0, 3))
    kind = draw(st.integers(0, 3))

    def cut() -> None:
        before, after = packing.cut_documents(documents, first)
        check("".join(before + after) == "".join(documents), "no character is lost")
        check(len("".join(before)) == min(max(first, 0), len("".join(documents))), "the cut is where it should be")

    def pack() -> None:
        tokenizer = CharacterTokenizer(seed) if kind == 1 else ByteTokenizer()
        packed = packing.pack(documents, tokenizer, separator=seed[:1])
        check(packed.characters == sum(map(len, documents)), "all characters are counted")
        check(len(packed.tokens) >= packed.characters, "a token a character at least")

    def arguments() -> None:
        if least:
            check_whole(owner, "x", value, least=least)
            check(isinstance(value, int) and value >= least, "a whole number")
        else:
            check_validation(owner, value, rows="rows")
            check(value >= 0 and math.isfinite(value), "a share or a number of rows")

    return [cut, pack, pack, arguments][kind]


TARGETS = {
    "losses": loss_calls,
    "goodness": goodness_calls,
    "normalisation": norm_calls,
    "negatives": negative_calls,
    "samplers": sampler_calls,
    "candidates": candidate_calls,
    "schedules": schedule_calls,
    "packing": packing_calls,
}


def run(call: Call) -> str:
    """Make one call: "refused" for an `InputError` in one line, "right" for a result that was checked."""
    try:
        call()
    except ff.InputError as error:
        check(str(error) and "\n" not in str(error).strip(), f"more than one line: {error}")
        return "refused"
    return "right"
