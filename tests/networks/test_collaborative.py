"""Layer collaboration: the loss of a block is that of all goodness together, and no gradient crosses a border."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ff_lightning.candidates import Softmax
from ff_lightning.errors import InputError
from ff_lightning.losses import MovingThresholdLoss, SymBa, ThresholdLoss
from ff_lightning.networks import CollaborativeMLP
from ff_lightning.networks.collaborative import CollaborativeBlock
from ff_lightning.signals import Signal, StepContext
from tests.networks.every import CLASSES, MAPS


def network(**kwargs: object) -> CollaborativeMLP:
    torch.manual_seed(0)
    sizes = {"overlay": False, "loss": ThresholdLoss(1.0, scale=3.0)}
    return CollaborativeMLP(64, [16, 12, 8], **sizes | kwargs).double()  # type: ignore[arg-type]


def signal(stack: CollaborativeMLP) -> Signal:
    return Signal(stack.open(MAPS.double()).with_labels(CLASSES, (CLASSES + 3) % 10), CLASSES)


@pytest.mark.parametrize("learning", [None, [True, False, True]])
def test_a_block_minimises_the_loss_of_all_goodness_together(learning: list[bool] | None) -> None:
    """Positives should exceed the threshold together, negatives stay below it together (equation 9 of the paper)."""
    stack = network()
    total = stack.goodness(signal(stack).h).sum(0)
    pos, neg = total.chunk(2)
    expected = F.softplus(3 * (1 - pos)).mean() + F.softplus(3 * (neg - 1)).mean()
    seen = []
    for step in stack.local_losses(signal(stack), StepContext(learning=learning)):
        torch.testing.assert_close(step.loss.detach(), expected)
        step.loss.backward()
        with_gradient = [
            index for index, block in enumerate(stack) if any(p.grad is not None for p in block.parameters())
        ]
        assert with_gradient == [step.block]
        seen.append(step.block)
        stack.zero_grad(set_to_none=True)
    assert seen == ([0, 1, 2] if learning is None else [0, 2])


def test_its_gradient_is_its_own_goodness_at_the_slope_of_all() -> None:
    stack = network(loss=SymBa(2.0))
    own = stack.goodness(signal(stack).h)
    (step, *_) = stack.local_losses(signal(stack))
    found = torch.autograd.grad(step.loss, stack[0].layer.label.weight)
    pos, neg = stack[0].goodness(stack[0](signal(stack).h)).chunk(2)
    others = (own[1:].sum(0)[:12] - own[1:].sum(0)[12:]).detach()
    expected = torch.autograd.grad(F.softplus(-2 * (pos - neg + others)).mean(), stack[0].layer.label.weight)
    torch.testing.assert_close(found, expected)


def test_running_values_move_once_a_batch() -> None:
    stack = network(loss=MovingThresholdLoss(), peer_weight=0.1)
    list(stack.local_losses(signal(stack)))
    assert all(int(block.loss.midpoint.count) == 1 for block in stack)
    assert all(isinstance(block, CollaborativeBlock) for block in stack)


def test_a_loss_over_candidates_is_refused() -> None:
    with pytest.raises(InputError, match="Passed a loss over candidates to a `CollaborativeMLP`"):
        list(network(loss=Softmax()).local_losses(Signal(MAPS.double(), CLASSES)))
