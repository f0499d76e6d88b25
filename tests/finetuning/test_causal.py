"""Models of transformers cut into blocks: what they say, what they learn from, and how they come back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

import ff_lightning as ff
from ff_lightning.candidates import LinearContrast, LogisticContrast, Softmax, WrongCandidate
from ff_lightning.data.windows import RandomWindows
from ff_lightning.errors import InputError
from ff_lightning.finetuning import CausalLM, NextToken, Reconstruction, fit_goals
from ff_lightning.finetuning.heads import Translation
from ff_lightning.language.frozen import frozen_nats
from ff_lightning.networks import Lookahead
from ff_lightning.schedules import Rates
from ff_lightning.signals import StepContext
from tests.transformers_models import CONFIGS, CONTEXT, LAYERS, SIZES, VOCABULARY, model, tokens, transformers

EVERY_MODEL = pytest.mark.parametrize("name", CONFIGS)
GOALS = {"next token": NextToken, "next token, a layer": partial(NextToken, layers=1), "input": Reconstruction}
EVERY_GOAL = pytest.mark.parametrize("goal", GOALS)
ADAMW = partial(torch.optim.AdamW, lr=1e-2)


def stack(name: str = "llama, tied", **options: Any) -> CausalLM:
    return CausalLM.from_transformers(model(name), **{"layers_per_block": 2} | options)


def step_gradients(network: CausalLM, **signal: Any) -> dict[str, Tensor]:
    """Gradients of one step, every loss backward as it comes."""
    x = tokens(3)
    network.zero_grad()
    for step in network.local_losses(network.signal(x[:, :-1], x[:, 1:])):
        step.loss.backward()  # type: ignore[no-untyped-call]
    return {key: p.grad.clone() for key, p in network.named_parameters() if p.grad is not None}


# In and out ------------------------------------------------------------------------------------------------------


@EVERY_MODEL
@torch.no_grad()
def test_blocks_say_what_the_model_says_and_it_comes_back(name: str, tmp_path: Path) -> None:
    """However it is cut, piece by piece with its cache, and read by transformers from a folder."""
    x, said = tokens(), model(name)(tokens()).logits
    network = stack(name, below=NextToken()).eval()
    assert torch.equal(network(x), said)
    caches = network.new_caches()
    pieces = [network(part, caches) for part in x.split([5, 1, 1, 1, CONTEXT - 8], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), said, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stack(name, layers_per_block=1).eval()(x), said, rtol=1e-5, atol=1e-6)
    network.to_transformers().save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(x).logits, said)
    assert (again.lm_head.weight is again.get_input_embeddings().weight) == ("tied" in name or name == "gpt2")


def test_what_cannot_be_cut_is_said() -> None:
    for config, words in (
        (transformers.GemmaConfig(**SIZES, head_dim=4), "does more between its layers"),
        (
            transformers.GPTNeoXConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2),
            "shape",
        ),
    ):
        with pytest.raises(InputError, match=words):
            CausalLM(transformers.AutoModelForCausalLM.from_config(config), layers_per_block=2)
    for options, words in (
        ({"layers_per_block": 3}, "multiple"),
        ({"layers_per_block": 2, "context": 65}, "64 positions"),
        ({"layers_per_block": 2, "below": NextToken(layers=3)}, "has 2"),
    ):
        with pytest.raises(InputError, match=words):
            CausalLM(model(), **options)
    for described, words in (
        ({"model_type": "vit"}, "model_type='vit'"),
        ({"model_type": "llama", "auto_map": {"AutoConfig": "evil.Config"}}, "not run"),
        (None, "init_from"),
        (5, "config=5.*folder"),
        ({"model_type": ["llama"]}, r"model_type=\['llama'\]"),
        (torch.nn.Linear(1, 1), "`Linear`.*causal language model"),
        (model().base_model, "`LlamaModel`, which predicts no tokens"),
        ("no_such_folder", "cannot be read"),
    ):
        with pytest.raises(InputError, match=words):
            CausalLM(described, layers_per_block=1)


def test_a_loss_by_which_logits_are_no_log_probabilities_is_refused_by_name() -> None:
    """The reason is the loss, whatever the model does between its layers; so of the readout of a lower block."""
    for loss, written in (
        (LogisticContrast(), r"LogisticContrast\(\)"),
        (WrongCandidate(), r"WrongCandidate\(\)"),
        (Softmax(scale=2.0), r"Softmax\(scale=2\.0\)"),
    ):
        for build in (partial(stack, loss=loss), partial(NextToken, loss)):
            with pytest.raises(InputError, match=rf"\(loss={written}\)`.*another measure.*from_below=True") as refused:
                build()
            assert "\n" not in str(refused.value)
    for loss in (LogisticContrast(from_below=True), LinearContrast(2), Softmax(scale=1.0)):
        assert torch.equal(stack(loss=loss).eval()(tokens()), stack().eval()(tokens()))


def test_one_block_has_no_use_for_goals_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.ff_lightning"):
        network = stack(layers_per_block=LAYERS, below=NextToken(), lookahead=Lookahead())
    assert network.lookahead is None
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "`below=NextToken(…)` and `lookahead=Lookahead(…)`."
    ]


def test_a_whole_model_is_pointed_to_what_cuts_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"finetuning\.CausalLM\.from_transformers"):
        ff.FFLanguageModel(model())
    with pytest.raises(InputError, match=r"finetuning\.CausalLM\.from_transformers"):
        ff.convert(model())
    with pytest.raises(InputError, match=r"ff_lightning\.convert\(model\)"):
        ff.FFLanguageModel(model().base_model)
    model().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"holds no training to go on with.*begin_from"):
        trained(stack(), 1, ckpt_path=str(tmp_path))


def test_a_configuration_makes_a_new_model_of_the_same_sizes() -> None:
    network = stack(context=CONTEXT)
    torch.manual_seed(3)
    again = CausalLM(**network.sizes())
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert again.context == CONTEXT
    again.load_transformers(network.transformers_state())
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in again.state_dict().items())


# What learns -----------------------------------------------------------------------------------------------------


def test_the_last_block_alone_learns_and_has_the_gradient_of_backprop() -> None:
    """Lower blocks rest; of the last one, the gradient is that of the whole model with the lower layers at rest."""
    network, whole = stack(), model()
    found = step_gradients(network)
    assert {key.split(".")[1] for key in found} == {"1"}
    x = tokens(3)
    loss = torch.nn.functional.cross_entropy(whole(x[:, :-1]).logits.flatten(0, 1), x[:, 1:].flatten())
    loss.backward()
    for index in (2, 3):
        for key, parameter in whole.model.layers[index].named_parameters():
            torch.testing.assert_close(
                found[f"blocks.1.layer.part.layers.{index - 2}.{key}"], parameter.grad, rtol=1e-4, atol=1e-6
            )
    torch.testing.assert_close(found["blocks.1.goodness.reader.weight"], whole.model.norm.weight.grad)
    assert not [key for key, p in network.named_parameters() if p.requires_grad and "constants" in key]


@EVERY_GOAL
def test_no_gradient_crosses_a_block(goal: str) -> None:
    """A block's gradient is the same whatever the blocks above are, and every one of its parameters has one."""
    network = stack(below=GOALS[goal]())
    found = step_gradients(network)
    with torch.no_grad():
        for parameter in network[1].parameters():
            parameter.mul_(3)
    changed = step_gradients(network)
    lower = {key for key in found if key.startswith("blocks.0.")}
    assert {key for key, p in network.named_parameters() if p.requires_grad} == set(found)
    assert all(torch.equal(found[key], changed[key]) for key in lower)
    assert any(not torch.equal(found[key], changed[key]) for key in set(found) - lower)


def test_a_readout_begins_as_the_lens_of_the_last_block_and_its_layers_as_those_of_the_model() -> None:
    x = tokens()
    lens, mapped, deep = stack().eval(), stack(below=NextToken()).eval(), stack(below=NextToken(layers=2)).eval()
    with torch.no_grad():
        first = [next(iter(network.predictions(x))) for network in (lens, mapped, deep)]
        assert torch.equal(first[0], first[1])
        torch.testing.assert_close(first[2], deep(x), rtol=1e-4, atol=1e-5)  # all upper layers are copied here
        h = torch.randn(2, 3, 8)
        assert torch.equal(Translation(8)(h), h)


def test_looking_ahead_in_two_blocks_is_backprop_through_both() -> None:
    """So it is local from three blocks on; there, the lowest one has nothing to look ahead to, and rests."""
    network, twin = stack(lookahead=Lookahead()), stack(layers_per_block=LAYERS)
    found, expected = step_gradients(network), step_gradients(twin)
    for index in range(LAYERS):
        key = f"layers.{index % 2}.mlp.up_proj.weight"
        wanted = expected[f"blocks.0.layer.part.layers.{index}.mlp.up_proj.weight"]
        torch.testing.assert_close(found[f"blocks.{index // 2}.layer.part.{key}"], wanted, rtol=1e-4, atol=1e-7)
    four = step_gradients(stack(layers_per_block=1, lookahead=Lookahead()))
    assert {key.split(".")[1] for key in four} == {"2", "3"}


def test_a_horizon_that_reaches_the_last_block_lets_all_of_them_learn_as_by_backprop() -> None:
    """Where the last one alone has a loss; a block that rests stops those below from looking through it."""
    expected = step_gradients(stack(layers_per_block=LAYERS))
    network = stack(layers_per_block=1, lookahead=Lookahead(horizon=LAYERS - 1))
    found = step_gradients(network)
    for index in range(LAYERS):
        wanted = expected[f"blocks.0.layer.part.layers.{index}.mlp.up_proj.weight"]
        gradient = found[f"blocks.{index}.layer.part.layers.0.mlp.up_proj.weight"]
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-7)
    resting = StepContext(learning=[index != LAYERS - 2 for index in range(LAYERS)])
    assert [network.learns(index, resting) for index in range(LAYERS)] == [False] * (LAYERS - 1) + [True]


@pytest.mark.parametrize("name", ["llama, tied", "llama", "gpt2"])
def test_the_vocabulary_learns_when_it_is_asked_for_and_tied_stays_tied(name: str) -> None:
    network = stack(name, train_vocabulary=True)
    found = step_gradients(network)
    tied = name != "llama"
    tables = {key for key in found if key.endswith("table.weight")}
    assert tables == {"blocks.1.goodness.table.weight"}  # the lower block rests
    assert step_gradients(stack(name)).keys() == found.keys() - tables
    with torch.no_grad():
        network[1].goodness.table.weight.add_(0.1)
    whole = network.to_transformers()
    assert (whole.lm_head.weight is whole.get_input_embeddings().weight) == tied
    with torch.no_grad():
        assert torch.allclose(whole(tokens()).logits, network.eval()(tokens()), atol=1e-5)
    twin = step_gradients(stack(name, train_vocabulary=True, layers_per_block=LAYERS))
    assert sum(key.endswith("table.weight") for key in twin) == (1 if tied else 2)


def test_own_negatives_have_a_gradient_for_the_tokens_compared() -> None:
    network = stack(loss=LinearContrast(4), below=NextToken(LinearContrast(4)))
    found = step_gradients(network)
    assert {key.split(".")[1] for key in found} == {"0", "1"}


@pytest.mark.parametrize("train_vocabulary", [False, True])
@pytest.mark.parametrize("refresh", [1, 2])
def test_a_block_looks_ahead_through_layers_that_are_recomputed(refresh: int, train_vocabulary: bool) -> None:
    ahead: dict[str, Any] = {"layers_per_block": 1, "lookahead": Lookahead(refresh=refresh, horizon=2)}
    ahead["train_vocabulary"] = train_vocabulary
    network = stack(recompute=True, **ahead)
    kept, recomputed = step_gradients(stack(**ahead)), step_gradients(network)
    assert kept.keys() == recomputed.keys()
    assert all(torch.allclose(kept[key], recomputed[key], rtol=1e-5, atol=1e-7) for key in kept)
    assert all(parameter.requires_grad for parameter in network[1].layer.parameters())  # those of the block itself


def test_recomputing_changes_nothing_but_the_memory() -> None:
    kept, recomputed = step_gradients(stack()), step_gradients(stack(recompute=True))
    assert kept.keys() == recomputed.keys()
    assert all(torch.allclose(kept[key], recomputed[key], rtol=1e-5, atol=1e-7) for key in kept)
    sizes = []
    for recompute in (False, True):
        network, x, saved = stack(recompute=recompute), tokens(3), list[int]()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, to=saved: (to.append(t.numel()), t)[1], lambda t: t):
            list(network.local_losses(network.signal(x[:, :-1], x[:, 1:])))
        sizes.append(sum(saved))
    assert sizes[1] < 0.5 * sizes[0]


def test_goals_are_fitted_to_resting_layers() -> None:
    network = stack(below=NextToken(), layers_per_block=1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    losses = fit_goals(network, [tokens(4)] * 30, lr=3e-2)
    assert len(losses) == 3
    assert all(found[-1] < found[0] - 0.3 for found in losses)
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert all(".goal." in key or ".goodness." in key for key in moved)
    assert not any(key.startswith("blocks.3.") for key in moved)
    with pytest.raises(InputError, match="below"):
        fit_goals(stack(), [tokens()])


def test_goals_are_fitted_to_what_layers_say_when_nothing_drops_out() -> None:
    """Losses of the same batch at a rate of next to nothing are all the same; the mode is found again."""
    network = stack("gpt2", below=NextToken(layers=1))
    network[1].eval()
    (losses,) = fit_goals(network, [tokens()] * 3, lr=1e-12)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    assert (network.training, network[0].training, network[1].training) == (True, True, False)


def test_batches_that_goals_cannot_be_fitted_to_are_refused() -> None:
    network = stack(below=NextToken(), context=CONTEXT)
    for batches, words in (
        (iter([tokens()]), "how many batches"),
        ([tokens().float()], "whole numbers"),
        ([tokens(2, CONTEXT + 2)], f"context={CONTEXT}"),
        ([tokens() + VOCABULARY], "vocab_size"),
    ):
        with pytest.raises(InputError, match=words):
            fit_goals(network, batches)
    with pytest.raises(InputError, match=r"`Linear`.*`CausalLM`"):
        fit_goals(torch.nn.Linear(1, 1), [tokens()])


def test_goals_are_fitted_in_half_precision_as_in_float32() -> None:
    """All steps within one context of autocast, which keeps the weights that it has cast."""
    said = []
    for half in (False, True):
        network = stack(below=NextToken(), context=CONTEXT)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            (losses,) = fit_goals(network, [tokens()] * 12, lr=3e-2)
        said.append(losses[-1] / losses[0])
    assert said[0] < 0.9
    assert said[1] == pytest.approx(said[0], rel=0.05)


# As any language model -------------------------------------------------------------------------------------------


def batches() -> RandomWindows:
    text = torch.randint(VOCABULARY, (200,), generator=torch.Generator().manual_seed(5)).numpy()
    return RandomWindows(text, context=CONTEXT // 2, batch_size=2, batches_per_epoch=4)


def trained(network: CausalLM, steps: int, **arguments: Any) -> tuple[ff.FFLanguageModel, pl.Trainer]:
    module = ff.FFLanguageModel(network, optimizer=ADAMW, schedule=Rates([0.3, 1]))
    module.seed = 0
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_steps=steps, enable_checkpointing=False, accelerator="cpu", **silent)
    trainer.fit(module, batches(), **arguments)
    return module, trainer


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_resumed_training_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    """With dropout, own negatives, activation checkpointing, and a lower block at a rate of its own."""

    def network() -> CausalLM:
        below = NextToken(LinearContrast(4), layers=1)
        return stack("gpt2", loss=LinearContrast(4), below=below, recompute=True, context=CONTEXT // 2)

    whole, _ = trained(network(), 6)
    _, trainer = trained(network(), 3)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    resumed, _ = trained(network(), 6, ckpt_path=str(tmp_path / "three.ckpt"), weights_only=True)
    state = resumed.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in whole.state_dict().items())
    moved = {key for key, value in network().state_dict().items() if not torch.equal(value, state[f"network.{key}"])}
    assert "blocks.0.layer.part.h.0.mlp.c_fc.weight" in moved
    assert not moved & {"constants.0.weight", "blocks.0.layer.part.wpe.weight", "prior"}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_is_generated_from_judged_and_has_a_twin() -> None:
    network = stack(below=NextToken(), context=16)
    module = ff.FFLanguageModel(network, optimizer=ADAMW)
    prompt = tokens(1, 5)
    cached, afresh = (module.generate(prompt, 20, seed=0, use_cache=cache) for cache in (True, False))
    assert torch.equal(cached, afresh)
    greedy = model().generate(prompt, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(module.eval().generate(prompt, 8, top_k=1), greedy)
    twin = ff.BackpropTwin(network, optimizer=ADAMW)
    with torch.no_grad():
        assert torch.equal(twin.eval()(prompt), module(prompt))
    text = tokens(1, 200)[0]
    assert frozen_nats(stack(context=16), text, text, steps=2, batch_size=2) > 3


@pytest.mark.parametrize("recompute", [False, True])
def test_nothing_drops_out_of_what_is_generated_in_training_mode(recompute: bool) -> None:
    module = ff.FFLanguageModel(stack("gpt2", recompute=recompute))
    module.network[0].eval()
    prompt = tokens(1, 5)
    first, again = (module.generate(prompt, 12, seed=1) for _ in range(2))
    assert torch.equal(first, again)
    assert (module.network.training, module.network[0].training, module.network[1].training) == (True, False, True)
    next(module.stream(prompt, 12))
    assert module.network[1].training  # also between two tokens
    assert torch.equal(module.eval().generate(prompt, 12, seed=1), first)
