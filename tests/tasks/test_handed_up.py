"""Activities handed up after the update: what the next block reads, what it costs, where it cannot work."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from ff_lightning.candidates import Softmax
from ff_lightning.data import ImageDataModule
from ff_lightning.errors import InputError
from ff_lightning.networks import MLP, ConvNet
from ff_lightning.signals import Signal, StepContext
from ff_lightning.stacks import BlockStack
from tests.training import assert_same_weights, classifier, digits, loader, mlp, trainer, weights

RATE = 0.5


def conv(handed_up: Any = "after_update", **kwargs: Any) -> ConvNet:
    torch.manual_seed(0)
    return ConvNet((1, 8, 8), [4, 6, 8], pool_after=[1], loss=Softmax(), handed_up=handed_up, **kwargs)


def layer_after_layer(network: BlockStack, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """The loop of public implementations: train a layer on a batch, then run it again for the next one."""
    for x, y in batches:
        for block in network:
            loss = block.local_step(Signal(x, y))[0].loss
            loss.backward()
            with torch.no_grad():
                for parameter in block.parameters():
                    parameter -= RATE * parameter.grad
                    parameter.grad = None
                for norm in (part for part in block.modules() if isinstance(part, nn.BatchNorm2d)):
                    norm.track_running_stats = False
                x = block.norm(block(x))
                for norm in (part for part in block.modules() if isinstance(part, nn.BatchNorm2d)):
                    norm.track_running_stats = True


def maps(count: int) -> DataLoader[Any]:
    """Digits in their order as pictures, in batches of 20."""
    x, y = digits(count)
    return DataLoader(TensorDataset(x.view(-1, 1, 8, 8), y), batch_size=20)


@pytest.mark.parametrize("handed_up", ["after_update", "before_update"])
def test_a_block_reads_what_the_one_below_has_become(tmp_path: Path, handed_up: Any) -> None:
    reference, batches = conv(), maps(60)
    module = classifier(network=conv(handed_up), optimizer=partial(SGD, lr=RATE))
    layer_after_layer(reference, batches)
    trainer(tmp_path, max_epochs=1).fit(module, batches)
    found, expected = weights(module.network), weights(reference)
    if handed_up == "after_update":
        assert_same_weights(found, expected, rtol=1e-4, atol=1e-6)
    else:
        assert not torch.allclose(found["blocks.1.layer.0.conv.weight"], expected["blocks.1.layer.0.conv.weight"])


class Counted(nn.Module):
    """Counts the passes of the layer that it wraps."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.passes = layer, 0

    def forward(self, x: Any) -> Tensor:
        self.passes += 1
        made: Tensor = self.layer(x)
        return made


@pytest.mark.parametrize(("learning", "passes"), [([True] * 3, [2, 2, 1]), ([True, False, False], [1, 0, 0])])
def test_only_blocks_below_one_that_learns_are_computed_again(learning: list[bool], passes: list[int]) -> None:
    network = conv()
    for block in network:
        block.layer = Counted(block.layer)
    x, y = digits(12)
    list(network.local_losses(Signal(x.view(-1, 1, 8, 8), y), StepContext(learning=learning)))
    assert [block.layer.passes for block in network] == passes


def labelled(handed_up: Any) -> MLP:
    return mlp(3, handed_up=handed_up, dropout=0.2)


@pytest.mark.parametrize("make", [labelled, partial(conv, norm=nn.Dropout(0.2))], ids=["label in the input", "conv"])
def test_a_resumed_training_is_one_without_a_stop(tmp_path: Path, make: Any) -> None:
    def fit(path: Path | None = None) -> dict[str, Tensor]:
        module = classifier(network=make("after_update"), accumulate_batches=2)
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
        flags = {"max_steps": 4, "enable_checkpointing": True, "limit_val_batches": 0}
        weights_only = None if path is None else True
        data = ImageDataModule("digits", batch_size=50)
        trainer(tmp_path, callbacks=[saver], **flags).fit(module, data, ckpt_path=path, weights_only=weights_only)
        return weights(module)

    whole = fit()
    assert_same_weights(whole, fit(tmp_path / "step=2.ckpt"))


def test_with_a_label_in_the_input_nothing_old_is_read(tmp_path: Path) -> None:
    """What the first layer makes of the image alone is computed again with its new weights."""
    module = classifier(network=labelled("after_update"), optimizer=partial(SGD, lr=RATE))
    seen: list[Any] = []
    module.network[0].layer.register_forward_hook(lambda _, args, __: seen.append(args[0].image_part))
    trainer(tmp_path, max_steps=1).fit(module, loader(20, 20))
    trained = [part for part in seen if part is not None]
    assert len(trained) == 1
    assert seen[-1] is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: conv("later"),
            "Passed `handed_up='later'`. `handed_up` must be 'before_update' or 'after_update'.",
        ),
        (
            lambda: classifier(network=conv(), update="fused"),
            "Passed `update='fused'` with a network whose blocks read each other after the update "
            "(`handed_up='after_update'`). One backward pass of all losses comes before every update; use 'streamed', "
            "or `handed_up='before_update'`.",
        ),
    ],
)
def test_what_cannot_work_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message
