"""Early exit: nothing is asked twice, nothing is computed for what is answered, and no more is lost than allowed."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ff_lightning as ff
from ff_lightning.blocks import ClassBlock
from ff_lightning.candidates import Softmax
from ff_lightning.data import ImageDataModule
from ff_lightning.errors import InputError
from ff_lightning.goodness import ChannelGroups
from ff_lightning.networks import MLP, DenseReLU, ResNet
from ff_lightning.parts import Undescribed
from ff_lightning.pretrained import save_pretrained
from ff_lightning.readouts import GoodnessReadout, LastBlock, LinearReadout, label_goodness
from ff_lightning.readouts.early_exit import EarlyExit, lead
from ff_lightning.signals import LocalStep, Signal, StepContext
from ff_lightning.stacks import BlockStack, Network
from tests.training import ADAM, assert_same_weights, digits, loader, mlp, trainer, weights

IMAGES, CLASSES = digits(300, torch.float64)


def labelled() -> BlockStack:
    torch.manual_seed(0)
    return MLP(64, [30, 20, 10], overlay=False).double()


def of_classes() -> BlockStack:
    torch.manual_seed(0)
    sizes = [(64, 30), (30, 20), (20, 10)]
    return BlockStack([ClassBlock(DenseReLU(*size), ChannelGroups(10), Softmax()) for size in sizes]).double()


STACKS = pytest.mark.parametrize("make", [labelled, of_classes])


def one_by_one(goodness: Tensor, margins: list[float], first_block: int) -> tuple[list[list[float]], list[int]]:
    """Scores and answering block of every image, from the goodness of all blocks ``(L, B, C)``."""
    scores, blocks = [], []
    for image in goodness.transpose(0, 1).tolist():
        total = [0.0] * len(image[0])
        for index in range(first_block, len(image)):
            total = [a + b for a, b in zip(total, image[index], strict=True)]
            second, best = sorted(total)[-2:]
            if index == len(image) - 1 or best - second >= margins[index]:
                scores.append(total)
                blocks.append(index)
                break
    return scores, blocks


def medians(stack: BlockStack) -> list[float]:
    """Margins that answer about half of the images that come to a block."""
    sums = label_goodness(stack, IMAGES, 10).cumsum(0)
    return [float(lead(scores).median()) * 1.01 for scores in sums[:-1]]


@STACKS
@pytest.mark.parametrize("first_block", [0, 1])
@pytest.mark.parametrize("at_once", [2500, 70])
def test_answers_equal_those_one_by_one(
    make: Callable[[], BlockStack], first_block: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = make()
    margins = medians(stack)
    scores, blocks = one_by_one(label_goodness(stack, IMAGES, 10), margins, first_block)
    monkeypatch.setattr("ff_lightning.readouts.goodness.SWEPT_AT_ONCE", at_once)
    answer = EarlyExit(margins, first_block=first_block).answer(stack, IMAGES, 10)
    assert answer.block.tolist() == blocks
    assert set(blocks) == set(range(first_block, 3))
    torch.testing.assert_close(answer.scores, torch.tensor(scores, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_shortcuts_are_cut_with_the_activities() -> None:
    torch.manual_seed(0)
    stack = ResNet((1, 8, 8), 20, stages=2, layers_per_stage=2).double().eval()
    images = IMAGES.view(-1, 1, 8, 8)
    goodness = label_goodness(stack, images, 10)
    margins = [float(lead(scores).median()) for scores in goodness.cumsum(0)[:-1]]
    scores, blocks = one_by_one(goodness, margins, 0)
    answer = EarlyExit(margins).answer(stack, images, 10)
    assert answer.block.tolist() == blocks
    assert len(set(blocks)) > 2
    torch.testing.assert_close(answer.scores, torch.tensor(scores, dtype=torch.float64), rtol=1e-10, atol=1e-12)


@STACKS
def test_a_block_sees_only_what_was_not_answered_below(make: Callable[[], BlockStack]) -> None:
    stack = make()
    readout = EarlyExit(medians(stack))
    seen: list[int] = []
    for block in stack:
        block.layer.register_forward_hook(lambda _module, _x, h: seen.append(h.shape[0]))
    answer = readout.answer(stack, IMAGES[:200], 10)
    labels = 10 if make is labelled else 1
    assert seen == [labels * int((answer.block >= index).sum()) for index in range(3)]
    seen.clear()
    everything = EarlyExit([0.0, 0.0]).answer(stack, IMAGES[:200], 10)
    assert seen == [200 * labels]
    assert everything.block.tolist() == [0] * 200


@STACKS
def test_infinite_margins_ask_every_block(make: Callable[[], BlockStack]) -> None:
    stack = make()
    answer = EarlyExit([math.inf, math.inf]).answer(stack, IMAGES, 10)
    torch.testing.assert_close(answer.scores, GoodnessReadout()(stack, IMAGES, 10), rtol=1e-12, atol=0)
    assert answer.block.tolist() == [2] * 300
    assert not answer.scores.requires_grad


def noisy_goodness(seed: int) -> tuple[Tensor, Tensor]:
    """Goodness of three blocks, each better than the one below, for 500 images."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (500,), generator=generator)
    signal = nn.functional.one_hot(labels, 10) * torch.tensor([1.5, 3.0, 5.0]).view(3, 1, 1)
    return signal + torch.randn(3, 500, 10, generator=generator), labels


def chosen(goodness: Tensor, labels: Tensor, tolerance: float, first_block: int = 0) -> EarlyExit:
    """An early exit whose margins were chosen by two batches."""
    readout = EarlyExit([math.inf, math.inf], tolerance=tolerance, first_block=first_block)
    for some in (slice(0, 123), slice(123, None)):
        readout.observe(goodness[:, some], labels[some])
    readout.choose()
    return readout


@pytest.mark.parametrize("tolerance", [0.0, 0.004, 0.02, 0.1])
@pytest.mark.parametrize("first_block", [0, 1])
@pytest.mark.parametrize("seed", range(5))
def test_no_more_accuracy_is_lost_than_allowed(tolerance: float, first_block: int, seed: int) -> None:
    goodness, labels = noisy_goodness(seed)
    readout = chosen(goodness, labels, tolerance, first_block)
    scores, blocks = one_by_one(goodness, readout.margins, first_block)
    full = (goodness[first_block:].sum(0).argmax(1) == labels).double().mean()
    early = (torch.tensor(scores).argmax(1) == labels).double().mean()
    assert early >= full - tolerance - 1e-9
    assert min(blocks) == first_block  # and some are answered early
    assert readout.margins[:first_block] == [math.inf] * first_block


def test_more_tolerance_stops_earlier() -> None:
    goodness, labels = noisy_goodness(0)
    asked = []
    for tolerance in (0.0, 0.01, 0.05, 0.5):
        margins = chosen(goodness, labels, tolerance).margins
        asked.append(sum(one_by_one(goodness, margins, 0)[1]))
    assert asked == sorted(asked, reverse=True)
    assert asked[-1] < asked[0] / 3


def test_a_trained_classifier_stops_early_and_keeps_its_accuracy(tmp_path: Path) -> None:
    module, data = ff.FFClassifier(mlp(2, 64), optimizer=ADAM), ImageDataModule("digits", batch_size=50)
    run = trainer(tmp_path, max_epochs=6, num_sanity_val_steps=0)
    run.fit(module, data)
    (full,) = run.validate(module, data, verbose=False)
    readout = module.eval().exit_early(data.val_dataloader(), tolerance=0.02)
    assert module.readout is readout
    (early,) = run.validate(module, data, verbose=False)
    assert early["val/accuracy"] >= full["val/accuracy"] - 0.021
    x, _ = next(iter(data.val_dataloader()))
    answer = module.answer(x)
    assert (answer.block == 0).float().mean() > 0.2
    assert torch.equal(answer.scores, module(x))
    again = module.exit_early(data.val_dataloader(), tolerance=0.02)  # margins replace margins
    assert again.margins == readout.margins


def test_margins_are_those_of_an_evaluation_and_one_batch_is_held_at_a_time() -> None:
    network = mlp(2)
    network[1].layer = nn.Sequential(network[1].layer, nn.BatchNorm1d(16), nn.Dropout(0.5))
    module = ff.FFClassifier(network)
    made: list[weakref.ref[Tensor]] = []
    held: list[int] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.arange(300).split(50):
            held.append(sum(x() is not None for x in made))
            x = IMAGES[rows].float()
            made.append(weakref.ref(x))
            yield x, CLASSES[rows]
            del x

    before = weights(network)
    trained = module.exit_early(batches(), tolerance=0.05)
    assert max(held) == 1
    assert_same_weights(before, weights(network))
    assert network.training
    assert trained.margins == module.eval().exit_early(batches(), tolerance=0.05).margins


def saved(folder: Path, **parts: Any) -> tuple[ff.FFClassifier, Path]:
    """A classifier that stops early, and the checkpoint that a Trainer saves of it."""
    module, run = ff.FFClassifier(mlp(2), **parts), trainer(folder, max_steps=1, limit_val_batches=0)
    run.fit(module, loader(100, 50))
    module.eval().exit_early([(IMAGES.float(), CLASSES)], tolerance=0.05)
    run.save_checkpoint(folder / "early.ckpt")
    return module, folder / "early.ckpt"


class OwnReadout(GoodnessReadout):
    """A readout that cannot be described."""

    def description(self) -> dict[str, Any]:
        raise Undescribed("an `OwnReadout`")


@pytest.mark.parametrize("parts", [{}, {"readout": GoodnessReadout(first_block=1)}, {"readout": OwnReadout()}])
def test_a_checkpoint_holds_the_early_exit(tmp_path: Path, parts: dict[str, Any]) -> None:
    module, path = saved(tmp_path, **parts)
    save_pretrained(path, tmp_path / "shared")
    for again in (ff.FFClassifier.load_from_checkpoint(path), ff.load(path), ff.load(tmp_path / "shared")):
        assert isinstance(again.readout, EarlyExit)
        assert again.readout.margins == module.readout.margins
        assert (again.readout.tolerance, again.readout.first_block) == (0.05, module.readout.first_block)
        assert torch.equal(again.eval().answer(IMAGES.float()).block, module.answer(IMAGES.float()).block)


@pytest.mark.parametrize("described", [True, False], ids=["described", "in weights alone"])
def test_an_early_exit_takes_the_place_of_the_readout_by_default(tmp_path: Path, described: bool) -> None:
    module, path = saved(tmp_path)
    if not described:
        content = torch.load(path, weights_only=True)
        content["hyper_parameters"]["readout"] = None
        torch.save(content, path)
    fresh, data = ff.FFClassifier(mlp(2)), loader(100, 50)
    found = trainer(tmp_path).test(fresh, data, ckpt_path=path, verbose=False, weights_only=True)
    assert found == trainer(tmp_path).test(module, data, verbose=False)
    assert fresh.readout.margins == module.readout.margins
    assert fresh.readout.tolerance == (0.05 if described else None)
    other = ff.FFClassifier(mlp(2), readout=LastBlock())
    with pytest.raises(InputError, match=r"`readout.leads` is not in the network"):
        trainer(tmp_path).test(other, data, ckpt_path=path, verbose=False, weights_only=True)


@pytest.mark.parametrize(
    "batch",
    [
        ((IMAGES * 16).round().mul(15.9375).to(torch.uint8), CLASSES),
        (IMAGES, CLASSES),
        (IMAGES.float(), CLASSES[:, None]),
        (IMAGES.float(), nn.functional.one_hot(CLASSES, 10)),
        {"image": IMAGES.float(), "label": CLASSES.int()},
    ],
    ids=["bytes", "double precision", "labels (B, 1)", "one-hot", "dict"],
)
def test_margins_are_found_on_batches_of_every_form_that_a_validation_takes(batch: Any) -> None:
    module = ff.FFClassifier(mlp(2))
    usual = module.exit_early([(IMAGES.float(), CLASSES)], tolerance=0.05).margins
    assert module.exit_early([batch], tolerance=0.05).margins == pytest.approx(usual, rel=0.05)


def test_labels_that_are_no_classes_find_no_margins() -> None:
    with pytest.raises(InputError, match="Passed labels from 1 to 10"):
        ff.FFClassifier(mlp(2)).exit_early([(IMAGES.float(), CLASSES + 1)], tolerance=0.05)


class Skipping(Network):
    """Visits blocks in an order of its own."""

    def activities(self, x: Tensor) -> Iterator[Tensor]:
        yield from (block(x) for block in self)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def local_losses(self, signal: Signal, context: StepContext = StepContext()) -> Iterator[LocalStep]:
        yield from ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EarlyExit([0.1, -1.0]), "Passed `margins=[0.1, -1.0]`. `margins` must not be negative."),
        (lambda: EarlyExit([math.nan]), "Passed `margins=[nan]`. `margins` must not be negative."),
        (
            lambda: ff.FFClassifier(mlp(3), readout=EarlyExit([0.1])),
            "Passed 1 `margins`. The network has 3 blocks, and all but the last need one.",
        ),
        (
            lambda: EarlyExit([0.1], tolerance=-0.1),
            "Passed `tolerance=-0.1`. `tolerance` must be in [0, 1].",
        ),
        (
            lambda: ff.FFClassifier(mlp(2, 8), readout=LinearReadout(8, 10)).exit_early([], tolerance=0.0),
            "`exit_early` was called with `readout=LinearReadout`. It needs goodness.",
        ),
        (
            lambda: ff.FFClassifier(mlp()).exit_early([], tolerance=0.0),
            "Passed no `batches`. Margins of an early exit are found on validation images.",
        ),
        (
            lambda: EarlyExit([0.1]).check(Skipping(list(mlp(2)))),
            "Passed `readout=EarlyExit` with a Skipping, which passes activities on in a way of its own. An early exit "
            "needs blocks that read the one below and nothing else.",
        ),
    ],
)
def test_input_that_cannot_work_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message
