"""Running sums in torch's deterministic mode."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate

import pytest
import torch

from ff_lightning.candidates import draw_shares, draw_tokens
from ff_lightning.processor import running_sums


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("size", [1, 5, 70_000])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 3e12])
@pytest.mark.usefixtures("deterministic")
def test_they_are_those_of_exact_numbers(size: int, scale: float) -> None:
    x = scale * torch.randn(size, generator=torch.Generator().manual_seed(0))
    found = running_sums(x, 0)
    exact = list(accumulate(Fraction(value) for value in x.tolist()))
    largest = float(max(map(abs, exact)))
    assert found.dtype == x.dtype
    assert max(abs(float(one - Fraction(value))) for one, value in zip(exact, found.tolist(), strict=True)) < (
        1e-7 * largest
    )


@pytest.mark.usefixtures("deterministic")
def test_order_does_not_matter() -> None:
    """A GPU adds in any order: blocks by themselves, then put together, are the same to the last bit."""
    x = torch.rand(3, 1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(running_sums(x, -1)[:, -1], running_sums(x.flip(-1), -1)[:, -1])
    assert torch.equal(running_sums(x, 0)[-1], running_sums(x[[2, 0, 1]], 0)[-1])


def test_elsewhere_they_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(3, 40)
    assert torch.equal(running_sums(x, 1), x.cumsum(1))


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("size", [7, 20_000])
def test_draws_are_those_of_the_other_mode(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a place that lies on an edge; and no floating-point sum is asked of a GPU."""
    summed: list[torch.dtype] = []
    own = torch.Tensor.cumsum

    def watched(x: torch.Tensor, dim: int) -> torch.Tensor:
        summed.append(x.dtype)
        return own(x, dim)

    logits = torch.randn(40, size, generator=torch.Generator().manual_seed(0))

    def both() -> list[torch.Tensor]:
        draws = (draw_tokens(logits, 4, torch.Generator().manual_seed(1), even=True), draw_shares(logits, 4))
        return [*draws]

    torch.manual_seed(2)
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "cumsum", watched)
        found = both()
    assert set(summed) == {torch.int64}
    torch.use_deterministic_algorithms(False)
    torch.manual_seed(2)
    for one, other in zip(found, both(), strict=True):
        assert (one == other).double().mean() > 0.99
