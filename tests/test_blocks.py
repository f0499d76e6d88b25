"""Blocks and stacks: gradients by hand, locality bit for bit, and what a stack refuses."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from torch import Tensor, nn

from ff_lightning.blocks import ClassBlock, ContrastiveBlock
from ff_lightning.candidates import Softmax
from ff_lightning.errors import InputError
from ff_lightning.goodness import ChannelGroups, MeanActivity, MeanOfSquares, SumOfSquares
from ff_lightning.losses import MovingThresholdLoss, SymBa, ThresholdLoss
from ff_lightning.networks import MLP, DenseReLU
from ff_lightning.normalization import PeerNormalisation, UnitLength
from ff_lightning.signals import Labelled, LocalStep, Signal
from ff_lightning.stacks import BlockStack, refuse_shared_parameters
from tests import references
from tests.training import digits

Gradients = list[dict[str, Tensor]]


def labelled(count: int = 32, dtype: torch.dtype = torch.float32) -> Labelled:
    """Real digits with their own label and the next one."""
    x, y = digits(count, dtype)
    return Labelled(x, torch.stack([y, (y + 1) % 10]))


def small_mlp(**kwargs: object) -> MLP:
    torch.manual_seed(0)
    return MLP(64, [12, 10, 8], **kwargs)


def dense_stack(dtype: torch.dtype = torch.float64) -> BlockStack:
    """Two layers that share nothing, small enough for loops."""
    torch.manual_seed(0)
    blocks = [
        ContrastiveBlock(DenseReLU(6, 5), MeanOfSquares(), SymBa()),
        ContrastiveBlock(DenseReLU(5, 4), MeanOfSquares(), SymBa()),
    ]
    return BlockStack(blocks).to(dtype)


def pair(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    x = torch.rand(2, 7, 6, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return x[0], x[1]


def class_stack(dtype: torch.dtype = torch.float64) -> BlockStack:
    torch.manual_seed(0)
    blocks = [
        ClassBlock(DenseReLU(6, 12), ChannelGroups(3), Softmax()),
        ClassBlock(DenseReLU(12, 6), ChannelGroups(3, MeanActivity()), Softmax(scale=0.5), norm=UnitLength()),
    ]
    return BlockStack(blocks).to(dtype)


def gradients(network: BlockStack, signal: Signal) -> Gradients:
    """Gradients of every block from its own local loss."""
    network.zero_grad()
    for step in network.local_losses(signal):
        step.loss.backward()
    return [{name: p.grad.clone() for name, p in block.named_parameters()} for block in network]


def assert_identical(found: Iterable[dict[str, Tensor]], expected: Iterable[dict[str, Tensor]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, gradient in one.items():
            assert torch.equal(gradient, other[name]), name


# Values --------------------------------------------------------------------------------------------------------


def test_local_gradients_equal_two_layers_by_hand() -> None:
    network, (x_pos, x_neg) = dense_stack(), pair()
    found = gradients(network, Signal.pair(x_pos, x_neg))
    below = [x_pos.tolist(), x_neg.tolist()]
    for block, gradient in zip(network, found, strict=True):
        weight, bias = (p.tolist() for p in block.parameters())
        by_weight, by_bias = references.symba_gradients(*below, weight, bias, alpha=4.0)
        expected = torch.tensor(by_weight, dtype=torch.float64)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(gradient["layer.linear.weight"], expected, rtol=1e-10, atol=1e-14)
        assert gradient["layer.linear.bias"].tolist() == pytest.approx(by_bias, rel=1e-10)
        below = [[references.unit_rms(references.relu_layer(x, weight, bias)) for x in rows] for rows in below]


def test_a_local_step_says_what_the_reference_says() -> None:
    network, (x_pos, x_neg) = dense_stack(), pair()
    weight, bias = (p.tolist() for p in network[0].parameters())
    g_pos, g_neg = (
        [references.mean_of_squares(references.relu_layer(row, weight, bias)) for row in x.tolist()]
        for x in (x_pos, x_neg)
    )
    step = next(network.local_losses(Signal.pair(x_pos, x_neg)))
    assert step.block == 0
    assert step.g_pos.tolist() == pytest.approx(g_pos, rel=1e-12)
    assert step.g_neg.tolist() == pytest.approx(g_neg, rel=1e-12)
    assert step.loss.item() == pytest.approx(references.symba(g_pos, g_neg, 4.0), rel=1e-12)
    assert not step.g_pos.requires_grad
    assert not step.g_neg.requires_grad


def test_peer_normalisation_sees_the_positives_alone() -> None:
    x_pos, x_neg = pair()
    plain = dense_stack()[0]
    peer = PeerNormalisation(5, weight=2.0).double()
    block = ContrastiveBlock(plain.layer, MeanOfSquares(), SymBa(), peer=peer)
    without, _ = plain.local_step(Signal.pair(x_pos, x_neg))
    step, _ = block.local_step(Signal.pair(x_pos, x_neg))
    activities = plain(x_pos).tolist()
    extra, running = references.peer_normalisation(activities, references.unit_means(activities), 0.9, 2.0)
    assert (step.loss - without.loss).item() == pytest.approx(extra, rel=1e-9)
    assert peer.means.value.tolist() == pytest.approx(running, rel=1e-12)


def test_class_blocks_equal_the_reference_cross_entropy() -> None:
    network, (x, _) = class_stack(), pair()
    labels = torch.tensor([0, 2, 1, 1, 0, 2, 2])
    kinds = [(references.mean_of_squares, 1.0, references.unit_rms), (references.mean_activity, 0.5, None)]
    rows = x.tolist()
    steps = list(network.local_losses(Signal(x, labels)))
    for index, (step, block, (of, scale, norm)) in enumerate(zip(steps, network, kinds, strict=True)):
        weight, bias = (p.tolist() for p in block.parameters())
        activities = [references.relu_layer(row, weight, bias) for row in rows]
        g = [references.channel_groups(h, 3, of) for h in activities]
        true = [row[label] for row, label in zip(g, labels.tolist(), strict=True)]
        wrong = [
            max(value for c, value in enumerate(row) if c != label)
            for row, label in zip(g, labels.tolist(), strict=True)
        ]
        assert step.block == index
        assert step.loss.item() == pytest.approx(references.class_softmax(g, labels.tolist(), scale), rel=1e-12)
        assert step.g_pos.tolist() == pytest.approx(true, rel=1e-12)
        assert step.g_neg.tolist() == pytest.approx(wrong, rel=1e-12)
        assert not step.g_pos.requires_grad
        rows = [norm(h) for h in activities] if norm else rows


# Locality ------------------------------------------------------------------------------------------------------


def scramble(block: ContrastiveBlock) -> None:
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()


def silence(block: ContrastiveBlock) -> None:
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.fill_(torch.nan)


def change_loss(block: ContrastiveBlock) -> None:
    block.loss = ThresholdLoss(1e6, scale=50.0)


def change_goodness(block: ContrastiveBlock) -> None:
    block.goodness = SumOfSquares()


def change_norm(block: ContrastiveBlock) -> None:
    block.norm = UnitLength()


def add_peer(block: ContrastiveBlock) -> None:
    block.peer = PeerNormalisation(block.layer.linear.out_features, weight=100.0)


@pytest.mark.parametrize("above", [1, 2])
@pytest.mark.parametrize("change", [scramble, silence, change_loss, change_goodness, change_norm, add_peer])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_happens_above_leaves_the_gradients_below_bit_identical(
    above: int, change: Callable[[ContrastiveBlock], None], dtype: torch.dtype
) -> None:
    network = small_mlp(peer_weight=0.03)

    def measure() -> Gradients:
        for block in network:
            block.peer.means.value.copy_(torch.linspace(0, 1, len(block.peer.means.value)))
            block.peer.means.forget()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return gradients(network, Signal(labelled()))

    before = measure()
    change(network[above])
    after = measure()
    assert_identical(after[:above], before[:above])
    same = [torch.equal(after[above][name], gradient) for name, gradient in before[above].items()]
    # The norm of a block acts on what it passes on; everything else does change the block itself.
    assert all(same) if change is change_norm else not any(same)


def test_without_the_blocks_above_the_gradients_are_the_same() -> None:
    network = small_mlp()
    whole = gradients(network, Signal(labelled()))
    part = gradients(BlockStack(list(network)[:2]), Signal(labelled()))
    assert_identical(part, whole[:2])


def test_class_blocks_are_as_local() -> None:
    network, (x, _) = class_stack(), pair()
    signal = Signal(x, torch.arange(7) % 3)
    before = gradients(network, signal)
    scramble(network[1])
    assert_identical(gradients(network, signal)[:1], before[:1])


@pytest.mark.parametrize("kind", ["contrastive", "class"])
def test_a_local_loss_reaches_its_own_block_and_no_other(kind: str) -> None:
    x, y = digits(32)
    signal = Signal(labelled())
    network: BlockStack = small_mlp(loss=MovingThresholdLoss(), peer_weight=0.03)
    if kind == "class":
        layers = [DenseReLU(64, 20), DenseReLU(20, 20), DenseReLU(20, 20)]
        network = BlockStack([ClassBlock(layer, ChannelGroups(10), Softmax()) for layer in layers])
        signal = Signal(x, y)
    for step in network.local_losses(signal):
        network.zero_grad()
        step.loss.backward()
        reached = {i for i, block in enumerate(network) for p in block.parameters() if p.grad is not None}
        assert reached == {step.block}
        assert all(p.grad.abs().sum() > 0 for p in network[step.block].parameters())


@pytest.mark.parametrize("norm", [None, nn.Identity()], ids=["unit_rms", "identity"])
def test_signals_between_blocks_carry_no_graph(norm: nn.Module | None) -> None:
    torch.manual_seed(0)
    widths = [(6, 8), (8, 8), (8, 8)]
    network = BlockStack([ContrastiveBlock(DenseReLU(i, o), MeanOfSquares(), SymBa(), norm=norm) for i, o in widths])
    signal = Signal.pair(*pair(torch.float32))
    for block in network:
        step, signal = block.local_step(signal)
        assert step.loss.requires_grad
        assert signal.h.grad_fn is None
        assert not signal.h.requires_grad


def test_a_norm_between_blocks_must_have_no_weights() -> None:
    with pytest.raises(InputError, match="`norm=LayerNorm` with parameters"):
        ContrastiveBlock(DenseReLU(6, 8), MeanOfSquares(), SymBa(), norm=nn.LayerNorm(8))
    with pytest.raises(InputError, match=r"Passed `norm=relu`. It must be a module"):
        ContrastiveBlock(DenseReLU(6, 8), MeanOfSquares(), SymBa(), norm=torch.relu)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="put it into the layer"):
        ClassBlock(DenseReLU(6, 8), ChannelGroups(2), Softmax(), norm=nn.LayerNorm(8))


def test_nothing_of_a_block_stays_alive_while_the_next_one_is_computed() -> None:
    network = small_mlp()
    activities: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def count(*_: object) -> None:
        alive.append(sum(reference() is not None for reference in activities))

    for block in network:
        block.layer.register_forward_pre_hook(count)
        block.layer.register_forward_hook(lambda _module, _x, h: activities.append(weakref.ref(h)))
    for step in network.local_losses(Signal(labelled())):
        count()  # the graph of this loss is kept, and no other
        del step
    assert alive == [0, 1, 0, 1, 0, 1]


def test_updates_between_the_losses_change_nothing_for_the_blocks_above() -> None:
    network = small_mlp()
    expected = gradients(network, Signal(labelled()))
    network.zero_grad()
    for step in network.local_losses(Signal(labelled())):
        step.loss.backward()
        for parameter in network[step.block].parameters():
            parameter.data.add_(1.0)
    assert_identical([{n: p.grad for n, p in block.named_parameters()} for block in network], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_readout_within_the_same_autocast_takes_no_gradient_away(dtype: torch.dtype) -> None:
    # Autocast caches casts of the weights; a cast made without gradient must not serve the training pass.
    network = small_mlp()
    with torch.autocast("cpu", dtype):
        expected = gradients(network, Signal(labelled()))
    with torch.autocast("cpu", dtype):
        network.goodness(labelled())
        found = gradients(network, Signal(labelled()))
    assert_identical(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_goodness_and_loss_are_float32(dtype: torch.dtype) -> None:
    network = small_mlp()
    with torch.autocast("cpu", dtype):
        for step in network.local_losses(Signal(labelled())):
            step.loss.backward()
            assert {step.loss.dtype, step.g_pos.dtype, step.g_neg.dtype} == {torch.float32}
        assert network.goodness(labelled()).dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in network.parameters())


# The stack -----------------------------------------------------------------------------------------------------


def test_forward_trains_all_blocks_end_to_end() -> None:
    network, (x, _) = dense_stack(), pair()
    (network(x) * torch.arange(4)).sum().backward()
    found = [p.grad.clone() for p in network.parameters()]
    copies = [p.detach().clone().requires_grad_() for p in network.parameters()]
    h = x
    for weight, bias in (copies[:2], copies[2:]):
        z = (h @ weight.T + bias).clamp(min=0)
        h = z / z.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
    (h * torch.arange(4)).sum().backward()
    torch.testing.assert_close(network(x), h, rtol=1e-12, atol=0)
    for gradient, copy in zip(found, copies, strict=True):
        assert copy.grad.abs().sum() > 0
        torch.testing.assert_close(gradient, copy.grad)


def test_goodness_is_that_of_the_local_losses_for_every_block_and_sample() -> None:
    network = small_mlp()
    g = network.goodness(labelled())
    steps = list(network.local_losses(Signal(labelled())))
    assert g.shape == (3, 64)
    assert not g.requires_grad
    assert torch.equal(g, torch.stack([torch.cat([step.g_pos, step.g_neg]) for step in steps]))


def test_goodness_of_class_blocks_has_one_value_a_class() -> None:
    network, (x, _) = class_stack(), pair()
    assert network.goodness(x).shape == (2, 7, 3)


def test_activities_are_those_of_the_chain_and_leave_the_gradient_mode_alone() -> None:
    network, (x, _) = dense_stack(), pair()
    h = x
    for block, activities in zip(network, network.activities(x), strict=True):
        assert torch.is_grad_enabled()
        assert not activities.requires_grad
        assert torch.equal(activities, block(h))
        h = block.norm(activities)
    assert torch.equal(h, network(x))


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_lowest_blocks_are_judged_without_running_those_above(blocks: int) -> None:
    network = small_mlp()
    whole = network.goodness(labelled())
    with torch.no_grad():
        for above in list(network)[blocks:]:
            silence(above)
    run: list[int] = []
    for index, block in enumerate(network):
        block.layer.register_forward_hook(lambda _module, _x, _h, index=index: run.append(index))
    assert torch.equal(network.goodness(labelled(), blocks=blocks), whole[:blocks])
    assert run == list(range(blocks))
    assert torch.is_grad_enabled()


def test_a_stack_shares_what_its_first_layer_makes_of_the_image() -> None:
    network, x = small_mlp(), labelled()
    opened = network.open(x.image)
    given = opened.with_labels(*x.labels)
    assert given.image_part is not None
    assert_identical(gradients(network, Signal(given)), gradients(network, Signal(x)))
    assert torch.equal(opened.goodness(x.labels, 2), network.goodness(x, blocks=2).sum(0).view_as(x.labels))
    assert dense_stack().open(pair()[0]).part is None


def test_a_stack_is_a_sequence_of_its_blocks() -> None:
    network = small_mlp()
    assert len(network) == 3
    assert list(network) == [network[0], network[1], network[2]]
    assert network[-1] is network[2]


def test_thresholds_are_those_of_the_losses() -> None:
    assert ContrastiveBlock(DenseReLU(2, 2), SumOfSquares(), ThresholdLoss(3.0)).threshold.item() == 3.0
    assert ContrastiveBlock(DenseReLU(2, 2), SumOfSquares(), SymBa()).threshold is None
    assert class_stack()[0].threshold is None


def test_signals_cannot_be_changed_and_images_know_their_streams() -> None:
    signal = Signal.pair(torch.zeros(2, 3), torch.ones(2, 3))
    assert torch.equal(signal.h, torch.tensor([[0.0] * 3] * 2 + [[1.0] * 3] * 2))
    assert Labelled(torch.zeros(4, 3), torch.zeros(5, 4, dtype=torch.long)).streams == 5
    for frozen in (signal, Labelled(torch.zeros(1), torch.zeros(1, 1)), LocalStep(0, torch.zeros(()))):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, dataclasses.fields(frozen)[0].name, None)


class Twice(nn.Module):
    """One weight, used twice within a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = self.one

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)).relu()


def test_a_weight_may_be_shared_within_a_block() -> None:
    network = BlockStack(
        [ContrastiveBlock(Twice(), SumOfSquares(), SymBa()), ContrastiveBlock(DenseReLU(4, 3), SumOfSquares(), SymBa())]
    )
    found = gradients(network, Signal.pair(*(x[:, :4] for x in pair(torch.float32))))
    assert all(g.abs().sum() > 0 for block in found for g in block.values())


def tied_blocks() -> Iterator[ContrastiveBlock]:
    first, second = DenseReLU(4, 4), DenseReLU(4, 4)
    second.linear.weight = first.linear.weight
    for layer in (first, DenseReLU(4, 4), second):
        yield ContrastiveBlock(layer, SumOfSquares(), SymBa())


TIED = (
    "The parameter at block 2, `layer.linear.weight` is also the one at block 0, `layer.linear.weight`. "
    "Blocks must not share parameters: the update of one would move the other."
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockStack([]), "Passed `blocks=[]`. A network needs at least one block."),
        (lambda: BlockStack(list(tied_blocks())), TIED),
        (lambda: refuse_shared_parameters(list(tied_blocks())), TIED),
        (
            lambda: Signal.pair(torch.zeros(2, 3), torch.zeros(3, 3)),
            "Passed `x_pos` of shape (2, 3) and `x_neg` of shape (3, 3). Positives and negatives must have the "
            "same shape.",
        ),
        (
            lambda: next(class_stack().local_losses(Signal(torch.zeros(2, 6)))),
            "Passed a signal without `labels`. A `ClassBlock` needs the true classes, shape (B,).",
        ),
    ],
)
def test_input_that_cannot_work_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message


def test_the_same_block_twice_is_refused() -> None:
    block = ContrastiveBlock(DenseReLU(4, 4), SumOfSquares(), SymBa())
    with pytest.raises(InputError, match="Blocks must not share parameters"):
        BlockStack([block, block])
