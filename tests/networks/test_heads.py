"""predsim against its reference, and heads: who learns what, what is handed up, and what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from ff_lightning.candidates import EachLabel, LinearContrast, Softmax
from ff_lightning.conversion import ConvertedStack, convert
from ff_lightning.data import ImageDataModule
from ff_lightning.errors import InputError
from ff_lightning.goodness import ChannelGroups, LocalPrediction, MeanOfSquares
from ff_lightning.losses import SimilarityMatching, SymBa
from ff_lightning.networks import MLP, AveragedHead, ClassMLP, ConvNet, PrivateHead, ResNet
from ff_lightning.normalization import UnitRMS
from ff_lightning.signals import Signal, StepContext
from ff_lightning.stacks import BlockStack
from tests import references_predsim as reference
from tests.networks.every import CLASSES, MAPS, seeded
from tests.training import assert_same_weights, classifier, trainer, weights

LOCAL: dict[str, Any] = {"goodness": LocalPrediction(features=64), "loss": Softmax()}
PREDSIM = LOCAL | {"slope": 0.01}
SIGNAL = Signal(MAPS.double(), CLASSES)


def conv(**kwargs: Any) -> ConvNet:
    torch.manual_seed(0)
    return ConvNet((1, 8, 8), [4, 4, 16], pool_after=[1], **PREDSIM | kwargs).double()


def mlp(**kwargs: Any) -> MLP:
    torch.manual_seed(0)
    return MLP(64, [12, 12, 12], batch_norm=True, norm=nn.Identity(), **PREDSIM | kwargs).double()


def class_mlp(**kwargs: Any) -> ClassMLP:
    torch.manual_seed(0)
    return ClassMLP(64, [12, 12, 14], norm=nn.Identity(), **LOCAL | kwargs).double()


def resnet(**kwargs: Any) -> ResNet:
    torch.manual_seed(0)
    return ResNet((1, 8, 8), 10, stages=2, layers_per_stage=2, dropout=0.0, **PREDSIM | kwargs).double()


def converted(**kwargs: Any) -> ConvertedStack:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return convert(layers, example=(1, 8, 8), **LOCAL | kwargs).double()


FOLLOWING = [mlp, conv, class_mlp]
"""Chains whose blocks read the one below and nothing else, so that a head may copy the next one."""
MAKERS = pytest.mark.parametrize("make", [*FOLLOWING, resnet, converted])


def awake(network: BlockStack) -> BlockStack:
    """Weights that start at 0 are not 0."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not bool(parameter.any()):
                parameter.normal_()
    return network


@MAKERS
@pytest.mark.parametrize("share", [0.99, 0.5])
def test_a_block_minimises_predsim(make: Any, share: float) -> None:
    network = awake(make(matching=SimilarityMatching(share=share)))
    labels, activities = CLASSES.tolist(), []
    for block in network:
        block.layer.register_forward_hook(lambda _, __, h: activities.append(h.detach().clone()))
    for index, step in enumerate(network.local_losses(SIGNAL)):
        block, h = network[index], activities[-1]
        samples, weight = h.tolist(), block.goodness.weight
        pool = 1 if h.dim() == 2 else h.shape[2] // max(1, min(h.shape[2], int((64 // h.shape[1]) ** 0.5)))
        similar = reference.similarity_matching(samples, labels, 10, block.matching.map.weight.tolist())
        predicted = reference.prediction(samples, labels, weight.tolist(), block.goodness.bias.tolist(), pool)
        assert step.loss.item() == pytest.approx(share * similar + (1 - share) * predicted, rel=1e-6)
        step.loss.backward()
    assert [block.loss.scale for block in network] == [1.0] * len(network)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_labels_of_a_batch_are_as_similar_as_one_hot_vectors_are() -> None:
    """Activities that are one-hot themselves match perfectly, and a constant map has a finite gradient."""
    matching = SimilarityMatching(3, (3,), share=1.0)
    with torch.no_grad():
        matching.map.weight.copy_(torch.eye(3))
    labels = torch.tensor([0, 1, 2, 1])
    assert matching(torch.eye(3)[labels], labels).item() == pytest.approx(0, abs=1e-12)
    of_maps = SimilarityMatching(3, (4, 2, 2))
    h = torch.zeros(4, 4, 2, 2, requires_grad=True)
    of_maps(h, labels).backward()
    assert bool(h.grad.isfinite().all())


@MAKERS
def test_a_private_head_learns_with_its_block_and_is_not_handed_up(make: Any) -> None:
    network = awake(make(head=PrivateHead(2), matching=SimilarityMatching()))
    before = [signal.clone() for signal in network.activities(SIGNAL.h)]
    g = network.goodness(SIGNAL.h)
    last = len(network) - 1
    assert not hasattr(network[last].goodness, "head"), "the last block hands up nothing"
    for step in network.local_losses(SIGNAL):
        step.loss.backward()
        private = list(network[step.block].goodness.parameters())
        assert all(parameter.grad is not None for parameter in network[step.block].parameters())
        assert len(private) == (8 if step.block < last else 2)
        assert all(p.grad is None for block in network for p in block.parameters() if block is not network[step.block])
        network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for block in network:
            for parameter in block.goodness.parameters():
                parameter.add_(0.3)
    assert all(torch.equal(*pair) for pair in zip(before, network.eval().train().activities(SIGNAL.h), strict=True))
    assert not torch.allclose(g, network.goodness(SIGNAL.h))


@pytest.mark.parametrize("make", FOLLOWING)
def test_an_averaged_head_is_the_average_of_the_next_layer_and_no_gradient_comes_down(make: Any) -> None:
    network, momentum = awake(make(head=AveragedHead(0.8))), 0.8
    average = [p.detach().clone() for p in network[0].goodness.average.parameters()]
    for update in range(3):
        for batch in range(2):  # which share an update
            above = [p.detach().clone() for p in layer_of(network[1]).parameters()]
            for step in network.local_losses(SIGNAL, StepContext(seeded, update)):
                step.loss.backward()
                others = [p for block in network for p in block.parameters() if block is not network[step.block]]
                if not batch:
                    assert all(parameter.grad is None for parameter in others)
                    network.zero_grad(set_to_none=True)
        average = [momentum * old + (1 - momentum) * new for old, new in zip(average, above, strict=True)]
        for found, expected in zip(network[0].goodness.average.parameters(), average, strict=True):
            torch.testing.assert_close(found.detach(), expected)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.sub_(0.1 * parameter.grad if parameter.grad is not None else 0)
        network.zero_grad(set_to_none=True)
    h = torch.rand_like(next(iter(network.eval().activities(SIGNAL.h))))
    goodness = network[0].goodness
    torch.testing.assert_close(goodness(h), goodness.of(goodness.average(h) + goodness.free(h)))
    assert not isinstance(network[2].goodness, type(goodness))


def layer_of(block: nn.Module) -> nn.Module:
    return block.layer[-1] if isinstance(block.layer, nn.Sequential) else block.layer


def test_a_head_in_a_block_of_layers_copies_the_first_of_the_next_block() -> None:
    network = ConvNet((1, 8, 8), [4, 6, 8, 8], pool_after=[2], layers_per_block=2, head=AveragedHead(bias=False))
    head = network[0].goodness
    assert head.average.conv.weight.shape == network[1].layer[0].conv.weight.shape == (8, 6, 3, 3)
    assert head.of.weight.shape == (10, 8 * 16)
    assert network.goodness(MAPS).shape == (2, 12, 10)


def test_streamed_is_fused_and_a_resumed_training_one_without_a_stop(tmp_path: Path) -> None:
    """With two batches an update, and a stop between them."""

    def fit(path: Path | None = None, **kwargs: Any) -> dict[str, Tensor]:
        torch.manual_seed(0 if path is None else 99)
        network = ConvNet(
            (1, 8, 8),
            [4, 6, 8],
            pool_after=[1],
            head=AveragedHead(0.5),
            matching=SimilarityMatching(),
            norm=nn.Dropout(0.1),
            **PREDSIM,
        )
        module = classifier(network=network, accumulate_batches=2, **kwargs)
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
        flags = {"max_steps": 4, "enable_checkpointing": True, "limit_val_batches": 0}
        weights_only = None if path is None else True
        data = ImageDataModule("digits", batch_size=50)
        trainer(tmp_path, callbacks=[saver], **flags).fit(module, data, ckpt_path=path, weights_only=weights_only)
        return weights(module)

    assert_same_weights(fit(update="fused"), whole := fit(), rtol=1e-4, atol=1e-6)
    assert any(name.startswith("network.blocks.0.goodness.average") for name in whole)
    assert_same_weights(whole, fit(tmp_path / "step=2.ckpt"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SimilarityMatching(share=0), "Passed `SimilarityMatching(share=0)`. `share` must be in (0, 1]."),
        (
            lambda: SimilarityMatching(3).sized(10, (4,)),
            "Passed `matching=SimilarityMatching(num_classes=3)` with goodness of 10 classes. They must be equal: "
            "leave it out.",
        ),
        (
            lambda: SimilarityMatching(3, (4,))(torch.ones(2, 5), torch.zeros(2, dtype=torch.int64)),
            "Passed activities of shape (2, 5). The loss was built for `shape=(4,)`.",
        ),
        (
            lambda: SimilarityMatching()(torch.ones(2, 5), torch.zeros(2, dtype=torch.int64)),
            "Called a `SimilarityMatching` without sizes. Pass `num_classes` and `shape`.",
        ),
        (
            lambda: PrivateHead(0),
            "Passed `PrivateHead(layers=0)`. `layers` must be a whole number, at least 1.",
        ),
        (lambda: AveragedHead(1.0), "Passed `AveragedHead(momentum=1.0)`. `momentum` must be in [0, 1)."),
        (
            lambda: MLP(64, [8], matching=SimilarityMatching()),
            "Passed `matching` with a loss of two streams. Only blocks that give every class a goodness take it: pass "
            "`loss=Softmax()` or another `CandidateLoss`.",
        ),
        (
            lambda: MLP(64, [8], batch_norm=True),
            "Passed `batch_norm=True` with a label in the input. Leave it out, or pass a loss over candidates, or "
            "`num_classes=None`.",
        ),
        (
            lambda: MLP(64, [8], num_classes=None, loss=Softmax()),
            "Passed `num_classes=None` with a loss over candidates. Say how many classes there are.",
        ),
        (
            lambda: MLP(64, [8], loss=Softmax(), goodness=MeanOfSquares()),
            "Passed `goodness=MeanOfSquares`, one number a sample. A block here needs one a class, such as "
            "`WeightedEnergy` or `ChannelGroups`; one of your own says how many by an attribute `num_classes`.",
        ),
        (
            lambda: MLP(64, [8], loss=Softmax(), peer_weight=0.1),
            "Passed `peer_weight=0.1` with a loss over candidates. It compares activities of positives with each "
            "other: leave it out, or use a loss of two streams.",
        ),
        (lambda: ConvNet(slope=1.5), "Passed `slope=1.5`. `slope` must be in [0, 1)."),
        (lambda: ResNet(slope=1.5), "Passed `slope=1.5`. `slope` must be in [0, 1)."),
        (
            lambda: ResNet(head=AveragedHead()),
            "Passed `head=AveragedHead` to a `ResNet`. It judges a block by the next block's layer, which reads the "
            "activities joined with a shortcut here: use `PrivateHead()`, or leave `head` out.",
        ),
        (
            lambda: converted(head=AveragedHead()),
            "Passed `head=AveragedHead` to a converted model. It judges a block by the first layer of the next one, "
            "which `ConvNet`, `MLP` and `ClassMLP` know: use `PrivateHead()`, or leave `head` out.",
        ),
        (
            lambda: converted(loss=SymBa(), goodness=MeanOfSquares(), matching=SimilarityMatching()),
            "Passed `matching` with a loss of two streams, `SymBa`. Only blocks that give every class a goodness take "
            "it: pass `loss=Softmax()` or another `CandidateLoss`.",
        ),
        (
            lambda: ClassMLP(64, [8], loss=EachLabel(), matching=SimilarityMatching()),
            "Passed `matching` with `loss=EachLabel`. It compares samples by the one class of each: leave it out, or "
            "use a loss of one true class, such as `Softmax()`.",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message


def test_a_dense_stack_under_a_loss_over_candidates_takes_images_alone() -> None:
    """Negatives of the block's own in tier T1, groups of units as classes, and the norm between blocks as ever."""
    network = MLP(64, [20, 30], loss=LinearContrast(4), goodness=ChannelGroups(10))
    assert network.gives_classes
    assert isinstance(network[0].norm, UnitRMS)
    assert network.goodness(MAPS).shape == (2, 12, 10)
    assert not MLP(64, [20, 30], loss=SymBa()).gives_classes
