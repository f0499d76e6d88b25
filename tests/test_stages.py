"""A stack of which this process trains a part."""

from __future__ import annotations

import pytest
import torch

from ff_lightning.errors import InputError
from ff_lightning.negatives import HardWrongLabel
from ff_lightning.signals import Signal
from ff_lightning.stages import Stage
from tests.training import classifier, digits, mlp


def test_only_the_blocks_of_the_stage_are_computed() -> None:
    stack = mlp(4, num_classes=None)
    assert stack.stage.elsewhere == frozenset()
    x, _ = digits(8)
    whole = list(stack.local_losses(Signal.pair(x, x.flip(1))))
    stack.stage = Stage(range(0, 3), 4)
    part = list(stack.local_losses(Signal.pair(x, x.flip(1))))
    assert [step.block for step in part] == [0, 1, 2]
    assert [step.loss for step in part] == [step.loss for step in whole[:3]]
    assert stack.stage.elsewhere == {3}


def test_training_may_not_ask_blocks_that_are_trained_elsewhere() -> None:
    module = classifier(depth=3, negatives=HardWrongLabel(blocks=2))
    batch = digits(8)
    module.generator = lambda stream=0: torch.Generator()
    module.network.stage = Stage(range(0, 2), 3)
    assert [step.block for step in module.local_losses(batch)] == [0, 1]
    module.network.stage = Stage(range(0, 1), 3)
    with pytest.raises(InputError, match="what block 1 says, which another process trains"):
        next(module.local_losses(batch))
    module.eval()
    assert module(batch[0]).shape == (8, 10), "after training, every process has all weights"
