"""Negatives: never what is true, drawn as they should be, and the same for the same generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ff_lightning.errors import InputError
from ff_lightning.negatives import (
    AnyOf,
    Averaged,
    Hardest,
    HardWrongLabel,
    HybridMask,
    Judge,
    LabelNegatives,
    Masked,
    MixedEntries,
    Noise,
    SampleNegatives,
    UniformWrongLabel,
    other_images,
    overlay_labels,
)
from tests import references
from tests.training import digits

# The chi-square value that 1 in 10 000 fair draws exceeds, by degrees of freedom.
RARE = {3: 21.1, 8: 31.8}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def no_judge(labels: Tensor, blocks: int) -> Tensor:
    raise AssertionError(f"{blocks} blocks judged {len(labels)} labels for nothing")


def judge_of(scores: Tensor) -> Judge:
    """A model that gives every label the score ``(B, C)`` written for it."""
    return lambda labels, _blocks: scores.gather(1, labels.T).T


@pytest.mark.parametrize("shape", [(7, 64), (7, 1, 8, 8), (7, 8, 8)])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_overlay_equals_the_reference_and_leaves_its_input_alone(shape: tuple[int, ...], scale: float) -> None:
    x, y = digits(7, torch.float64)
    images = x.view(shape)
    before = images.clone()
    found = overlay_labels(images, y, 10, scale=scale)
    expected = [references.overlay(row, label, 10, scale) for row, label in zip(x.tolist(), y.tolist(), strict=True)]
    assert found.dtype == torch.float64
    assert found.tolist() == expected
    assert torch.equal(images, before)


def test_the_overlay_of_the_true_label_never_equals_that_of_its_negative() -> None:
    x, y = digits(500)
    wrong = UniformWrongLabel()(y, 10, no_judge, seeded())
    assert (overlay_labels(x, y, 10) != overlay_labels(x, wrong, 10)).any(1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_overlay_keeps_the_dtype(dtype: torch.dtype) -> None:
    assert overlay_labels(torch.rand(2, 5).to(dtype), torch.tensor([0, 1]), 3).dtype == dtype


@pytest.mark.parametrize(
    "negatives",
    [
        UniformWrongLabel(),
        HardWrongLabel(),
        HardWrongLabel(0.01, uniform=0.0),
        HardWrongLabel(candidates=1),
        HardWrongLabel(candidates=4),
    ],
    ids=["uniform", "hard", "hardest", "one_candidate", "four_candidates"],
)
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_wrong_labels_are_never_true(negatives: LabelNegatives, num_classes: int) -> None:
    labels = torch.randint(num_classes, (2000,), generator=seeded(1))
    # The model is sure of the truth: the hardest case for a draw that must not take it.
    sure = torch.nn.functional.one_hot(labels, num_classes).float()
    judge = judge_of(1e4 * sure + torch.randn(2000, num_classes, generator=seeded(2)))
    for seed in range(5):
        wrong = negatives(labels, num_classes, judge, seeded(seed))
        assert wrong.dtype == torch.int64
        assert wrong.shape == labels.shape
        assert (wrong != labels).all()
        assert ((wrong >= 0) & (wrong < num_classes)).all()


@pytest.mark.parametrize(
    ("negatives", "judge"),
    [
        (UniformWrongLabel(), no_judge),
        (HardWrongLabel(), judge_of(torch.zeros(18_000, 10))),
        (HardWrongLabel(candidates=3), judge_of(torch.zeros(18_000, 10))),
    ],
    ids=["uniform", "undecided", "three_candidates"],
)
def test_without_an_opinion_wrong_labels_are_uniform_for_every_class(negatives: LabelNegatives, judge: Judge) -> None:
    labels = torch.arange(10).repeat_interleave(1800)
    wrong = negatives(labels, 10, judge, seeded())
    for label in range(10):
        counts = torch.bincount(wrong[labels == label], minlength=10).tolist()
        assert counts.pop(label) == 0
        assert references.chi_square(counts, [200.0] * 9) < RARE[8]


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
@pytest.mark.parametrize("uniform", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("candidates", [None, 1, 2, 3, 4, 9])
def test_hard_wrong_labels_follow_the_softmax_of_the_candidates(
    temperature: float, uniform: float, candidates: int | None
) -> None:
    scores, true, draws = [0.0, 2.0, -1.0, 1.0, 0.5], 3, 20_000
    chances = references.hard_label_chances(scores, true, temperature, uniform, candidates)
    negatives = HardWrongLabel(temperature, uniform=uniform, candidates=candidates)
    wrong = negatives(torch.full((draws,), true), 5, judge_of(torch.tensor([scores] * draws)), seeded())
    counts = torch.bincount(wrong, minlength=5).tolist()
    assert counts.pop(true) == chances.pop(true) == 0
    assert references.chi_square(counts, [draws * chance for chance in chances]) < RARE[3]


def test_hard_wrong_labels_follow_the_goodness_of_their_own_sample() -> None:
    labels = torch.tensor([0, 0, 1])
    scores = torch.tensor([[0.0, 50.0, 0.0], [0.0, 0.0, 50.0], [50.0, 99.0, 0.0]])
    for seed in range(5):
        assert HardWrongLabel(uniform=0.0)(labels, 3, judge_of(scores), seeded(seed)).tolist() == [1, 2, 0]


@pytest.mark.parametrize(("candidates", "judged"), [(None, 9), (1, 1), (4, 4), (99, 9)])
@pytest.mark.parametrize("blocks", [1, 3])
def test_the_model_is_asked_once_about_different_wrong_labels(candidates: int | None, judged: int, blocks: int) -> None:
    labels = torch.arange(10).repeat(30)
    asked: list[tuple[Tensor, int]] = []

    def judge(wrong: Tensor, count: int) -> Tensor:
        asked.append((wrong, count))
        return torch.zeros(wrong.shape)

    drawn = HardWrongLabel(candidates=candidates, blocks=blocks)(labels, 10, judge, seeded())
    ((wrong, count),) = asked
    assert count == blocks
    assert wrong.shape == (judged, 300)
    assert (wrong != labels).all()
    assert all(len(set(sample)) == judged for sample in wrong.T.tolist())
    assert (wrong == drawn).any(0).all()


@pytest.mark.parametrize("negatives", [UniformWrongLabel(), HardWrongLabel(), HardWrongLabel(candidates=2)])
def test_the_same_generator_gives_the_same_labels_and_the_global_one_is_left_alone(
    negatives: LabelNegatives,
) -> None:
    labels = torch.arange(10).repeat(20)
    judge = judge_of(torch.zeros(200, 10))
    state = torch.get_rng_state()
    first, again, other = (negatives(labels, 10, judge, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


# Hybrid images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blurs", [1, 2, 4])
def test_masks_equal_the_reference(blurs: int) -> None:
    shape = (3, 9, 6)
    bits = HybridMask(0).mask(shape, seeded())
    masks = HybridMask(blurs).mask(shape, seeded())
    assert masks.shape == bits.shape == (3, 1, 9, 6)
    assert masks.dtype == torch.bool
    assert [m[0].tolist() for m in masks] == [references.blurred_mask(b[0].tolist(), blurs) for b in bits]


@pytest.mark.parametrize("blurs", [0, 3, 6, 9])
def test_about_half_of_a_mask_is_one(blurs: int) -> None:
    assert HybridMask(blurs).mask((500, 28, 28), seeded()).float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_more_blurs_make_larger_blobs() -> None:
    masks = [HybridMask(blurs).mask((50, 28, 28), seeded()) for blurs in (0, 1, 3, 6, 12)]
    borders = [(mask[..., 1:] != mask[..., :-1]).float().mean().item() for mask in masks]
    assert borders == sorted(borders, reverse=True)
    assert borders[0] == pytest.approx(0.5, abs=0.02)
    assert borders[3] < 0.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_masks_are_the_same_in_every_precision(dtype: torch.dtype) -> None:
    expected = HybridMask().mask((50, 28, 28), seeded())
    with torch.autocast("cpu", dtype):
        assert torch.equal(HybridMask().mask((50, 28, 28), seeded()), expected)


def test_a_hybrid_is_made_of_its_own_image_and_one_other() -> None:
    x = torch.arange(6.0 * 3 * 8 * 5).view(6, 3, 8, 5)  # no value twice
    for seed in range(10):
        hybrids = HybridMask(2)(x, seeded(seed))
        own = hybrids == x
        partners = set()
        for index, hybrid in enumerate(hybrids):
            others = [j for j in range(6) if j != index and ((hybrid == x[j]) | own[index]).all()]
            assert len(others) == 1
            partners.add((others[0] - index) % 6)
        assert len(partners) == 1
        assert (own == own[:, :1]).all()  # all channels of a pixel come from one image
        assert 0.2 < own.float().mean() < 0.8


def test_hybrids_of_digits_keep_dtype_and_shape_and_are_reproducible() -> None:
    x = digits(64, torch.float64)[0].view(64, 1, 8, 8)
    before, state = x.clone(), torch.get_rng_state()
    first, again, other = (HybridMask(2)(x, seeded(seed)) for seed in (3, 3, 4))
    assert (first.shape, first.dtype) == (x.shape, torch.float64)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first != x).flatten(1).any(1).float().mean() > 0.9
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)


SAMPLES = [
    Noise(0.5),
    Masked(0.2, 0.4),
    MixedEntries(),
    MixedEntries(0.3, 0.3, partners="many"),
    Averaged(),
    HybridMask(2),
    AnyOf([MixedEntries(), Averaged()]),
    Hardest(pool=3),
]


@pytest.mark.parametrize("make", SAMPLES, ids=lambda make: type(make).__name__)
def test_negatives_of_samples_keep_dtype_and_shape_and_are_reproducible(make: SampleNegatives) -> None:
    x = digits(50, torch.float64)[0].view(50, 1, 8, 8)
    before, state = x.clone(), torch.get_rng_state()
    first, again, other = (make(x, seeded(seed), lambda some: some.flatten(1).mean(1)) for seed in (3, 3, 4))
    assert (first.shape, first.dtype) == (x.shape, torch.float64)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first != x).flatten(1).any(1).float().mean() > 0.9
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_entries_are_of_other_samples_at_the_same_place_and_as_many_as_asked_for() -> None:
    x = torch.arange(40.0).unsqueeze(1) + 100 * torch.arange(500.0)
    for partners in ("one", "many"):
        mixed = MixedEntries(0.2, 0.6, partners=partners)(x, seeded())
        assert torch.equal(mixed // 100, x // 100), "entries stay at their place"
        share = (mixed != x).float().mean(1)
        assert 0.1 < share.min() < 0.3 < 0.5 < share.max() < 0.7
        assert share.mean().item() == pytest.approx(0.4, abs=0.06)
        owners = [set((row % 100)[row != own].tolist()) for row, own in zip(mixed, x, strict=True)]
        assert all(len(some) == 1 for some in owners) == (partners == "one")
    missing = Masked(0.5, 0.5, value=-1.0)(x, seeded())
    assert (missing == -1).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(missing[missing != -1], x[missing != -1])


def test_the_hardest_of_a_pool_is_what_the_model_likes_best() -> None:
    x = digits(30)[0]

    class Recorded(MixedEntries):
        def __init__(self) -> None:
            super().__init__()
            self.made: list[torch.Tensor] = []

        def __call__(self, *args: Any) -> torch.Tensor:
            self.made.append(super().__call__(*args))
            return self.made[-1]

    kind = Recorded()
    hardest = Hardest(kind, pool=4)(x, seeded(), lambda some: some.sum(1))
    made = torch.stack(kind.made)
    assert torch.equal(hardest.sum(1), made.sum(2).amax(0))
    assert (made == hardest).all(2).any(0).all()


def test_an_image_never_meets_itself_and_meets_all_others_alike() -> None:
    generator = seeded()
    drawn = torch.stack([other_images(5, generator) for _ in range(2000)])
    assert (drawn.sort(1).values == torch.arange(5)).all()
    for place in range(5):
        counts = drawn[:, place].bincount(minlength=5).tolist()
        assert counts.pop(place) == 0
        assert references.chi_square(counts, [500.0] * 4) < RARE[3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: other_images(1, seeded()),
            "Passed a batch of 1 images. A pair of different images needs at least 2: choose another batch size, or "
            "leave a smaller last batch out, as `DataLoader(drop_last=True)` does.",
        ),
        (
            lambda: overlay_labels(torch.zeros(2, 10), torch.zeros(2, dtype=torch.long), 10),
            "Passed images of 10 pixels with `num_classes=10`. The overlay needs more pixels than classes.",
        ),
        (lambda: HardWrongLabel(uniform=-0.1), "Passed `uniform=-0.1`. `uniform` must be in [0, 1]."),
        (lambda: HardWrongLabel(uniform=1.5), "Passed `uniform=1.5`. `uniform` must be in [0, 1]."),
        (
            lambda: HardWrongLabel(candidates=0),
            "Passed `candidates=0`. `candidates` must be a whole number, at least 1.",
        ),
        (lambda: HardWrongLabel(blocks=0), "Passed `blocks=0`. `blocks` must be a whole number, at least 1."),
        (
            lambda: HardWrongLabel(0.0),
            "Passed `temperature=0.0`. `temperature` must be a positive, finite number.",
        ),
        (lambda: HybridMask(-1), "Passed `blurs=-1`. `blurs` must be a whole number, at least 0."),
        (lambda: Noise(0.0), "Passed `scale=0.0`. `scale` must be a positive, finite number."),
        (
            lambda: MixedEntries(0.6, 0.5),
            "Passed `least=0.6` and `most=0.5`. They must be shares in [0, 1], the second above 0 and not below the "
            "first.",
        ),
        (lambda: AnyOf([Noise()]), "Passed `kinds` of 1 kinds of negatives. `kinds` needs two or more."),
        (
            lambda: Averaged()(torch.zeros(4), seeded()),
            "Passed samples of shape (4,). They must be (B, D) or (B, C, H, W).",
        ),
        (
            lambda: Hardest()(torch.zeros(4, 8), seeded()),
            "Called `Hardest` without `judge`. The task must say what the model thinks of samples now.",
        ),
        (
            lambda: HybridMask()(torch.zeros(4, 64), seeded()),
            "Passed images of shape (4, 64). Hybrid masks need (B, C, H, W) with B at least 2.",
        ),
        (
            lambda: HybridMask()(torch.zeros(1, 1, 8, 8), seeded()),
            "Passed images of shape (1, 1, 8, 8). Hybrid masks need (B, C, H, W) with B at least 2.",
        ),
    ],
)
def test_input_that_cannot_work_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message
