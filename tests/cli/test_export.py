"""`ff-lightning export`: a program that gives what the model gives, for any number of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ff_lightning as ff
from ff_lightning.cli import main
from ff_lightning.cli.programs import write_program
from ff_lightning.errors import InputError
from ff_lightning.losses import SymBa, TwoThresholdLoss
from ff_lightning.networks import MLP, ConvNet, LabelBias, LabelledConvNet, RecurrentMLP, SelfContrastConv
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


@SHORT
def test_an_onnx_program_gives_the_same_scores(name: str, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'ff-lightning[dev]'")
    import onnxruntime

    own, path = model(name), tmp_path / "model.onnx"
    write_program(own, (1, 8, 8), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 7):
        x = torch.rand(batch, 1, 8, 8)
        (scores,) = session.run(["scores"], {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(scores), own(x).detach(), rtol=1e-4, atol=1e-5)


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


def test_an_early_exit_is_no_program_of_fixed_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`readout=EarlyExit`.*`GoodnessReadout`"):
        write_program(ff.FFClassifier(MLP(64, [20, 20]), readout=EarlyExit([0.1])), (1, 8, 8), tmp_path / "m.pt2")


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ff_lightning.cli.programs.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(InputError, match=r"ONNX needs onnxscript: pip install 'ff-lightning\[export\]'"):
        write_program(model("twin"), (1, 8, 8), tmp_path / "m.onnx")
