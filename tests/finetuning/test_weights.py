"""A new training from trained weights, stacks that grow, and folders of transformers."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import ff_lightning as ff
from ff_lightning.errors import InputError
from ff_lightning.finetuning import CausalLM, NextToken, begin_from, save_transformers
from ff_lightning.finetuning.weights import MEANT
from ff_lightning.language import GPT, Independent, LogisticContrast, OwnChannels, Residual, Softmax
from ff_lightning.networks import Lookahead
from tests.command_line import SHARED
from tests.texts import gpt, hinton_gpt, windows
from tests.training import trainer
from tests.transformers_models import SIZES, folder, model, tokens, transformers


def module(network: Any) -> ff.FFLanguageModel:
    return ff.FFLanguageModel(network)


def stack(**options: Any) -> CausalLM:
    return CausalLM.from_transformers(model(), **{"layers_per_block": 2} | options)


def fresh(**options: Any) -> CausalLM:
    """The same sizes, other weights."""
    torch.manual_seed(7)
    return CausalLM(stack().config, **{"layers_per_block": 2} | options)


def deeper() -> Any:
    return transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(**SIZES | {"num_hidden_layers": 6}, tie_word_embeddings=True)
    )


def saved(network: Any, path: Path) -> Path:
    """The checkpoint of a training that has not begun."""
    run = trainer(path.parent, max_steps=0)
    run.fit(module(network), DataLoader(windows(2)))
    run.save_checkpoint(path)
    return path


def with_goals(layers: int = 1, **options: Any) -> CausalLM:
    return fresh(below=NextToken(layers=layers), **options)


@torch.no_grad()
def test_the_number_of_tensors_taken_is_that_of_the_network() -> None:
    for name in ("llama, tied", "llama"):
        untied = CausalLM(model(name).config.to_dict(), layers_per_block=1)
        assert begin_from(module(untied), model(name)).weights == len(list(model(name).parameters()))
    network = CausalLM(model("llama").config.to_dict(), layers_per_block=1)
    begin_from(module(network), model())  # a tied one, into two tables
    assert torch.allclose(network.eval()(tokens()), model()(tokens()).logits, atol=1e-5)


@torch.no_grad()
def test_what_goals_copy_of_the_last_block_is_copied_anew() -> None:
    network, expected = with_goals(layers=2), stack(below=NextToken(layers=2))
    begin_from(module(network), model())
    state = network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in expected.state_dict().items())


@pytest.mark.filterwarnings("ignore::UserWarning")
@torch.no_grad()
def test_what_goals_have_learned_is_taken_of_a_network_that_is_cut_alike(tmp_path: Path) -> None:
    trained = with_goals()
    for parameter in trained.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    source = saved(trained, tmp_path / "trained.ckpt")
    alike = CausalLM(trained.config, layers_per_block=2, below=NextToken(layers=1), lookahead=Lookahead(refresh=2))
    taken = begin_from(module(alike), source)
    state, goals = alike.state_dict(), len(trained[0].goal.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in trained.state_dict().items())
    assert taken.weights == len(model().state_dict()) - 1 + goals
    for other in (with_goals(layers=2), with_goals(layers_per_block=1)):
        assert begin_from(module(other), source).weights == taken.weights - goals
        norm = trained[1].goodness.reader.weight
        assert all(torch.equal(block.goal.head.reader[-1].weight, norm) for block in list(other)[:-1])


@pytest.mark.parametrize("kind", ["gpt", "causal"])
@torch.no_grad()
def test_copies_to_look_ahead_with_are_of_the_weights_taken(kind: str, tmp_path: Path) -> None:
    ahead = Lookahead(refresh=5)
    if kind == "gpt":
        source = saved(gpt(), tmp_path / "trained.ckpt")
        network: Any = GPT(gpt().vocab_size, width=16, layers=4, heads=2, context=16, lookahead=ahead)  # grows, too
    else:
        source, network = model(), fresh(lookahead=ahead)
    begin_from(module(network), source)
    for copied, block in zip(network.lookahead.copies, list(network)[1:], strict=True):
        weights = copied.weights()
        assert all(torch.equal(weights[name], parameter) for name, parameter in block.named_parameters())


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
    for network, source, words in (
        (fresh(), deeper(), r"`model\.layers\.4\.\S+` is not in the network.*and \d+ more"),
        (fresh(), model("llama"), "lm_head.weight` is not `model.embed_tokens.weight`.*tie_word_embeddings"),
        (fresh(), torch.nn.Linear(1, 1), "`Linear`"),
    ):
        before = copy.deepcopy(network.state_dict())
        with pytest.raises(InputError, match=words) as refused:
            begin_from(module(network), source)
        assert "\n" not in str(refused.value)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
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


STACKS: dict[str, Any] = {
    "independent": gpt,
    "inherit": partial(gpt, combination=Independent(inherit=True)),
    "residual": partial(gpt, combination=Residual(), loss=Softmax()),
    "residual, calibrated": partial(gpt, combination=Residual(), loss=LogisticContrast()),
    "own channels": partial(gpt, channels=OwnChannels()),
    "hinton": hinton_gpt,
}


@pytest.mark.parametrize("name", STACKS)
@torch.no_grad()
def test_a_grown_stack_says_the_same_where_new_layers_add_nothing(name: str, tmp_path: Path) -> None:
    trained, grown = STACKS[name](layers=2), STACKS[name](layers=4)
    for parameter in trained.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    taken = begin_from(module(grown), saved(trained, tmp_path / "trained.ckpt"))
    x = torch.arange(16).unsqueeze(0)
    said, expected = grown.eval()(x), trained.eval()(x)
    assert taken.new == (2, 3)
    torch.testing.assert_close(said.log_softmax(-1), expected.log_softmax(-1), rtol=1e-4, atol=1e-4)


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
