"""`ff-lightning export`: a program that gives what the model gives, for any number of images."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ff_lightning as ff
from ff_lightning.cli import main
from ff_lightning.cli.programs import classifier_program, language_program, to_int8, write, write_program
from ff_lightning.conversion import convert
from ff_lightning.errors import InputError
from ff_lightning.language import GPT, OwnChannels
from ff_lightning.losses import SymBa, TwoThresholdLoss
from ff_lightning.networks import MLP, ConvNet, LabelBias, LabelledConvNet, Lookahead, RecurrentMLP, SelfContrastConv
from ff_lightning.readouts import LastBlock, LinearReadout
from ff_lightning.readouts.early_exit import EarlyExit
from tests.command_line import error_of

# Torch speaks to its own developers while it exports.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


def with_weights(model: Any) -> Any:
    """Some readouts start with zeros, which would make any two programs equal."""
    for weight in model.parameters():
        if weight.dim() > 1 and not weight.any():
            nn.init.normal_(weight, std=0.1)
    return model


def self_contrastive() -> ff.FFSelfContrast:
    network = SelfContrastConv((1, 8, 8), [8, 16], losses=[TwoThresholdLoss(0, 1), TwoThresholdLoss(1, 2)])
    return ff.FFSelfContrast(network, LinearReadout(48, 10, first_block=0, pool=2))


def told_in_every_block() -> ff.FFClassifier:
    network = LabelledConvNet((1, 8, 8), [8, 16], pool_after=[0], labels=LabelBias(), loss=SymBa(40.0))
    return ff.FFClassifier(network)


MODELS: dict[str, Callable[[], Any]] = {
    "goodness": lambda: ff.FFClassifier(MLP(64, [20, 20])),
    "linear": lambda: ff.FFClassifier(MLP(64, [20, 20]), readout=LinearReadout(20, 10)),
    "goodness of classes": lambda: ff.FFClassifier(ConvNet((1, 8, 8), [8, 16], pool_after=[0]), readout=LastBlock()),
    "label in every block": told_in_every_block,
    "recurrent": lambda: ff.FFClassifier(RecurrentMLP(64, [20, 20])),
    "self-contrast": self_contrastive,
    "twin": lambda: ff.BackpropTwin(MLP(64, [20, 20])),
}
ALL = pytest.mark.parametrize("name", MODELS)
SHORT = pytest.mark.parametrize("name", [name for name in MODELS if name != "recurrent"])  # written in seconds


def model(name: str) -> Any:
    torch.manual_seed(0)
    return with_weights(MODELS[name]()).eval()


@ALL
def test_a_torch_program_gives_the_same_scores(name: str, tmp_path: Path) -> None:
    own, path = model(name), tmp_path / "model.pt2"
    write_program(own, (1, 8, 8), path)
    program = torch.export.load(path).module()
    for batch in (1, 2, 7):
        x = torch.rand(batch, 1, 8, 8)
        torch.testing.assert_close(program(x), own(x).detach(), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def onnx_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The ONNX program of a model by name, which is written once."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'ff-lightning[dev]'")
    folder = tmp_path_factory.mktemp("onnx")

    def written(name: str) -> Path:
        path = folder / f"{name}.onnx"
        if not path.exists():
            write_program(model(name), (1, 8, 8), path)
        return path

    return written


@SHORT
def test_an_onnx_program_gives_the_same_scores(name: str, onnx_of: Callable[[str], Path]) -> None:
    import onnxruntime

    own = model(name)
    session = onnxruntime.InferenceSession(onnx_of(name), providers=["CPUExecutionProvider"])
    for batch in (1, 7):
        x = torch.rand(batch, 1, 8, 8)
        (scores,) = session.run(["scores"], {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(scores), own(x).detach(), rtol=1e-4, atol=1e-5)


def answers(path: Path, **inputs: Any) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return session, torch.from_numpy(found)


def test_a_language_model_is_exported_with_its_tokenizer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = GPT(
        vocab_size=30, width=16, layers=2, heads=2, context=12, channels=OwnChannels(8), lookahead=Lookahead()
    )
    own = with_weights(ff.FFLanguageModel(network)).eval()
    program = language_program(own, {"kind": "characters"})
    for ending in ("pt2", "onnx"):
        write(program, tmp_path / f"gpt.{ending}")
    whole = torch.export.load(tmp_path / "gpt.pt2").module()
    for batch, length in ((1, 5), (3, 12)):
        tokens = torch.randint(0, 30, (batch, length))
        torch.testing.assert_close(whole(tokens), own(tokens).detach(), rtol=1e-4, atol=1e-5)
        session, logits = answers(tmp_path / "gpt.onnx", tokens=tokens)
        torch.testing.assert_close(logits, own(tokens).detach(), rtol=1e-4, atol=1e-4)
    assert [axis.shape for axis in session.get_inputs()] == [["batch", "time"]]
    kept = session.get_modelmeta().custom_metadata_map
    assert (json.loads(kept["tokenizer"]), json.loads(kept["context"])) == ({"kind": "characters"}, 12)


def test_a_model_of_transformers_is_exported_in_its_blocks(tmp_path: Path) -> None:
    models = pytest.importorskip("tests.transformers_models", reason="needs the extra `transformers`")
    from ff_lightning.finetuning import CausalLM, NextToken

    network = CausalLM.from_transformers(models.model(), layers_per_block=2, below=NextToken(), recompute=True)
    own = ff.FFLanguageModel(network).eval()
    path, tokens = tmp_path / "llama.onnx", models.tokens(3, 11)
    write(language_program(own), path)
    _, logits = answers(path, tokens=tokens)
    torch.testing.assert_close(logits, own(tokens).detach(), rtol=1e-4, atol=1e-4)
    to_int8(path)
    _, rounded = answers(path, tokens=tokens)
    assert torch.corrcoef(torch.stack([rounded.flatten(), logits.flatten()]))[0, 1] > 0.97


def test_a_classifier_of_texts_is_exported_with_its_mask(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra `transformers`")
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 3}
    torch.manual_seed(0)
    bert = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, intermediate_size=32))
    own = with_weights(ff.FFClassifier(convert(bert))).eval()
    write(classifier_program(own, (), ["a", "b", "c"]), tmp_path / "bert.onnx")
    tokens, mask = torch.randint(0, 60, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[1, 4:] = 0
    session, scores = answers(tmp_path / "bert.onnx", input_ids=tokens, attention_mask=mask)
    expected = own(torch.where(mask.bool(), tokens, -1)).detach()
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == ["a", "b", "c"]


def test_a_program_of_8_bits_is_smaller_and_as_often_right(
    digits_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    checkpoint, out = str(digits_run / "last.ckpt"), tmp_path / "digits.onnx"
    with caplog.at_level("INFO"):
        words = ["--output", str(out), "--int8", "true", "--check", "true"]
        assert main(["export", "--ckpt_path", checkpoint, *words]) == 0
    before, now = re.findall(r"([\d,]+) bytes before, ([\d,]+) now", caplog.text)[0]
    assert int(now.replace(",", "")) < int(before.replace(",", ""))
    program, own = map(float, re.findall(r"program gets ([\d.]+) % right, the model ([\d.]+) %", caplog.text)[0])
    assert own > 80
    assert abs(program - own) < 3
    session, _ = answers(out, images=torch.rand(5, 1, 8, 8))
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == [str(digit) for digit in range(10)]
    assert session.get_inputs()[0].shape[0] == "batch"


def test_a_convolution_of_8_bits_runs(onnx_of: Callable[[str], Path], tmp_path: Path) -> None:
    own = model("goodness of classes")
    path = shutil.copy(onnx_of("goodness of classes"), tmp_path / "conv.onnx")
    to_int8(path)
    x = torch.rand(20, 1, 8, 8)
    _, scores = answers(path, images=x)
    assert torch.corrcoef(torch.stack([scores.flatten(), own(x).detach().flatten()]))[0, 1] > 0.98


def test_the_command_line_exports_a_checkpoint(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = str(digits_run / "last.ckpt"), tmp_path / "programs" / "digits.pt2"
    assert main(["export", "--ckpt_path", checkpoint, "--output", str(out)]) == 0
    own = ff.FFClassifier.load_from_checkpoint(checkpoint).eval()
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(torch.export.load(out).module()(x), own(x), rtol=1e-5, atol=1e-6)
    assert "It must end in .pt2 or .onnx." in error_of(capsys, "export", "--ckpt_path", checkpoint, "--output", "m.pt")
    assert "There is no such file" in error_of(capsys, "export", "--ckpt_path", "no.ckpt", "--output", "m.pt2")
    assert "output" in error_of(capsys, "export", "--ckpt_path", checkpoint)
    assert "which is read here" in error_of(capsys, "export", "--ckpt_path", str(out), "--output", str(out))
    words = ["--ckpt_path", checkpoint, "--output", "m.pt2", "--int8", "true"]
    assert "It must end in .onnx for them." in error_of(capsys, "export", *words)


@pytest.mark.parametrize("kind", ["of recordings", "of text"])
def test_where_there_is_nothing_to_check_on_nothing_is_written(
    kind: str, digits_run: Path, text_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    checkpoint, out = text_run / "last.ckpt", tmp_path / "mine.onnx"
    if kind == "of recordings":
        content = torch.load(digits_run / "last.ckpt", weights_only=True)
        data = {"_class_path": "ff_lightning.data.AudioDataModule", "source": "words", "audio_column": None}
        torch.save(content | {"datamodule_hyper_parameters": data}, checkpoint := tmp_path / "a.ckpt")
    out.write_bytes(b"an earlier one")
    words = ["export", "--ckpt_path", str(checkpoint), "--output", str(out), "--check", "true"]
    assert "which is no ImageDataModule. Leave `check` out." in error_of(capsys, *words)
    assert out.read_bytes() == b"an earlier one"


def test_an_early_exit_is_no_program_of_fixed_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`readout=EarlyExit`.*`GoodnessReadout`"):
        write_program(ff.FFClassifier(MLP(64, [20, 20]), readout=EarlyExit([0.1])), (1, 8, 8), tmp_path / "m.pt2")


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ff_lightning.cli.programs.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(InputError, match=r"ONNX needs onnxscript: pip install 'ff-lightning\[export\]'"):
        write_program(model("twin"), (1, 8, 8), tmp_path / "m.onnx")
