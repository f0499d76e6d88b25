"""`--init_from`: a model of transformers comes in, is trained on, and goes out; and what is meant is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from ff_lightning.cli import main
from tests.command_line import QUIET, SMALL, configs, error_of
from tests.transformers_models import folder, transformers

CUT = ["--model.network.layers_per_block", "2", "--data.max_characters", "20000", "--data.context", "12"]
CUT += ["--data.batch_size", "2", "--trainer.max_epochs", "2", "--data.batches_per_epoch", "2"]
CUT += ["--trainer.limit_val_batches", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of transformers, and a run that began with it."""
    root = tmp_path_factory.mktemp("begin")
    source = str(folder(root / "model"))
    where = ["--trainer.default_root_dir", str(root / "run")]
    assert main(["fit", *configs("causal_lm"), "--init_from", source, *CUT, *QUIET, *where]) == 0
    return root


def test_the_model_that_comes_in_goes_out(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The checkpoint needs no folder to be read again; what rested is as it was, what learned is not."""
    (place / "model").rename(place / "moved")
    try:
        last = str(place / "run" / "last.ckpt")
        capsys.readouterr()
        assert main(["generate", "--ckpt_path", last, "--prompt", "The ", "--max_new_tokens", "5"]) == 0
        assert capsys.readouterr().out.startswith("The ")
        assert main(["export", "--ckpt_path", last, "--transformers", str(place / "out")]) == 0
    finally:
        (place / "moved").rename(place / "model")
    read = transformers.AutoModelForCausalLM.from_pretrained
    before, after = (read(place / name).state_dict() for name in ("model", "out"))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.split(".")[2] for key in changed if "layers" in key} == {"2", "3"}
    assert not [key for key in changed if "embed" in key or "lm_head" in key]
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "out")
    assert tokenizer.decode(tokenizer.encode("The end")) == "The end"
    assert tokenizer.eos_token == "<|endoftext|>"
    asked = [{"role": "user", "content": "The end"}]
    assert tokenizer.apply_chat_template(asked, tokenize=False) == "The end", "an instructed model stays one"


def test_a_run_goes_on_with_the_file_that_it_left(place: Path) -> None:
    """That file says where the run began, which is not asked again."""
    config = yaml.safe_load((place / "run" / "config.yaml").read_text())
    assert config["init_from"] == str(place / "model")
    words = ["--config", str(place / "run" / "config.yaml"), "--trainer.max_epochs", "3"]
    root = ["--trainer.default_root_dir", str(place / "more")]
    assert main(["fit", *words, *root, "--ckpt_path", str(place / "run" / "last.ckpt")]) == 0
    assert torch.load(place / "more" / "last.ckpt", weights_only=True)["global_step"] == 6
    assert main(["validate", *words, *root, "--ckpt_path", str(place / "more" / "last.ckpt")]) == 0


def test_a_resume_and_a_new_training_say_when_the_other_is_meant(
    place: Path, text_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, last = str(place / "model"), str(text_run / "last.ckpt")
    gpt = [*configs("pydoc_gpt", "with/smoke"), *SMALL, *QUIET, "--trainer.default_root_dir", str(tmp_path)]
    both = error_of(capsys, "fit", *gpt, "--init_from", last, "--ckpt_path", last)
    assert "pass one of them" in both
    assert "--init_from" in error_of(capsys, "fit", *gpt, "--ckpt_path", model)
    assert "--init_from" in error_of(capsys, "fit", *gpt, "--model.network.layers", "3", "--ckpt_path", last)
    wide = error_of(capsys, "fit", *gpt, "--model.network.width", "64", "--init_from", last)
    assert "Build the network as it was trained" in wide
    own = ["--init_from", model, "--model.network.config", "elsewhere", *CUT]
    assert "leave `network.config` out" in error_of(capsys, "fit", *configs("causal_lm"), *own)
    none = error_of(capsys, "fit", *configs("causal_lm"), "--trainer.default_root_dir", str(tmp_path))
    assert "--init_from" in none


def test_an_own_model_grows_on_another_text_with_its_tokenizer(text_run: Path, tmp_path: Path) -> None:
    """The other text has fewer characters; the tokens stay those of the trained model, and a block can rest."""
    other = tmp_path / "other.txt"
    other.write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    gpt = [*configs("pydoc_gpt", "with/smoke"), *SMALL, *QUIET, "--trainer.default_root_dir", str(tmp_path / "run")]
    rest = ["--model.schedule", "ff_lightning.schedules.Rates", "--model.schedule.rates", "[0, 1, 1]"]
    grown = ["--init_from", str(text_run / "last.ckpt"), "--data.source", str(other), "--model.network.layers", "3"]
    assert main(["fit", *gpt, *grown, *rest]) == 0
    paths = [path / "last.ckpt" for path in (text_run, tmp_path / "run")]
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
    changed = {key for key in first if key.startswith("network.blocks.") and not torch.equal(first[key], second[key])}
    assert {key.split(".")[2] for key in changed} == {"1"}
    assert any(key.startswith("network.blocks.2.") for key in second)
