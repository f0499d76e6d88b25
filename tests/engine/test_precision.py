"""One precision for all ranks of a training and for what follows a stop, whatever each machine would choose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ff_lightning.cli import main
from ff_lightning.processor import SETTING
from tests.engine.precision_cases import ANSWERS

RECIPE = [word for name in ("digits_conv", "with/bf16", "with/smoke") for word in ("--config", f"recipes/{name}.yaml")]
pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Checkpoint directory"),
    pytest.mark.usefixtures("blank_pictures"),
]
CPU = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of trainings on a machine where bfloat16 is worth it, and on one where it is not."""
    found = {}
    for answer in ("yes", "no"):
        folder = tmp_path_factory.mktemp(answer)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(SETTING, answer)
            assert main(["fit", *RECIPE, *CPU, "--trainer.default_root_dir", str(folder)]) == 0
        found[answer] = folder / "last.ckpt"
    return found


def precision_in(folder: Path) -> str:
    return str(yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["precision"])


def muon_in(checkpoint: Path) -> set[bool]:
    states: list[dict[str, Any]] = torch.load(checkpoint, weights_only=True)["optimizer_states"]
    return {group["bfloat16"] for state in states for group in state["param_groups"] if group["muon"]}


@pytest.mark.parametrize(("answer", "precision"), [("yes", "bf16-mixed"), ("no", "32-true")])
def test_precision_and_muon_follow_the_answer(stopped: dict[str, Path], answer: str, precision: str) -> None:
    checkpoint = stopped[answer]
    assert precision_in(checkpoint.parent) == precision
    assert torch.load(checkpoint, weights_only=True)["ff_lightning"]["precision"] == precision
    assert muon_in(checkpoint) == {answer == "yes"}


@pytest.mark.parametrize(
    ("answer", "words", "precision", "said"),
    [
        ("yes", [], "bf16-mixed", "Computing in bf16-mixed: FF_LIGHTNING_BFLOAT16 says yes."),
        ("no", [], "32-true", "Computing in 32-true, not in bf16-mixed (unless the command asks for it): FF_"),
        ("no", ["bf16-mixed"], "bf16-mixed", "Computing in bf16-mixed, as the command asks, many times slower than"),
        ("no", ["bf16-true"], "bf16-true", ""),
    ],
)
def test_the_command_line_says_what_it_chose_and_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: str,
    words: list[str],
    precision: str,
    said: str,
) -> None:
    monkeypatch.setenv(SETTING, answer)
    asked = [word for value in words for word in ("--trainer.precision", value)]
    caplog.clear()
    few = ["--trainer.max_steps", "1", "--trainer.enable_checkpointing", "false"]
    assert main(["fit", *RECIPE, *CPU, *few, *asked, "--trainer.default_root_dir", str(tmp_path)]) == 0
    assert precision_in(tmp_path) == precision
    lines = [line for line in caplog.messages if line.startswith("Computing in")]
    assert len(lines) == bool(said)
    assert all(line.startswith(said) for line in lines)


@pytest.mark.parametrize(("began", "goes_on"), [("yes", "no"), ("no", "yes")])
def test_what_follows_a_stop_computes_as_before(
    stopped: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    began: str,
    goes_on: str,
) -> None:
    monkeypatch.setenv(SETTING, goes_on)
    caplog.clear()
    more = ["--trainer.max_epochs", "2", "--ckpt_path", str(stopped[began])]
    assert main(["fit", *RECIPE, *CPU, *more, "--trainer.default_root_dir", str(tmp_path)]) == 0
    before, now = ("bf16-mixed", "32-true") if began == "yes" else ("32-true", "bf16-mixed")
    assert precision_in(tmp_path) == before
    assert muon_in(tmp_path / "last.ckpt") == {began == "yes"}
    said = "\n".join(caplog.messages)
    reason = f"FF_LIGHTNING_BFLOAT16 says {goes_on}."
    assert f"Computing in {before}, as before the stop; this machine would choose {now}: {reason}" in said
    kinds = ("bfloat16", "float32") if began == "yes" else ("float32", "bfloat16")
    assert "Muon goes on in {}, as before the stop; this machine would choose {}: ".format(*kinds) + reason in said


def test_a_precision_that_was_asked_for_holds_after_a_stop(
    stopped: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SETTING, "yes")
    caplog.clear()
    more = ["--trainer.max_epochs", "2", "--ckpt_path", str(stopped["yes"]), "--trainer.precision", "32-true"]
    assert main(["fit", *RECIPE, *CPU, *more, "--trainer.default_root_dir", str(tmp_path)]) == 0
    said = "\n".join(caplog.messages)
    assert "Computing in 32-true from here on, as the Trainer was told; before the stop it was bf16-mixed." in said
    assert "Muon goes on" not in said, "it computes as this machine would"


@pytest.mark.parametrize("first", ANSWERS)
def test_the_first_rank_chooses_for_all(first: str, two_ranks_folder: Path) -> None:
    told = [json.loads((two_ranks_folder / "precision" / f"{first}, rank {rank}.json").read_text()) for rank in (0, 1)]
    assert {one["own"] for one in told} == {"bf16-mixed", "32-true"}, "alone they would compute in different types"
    assert {one["computed"] for one in told} == {"bf16-mixed" if first == "yes" else "32-true"}
    assert told[0]["weights"] == told[1]["weights"]
