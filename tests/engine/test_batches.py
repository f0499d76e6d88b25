"""What is done to every batch: a look for NaN, a seed for layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ff_lightning.engine.batches import refuse_non_finite, seed_default_generator, seeded_generator
from ff_lightning.errors import InputError

BAD = torch.tensor([[1.0, float("nan")], [float("inf"), 2.0]])


@pytest.mark.parametrize("batch", [BAD, (BAD, torch.zeros(2)), {"x": [torch.zeros(1), BAD]}, BAD.half()])
def test_nan_and_inf_are_found_wherever_they_are(batch: Any) -> None:
    with pytest.raises(InputError, match="Batch 7 holds NaN or infinite values"):
        refuse_non_finite(batch, "Batch 7")


@pytest.mark.parametrize("batch", [torch.full((2,), 3e38), (torch.zeros(2), torch.arange(3)), {"text": "nan"}, ()])
def test_finite_batches_pass_even_if_their_sum_overflows(batch: Any) -> None:
    assert refuse_non_finite(batch, "Batch 7") is None


def test_seeding_makes_layers_draw_the_same_again() -> None:
    drop = torch.nn.Dropout(0.5)
    draws = []
    for seed in (3, 3, 4):
        seed_default_generator(seed, torch.device("cpu"))
        draws.append(drop(torch.ones(50)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**23, 0.5, "1", True])
def test_a_seed_beyond_what_torch_takes_is_named(seed: Any) -> None:
    for whole in (0, -1, 2**64 - 1):
        seeded_generator(whole, torch.device("cpu"))
    with pytest.raises(InputError, match=r"Passed `seed=.*whole number from -2\*\*63 to 2\*\*64 - 1"):
        seeded_generator(seed, torch.device("cpu"))
