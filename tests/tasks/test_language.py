"""FFLanguageModel and its twin: training under Lightning, evaluation, generation, clear errors."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassCalibrationError

from ff_lightning.candidates import LogisticContrast, Softmax
from ff_lightning.data.text import TextDataModule
from ff_lightning.data.tokenizers import ByteTokenizer
from ff_lightning.errors import InputError
from ff_lightning.language.combination import Independent, Residual
from ff_lightning.language.generation import Sampler
from ff_lightning.language.gpt import GPT
from ff_lightning.optim import CosineDecay
from ff_lightning.tasks.language import FFLanguageModel
from ff_lightning.tasks.twin import BackpropTwin
from tests.texts import CONTEXT, MUON, Batches, awake, gpt, model, text, windows
from tests.training import assert_same_weights, trainer, weights

ARMS: dict[str, dict[str, Any]] = {
    "own": {},
    "inherit": {"combination": Independent(inherit=True)},
    "residual": {"combination": Residual(), "loss": LogisticContrast(4, from_below=True)},
    "softmax": {"loss": Softmax()},
}
EVERY_ARM = pytest.mark.parametrize("arm", ARMS)
SPREAD = 4000  # where validation windows start


def loss_of(module: FFLanguageModel | BackpropTwin, tmp_path: Path) -> dict[str, float]:
    (values,) = trainer(tmp_path).validate(module, Batches(64, 32, SPREAD), verbose=False)
    return dict(values)


@EVERY_ARM
def test_streamed_and_fused_train_the_same_weights(arm: str, tmp_path: Path) -> None:
    ended = []
    for update in ("streamed", "fused"):
        module = model(network=gpt(**ARMS[arm]), update=update, clip_norm=1.0)
        trainer(tmp_path).fit(module, Batches(40, 8))
        ended.append(weights(module))
    assert_same_weights(*ended)


@EVERY_ARM
def test_the_loss_of_a_real_text_falls_in_every_block(arm: str, tmp_path: Path) -> None:
    module = model(network=gpt(width=32, **ARMS[arm]))
    before = loss_of(module, tmp_path)
    trainer(tmp_path, max_epochs=2).fit(module, Batches(1200, 32))
    after = loss_of(module, tmp_path)
    assert before["val/loss"] == pytest.approx(math.log(text()[1]), rel=1e-4)
    assert all(after[f"val/loss/block_{index}"] < before[f"val/loss/block_{index}"] - 1 for index in range(3))


def test_the_twin_learns_through_all_layers(tmp_path: Path) -> None:
    twin = BackpropTwin(gpt(), optimizer=MUON)
    before = weights(twin)
    trainer(tmp_path, max_epochs=2).fit(twin, Batches(640, 32))
    assert loss_of(twin, tmp_path)["val/loss"] < 3.2
    assert all(not torch.equal(before[name], p) for name, p in twin.named_parameters())
    assert len(twin.local_modules()) == 1


def test_what_is_logged(tmp_path: Path) -> None:
    module = model(network=awake(gpt()))
    values = loss_of(module, tmp_path)
    tokens = windows(64, SPREAD)
    logits = module.network(tokens[:, :-1])
    assert values["val/loss"] == pytest.approx(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item())
    assert values["val/bits"] == pytest.approx(values["val/loss"] / math.log(2))
    accuracy = (logits.argmax(-1) == tokens[:, 1:]).double().mean().item()
    assert values["val/accuracy"] == values["val/accuracy/block_2"] == pytest.approx(accuracy)
    assert values["val/loss"] == values["val/loss/block_2"] != values["val/loss/block_0"]
    calibration = MulticlassCalibrationError(text()[1])(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert values["val/calibration_error"] == values["val/calibration_error/block_2"] == pytest.approx(calibration)
    assert not [name for name in values if name.startswith("val/bits_per")]


@pytest.mark.parametrize("tokenizer", [None, ByteTokenizer()])
def test_bits_are_also_those_of_characters_and_bytes(tokenizer: ByteTokenizer | None, tmp_path: Path) -> None:
    """From a datamodule that knows what a token stands for, in both splits; here with characters of several bytes."""
    for name, count in (("train", 40), ("test", 25)):
        (tmp_path / f"{name}.txt").write_text(count * "Où est-ce que l'on mange ici ? Là-bas. ")
    data = TextDataModule(str(tmp_path), tokenizer=tokenizer, context=CONTEXT)
    network = GPT(data.vocab_size, width=16, layers=1, heads=2, context=CONTEXT)
    for stage, split in (("val", "validation"), ("test", "test")):
        run = trainer(tmp_path)
        (run.validate if stage == "val" else run.test)(model(network=network), datamodule=data, verbose=False)
        values, written = run.callback_metrics, data.tokenizer.decode(data.tokens(split))
        total = values[f"{stage}/bits"].item() * len(data.tokens(split))
        assert values[f"{stage}/bits_per_byte"].item() == pytest.approx(total / len(written.encode()), rel=1e-5)
        if tokenizer is None:
            assert f"{stage}/bits_per_character" not in values
        else:
            assert values[f"{stage}/bits_per_character"].item() == pytest.approx(total / len(written), rel=1e-5)
            assert values[f"{stage}/bits_per_character"] > values[f"{stage}/bits_per_byte"]


@pytest.mark.parametrize("at", [3, 5, 8])
def test_resume_equals_never_stopped(tmp_path: Path, at: int) -> None:
    """5 batches an epoch: a resume in mid-epoch, at the end of an epoch, and in the middle of the second."""

    def one(seed: int) -> tuple[FFLanguageModel, TextDataModule]:
        data = TextDataModule("pydoc", context=CONTEXT, batch_size=8, batches_per_epoch=5)
        torch.manual_seed(0)
        network = GPT(
            data.vocab_size, width=16, layers=3, heads=2, context=CONTEXT, combination=Independent(inherit=True)
        )
        module = model(network=network, lr_scheduler=partial(CosineDecay, warmup=0.2), clip_norm=1.0)
        module.seed = seed
        return module, data

    names: dict[str, Any] = {"filename": "{step}", "every_n_train_steps": at, "save_top_k": -1}
    flags: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": True, "limit_val_batches": 0}
    module, data = one(0)
    trainer(tmp_path, callbacks=[ModelCheckpoint(tmp_path, **names)], **flags).fit(module, data)
    torch.manual_seed(999)
    again, data = one(123)
    rest = trainer(tmp_path, callbacks=[ModelCheckpoint(tmp_path, **names)], **flags)
    rest.fit(again, data, ckpt_path=tmp_path / f"step={at}.ckpt", weights_only=True)
    assert rest.global_step == 10
    assert_same_weights(weights(module), weights(again))


@EVERY_ARM
@pytest.mark.parametrize("length", [3, CONTEXT])
def test_tokens_are_the_same_with_and_without_a_cache(arm: str, length: int) -> None:
    """Also when the text outgrows the context."""
    module = model(network=awake(gpt(**ARMS[arm])))
    prompt = windows(4)[:, :length]
    options: dict[str, Any] = {"seed": 5, "temperature": 0.9, "top_p": 0.95}
    cached = module.generate(prompt, 2 * CONTEXT, **options)
    assert torch.equal(cached, module.generate(prompt, 2 * CONTEXT, use_cache=False, **options))
    assert cached.shape == (4, length + 2 * CONTEXT)
    assert torch.equal(cached[:, :length], prompt)


def test_generation_takes_the_likeliest_token_of_the_scores_of_training() -> None:
    module = model(network=awake(gpt()))
    prompt = windows(2)[:, :4]
    for step, token in enumerate(module.stream(prompt, CONTEXT - 4, top_k=1)):
        assert torch.equal(token, module(prompt)[:, -1].argmax(-1)), step
        prompt = torch.cat([prompt, token.unsqueeze(1)], 1)


def test_generation_is_reproducible_and_streams() -> None:
    module = model(network=awake(gpt()))
    prompt = windows(2)[:, :4]
    first = module.generate(prompt, 10, seed=1)
    assert torch.equal(first, module.generate(prompt, 10, seed=1))
    assert not torch.equal(first, module.generate(prompt, 10, seed=2))
    tokens = module.stream(prompt, 10, seed=1)
    assert torch.equal(next(tokens), first[:, 4])
    assert module.generate(prompt, 0).shape == (2, 4)


def test_a_prompt_may_be_an_array_or_lists() -> None:
    module = model(network=awake(gpt()))
    prompt = windows(2)[:, :4]
    expected = module.generate(prompt, 5)
    for same in (prompt.tolist(), prompt.numpy(), prompt.int(), prompt.to(torch.uint8)):
        assert torch.equal(module.generate(same, 5), expected)


def test_a_text_that_has_ended_repeats_its_end() -> None:
    module = model(network=awake(gpt()))
    prompt = windows(8)[:, :4]
    free = module.generate(prompt, 40, seed=0)[:, 4:]
    stop = int(free[0, 3])
    ended = module.generate(prompt, 40, seed=0, stop=[stop])[:, 4:]
    first = int((free[0] == stop).nonzero()[0])
    assert torch.equal(ended[0, : first + 1], free[0, : first + 1])
    assert bool((ended[0, first:] == stop).all())
    alone = module.generate(prompt[:1], 40, seed=0, stop=range(text()[1]))
    assert alone.shape == (1, 5)


def test_sampler_keeps_what_it_should() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()

    def kept(**options: Any) -> list[int]:
        return Sampler(**options).allowed(logits).isfinite().nonzero().flatten().tolist()

    assert kept() == [0, 1, 2, 3]
    assert kept(top_k=2) == [0, 1]
    assert kept(top_k=100) == [0, 1, 2, 3]
    assert kept(top_p=0.6) == [0, 1]
    assert kept(top_p=0.01) == [0]
    cold = Sampler(0.5).allowed(logits).softmax(-1)
    torch.testing.assert_close(cold, logits.exp() ** 2 / (logits.exp() ** 2).sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"temperature=0\.0.*positive"),
        ({"temperature": -1.0}, r"temperature=-1\.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, r"top_p=0\.0"),
        ({"top_p": Fraction(1, 2)}, "top_p=1/2"),
        ({"top_p": 1.5}, r"top_p=1\.5"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"max_new_tokens": 2.5}, r"max_new_tokens=2\.5.*whole number"),
        ({"max_new_tokens": "3"}, "max_new_tokens='3'"),
        ({"stop": 3}, "stop=3.*list of tokens"),
        ({"stop": "3"}, "stop='3'"),
        ({"stop": [0, 10_000]}, r"stop=\[0, 10000\].*whole numbers from 0 to"),
        ({"stop": [1.5]}, r"stop=\[1\.5\]"),
        ({"prompt": torch.zeros(1, CONTEXT + 1, dtype=torch.long)}, rf"\(1, {CONTEXT + 1}\).*context={CONTEXT}"),
        ({"prompt": torch.zeros(1, 0, dtype=torch.long)}, r"\(1, 0\)"),
        ({"prompt": torch.tensor([[0, 10_000]])}, "from 0 to 10000.*vocab_size="),
        ({"prompt": torch.tensor([[-1]])}, "from -1"),
        ({"prompt": torch.tensor([[0.5]])}, "float32.*whole numbers"),
        ({"prompt": [[0.5]]}, "float32.*whole numbers"),
        ({"prompt": [[1, 2], [3]]}, "Passed a prompt as a list"),
        ({"prompt": "text"}, "Passed a prompt as a str"),
        ({"seed": 2**64}, "seed=18446744073709551616.*whole number"),
    ],
)
def test_generation_refuses_what_makes_no_sense_at_once(options: dict[str, Any], message: str) -> None:
    arguments = {"prompt": windows(1)[:, :3], "max_new_tokens": 3} | options
    with pytest.raises(InputError, match=message):
        model().stream(**arguments)  # before the first token is asked for


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2, CONTEXT + 2, dtype=torch.long), rf"\(2, {CONTEXT + 2}\).*context={CONTEXT}"),
        (torch.zeros(2, 1, dtype=torch.long), r"\(2, 1\)"),
        (torch.full((2, 5), 1000), "from 1000 to 1000"),
    ],
)
def test_bad_batches_are_refused(batch: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        next(model().local_losses(batch))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(2, CONTEXT + 1, dtype=torch.long), rf"\(2, {CONTEXT + 1}\).*context={CONTEXT}"),
        (torch.zeros(2, 0, dtype=torch.long), r"\(2, 0\)"),
        (torch.zeros(5, dtype=torch.long), r"\(5,\)"),
        (torch.full((2, 5), 1000), "from 1000 to 1000"),
        (torch.zeros(2, 5), "float32.*integers"),
        ([[0, 1]], "as a list"),
    ],
)
def test_a_prediction_of_what_cannot_be_read_is_refused(tokens: Any, message: str) -> None:
    for module in (model(), BackpropTwin(gpt())):
        with pytest.raises(InputError, match=message):
            module(tokens)


class Data(pl.LightningDataModule):
    """Real windows with what a text datamodule says of its vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.unigram = torch.bincount(text()[0], minlength=vocab_size).float()

    def train_dataloader(self) -> Batches:
        return Batches(8, 8)


def test_frequencies_come_from_the_data(tmp_path: Path) -> None:
    module = model()
    trainer(tmp_path).fit(module, datamodule=Data(text()[1]))
    shares = (Data(text()[1]).unigram + 1) / (len(text()[0]) + text()[1])
    torch.testing.assert_close(module.network.prior.exp(), shares)


def test_data_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    size = text()[1]
    with pytest.raises(InputError, match=rf"data of {size + 1} different tokens.*vocab_size={size}"):
        trainer(tmp_path).fit(model(), datamodule=Data(size + 1))


def test_a_checkpoint_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.fit(model(), Batches(8, 8))
    run.save_checkpoint(tmp_path / "a.ckpt")
    other = gpt()
    loaded = FFLanguageModel.load_from_checkpoint(tmp_path / "a.ckpt", network=other, weights_only=True)
    assert_same_weights(weights(run.lightning_module), weights(loaded))
    other.vocab_size, other.prior = 7, torch.zeros(7)
    with pytest.raises(InputError, match=rf"vocabulary of {text()[1]} tokens.*vocab_size=7"):
        FFLanguageModel.load_from_checkpoint(tmp_path / "a.ckpt", network=other, weights_only=True)
