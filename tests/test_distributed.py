"""What has to be equal on all ranks: two real processes over gloo against one on the joined batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from ff_lightning.distributed import gather_rows, mean_over_ranks, num_ranks
from ff_lightning.losses import MovingThresholdLoss
from ff_lightning.metrics import LabelContrast, TokenMetrics
from ff_lightning.normalization import PeerNormalisation
from ff_lightning.readouts.early_exit import EarlyExit

RANKS, STEPS, BATCH, UNITS = 2, 3, 8, 5
SMALLER = 3
"""Rows of the first rank where the second one has more, as in an evaluation."""


def stream(seed: int) -> Tensor:
    """Activities of all steps and of the whole batch, (STEPS, BATCH, UNITS)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(STEPS, BATCH, UNITS, dtype=torch.float64, generator=generator) * torch.arange(1, UNITS + 1)


def early_exit(part: slice) -> EarlyExit:
    """An early exit whose margins were chosen by a part of all that is observed."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(UNITS, (60,), generator=generator)
    signal = torch.nn.functional.one_hot(labels, UNITS) * torch.tensor([1.5, 3.0]).view(2, 1, 1)
    goodness = signal + torch.randn(2, 60, UNITS, generator=generator)
    readout = EarlyExit([torch.inf], tolerance=0.05)
    readout.observe(goodness[:, part], labels[part])
    readout.choose()
    return readout


def measure(part: slice, uneven: slice) -> dict[str, Any]:
    """Run everything that talks between ranks on one part of every batch, or on a part that others are larger than."""
    loss, peer, contrast = MovingThresholdLoss().double(), PeerNormalisation(UNITS).double(), LabelContrast(2)
    h_pos, h_neg = stream(0)[:, part], stream(1)[:, part]
    gains = torch.ones(UNITS, dtype=torch.float64, requires_grad=True)
    tokens = TokenMetrics(2)
    thetas, means, peer_losses = [], [], []
    for h, other in zip(h_pos, h_neg, strict=True):
        g_pos, g_neg = h.square().sum(1), other.square().sum(1)
        loss(g_pos, g_neg)
        contrast.update(torch.stack([h, other]), h.argmin(1), [loss.threshold, None])
        for block, logits in enumerate((h, other)):
            tokens.update(block, logits.unsqueeze(1), other.argmax(1, keepdim=True))
        peer_loss = peer(h * gains)
        peer_loss.backward()
        thetas.append(loss.threshold.clone())
        means.append(peer.means.value.clone())
        peer_losses.append(peer_loss.detach())
    value = h_pos.mean((0, 1))
    untouched = value.clone()
    averaged = mean_over_ranks(value)
    assert torch.equal(value, untouched)
    return {
        "mean": averaged,
        "rows": gather_rows(h_pos[0]),
        "columns": gather_rows(h_pos[0].T.contiguous().T),  # not contiguous
        "uneven_rows": gather_rows(stream(0)[0, uneven]),
        "uneven_labels": gather_rows(stream(0)[0].argmin(1)[uneven]),
        "margins": early_exit(uneven).leads,
        "thetas": torch.stack(thetas),
        "running_means": torch.stack(means),
        "peer_losses": torch.stack(peer_losses),
        "peer_gradient": mean_over_ranks(gains.grad),  # what data-parallel training does with gradients
        **contrast.compute(),
        **{f"tokens/{name}": value for name, value in tokens.compute().items()},
    }


def main(folder: Path) -> None:
    """Store what this rank measures of its part."""
    rank, share = dist.get_rank(), BATCH // RANKS
    uneven = (slice(SMALLER), slice(SMALLER, None))[rank]
    torch.save(measure(slice(rank * share, (rank + 1) * share), uneven), folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def ranks(two_ranks_folder: Path) -> list[dict[str, Tensor]]:
    return [torch.load(two_ranks_folder / "distributed" / f"{rank}.pt") for rank in range(RANKS)]


NAMES = [
    "mean",
    "rows",
    "columns",
    "uneven_rows",
    "uneven_labels",
    "margins",
    "thetas",
    "running_means",
    "peer_losses",
    "peer_gradient",
    "accuracy",
    "separation",
    "goodness_gap",
    "tokens/loss",
    "tokens/accuracy",
    "tokens/calibration_error",
]


@pytest.mark.parametrize("name", NAMES)
def test_ranks_agree_bit_for_bit(ranks: list[dict[str, Tensor]], name: str) -> None:
    assert torch.equal(ranks[0][name], ranks[1][name])


@pytest.mark.parametrize("name", NAMES)
def test_ranks_equal_one_process_on_the_joined_batch(ranks: list[dict[str, Tensor]], name: str) -> None:
    torch.testing.assert_close(ranks[0][name], measure(slice(None), slice(None))[name])


def test_alone_the_mean_is_the_value_itself() -> None:
    value = torch.rand(3)
    assert mean_over_ranks(value) is gather_rows(value) is value
    assert num_ranks() == 1


def test_in_a_group_of_one_the_mean_is_the_value_itself(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        value = torch.rand(3)
        assert mean_over_ranks(value) is gather_rows(value) is value
        assert num_ranks() == 1
    finally:
        dist.destroy_process_group()
