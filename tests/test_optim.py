"""MuonAdamW and the cosine: against torch's own, state, what goes where."""

from __future__ import annotations

import copy
import math
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ff_lightning.errors import InputError
from ff_lightning.networks import MLP
from ff_lightning.optim import CosineDecay, HiddenMatrix, MuonAdamW, orthogonalised
from tests.texts import gpt, windows


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [HiddenMatrix(torch.randn(12, 5)), HiddenMatrix(torch.randn(4, 6)), nn.Parameter(torch.randn(7, 3))]


def walk(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: int = 5, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [p.detach().clone() for p in params]


def test_everything_but_hidden_matrices_moves_as_under_adamw() -> None:
    ours, theirs = parameters(), parameters()
    settings: dict[str, Any] = {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.2}
    ended = walk(MuonAdamW(ours, **settings), ours)
    torch.testing.assert_close(ended[2], walk(torch.optim.AdamW(theirs, **settings), theirs)[2])


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_hidden_matrices_move_as_under_torchs_muon() -> None:
    ours, theirs = parameters()[:2], parameters()[:2]
    ended = walk(MuonAdamW(ours, muon_lr=0.1, weight_decay=0.2), ours)
    reference = walk(torch.optim.Muon(theirs, lr=0.1, weight_decay=0.2), theirs)
    torch.testing.assert_close(ended, reference, atol=1e-2, rtol=1e-2)  # five iterations in bfloat16


def test_filters_move_as_the_matrix_of_their_rows() -> None:
    torch.manual_seed(0)
    filters = torch.randn(8, 2, 3, 3)
    flat, deep = HiddenMatrix(filters.flatten(1)), HiddenMatrix(filters.to(memory_format=torch.channels_last))
    for p, shape in ((flat, (8, 18)), (deep, (8, 2, 3, 3))):
        (moved,) = walk(MuonAdamW([p], muon_lr=0.1), [p], steps=1)
        assert moved.shape == shape
    torch.testing.assert_close(deep.flatten(1), flat)


@pytest.mark.parametrize("shape", [(8, 8), (20, 6), (6, 20)])
def test_orthogonalised(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.3
    assert values.max() < 1.4
    assert not orthogonalised(torch.zeros(shape)).any()


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (16, 16)])
def test_autocast_does_not_change_the_precision_of_muon(shape: tuple[int, int]) -> None:
    """A step of an optimizer is part of a training step, and so under autocast."""
    left, right = (torch.linalg.qr(torch.randn(size, 16)).Q for size in shape)
    matrix = left @ torch.diag(torch.logspace(0, -2, 16)) @ right.T
    expected = orthogonalised(matrix, bfloat16=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(orthogonalised(matrix, bfloat16=False), expected)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 33), (1, 5)])
@pytest.mark.parametrize("spread", [0, 4])
def test_iterations_on_the_gram_matrix_are_those_on_the_matrix(shape: tuple[int, int], spread: int) -> None:
    """Also where singular values span four orders of magnitude: against the plain iterations in float64."""
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = u * torch.logspace(0, -spread, min(shape)) @ v
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    found = orthogonalised(matrix, bfloat16=False).double()
    assert (found - x).norm() < (2e-3 if spread else 1e-5) * x.norm()


@pytest.mark.parametrize("bfloat16", [True, False])
def test_muon_computes_in_the_type_that_it_is_told(bfloat16: bool) -> None:
    params = parameters()[:2]
    before = [p.detach().clone() for p in params]
    optimizer = MuonAdamW(params, muon_lr=1.0, weight_decay=0.0, bfloat16=bfloat16)
    walk(optimizer, params, steps=1)
    step = before[1] - params[1].detach()  # of the wide matrix, whose update is not scaled
    rounded = torch.allclose(step, step.bfloat16().float(), atol=1e-6, rtol=0)
    assert rounded == bfloat16
    other = MuonAdamW(parameters()[:2], bfloat16=not bfloat16)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["bfloat16"] == bfloat16, "a checkpoint keeps it"


def test_the_network_says_what_is_a_hidden_matrix() -> None:
    marked = {name for name, p in gpt().named_parameters() if isinstance(p, HiddenMatrix)}
    assert {name.split(".", 5)[-1] for name in marked} == {
        "attention.qkv.weight",
        "attention.out.weight",
        "up.weight",
        "down.weight",
    }
    assert len(marked) == 3 * 4


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))], ids=["deepcopy", "pickle"])
def test_the_mark_survives_copies(copied: Any) -> None:
    original = HiddenMatrix(torch.ones(2, 3), requires_grad=False)
    again = copied(original)
    assert type(again) is HiddenMatrix
    assert torch.equal(again, original)
    assert not again.requires_grad


def test_state_goes_on_where_it_was_saved() -> None:
    whole, half, rest = parameters(), parameters(), parameters()
    first, second = MuonAdamW(half), MuonAdamW(rest, lr=1.0, muon_lr=1.0)
    walk(first, half, 3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    with torch.no_grad():
        for p, q in zip(rest, half, strict=True):
            p.copy_(q)
    unbroken = MuonAdamW(whole)
    walk(unbroken, whole, 3)
    for a, b in zip(walk(unbroken, whole, 2, seed=1), walk(second, rest, 2, seed=1), strict=True):
        assert torch.equal(a, b)


def test_a_parameter_without_gradient_rests() -> None:
    params = parameters()
    before = [p.detach().clone() for p in params]
    MuonAdamW(params).step()
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))


def test_a_few_steps_lower_the_loss_of_a_real_text() -> None:
    network = gpt().as_one_block()
    optimizer = MuonAdamW(network.parameters())
    tokens = windows(32)
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(network(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0}, "lr=0"),
        ({"muon_lr": -1.0}, "muon_lr=-1"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"betas": (0.9, 2.0)}, r"betas\[1\]=2.0"),
        ({"betas": (0.9,)}, r"betas=\(0.9,\)"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MuonAdamW(parameters(), **arguments)


def test_a_network_without_hidden_matrices_is_refused() -> None:
    with pytest.raises(InputError, match="without a `HiddenMatrix`"):
        MuonAdamW(MLP(4, [3], num_classes=None).parameters())


def rates(total: int | None, steps: int, **kwargs: Any) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = CosineDecay(optimizer, total_updates=total, **kwargs)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"] / 2)
        optimizer.step()
        scheduler.step()
    return seen


def test_cosine() -> None:
    seen = rates(100, 101, warmup=0.1, final=0.2)
    assert seen[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert seen[10:] == pytest.approx([0.2 + 0.4 * (1 + math.cos(math.pi * step / 90)) for step in range(91)])
    assert rates(None, 5, warmup=0.1) == [1.0] * 5
    assert rates(10, 20, final=0.5)[10:] == pytest.approx([0.5] * 10)


def test_the_two_rates_fall_together() -> None:
    optimizer = MuonAdamW(parameters(), lr=1.0, muon_lr=10.0)
    scheduler = partial(CosineDecay, total_updates=4, final=0.0)(optimizer)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5.0, 0.5])
