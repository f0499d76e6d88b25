"""Causal convolutions: nothing is read of what comes later, and every block learns by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ff_lightning import BackpropTwin
from ff_lightning.candidates import Softmax
from ff_lightning.errors import InputError
from ff_lightning.goodness import SumOfSquares
from ff_lightning.networks import CausalConvNet, FrameEnergy
from ff_lightning.signals import UNJUDGED, Signal


def small(**options: Any) -> CausalConvNet:
    return CausalConvNet(8, [12, 12, 12], kernel_size=3, **({"goodness": FrameEnergy(4)} | options))


def learned(network: CausalConvNet) -> CausalConvNet:
    """With weights of the goodness that are not 0."""
    generator = torch.Generator().manual_seed(1)
    for block in network:
        weight = block.goodness.weight
        assert isinstance(weight, torch.nn.Parameter)
        torch.nn.init.normal_(weight, generator=generator)
    return network.eval()


@pytest.mark.parametrize("changed", [0, 5, 19])
def test_goodness_depends_on_no_later_frame(changed: int) -> None:
    network, x = learned(small()), torch.randn(2, 1, 8, 30)
    other = x.clone()
    other[..., changed + 1 :] += torch.randn(2, 1, 8, 29 - changed)
    g, h = network.goodness(x), network.goodness(other)
    assert g.shape == (3, 2, 30, 4)
    assert torch.allclose(g[:, :, : changed + 1], h[:, :, : changed + 1], atol=1e-5)
    assert not torch.allclose(g[:, :, changed + 1], h[:, :, changed + 1])


def test_the_context_is_as_said() -> None:
    network = learned(small(goodness=FrameEnergy(4, memory=1)))
    x = torch.randn(1, 1, 8, 60)
    reached = x.clone()
    reached[..., 50 - network.context + 1] += 10.0
    beyond = x.clone()
    beyond[..., 50 - network.context] += 10.0
    last = network.goodness(x)[-1, 0, 50]
    assert not torch.allclose(network.goodness(reached)[-1, 0, 50], last)
    assert torch.allclose(network.goodness(beyond)[-1, 0, 50], last, atol=1e-5)


def test_a_recording_in_pieces_is_as_a_whole() -> None:
    network, x = learned(small()), torch.randn(1, 1, 8, 100)
    reach = network.context + 8  # of the activities, and of the goodness that remembers them
    piece = network.goodness(x[..., 60 - reach : 80])[-1, 0, reach:]
    assert torch.allclose(network.goodness(x)[-1, 0, 60:80], piece, atol=1e-5)


def test_unjudged_frames_do_not_teach() -> None:
    x, y = torch.randn(2, 1, 8, 30), torch.randint(4, (2, 30))
    y[:, 20:] = UNJUDGED
    other = x.clone()
    other[..., 20:] = 0
    grads = []
    for some in (x, other):
        torch.manual_seed(0)
        network = small(loss=Softmax()).eval()  # batch norm would see the later frames
        for step in network.local_losses(Signal(some, y)):
            step.loss.backward()
        grads.append([p.grad for p in network.parameters() if p.grad is not None])
    assert grads[0]
    assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(*grads, strict=True))


def test_gradients_stay_in_their_block() -> None:
    network = small()
    for block in network:
        torch.nn.init.normal_(block.goodness.weight)  # type: ignore[arg-type]
    steps = network.local_losses(Signal(torch.randn(2, 1, 8, 30), torch.randint(4, (2, 30))))
    for index, step in enumerate(steps):
        network.zero_grad()
        step.loss.backward()
        assert [any(p.grad is not None for p in block.parameters()) for block in network] == [
            place == index for place in range(3)
        ]


def test_with_all_layers_in_one_block_it_is_the_twin() -> None:
    network = small(layers_per_block=3, loss=Softmax())
    torch.nn.init.normal_(network[0].goodness.weight)  # type: ignore[arg-type]
    (step,) = network.local_losses(Signal(torch.randn(2, 1, 8, 30), torch.randint(4, (2, 30))))
    step.loss.backward()
    assert all(p.grad is not None for p in network.parameters())


def test_a_twin_of_single_words_is_refused() -> None:
    with pytest.raises(InputError, match="spotting_twin"):
        BackpropTwin(small())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers_per_block": 2}, "layers_per_block"),
        ({"dropout": 1.0}, "dropout"),
        ({"goodness": SumOfSquares()}, "one a class"),
        ({"num_classes": 3}, "num_classes=4"),
    ],
)
def test_impossible_sizes_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        small(**options)


def test_other_spectrograms_are_named() -> None:
    with pytest.raises(InputError, match=r"\(2, 1, 9, 30\).*bands=8"):
        small()(torch.randn(2, 1, 9, 30))
