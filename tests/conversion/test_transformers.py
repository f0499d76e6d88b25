"""Models of transformers, tiny ones made from a configuration: cut, masked, trained, kept, and what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import ff_lightning as ff
from ff_lightning.candidates import Softmax
from ff_lightning.conversion import ConvertedStack, convert
from ff_lightning.conversion.judging import MatchingOfTokens
from ff_lightning.conversion.tokens import PADDING
from ff_lightning.errors import InputError
from ff_lightning.goodness import MeanOfSquares
from ff_lightning.losses import SimilarityMatching, SymBa
from ff_lightning.networks import Lookahead, PrivateHead
from ff_lightning.signals import Signal, StepContext
from tests.networks.every import seeded
from tests.training import ADAM, digits, trainer

transformers = pytest.importorskip("transformers", reason="needs the extra `transformers`")
pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "num_labels": 4}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
WIDE = {"intermediate_size": 64}
IMAGE = {"image_size": 8, "patch_size": 4, "num_channels": 1}


def make(name: str, config: str, **sizes: Any) -> Any:
    torch.manual_seed(0)
    return getattr(transformers, name)(getattr(transformers, config)(**sizes))


def mistral(window: int) -> Any:
    sizes = {**SMALL, **WIDE, **ENDS, "num_key_value_heads": 2, "initializer_range": 0.3}
    return make("MistralModel", "MistralConfig", **sizes, sliding_window=window)


TEXTS = {
    "bert": lambda: make("BertForSequenceClassification", "BertConfig", **SMALL, **WIDE),
    "eager bert": lambda: make("BertModel", "BertConfig", **SMALL, **WIDE, attn_implementation="eager"),
    "roberta": lambda: make("RobertaModel", "RobertaConfig", **SMALL, **WIDE),
    "electra": lambda: make("ElectraModel", "ElectraConfig", **SMALL, **WIDE, embedding_size=16),
    "distilbert": lambda: make("DistilBertModel", "DistilBertConfig", vocab_size=60, dim=32, n_layers=3, n_heads=2),
    "gpt2": lambda: make("GPT2Model", "GPT2Config", vocab_size=60, n_embd=32, n_layer=3, n_head=2, **ENDS),
    "llama": lambda: make("LlamaModel", "LlamaConfig", **SMALL, **WIDE, **ENDS),
    "qwen2": lambda: make("Qwen2Model", "Qwen2Config", **SMALL, **WIDE, num_key_value_heads=2, **ENDS),
    "mistral, a window of 3": lambda: mistral(3),
    "qwen2, a window of 3 above the first layer": lambda: make(
        *("Qwen2Model", "Qwen2Config"),
        **{**SMALL, **WIDE, **ENDS, "num_key_value_heads": 2},
        **{"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
}
PICTURES = {
    "vit": lambda: make("ViTForImageClassification", "ViTConfig", **{**SMALL, "vocab_size": None}, **WIDE, **IMAGE),
    "dinov2": lambda: make("Dinov2Model", "Dinov2Config", **{**SMALL, "vocab_size": None}, **IMAGE),
}


def texts() -> tuple[Tensor, Tensor]:
    """Two texts of seven and four tokens, and their mask."""
    tokens = torch.randint(2, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    return tokens, mask


def plain(model: Any) -> ConvertedStack:
    """Without a norm between blocks it computes what the model does."""
    return convert(model, norm=nn.Identity(), num_classes=4).eval()


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_model_in_blocks_computes_what_it_did(name: str) -> None:
    model = TEXTS[name]().eval()
    tokens, mask = texts()
    with torch.no_grad():
        expected = model.base_model(input_ids=tokens, attention_mask=mask).last_hidden_state
    network = plain(model)
    assert len(network) == 3
    *_, last = network.activities(torch.where(mask.bool(), tokens, PADDING))
    torch.testing.assert_close(last.h[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-5)
    assert torch.equal(last.mask, mask.bool())


@pytest.mark.parametrize("name", PICTURES)
def test_an_image_model_in_blocks_computes_what_it_did(name: str) -> None:
    model, x = PICTURES[name]().eval(), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        expected = model.base_model(pixel_values=x).last_hidden_state
    *_, last = plain(model).activities(x)
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)


def test_a_window_that_is_longer_than_what_is_compared_is_the_models() -> None:
    model = mistral(9).eval()
    tokens = torch.randint(2, 60, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(input_ids=tokens).last_hidden_state
        unlimited = mistral(64).eval()(input_ids=tokens).last_hidden_state
    *_, last = plain(model).activities(tokens)
    torch.testing.assert_close(last.h, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, unlimited, atol=1e-2)
    assert model.config.sliding_window == 9


def biased(model: Any) -> Any:
    """A model whose layers share a bias of attention, which is 0 in a new one."""
    (table,) = (p for name, p in model.named_parameters() if name.endswith("relative_position_bias_table"))
    nn.init.normal_(table)
    return model


SHARED = {**SMALL, **WIDE, **IMAGE, "use_shared_relative_position_bias": True}
SCALED = {**SMALL, **WIDE, **ENDS, "num_key_value_heads": 2, "embedding_multiplier": 12.0}


@pytest.mark.parametrize(
    "build",
    [
        lambda: make("GraniteModel", "GraniteConfig", **SCALED),
        lambda: make("DebertaV2Model", "DebertaV2Config", **SMALL, **WIDE),
        lambda: biased(make("BeitModel", "BeitConfig", **SHARED)),
    ],
    ids=["a factor of the embedding", "a mask of its own", "a bias that layers share"],
)
def test_a_model_that_does_more_than_apply_its_layers_is_refused(build: Any) -> None:
    says = r"^Passed `model=\w+`, which does more than apply its layers[^\n]*off by [^\n]*Pass its parts as a list"
    with pytest.raises(InputError, match=says) as refused:
        plain(build())
    assert "\n" not in str(refused.value)


def test_a_model_says_its_classes_its_sizes_and_how_many_blocks_there_are() -> None:
    network = convert(TEXTS["bert"]())
    assert (network.num_classes, network.out_features, network.vocab_size) == (4, 32, 60)
    assert len(convert(TEXTS["bert"](), blocks=2)) == 2
    with pytest.raises(InputError, match="Say how many classes"):
        convert(TEXTS["gpt2"]())
    with pytest.raises(InputError, match="which has no list of as many layers as its configuration says"):
        convert(make("AlbertModel", "AlbertConfig", **SMALL, **WIDE))


@pytest.mark.parametrize("name", ["bert", "gpt2", "vit"])
def test_gradients_stay_in_their_block(name: str) -> None:
    network = convert((TEXTS | PICTURES)[name](), num_classes=4)
    for block in network:
        nn.init.normal_(block.goodness.goodness.weight)  # from 0 nothing reaches the layers
    x = torch.rand(2, 1, 8, 8) if name == "vit" else torch.where(texts()[1].bool(), texts()[0], PADDING)
    for index, step in enumerate(network.local_losses(Signal(x, torch.tensor([0, 3])))):
        network.zero_grad()
        step.loss.backward()
        assert {key.split(".")[1] for key, p in network.named_parameters() if p.grad is not None} == {str(index)}


def test_a_copy_of_the_next_block_reads_no_padding() -> None:
    """A block answers for the next one on a padded text as on the text by itself."""
    network = convert(TEXTS["bert"](), num_classes=4).eval()
    network.look_ahead(Lookahead())
    for block in network:
        nn.init.normal_(block.goodness.goodness.weight)
    tokens, mask = texts()
    found = []
    for text in (tokens[1:, :4], torch.where(mask.bool(), tokens, PADDING)[1:]):
        step = next(network.local_losses(Signal(text, torch.tensor([3])), StepContext(seeded)))
        step.loss.backward()
        found.append([step.loss.detach(), *(p.grad for p in network[0].parameters() if p.grad is not None)])
        network.zero_grad()
    for alone, padded in zip(*found, strict=True):
        torch.testing.assert_close(alone, padded, rtol=1e-4, atol=1e-6)


def test_tokens_are_matched_by_their_means_and_judged_below_a_head() -> None:
    parts: dict[str, Any] = {"loss": Softmax(), "matching": SimilarityMatching(share=1.0), "head": PrivateHead()}
    network = convert(TEXTS["bert"](), num_classes=4, **parts).eval()
    tokens, mask = texts()
    signal = Signal(torch.where(mask.bool(), tokens, PADDING), torch.tensor([0, 3]))
    for block, h, step in zip(network, network.activities(signal.h), network.local_losses(signal), strict=True):
        means = torch.stack([row[kept].mean(0) for row, kept in zip(h.h, mask.bool(), strict=True)])
        of_means = super(MatchingOfTokens, block.matching).forward(means, signal.labels)
        torch.testing.assert_close(step.loss, of_means)
        assert hasattr(block.goodness.goodness, "head") == (block is not network[2])


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_padding_changes_nothing(name: str) -> None:
    model = ff.FFClassifier(convert(TEXTS[name](), num_classes=4)).eval()
    for block in model.network:
        nn.init.normal_(block.goodness.goodness.weight)
    tokens, mask = texts()
    both = model(torch.where(mask.bool(), tokens, PADDING))
    torch.testing.assert_close(both[1:], model(tokens[1:, :4]), rtol=1e-4, atol=1e-5)


def labelled_texts(count: int = 200) -> list[dict[str, Tensor]]:
    """Texts of 4 to 9 tokens as transformers makes batches of them: which of two words occurs is the class."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (count,), generator=draw)
    tokens = torch.randint(10, 60, (count, 9), generator=draw)
    lengths = torch.randint(4, 10, (count,), generator=draw)
    mask = (torch.arange(9) < lengths.unsqueeze(1)).long()
    tokens[torch.arange(count), lengths // 2] = labels + 2
    return [
        {"input_ids": t, "attention_mask": m, "labels": y} for t, m, y in zip(tokens * mask, mask, labels, strict=True)
    ]


@pytest.mark.parametrize("task", [ff.FFClassifier, ff.BackpropTwin])
def test_bert_learns_from_dicts_with_masks_is_kept_and_comes_back(task: Any, tmp_path: Path) -> None:
    rows = labelled_texts()
    model = task(convert(TEXTS["bert"](), num_classes=2), optimizer=ADAM)
    run = trainer(tmp_path, max_epochs=8)
    run.fit(model, DataLoader(rows[:160], batch_size=20), DataLoader(rows[160:], batch_size=40))
    assert float(run.callback_metrics["val/accuracy"]) > 0.9
    run.save_checkpoint(tmp_path / "bert.ckpt")
    again: Any = ff.load(tmp_path / "bert.ckpt")
    batch = next(iter(DataLoader(rows[:5], batch_size=5)))
    assert torch.equal(again.predict_step(batch, 0).scores, model.eval().predict_step(batch, 0).scores)


def test_a_model_in_a_list_tells_texts_apart_position_by_position() -> None:
    model = TEXTS["gpt2"]()

    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = model.wte, model.wpe

        def forward(self, x: Tensor) -> Tensor:
            h: Tensor = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
            return h

    parts = [nn.Sequential(Embedding(), model.h[0]), *model.h[1:]]
    network = convert(parts, goodness=MeanOfSquares(), loss=SymBa(), example=texts()[0]).eval()
    causal = network[0](texts()[0][:, :3])
    assert torch.allclose(causal, network[0](texts()[0])[:, :3], atol=1e-5), "no position sees what follows"
    assert network.goodness(texts()[0]).shape == (3, 2, 7)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ({"input_ids": torch.full((1, 3), 60), "labels": torch.zeros(1)}, "tokens from 60 to 60. They must lie in 0"),
        ({"input_ids": torch.full((1, 3), 5), "attention_mask": torch.zeros(1, 3)}, "no text may be padding alone"),
        ({"input_ids": torch.ones(1, 3), "labels": torch.zeros(1)}, r"They must be \(B, T\) whole numbers"),
        ({"input_ids": torch.full((1, 3), 5), "token_type_ids": torch.ones(1, 3)}, "Texts of two segments"),
        ({"input_ids": torch.full((1, 3), 5), "attention_mask": torch.ones(1, 2)}, "They must be equal"),
    ],
)
def test_texts_of_another_form_are_refused(batch: dict[str, Tensor], says: str) -> None:
    model = ff.FFClassifier(convert(TEXTS["bert"]()))
    with pytest.raises(InputError, match=says):
        model.predict_step(batch, 0)
    with pytest.raises(InputError, match="Passed texts of 600 tokens to a model of 512 positions"):
        model(torch.ones(1, 600, dtype=torch.long))


RECIPE = """
trainer: {accelerator: cpu, max_steps: 2, enable_progress_bar: false}
model:
  class_path: ff_lightning.FFClassifier
  init_args:
    network:
      class_path: ff_lightning.conversion.ConvertedStack
      init_args:
        model:
          class_path: transformers.ViTForImageClassification
          init_args:
            config:
              class_path: transformers.ViTConfig
              init_args: {hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 32,
                image_size: 8, patch_size: 4, num_channels: 1}
data:
  class_path: ff_lightning.data.ImageDataModule
  init_args: {source: digits}
"""


def test_a_recipe_names_a_model_and_its_checkpoint_is_loaded(tmp_path: Path) -> None:
    from ff_lightning.cli import main

    (tmp_path / "vit.yaml").write_text(RECIPE)
    words = ["--config", str(tmp_path / "vit.yaml"), "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["fit", *words]) == 0
    own: Any = ff.load(tmp_path / "run" / "last.ckpt")
    assert own(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert own.network.input_shape == (1, 8, 8)


def test_a_checkpoint_may_name_models_of_transformers_and_nothing_that_runs_code(tmp_path: Path) -> None:
    model = ff.FFClassifier(convert(PICTURES["vit"]()), optimizer=ADAM)
    described = dict(model.hparams)
    from ff_lightning.engine.restoring import build_module

    same = build_module(described, "ckpt_path=x", ff.FFClassifier)
    assert same.state_dict().keys() == model.state_dict().keys()
    images, _ = digits(2)
    assert same(images.view(2, 1, 8, 8)).shape == (2, 4)
    arguments = described["network"]["init_args"]
    bad: list[tuple[Any, str]] = [
        ({"class_path": "transformers.pipeline", "init_args": {}}, "no constructor of a model"),
        ({"class_path": "transformers.models.auto.AutoModel"}, "no constructor of a model"),
        ({"class_path": "torchvision.io.read_file", "init_args": {"path": "x"}}, "no constructor|cannot be imported"),
        ({"class_path": "os.system", "init_args": {"command": "true"}}, "only classes of ff_lightning, torch.nn"),
    ]
    config = arguments["model"]["init_args"]["config"]
    for name in ("attn_implementation", "auto_map", "quantization_config", "use_pretrained_backbone"):
        spoiled = {**config, "init_args": {**config["init_args"], name: "somebody/code"}}
        bad.append(({**arguments["model"], "init_args": {"config": spoiled}}, f"passes `{name}`"))
    for spoiled_model, says in bad:
        network = {**described["network"], "init_args": {**arguments, "model": spoiled_model}}
        with pytest.raises(InputError, match=says):
            build_module({**described, "network": network}, "ckpt_path=x", ff.FFClassifier)
    norm = {**described["network"], "init_args": {**arguments, "norm": arguments["model"]}}
    with pytest.raises(InputError, match=r"only the `model` of a `ConvertedStack` may be"):
        build_module({**described, "network": norm}, "ckpt_path=x", ff.FFClassifier)
