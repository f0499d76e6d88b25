"""What holds for every network: one door that is compiled, and blocks at rest that nothing moves."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from ff_lightning.engine.compilation import compile_steps, leave_steps
from ff_lightning.errors import InputError
from ff_lightning.language import GPT, WindowMLP
from ff_lightning.networks import (
    MLP,
    CausalConvNet,
    ClassMLP,
    ConvNet,
    LabelledConvNet,
    LocalFields,
    PredictiveCircuits,
    RecurrentMLP,
    ResNet,
    SelfContrastConv,
    SelfContrastMLP,
    SpikingMLP,
)
from ff_lightning.signals import StepContext
from ff_lightning.stacks import BlockStack
from tests.networks.every import NETWORKS, local_modules, seeded, train, two_thresholds
from tests.training import assert_same_weights, weights

EVERY = pytest.mark.parametrize("name", NETWORKS)
QUIET = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # torch, while it traces


@EVERY
@QUIET
def test_compiled_steps_are_few_graphs_and_learn_the_same(name: str) -> None:
    """An MLP is trained through the compiler's own code in ``tests/engine/test_compilation.py``."""
    kind, ends = NETWORKS[name], []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        network = kind.build()
        if compiled:
            compile_steps(local_modules(network), backend="eager")
        train(network, kind.receives, batches=3, learning=None)
        leave_steps(local_modules(network))
        ends.append(weights(network))
    assert_same_weights(*ends)
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= kind.graphs
    assert not vars(network[0]).keys() & {"local_step"}


@EVERY
def test_every_block_is_entered_by_its_local_step(name: str) -> None:
    """Where that says something else of its loss, nothing else trains the block."""
    kind = NETWORKS[name]
    network = kind.build()
    before = weights(network)
    for module in local_modules(network):
        step = module.local_step

        def silent(signal, *args, step=step, **kwargs):  # type: ignore[no-untyped-def]
            found, passed = step(signal, *args, **kwargs)
            return found._replace(loss=0.0 * found.loss), passed

        module.local_step = silent
    train(network, kind.receives, batches=1, learning=None)
    after = weights(network)
    trained = {name for name, _ in network.named_parameters()}
    assert all(torch.equal(before[name], after[name]) for name in trained)


@EVERY
def test_a_block_at_rest_has_no_graph_and_moves_no_running_value(name: str) -> None:
    """As under a `Greedy` schedule: the lowest block rests, those above learn from what it passes on."""
    kind = NETWORKS[name]
    network = kind.build()
    train(network, kind.receives, batches=1, learning=None)
    before, learning = weights(network), [index > 0 for index in range(len(local_modules(network)))]
    graphs: list[bool] = []
    network[0].register_forward_hook(lambda *args: graphs.append(torch.is_grad_enabled()))
    train(network, kind.receives, batches=2, learning=learning)
    after = weights(network)
    resting = {key for key in before if key.startswith("blocks.0.")}
    assert resting
    assert all(torch.equal(before[key], after[key]) for key in resting)
    moved = {key for key in set(before) - resting if not torch.equal(before[key], after[key])}
    assert any(key.startswith("blocks.1.") for key in moved)
    assert graphs
    assert not any(graphs)


@EVERY
def test_nothing_above_the_highest_block_that_learns_is_computed(name: str) -> None:
    kind = NETWORKS[name]
    network = kind.build()
    if not isinstance(network, BlockStack):
        pytest.skip("every block of this network reads the others")
    seen: list[int] = []
    signal = kind.receives(network)
    for index, block in enumerate(network):
        block.register_forward_hook(lambda *args, index=index: seen.append(index))
    only_first = [index == 0 for index in range(len(network))]
    found = [step.block for step in network.local_losses(signal, StepContext(seeded, 0, only_first))]
    assert found == [0]
    assert set(seen) <= {0}


ONE = two_thresholds()[:1]


@pytest.mark.parametrize(
    ("build", "says"),
    [
        *(
            (
                lambda kind=kind, widths=widths: kind(6, widths),
                f"`widths={widths}`. `widths` must be a list of one or more",
            )
            for kind in (MLP, ClassMLP, RecurrentMLP, SpikingMLP, PredictiveCircuits, CausalConvNet)
            for widths in (8, [8.5])
        ),
        *(
            (lambda kind=kind: kind("6", [8]), "`in_features='6'`. `in_features` must be a whole number")
            for kind in (MLP, ClassMLP, RecurrentMLP, SpikingMLP, PredictiveCircuits)
        ),
        *(
            (lambda kind=kind: kind(widths=8), "`widths=8`. `widths` must be a list of one or more")
            for kind in (ConvNet, LabelledConvNet)
        ),
        *(
            (lambda kind=kind: kind(8), "`image_shape=8`. `image_shape` must be a list of one or more")
            for kind in (ConvNet, LabelledConvNet, LocalFields, ResNet)
        ),
        *(
            (lambda kind=kind: kind([1, 8]), "`image_shape=[1, 8]`. It must be channels, height, width")
            for kind in (ConvNet, LabelledConvNet, LocalFields, ResNet)
        ),
        (lambda: SelfContrastMLP(6, 8, losses=ONE), "`widths=8`. `widths` must be a list of one or more"),
        (lambda: SelfContrastConv((1, 8, 8), [8.5], losses=ONE), "`widths=[8.5]`. `widths` must be a list"),
        (lambda: SelfContrastConv((8, 8), [8], losses=ONE), "`image_shape=[8, 8]`. It must be channels"),
        (lambda: CausalConvNet(8.0, [8]), "`bands=8.0`. `bands` must be a whole number"),
        (lambda: ResNet(width=10.0), "`width=10.0`. `width` must be a whole number"),
        (lambda: WindowMLP(30, widths=8), "`widths=8`. `widths` must be a list of one or more"),
        (lambda: GPT(30, width=8.5), "`GPT(width=8.5)`. `width` must be a whole number"),
    ],
)
def test_sizes_that_are_no_whole_numbers_are_refused(build: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        build()


def test_batch_statistics_of_a_block_at_rest_are_those_of_the_batch() -> None:
    kind = NETWORKS["conv"]
    network = kind.build()
    norm = next(module for module in network[0].modules() if isinstance(module, nn.BatchNorm2d))
    nn.init.constant_(norm.running_mean, 5.0)
    signal = kind.receives(network)
    expected = network[0].pass_on(signal.h, network[0](signal.h).detach())
    nn.init.constant_(norm.running_mean, 5.0)
    assert torch.equal(network[0].rest(signal).h, expected)
    assert norm.running_mean.eq(5.0).all()
    assert norm.track_running_stats
