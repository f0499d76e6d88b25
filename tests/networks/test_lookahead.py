"""Lookahead: whose parameters a loss reaches, what a copy reads and leaves alone, what a checkpoint holds of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard

from ff_lightning import FFClassifier
from ff_lightning.candidates import LinearContrast, Softmax
from ff_lightning.conversion import ConvertedStack
from ff_lightning.data import ImageDataModule, TextDataModule
from ff_lightning.errors import InputError
from ff_lightning.language import GPT, OwnChannels, Residual
from ff_lightning.losses import MovingThresholdLoss
from ff_lightning.networks import ClassMLP, ConvNet, Lookahead, ResNet, SelfContrastMLP
from ff_lightning.networks.lookahead import DRAWS
from ff_lightning.normalization import RunningMean, settle
from ff_lightning.parts import described
from ff_lightning.signals import Labelled, Signal, StepContext
from ff_lightning.stacks import BlockStack
from tests.networks.every import CLASSES, MAPS, plain, seeded, text, two_thresholds
from tests.texts import CONTEXT, awake, gpt, hinton_gpt, model
from tests.training import assert_same_weights, classifier, conv, mlp, trainer, weights


def own_channels(**kwargs: Any) -> BlockStack:
    """Four blocks that each draw their negatives."""
    return awake(gpt(layers=4, channels=OwnChannels(), loss=LinearContrast(4), **kwargs)).double()


def contrastive() -> BlockStack:
    """A threshold and peer means that move, and labels in the input."""
    return mlp(4, loss=MovingThresholdLoss(), peer_weight=0.1)


def labelled(network: BlockStack) -> Signal:
    """Images with two labels each; what no label changes is computed by whoever reads them."""
    del network
    return Signal(Labelled(MAPS, torch.stack([CLASSES, (CLASSES + 3) % 10])), CLASSES)


CHAINS: dict[str, tuple[Callable[[], BlockStack], Callable[[Any], Any]]] = {
    "gpt, own negatives": (own_channels, text),
    "gpt, residual": (lambda: awake(gpt(combination=Residual(), loss=Softmax())).double(), text),
    "hinton's gpt": (lambda: awake(hinton_gpt()).double(), text),
    "mlp": (contrastive, labelled),
    "conv, batch statistics": (lambda: conv(3, batch_statistics=True), plain),
    "resnet": (lambda: ResNet((1, 8, 8), 10, stages=2, layers_per_stage=2, dropout=0.0), plain),
}
EVERY = pytest.mark.parametrize("name", CHAINS)


def build(name: str, lookahead: Lookahead | None) -> tuple[BlockStack, Any]:
    """A chain, and what it receives."""
    torch.manual_seed(0)
    network = CHAINS[name][0]()
    if lookahead is not None:
        network.look_ahead(lookahead)
    torch.manual_seed(2)
    return network, CHAINS[name][1](network)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("name", "horizon"), [*((name, 1) for name in CHAINS), ("gpt, own negatives", 2), ("mlp", 2), ("mlp", 9)]
)
def test_a_block_learns_as_if_all_losses_reached_it_and_nothing_below(name: str, horizon: int) -> None:
    """On a first batch, which sets running values, and on one after it; the gradient of every other block is none."""
    network, signal = build(name, Lookahead(horizon=horizon))
    context = StepContext(seeded)
    for _ in range(2):
        reference, below = copy.deepcopy(network), signal
        for step in network.local_losses(signal, context):
            index, apart = step.block, copy.deepcopy(reference)
            found, passed = apart[index].local_step(below, context.at(index), cut=False)
            loss = found.loss
            for ahead, block in enumerate(list(apart)[index + 1 : index + 1 + horizon], start=1):
                told, passed = block.local_step(passed, context.at(DRAWS * ahead + index + ahead), cut=False)
                loss = loss + told.loss
            torch.testing.assert_close(step.loss, loss)
            loss.backward()
            step.loss.backward()
            assert_gradients(gradients(network[index]), gradients(apart[index]))
            assert all(not gradients(block) for other, block in enumerate(network) if other != index)
            network.zero_grad(set_to_none=True)
            _, below = reference[index].local_step(below, context.at(index))
        settle(network)


@EVERY
def test_lookahead_changes_all_blocks_but_the_last_and_no_value_that_they_keep(name: str) -> None:
    ends = []
    for lookahead in (None, Lookahead(0.5)):
        network, signal = build(name, lookahead)
        found = []
        for step in network.local_losses(signal, StepContext(seeded)):
            step.loss.backward()
            found.append(gradients(network[step.block]))
            network.zero_grad(set_to_none=True)
        means = [part for part in network.modules() if isinstance(part, RunningMean)]
        assert all(bool((part.count == 1).all()) for part in means), "a batch is noted once"
        settle(network)
        ends.append((found, dict(network.named_buffers())))
    (plainly, kept), (ahead, kept_too) = ends
    assert_same_weights(kept, kept_too, rtol=1e-5, atol=1e-6)  # what is passed on is normalised with its graph
    for index, (own, both) in enumerate(zip(plainly, ahead, strict=True)):
        changed = [key for key in own if not torch.allclose(own[key], both[key], rtol=1e-4, atol=1e-9)]
        assert bool(changed) == (index + 1 < len(plainly)), index


def test_a_copy_has_the_weights_of_its_last_refresh() -> None:
    network, signal = build("gpt, own negatives", Lookahead(refresh=3))
    at_start = {name: p.detach().clone() for name, p in network[2].named_parameters()}
    for update in range(4):
        list(network.local_losses(signal, StepContext(seeded, update)))
        copied = network.lookahead.copies[1].weights()
        is_old = all(torch.equal(copied[name], at_start[name]) for name in at_start)
        assert is_old == (update < 3)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1)
    assert {id(p) for p in network.parameters()} == {id(p) for block in network for p in block.parameters()}


def test_a_block_answers_for_no_block_that_rests() -> None:
    network, signal = build("gpt, own negatives", Lookahead(horizon=2))
    other, _ = build("gpt, own negatives", None)
    context = StepContext(seeded, 0, [True, False, True, True])
    losses, own = ([step.loss.item() for step in stack.local_losses(signal, context)] for stack in (network, other))
    assert losses[0] == own[0]
    assert losses[1] != own[1]


def test_pairs_of_blocks_answer_for_the_block_above_the_pair() -> None:
    """It composes with overlapping pairs: the gradient reaches both blocks of the pair, and no third."""
    torch.manual_seed(0)
    network = ConvNet((1, 8, 8), [4, 4, 4], pool_after=[1], overlapping=True, lookahead=Lookahead(), loss=Softmax())
    step = next(network.local_losses(plain(network)))
    step.loss.backward()
    assert step.blocks == (0, 1)
    assert [bool(gradients(block)) for block in network] == [True, True, False]


@pytest.mark.parametrize(("refresh", "horizon"), [(1, 1), (3, 2)])
def test_streamed_is_fused_and_a_resumed_training_one_without_a_stop(
    tmp_path: Path, refresh: int, horizon: int
) -> None:
    """The stop is two updates after a refresh, so the copies are older than the weights beside them."""

    def fit(path: Path | None = None, **kwargs: Any) -> dict[str, Tensor]:
        data = TextDataModule("pydoc", context=CONTEXT, batch_size=8, batches_per_epoch=4)
        torch.manual_seed(0 if path is None else 999)
        sizes = {"width": 16, "layers": 3, "heads": 2, "context": CONTEXT}
        lookahead = Lookahead(refresh=refresh, horizon=horizon)
        network = GPT(data.vocab_size, channels=OwnChannels(), lookahead=lookahead, **sizes)
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)
        flags = {"max_epochs": 2, "enable_checkpointing": True, "limit_val_batches": 0}
        module = model(network=network, **kwargs)
        weights_only = None if path is None else True
        trainer(tmp_path, callbacks=[saver], **flags).fit(module, data, ckpt_path=path, weights_only=weights_only)
        return weights(module)

    assert_same_weights(fit(update="fused"), whole := fit(), rtol=1e-4, atol=1e-6)
    stopped = torch.load(tmp_path / "step=5.ckpt", weights_only=True)["state_dict"]
    if refresh > 1:
        copied = stopped["network.lookahead.copies.0.goodness/weight"]
        assert not torch.equal(copied, stopped["network.blocks.1.goodness.weight"])
    assert_same_weights(whole, fit(tmp_path / "step=5.ckpt"))


def test_images_are_trained_with_it(tmp_path: Path) -> None:
    module = classifier(network=ConvNet((1, 8, 8), [4, 4], pool_after=[1], lookahead=Lookahead(0.5, refresh=2)))
    before = weights(module)
    trainer(tmp_path, max_steps=3).fit(module, ImageDataModule("digits", batch_size=64))
    after = weights(module)
    trained = [name for name, _ in module.named_parameters()]
    assert all(not torch.equal(before[name], after[name]) for name in trained)


def test_arguments_that_make_no_sense_are_refused() -> None:
    for number in (0, 1.5, True):
        for name in ("refresh", "horizon"):
            with pytest.raises(InputError, match=rf"Lookahead\({name}=.*whole number, at least 1"):
                Lookahead(**{name: number})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"`weight=0"):
        Lookahead(0)
    network = SelfContrastMLP(64, [16, 12], losses=two_thresholds())
    with pytest.raises(InputError, match=r"SelfContrastMLP.*order of its own"):
        network.look_ahead(Lookahead())


class LooksAhead(ConvNet):
    """A chain of somebody else's, whose constructor tells it to look ahead."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__((1, 8, 8), [channels, channels], pool_after=[1])
        self.look_ahead(Lookahead(0.5))


def told(network: Any) -> Any:
    network.look_ahead(Lookahead(0.5, refresh=2))
    return network


@pytest.mark.parametrize(
    "build",
    [
        lambda: ClassMLP(64, [16, 12], num_classes=10),
        lambda: ConvNet((1, 8, 8), [4, 4], pool_after=[1]),
        lambda: ConvertedStack(
            [nn.Flatten(), nn.Linear(64, 9), nn.Linear(9, 9)], num_classes=10, example=torch.rand(1, 1, 8, 8)
        ),
    ],
    ids=["no argument for it", "an argument for it", "a converted model"],
)
def test_a_checkpoint_of_a_chain_that_was_told_later_asks_for_it(tmp_path: Path, build: Any) -> None:
    """What it was built with does not say that it looks ahead: nothing is built of that."""
    assert described(build())["class_path"].startswith("ff_lightning.")
    module = FFClassifier(told(build()))
    run = trainer(tmp_path, max_steps=1)
    run.fit(module, ImageDataModule("digits", batch_size=64))
    run.save_checkpoint(tmp_path / "a.ckpt")
    says = r"^[^\n]* has a `\w+` that was told to look ahead after it was built\.[^\n]*network=…[^\n]*$"
    with pytest.raises(InputError, match=says):
        FFClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    again = FFClassifier.load_from_checkpoint(tmp_path / "a.ckpt", network=told(build()))
    assert again.network.lookahead.weight == 0.5
    assert_same_weights(weights(module), weights(again))


def test_a_chain_that_its_constructor_told_is_described() -> None:
    assert described(LooksAhead(3))["init_args"] == {"channels": 3}
    chain = ConvNet((1, 8, 8), [4, 4], pool_after=[1], lookahead=Lookahead(0.5))
    assert described(chain)["init_args"]["lookahead"]["init_args"] == {"weight": 0.5}


@contextmanager
def alone() -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_sharded_blocks_are_refused() -> None:
    with alone():
        network, signal = build("conv, batch statistics", Lookahead())
        for block in network:
            fully_shard(block)
        with pytest.raises(InputError, match=r"`ModelParallelStrategy`.*strategy='ddp'"):
            next(network.local_losses(signal))
