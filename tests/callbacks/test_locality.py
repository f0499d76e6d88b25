"""Directions and ranks: against gradients taken by hand, for every kind of network, and without a trace in training."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

import ff_lightning as ff
from ff_lightning.callbacks import LocalityMonitor
from ff_lightning.callbacks.locality import cosines, effective_rank, layer_parameters, locality
from ff_lightning.candidates import Softmax
from ff_lightning.data import ImageDataModule, TextDataModule
from ff_lightning.errors import InputError
from ff_lightning.language import GPT
from ff_lightning.networks import ConvNet, LatencyEncoding, RecurrentMLP, SpikingMLP
from ff_lightning.normalization import frozen_statistics
from ff_lightning.signals import Signal
from tests.texts import CONTEXT, gpt, model, windows
from tests.training import assert_same_weights, classifier, digits, mlp, trainer, weights

X, Y = digits(40)
BATCH = (X.view(-1, 1, 8, 8), Y)


def test_the_effective_rank_counts_directions_by_their_share() -> None:
    values = torch.tensor([3.0, 2.0, 1.0, 0.0])
    shares = [value / 6 for value in (3, 2, 1)]
    expected = math.exp(-math.fsum(share * math.log(share) for share in shares))
    turned, other = (torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q for _ in range(2))
    rows = (turned @ torch.diag(values.double()) @ other).float()
    assert effective_rank(rows) == pytest.approx(expected, rel=1e-3)
    assert effective_rank(torch.cat([rows] * 2)) == pytest.approx(expected, rel=1e-3)
    assert effective_rank(torch.zeros(3, 4)) == 0
    assert effective_rank(torch.eye(8).repeat(100, 1)) == pytest.approx(8, rel=1e-2)


def conv() -> ConvNet:
    torch.manual_seed(0)
    network = ConvNet((1, 8, 8), [4, 6, 8], pool_after=[1], loss=Softmax())
    for block in network:
        nn.init.normal_(block.goodness.weight, std=0.1)
    return network


def test_cosines_are_those_of_gradients_taken_by_hand() -> None:
    module = classifier(network=conv()).train()
    found, network = locality(module, BATCH), module.network
    with frozen_statistics(network):
        x = BATCH[0]
        for block in network:
            x = block(x)
        top = network[2].loss(network[2].goodness(x), Y).loss
        theirs = [torch.autograd.grad(top, layer_parameters(block), retain_graph=True) for block in network]
        ours = [
            torch.autograd.grad(step.loss, layer_parameters(network[step.block]))
            for step in network.local_losses(Signal(*BATCH))
        ]
        expected = cosines(ours, theirs)
        assert [each.cosine for each in found] == pytest.approx(expected, abs=1e-3)
        assert expected[2] == pytest.approx(1.0, abs=1e-4)
        assert abs(expected[0]) < 0.99
        h = network[0](BATCH[0])
        rows = h.movedim(1, -1).flatten(0, 2)
        assert found[0].rank_activities == pytest.approx(effective_rank(rows), rel=1e-3)
        assert all(1 <= each.rank_gradients <= 8 for each in found)
        assert found[2].rank_backprop == pytest.approx(found[2].rank_gradients, rel=1e-3)
        assert found[0].rank_backprop != found[0].rank_gradients


@pytest.mark.parametrize("kind", ["label in the input", "pairs", "no chain"])
def test_other_networks(kind: str) -> None:
    """Where both streams travel the cosine of the last block is 1, too; without a chain there are ranks alone."""
    networks: dict[str, Any] = {
        "label in the input": lambda: mlp(3, dropout=0.3),
        "pairs": lambda: ConvNet((1, 8, 8), [4, 6], pool_after=[0], loss=Softmax(), overlapping=True),
        "no chain": lambda: RecurrentMLP(64, [16, 12], iterations=4, judged=(2, 3)),
    }
    torch.manual_seed(0)
    network = networks[kind]()
    for block in network if kind == "pairs" else ():
        nn.init.normal_(block.goodness.weight, std=0.1)
    found = locality(classifier(network=network).train(), BATCH)
    told = [each.cosine for each in found]
    if kind == "label in the input":
        assert told[-1] == pytest.approx(1.0, abs=1e-3)
        assert abs(told[0]) < 0.999
    assert (told == [None, None]) == (kind == "no chain")
    if kind != "no chain":
        assert all(each.rank_activities >= 1 for each in found)
        assert all(each.rank_gradients >= 1 for each in found)


def test_a_language_model_is_compared_with_its_twin(tmp_path: Path) -> None:
    data = TextDataModule("pydoc", context=CONTEXT, batch_size=4, batches_per_epoch=2)
    network, watch = GPT(data.vocab_size, width=16, layers=3, heads=2, context=CONTEXT), LocalityMonitor(every=2)
    trainer(tmp_path, callbacks=[watch], limit_val_batches=0).fit(model(network=network), data)
    (found,) = watch.found.values()
    assert all(-1 <= each.cosine <= 1 for each in found)
    assert all(each.rank_activities >= 1 for each in found)
    assert all(each.rank_backprop >= 1 for each in found)


def test_the_rank_of_backprop_in_a_language_model_is_that_of_its_gradient_at_the_end_of_a_block() -> None:
    network = gpt(layers=4, layers_per_block=2, loss=Softmax())
    module, batch = model(network=network).train(), windows(4)
    found = locality(module, batch)
    (block,) = (twin := network.as_one_block()).token_blocks()
    h, middle = batch[:, :-1], None
    h = block.layer.embedding(h)
    for index, layer in enumerate(block.layer):
        h = layer(h)
        if index == 1:
            (middle := h).retain_grad()
    nn.functional.cross_entropy(block.predict(h, twin.prior, None).flatten(0, 1), batch[:, 1:].flatten()).backward()
    assert found[0].rank_backprop == pytest.approx(effective_rank(middle.grad.flatten(0, 1)), rel=1e-2)


def test_a_network_in_which_nothing_can_be_measured_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = classifier(network=SpikingMLP(64, [16, 12], encoding=LatencyEncoding(4)))
    run = trainer(tmp_path, callbacks=[LocalityMonitor(every=1)], max_steps=2, limit_val_batches=0)
    with caplog.at_level("INFO"):
        run.fit(module, ImageDataModule("digits", batch_size=50))
    assert caplog.text.count("finds nothing to measure in a `SpikingMLP`") == 1


def fit(folder: Path, callbacks: list[Any], *, epochs: int = 1, resumed: bool = False) -> Any:
    """Dropout, batch norm, negatives of the block's own, and two batches an update."""
    torch.manual_seed(0)
    network = ConvNet((1, 8, 8), [4, 6], pool_after=[0], dropout=0.2)
    module = classifier(network=network, optimizer=partial(SGD, lr=0.1), accumulate_batches=2)
    torch.manual_seed(1)
    run = trainer(folder, callbacks=callbacks, limit_val_batches=0, max_epochs=epochs)
    run.fit(module, pictures(), ckpt_path=str(folder / "a.ckpt") if resumed else None)
    run.save_checkpoint(folder / "a.ckpt")
    return weights(module)


def pictures() -> Any:
    x, y = digits(80)
    dataset = torch.utils.data.TensorDataset(x.view(-1, 1, 8, 8), y)
    return torch.utils.data.DataLoader(dataset, batch_size=20)


def test_a_look_leaves_no_trace_and_is_logged(tmp_path: Path) -> None:
    watch = LocalityMonitor(every=1)
    assert_same_weights(fit(tmp_path, []), fit(tmp_path, [watch]))
    assert list(watch.found) == [1, 2]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before:UserWarning")
def test_what_was_found_before_a_stop_is_kept(tmp_path: Path) -> None:
    before, after = LocalityMonitor(every=1), LocalityMonitor(every=1)
    fit(tmp_path, [before])
    fit(tmp_path, [after], epochs=2, resumed=True)
    assert list(after.found) == [1, 2, 3, 4]
    assert {step: after.found[step] for step in (1, 2)} == before.found
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    fit(tmp_path, [after])
    assert list(after.found) == [1, 2], "another training"


def test_what_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Passed `LocalityMonitor\(every=0\)`"):
        LocalityMonitor(0)
    module = ff.FFClassifier(conv(), compile_blocks=True)
    with pytest.raises(InputError, match="with `compile_blocks=True`"):
        trainer(tmp_path, callbacks=[LocalityMonitor()], max_steps=1).fit(module, pictures())
