"""Cuts that balance, and a measurement that leaves no trace."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from ff_lightning.errors import InputError
from ff_lightning.losses import MovingThresholdLoss
from ff_lightning.strategies.balance import balanced_cuts, block_seconds, check_cuts, groups_of
from tests.training import assert_same_weights, classifier, loader, mlp, trainer, weights


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_the_dearest_group_is_as_cheap_as_any_cut_makes_it(ranks: int) -> None:
    costs = torch.rand(9, generator=torch.Generator().manual_seed(ranks)).tolist()

    def dearest(cuts: Any) -> float:
        return max(sum(costs[index] for index in group) for group in groups_of(cuts, len(costs)))

    best = min(dearest(cuts) for cuts in combinations(range(1, len(costs)), ranks - 1))
    assert dearest(balanced_cuts(costs, ranks)) == pytest.approx(best)


@pytest.mark.parametrize("cuts", [[0], [4], [1, 2], []])
def test_cuts_that_leave_a_rank_without_blocks_are_refused(cuts: list[int]) -> None:
    check_cuts([3], depth=4, ranks=2)
    check_cuts(None, depth=4, ranks=4)
    with pytest.raises(InputError, match="1 rising numbers from 1 to 3"):
        check_cuts(cuts, depth=4, ranks=2)
    with pytest.raises(InputError, match="Every device needs a block"):
        check_cuts(None, depth=4, ranks=5)


class Measure(pl.Callback):
    """Times the blocks before every second batch."""

    def on_train_batch_start(self, run: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % 2:
            self.seconds = block_seconds(module, batch)


def test_timing_the_blocks_changes_nothing(tmp_path: Path) -> None:
    """Neither weights, thresholds and peer means nor gradients that wait, and no random number is used up."""

    def train(*callbacks: pl.Callback) -> dict[str, torch.Tensor]:
        network = mlp(3, loss=MovingThresholdLoss(), peer_weight=0.1, dropout=0.2)
        network[1].layer = nn.Sequential(network[1].layer, nn.Dropout(0.2))
        module = classifier(network=network, accumulate_batches=2)
        trainer(tmp_path, callbacks=[*callbacks]).fit(module, loader(400, 100))
        return weights(module)

    measure = Measure()
    assert_same_weights(train(), train(measure))
    assert len(measure.seconds) == 3
    assert min(measure.seconds) > 0
