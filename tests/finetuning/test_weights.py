"""A new training from trained weights, stacks that grow, and folders of transformers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import ff_lightning as ff
from ff_lightning.errors import InputError
from ff_lightning.finetuning import CausalLM, NextToken, begin_from, save_transformers
from ff_lightning.finetuning.weights import MEANT
from ff_lightning.language import GPT
from tests.command_line import SHARED
from tests.texts import gpt
from tests.transformers_models import SIZES, folder, model, tokens, transformers


def module(network: Any) -> ff.FFLanguageModel:
    return ff.FFLanguageModel(network)


def stack(**options: Any) -> CausalLM:
    return CausalLM.from_transformers(model(), **{"layers_per_block": 2} | options)


def fresh(**options: Any) -> CausalLM:
    """The same sizes, other weights."""
    torch.manual_seed(7)
    return CausalLM(stack().config, **{"layers_per_block": 2} | options)


@torch.no_grad()
def test_a_model_of_transformers_begins_a_training_however_it_is_cut(tmp_path: Path) -> None:
    x, said = tokens(), model()(tokens()).logits
    model().save_pretrained(tmp_path)
    for source in (model(), tmp_path, str(tmp_path)):
        network = fresh(layers_per_block=1, below=NextToken(), context=9)
        assert not torch.allclose(network.eval()(x), said, atol=0.1)
        taken = begin_from(module(network), source)
        assert torch.allclose(network(x), said, atol=1e-5)
        assert taken.weights > 30
        assert MEANT in str(taken)


@pytest.mark.filterwarnings("ignore::UserWarning")
@torch.no_grad()
def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    other = transformers.LlamaConfig(**SIZES | {"hidden_size": 24})
    for network, source, words in (
        (fresh(), transformers.AutoModelForCausalLM.from_config(other), "of another model"),
        (gpt(), model(), "CausalLM"),
        (fresh(), tmp_path / "nothing.ckpt", "no such file"),
    ):
        with pytest.raises(InputError, match=words):
            begin_from(module(network), source)
    spoilt = model()
    spoilt.model.norm.weight.fill_(torch.nan)
    with pytest.raises(InputError, match="diverged"):
        begin_from(module(fresh()), spoilt)


# Own checkpoints -------------------------------------------------------------------------------------------------


def network_like(run: Path, **sizes: Any) -> GPT:
    """The network of the shared run of a language model, with other weights."""
    assert "--model.network.layers" in SHARED["text"]
    vocabulary = len(torch.load(run / "last.ckpt", weights_only=True)["state_dict"]["network.prior"])
    torch.manual_seed(9)
    return GPT(vocabulary, **{"width": 32, "layers": 2, "layers_per_block": 1, "heads": 4, "context": 24} | sizes)


@torch.no_grad()
def test_an_own_checkpoint_begins_a_training_with_another_context(text_run: Path) -> None:
    trained = ff.load(text_run / "last.ckpt")
    network = network_like(text_run, context=40)
    begin_from(module(network), text_run / "last.ckpt")
    x = torch.arange(20).unsqueeze(0)
    assert torch.equal(network.eval()(x), trained.network(x))
    longer = network(torch.arange(40).unsqueeze(0) % 30)
    assert longer.shape[1] == 40


@torch.no_grad()
def test_a_stack_grows(text_run: Path) -> None:
    """A new block says at first what the highest one that was there says."""
    network = network_like(text_run, layers=4)
    taken = begin_from(module(network), text_run / "last.ckpt")
    assert taken.new == (2, 3)
    assert "blocks 2, 3 are new" in str(taken)
    first, second, third, fourth = network.eval().predictions(torch.arange(20).unsqueeze(0))
    assert torch.equal(second, third)
    assert torch.equal(second, fourth)
    assert not torch.equal(first, second)
    with pytest.raises(InputError, match="2 blocks, to a network of 1"):
        begin_from(module(network_like(text_run, layers=1)), text_run / "last.ckpt")
    with pytest.raises(InputError, match=r"has shape .*; and \d+ more\. Build the network"):
        begin_from(module(network_like(text_run, width=16)), text_run / "last.ckpt")


@torch.no_grad()
def test_a_classifier_takes_the_weights_of_its_network_alone(digits_run: Path) -> None:
    trained = ff.load(digits_run / "last.ckpt")
    network = copy.deepcopy(trained.network)
    for parameter in network.parameters():
        parameter.add_(1)
    taken = begin_from(ff.FFClassifier(network), digits_run / "last.ckpt")
    state = trained.network.state_dict()
    assert taken.weights == len(state)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


# Out -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_folder_comes_in_and_goes_out(tmp_path: Path) -> None:
    network = CausalLM.from_transformers(folder(tmp_path / "in"), layers_per_block=2, below=NextToken())
    for parameter in network.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))
    save_transformers(module(network), tmp_path / "out")
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    x = tokens(1, 10)
    assert torch.equal(read(x).logits, network.eval()(x))
    with pytest.raises(InputError, match="GPT"):
        save_transformers(gpt(), tmp_path / "other")
