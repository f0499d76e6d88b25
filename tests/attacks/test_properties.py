"""Losses, goodness, normalisation, negatives, samplers, schedules and packing: a right result, or an `InputError`."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ff_lightning as ff
from ff_lightning.candidates import draw_tokens
from ff_lightning.goodness import ChannelGroups
from ff_lightning.language.generation import Sampler
from ff_lightning.losses import Swish, SymBa
from ff_lightning.normalization import PeerNormalisation, UnitLength, UnitRMS
from tests.attacks.fuzzing import TARGETS, run


@pytest.fixture(autouse=True)
def _denormal_numbers() -> None:
    """They are numbers here, whatever a command in this process has set; hypothesis draws them."""
    torch.set_flush_denormal(False)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of schedulers that are stepped before optimizers
@pytest.mark.parametrize("name", TARGETS)
def test_a_right_result_or_one_line(name: str) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=120, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def calls(data: st.DataObject) -> None:
        seen[run(data.draw(TARGETS[name]()))] += 1

    calls()
    assert min(seen["right"], seen["refused"]) > 0, f"both kinds of calls are made: {seen}"


@pytest.mark.parametrize("loss", [SymBa(), Swish()])
def test_one_number_is_not_stretched_over_a_batch(loss: torch.nn.Module) -> None:
    with pytest.raises(ff.InputError, match=r"shapes \(3,\) of positives and \(1,\) of negatives"):
        loss(torch.zeros(3), torch.zeros(1))


@pytest.mark.parametrize("temperature", [1e-300, 5e-324, 1e-40])
def test_next_to_no_temperature_takes_the_likeliest(temperature: float) -> None:
    logits = torch.tensor([[0.0, 3.0, 2.999], [-1.0, -5.0, -0.5]])
    for seed in range(20):
        drawn = Sampler(temperature)(logits, torch.Generator().manual_seed(seed))
        assert drawn.tolist() == [1, 2]


def test_what_has_no_probability_is_never_drawn() -> None:
    """The last token is impossible; a random number just below 1 must not fall on it."""
    logits = torch.randn(200_000, 7, generator=torch.Generator().manual_seed(0))
    logits[:, -2:] = -torch.inf
    for even in (False, True):
        assert int(draw_tokens(logits, 8, torch.Generator().manual_seed(1), even=even).max()) == 4


@pytest.mark.parametrize("make", [UnitLength, UnitRMS, lambda eps: ff.networks.Standardise(eps)][:2])
@pytest.mark.parametrize("eps", [-math.inf, math.nan, 0.0, -1.0])
def test_what_keeps_silence_silent_is_positive(make: type, eps: float) -> None:
    with pytest.raises(ff.InputError, match="`eps` must be a positive, finite number"):
        make(eps)


@pytest.mark.parametrize("value", [math.nan, 2.5, True, 1])
def test_nan_is_no_whole_number(value: float) -> None:
    for make in (lambda: ChannelGroups(value), lambda: PeerNormalisation(value if value != 1 else 0)):
        with pytest.raises(ff.InputError, match="must be a whole number"):
            make()
