"""Recurrent nets: the paper's loop in plain floats, synchronous updates, locality, resume, learning."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

import ff_lightning as ff
from ff_lightning.data import ImageDataModule
from ff_lightning.errors import InputError
from ff_lightning.losses import SymBa
from ff_lightning.negatives import HardWrongLabel
from ff_lightning.networks import RecurrentMLP
from ff_lightning.normalization import Standardise, UnitRMS
from ff_lightning.signals import Labelled, Signal
from tests import references_hinton
from tests.training import ADAM, assert_same_weights, digits, trainer, weights

IMAGES, CLASSES = digits(6, torch.float64)
LABELS = torch.stack([CLASSES, (CLASSES + 1) % 10, (CLASSES + 5) % 10])
PAIR = Signal(Labelled(IMAGES, LABELS[:2]))


def network(widths: tuple[int, ...] = (7, 5), **kwargs: Any) -> RecurrentMLP:
    torch.manual_seed(0)
    net = RecurrentMLP(64, widths, **{"label_scale": 3.0, "loss": SymBa(10.0)} | kwargs).double()
    for block in net:
        nn.init.normal_(block.layer.up.bias, std=0.1)
    return net


def courses(net: RecurrentMLP, labels: Tensor, iterations: int) -> list[list[list[list[float]]]]:
    """The paper's loop, for every image with its label."""
    layers = [(b.layer.up.weight.tolist(), b.layer.up.bias.tolist(), b.layer.down.weight.tolist()) for b in net]
    hot = nn.functional.one_hot(labels, 10) * net.label_scale
    return [
        references_hinton.settle(image, label, layers, iterations=iterations, damping=0.3)
        for image, label in zip(UnitRMS()(IMAGES).tolist(), hot.tolist(), strict=True)
    ]


@pytest.mark.parametrize("widths", [(7, 5), (4, 6, 5), (6,)])
def test_goodness_of_labels_is_that_of_the_papers_loop(widths: tuple[int, ...]) -> None:
    net = network(widths)
    found = net.goodness(Labelled(IMAGES, LABELS))
    rows = [references_hinton.judged_goodness(course, 3, 5) for row in LABELS for course in courses(net, row, 5)]
    torch.testing.assert_close(found, torch.tensor(rows, dtype=torch.float64).T, rtol=1e-10, atol=1e-12)
    assert torch.equal(net.goodness(Labelled(IMAGES, LABELS), blocks=1), found[:1])


def test_a_standardised_image_shows_contrasts_alone() -> None:
    plain, standardised = (network(image_norm=norm).eval() for norm in (None, Standardise(eps=1e-12)))
    darker, brighter = Labelled(IMAGES, LABELS), Labelled(IMAGES + 0.3, LABELS)
    torch.testing.assert_close(standardised.goodness(brighter), standardised.goodness(darker))
    assert not torch.allclose(plain.goodness(brighter), plain.goodness(darker), rtol=1e-2)


@pytest.mark.parametrize("widths", [(7, 5), (4, 6, 5)])
def test_local_losses_contrast_the_goodness_of_every_iteration(widths: tuple[int, ...]) -> None:
    net = network(widths)
    steps = list(net.local_losses(PAIR))
    right, wrong = (courses(net, row, 8) for row in LABELS[:2])
    depth = len(widths)
    # the label goes down one block an iteration; a block that it has not reached contrasts nothing
    expected = [(t, index) for t in range(8) for index in range(depth) if index >= depth - 1 - t]
    assert [step.block for step in steps] == [index for _, index in expected]
    for step, (t, index) in zip(steps, expected, strict=True):
        for found, runs in ((step.g_pos, right), (step.g_neg, wrong)):
            goodness = [references_hinton.judged_goodness(course, t + 1, t + 1)[index] for course in runs]
            torch.testing.assert_close(found.tolist(), goodness, rtol=1e-10, atol=1e-12)
        loss = nn.functional.softplus(-10 * (step.g_pos - step.g_neg)).mean()
        torch.testing.assert_close(step.loss, loss)


def test_before_the_label_arrives_goodness_is_the_same_for_all_labels() -> None:
    course = courses(network((4, 6, 5)), LABELS[0], 3)[0]
    other = courses(network((4, 6, 5)), LABELS[1], 3)[0]
    differs = [[a != b for a, b in zip(x, y, strict=True)] for x, y in zip(course, other, strict=True)]
    assert differs == [[False, False, True], [False, True, True], [True, True, True]]


@pytest.mark.parametrize("widths", [(7, 5), (4, 6, 5), (6,)])
def test_opened_images_judge_labels_once_all_blocks_have_seen_the_label(widths: tuple[int, ...]) -> None:
    net, depth = network(widths), len(widths)
    found = net.open(IMAGES).goodness(LABELS, 1).flatten()
    runs = [course for row in LABELS for course in courses(net, row, depth)]
    expected = [sum(references_hinton.judged_goodness(course, depth, depth)) for course in runs]
    torch.testing.assert_close(found.tolist(), expected, rtol=1e-10, atol=1e-12)


def test_what_no_label_changes_is_computed_once_with_one_mask_of_dropped_pixels() -> None:
    net = network(dropout=0.5)
    opened = net.open(IMAGES)
    assert not any(h.requires_grad for h in (opened.start[0], *opened.start[1]))
    given = opened.with_labels(*LABELS[:2])
    steps = [[step.g_pos for step in net.local_losses(Signal(given))] for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*steps, strict=True))
    assert torch.equal(opened.goodness(LABELS, 1), opened.goodness(LABELS, 1))
    assert not torch.equal(net.open(IMAGES).start[0], opened.start[0])


def test_a_loss_reaches_one_iteration_of_one_block() -> None:
    """No gradient goes down, up, or back in time."""
    net = network((4, 6, 5))
    for step in net.local_losses(PAIR):
        net.zero_grad()
        step.loss.backward()
        assert {n.split(".")[1] for n, p in net.named_parameters() if p.grad is not None} == {str(step.block)}
        layer = net[step.block].layer
        assert layer.up.weight.grad.any()
        assert layer.down.weight.grad.any()


def test_all_blocks_of_an_iteration_read_the_one_before() -> None:
    """A block that changes after its loss of an iteration changes nothing for the others in that iteration."""
    plain = [step.g_pos for step in network().local_losses(PAIR)]
    net = network()
    for count, step in enumerate(net.local_losses(PAIR)):
        assert torch.equal(step.g_pos, plain[count])
        if count == 1:  # the lower block of the second iteration
            with torch.no_grad():
                net[0].layer.up.weight.mul_(1.5)
        if count == 2:
            break


def test_the_gradient_of_a_twin_runs_through_all_weights() -> None:
    net = network()
    x = net(IMAGES)
    assert x.shape == (6, 5)
    x.square().sum().backward()
    top_down_of_the_label = "blocks.1.layer.down.weight"
    assert [n for n, p in net.named_parameters() if p.grad is None] == [top_down_of_the_label]
    last = list(net.activities(IMAGES))
    torch.testing.assert_close(UnitRMS()(last[-1]), x.detach())


def classifier(**kwargs: Any) -> ff.FFClassifier:
    net = network((16, 16), dropout=0.2).float()
    module = ff.FFClassifier(net, negatives=HardWrongLabel(0.1), optimizer=ADAM, **kwargs)
    module.seed = 0
    return module


def test_it_learns_digits(tmp_path: Path) -> None:
    net = network((100, 100), loss=SymBa(20.0)).float()
    run = trainer(tmp_path, max_epochs=12, num_sanity_val_steps=0, check_val_every_n_epoch=12)
    module = ff.FFClassifier(net, negatives=HardWrongLabel(0.05), optimizer=partial(torch.optim.Adam, lr=2e-3))
    run.fit(module, ImageDataModule("digits", batch_size=50))
    assert run.callback_metrics["val/accuracy"] > 0.9
    assert run.callback_metrics["val/separation/block_0"] > 0.85
    assert run.global_step == 12 * 26


def test_a_resumed_run_is_the_one_that_never_stopped(tmp_path: Path) -> None:
    def data() -> ImageDataModule:
        return ImageDataModule("digits", batch_size=50, limit=300)

    whole, first, second = classifier(), classifier(), classifier()
    trainer(tmp_path, max_steps=9, max_epochs=-1).fit(whole, data())
    run = trainer(tmp_path, max_steps=4, max_epochs=-1)
    run.fit(first, data())
    run.save_checkpoint(tmp_path / "stop.ckpt")
    for block in second.network:
        nn.init.zeros_(block.layer.up.weight)
    later = trainer(tmp_path, max_steps=9, max_epochs=-1)
    later.fit(second, data(), ckpt_path=tmp_path / "stop.ckpt", weights_only=True)
    assert isinstance(later, pl.Trainer)
    assert_same_weights(weights(whole), weights(second))


def test_it_is_updated_at_every_iteration(tmp_path: Path) -> None:
    module = classifier()
    run = trainer(tmp_path, max_steps=1)
    run.fit(module, ImageDataModule("digits", batch_size=50))
    states = [next(iter(o.state.values()))["step"].item() for o in module.trainer.optimizers]
    assert states == [7, 8]
    assert run.global_step == 1
    with pytest.raises(InputError, match="use 'streamed'"):
        classifier(update="fused")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"judged": (3, 9)}, r"Passed `judged=\(3, 9\)` with `iterations=8` and 2 widths"),
        ({"judged": (1, 5)}, "widths <= first"),
        ({"judged": (4, 3)}, "first <= last"),
        ({"damping": 1.0}, "`damping` must be in"),
        ({"widths": ()}, "must be a list of one or more whole numbers"),
        ({"dropout": -0.1}, "`dropout` must be in"),
    ],
)
def test_arguments_that_make_no_sense(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(**kwargs)
