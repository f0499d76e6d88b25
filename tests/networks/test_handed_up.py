"""Activities handed up after the update: every chain that takes the argument learns as a loop over its layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from ff_lightning.candidates import Softmax
from ff_lightning.losses import SimilarityMatching
from ff_lightning.networks import (
    CausalConvNet,
    ClassMLP,
    FrameEnergy,
    LabelBias,
    LabelledConvNet,
    LocalFields,
    PrivateHead,
    ResNet,
)
from ff_lightning.signals import Labelled, Signal, StepContext
from ff_lightning.stacks import BlockStack, Network
from tests.networks.every import frames, plain, seeded, told
from tests.texts import awake
from tests.training import assert_same_weights, weights

RATE = 0.1
PARTS: dict[str, Any] = {"loss": Softmax(), "matching": SimilarityMatching(share=0.5), "head": PrivateHead()}
CHAINS: dict[str, tuple[Callable[..., BlockStack], Callable[[Network], Signal]]] = {
    "class mlp": (partial(ClassMLP, 64, [16, 16, 16], **PARTS), plain),
    "resnet": (partial(ResNet, (1, 8, 8), 10, stages=2, layers_per_stage=2, dropout=0.0, **PARTS), plain),
    "causal conv": (partial(CausalConvNet, 8, [8, 8], kernel_size=3, goodness=FrameEnergy(10, memory=2)), frames),
    "labelled conv": (partial(LabelledConvNet, (1, 8, 8), [4, 4, 4], pool_after=[1], labels=LabelBias()), told),
    "local fields": (partial(LocalFields, (1, 8, 8), channels=[4, 4], fields=[4, 2], strides=[2, 1]), told),
}


def build(name: str, handed_up: str) -> tuple[BlockStack, Callable[[Network], Signal]]:
    make, receives = CHAINS[name]
    torch.manual_seed(0)
    network = make(handed_up=handed_up)
    awake(network)
    return network, receives


def descend(loss: torch.Tensor, network: nn.Module) -> None:
    loss.backward()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter -= RATE * parameter.grad
                parameter.grad = None


def layer_after_layer(network: BlockStack, signal: Signal, context: StepContext) -> None:
    """Train a block on a batch, then run a copy of it, whose running values may move, for the next one."""
    for index, block in enumerate(network):
        descend(block.local_step(signal, context.at(index))[0].loss, network)
        again, x = copy.deepcopy(block), signal.h
        if isinstance(x, Labelled):
            x = replace(x, image_part=None)
        with torch.no_grad():
            signal = replace(signal, h=again.pass_on(x, again(x)))


@pytest.mark.parametrize("name", CHAINS)
def test_a_block_reads_what_the_one_below_has_become(name: str) -> None:
    reference, receives = build(name, "before_update")
    for update in range(2):
        layer_after_layer(reference, receives(reference), StepContext(seeded, update))
    ends = []
    for handed_up in ("after_update", "before_update"):
        network, _ = build(name, handed_up)
        for update in range(2):
            for step in network.local_losses(receives(network), StepContext(seeded, update)):
                descend(step.loss, network)
        ends.append(weights(network))
    after, before = ends
    assert_same_weights(after, weights(reference), rtol=1e-5, atol=1e-6)
    second = {key for key, value in before.items() if key.startswith("blocks.1.") and value.is_floating_point()}
    assert any(not torch.allclose(before[key], after[key], rtol=1e-4, atol=1e-5) for key in second)
