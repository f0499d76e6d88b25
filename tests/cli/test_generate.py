"""`ff-lightning generate`, on a checkpoint of a short real training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ff_lightning as ff
from ff_lightning.cli import main
from ff_lightning.cli.generate import pieces
from ff_lightning.cli.models import load_language_model
from ff_lightning.data import ByteTokenizer, CharacterTokenizer, TextDataModule
from tests.command_line import QUIET, SMALL, configs

BYTES = ["--data.tokenizer", "ff_lightning.data.ByteTokenizer"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Train what was not trained before, and give its checkpoint."""
    folder = tmp_path_factory.mktemp("runs")

    def train(*args: str, name: str, overlays: tuple[str, ...] = ()) -> str:
        place = folder / name
        if not place.exists():
            root = ["--trainer.default_root_dir", str(place)]
            assert main(["fit", *configs("pydoc_gpt", "with/smoke", *overlays), *SMALL, *QUIET, *root, *args]) == 0
        return str(place / "last.ckpt")

    return train


@pytest.fixture
def checkpoint(text_run: Path) -> str:
    return str(text_run / "last.ckpt")


def written(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(["generate", *args]) == 0
    return capsys.readouterr().out


def test_text_is_that_of_the_model(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--ckpt_path", checkpoint, "--prompt", "The ", "--max_new_tokens", "60"]
    text = written(capsys, *options, "--temperature", "0.7", "--top_k", "20", "--top_p", "0.9", "--seed", "3")
    model = ff.FFLanguageModel.load_from_checkpoint(checkpoint).eval()
    tokenizer = TextDataModule().tokenizer
    prompt = tokenizer.encode("The ").unsqueeze(0)
    tokens = model.generate(prompt, 60, temperature=0.7, top_k=20, top_p=0.9, seed=3)
    assert text == tokenizer.decode(tokens[0]) + "\n"
    assert len(text) == 65


def test_a_seed_is_a_text(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--ckpt_path", checkpoint, "--prompt", "A class "]
    default, again, zero, one = (
        written(capsys, *options, *seed) for seed in ([], [], ["--seed", "0"], ["--seed", "1"])
    )
    assert default == again == zero != one


def test_weights_are_those_of_the_checkpoint(checkpoint: str) -> None:
    model, tokenizer = load_language_model(checkpoint)
    content = torch.load(checkpoint, weights_only=True)
    assert not model.training
    assert tokenizer.vocab_size == model.network.vocab_size == len(content["state_dict"]["network.prior"])
    assert (model.network.context, model.seed) == (24, content["ff_lightning"]["seed"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, content["state_dict"][name])


def test_neither_recipe_nor_text_is_needed(
    run: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "text.txt"
    source.write_text(Path(__file__).read_text())
    path = Path(run("--data.source", str(source), name="file"))
    source.unlink()
    kept = path.rename(tmp_path / "kept.ckpt")
    assert written(capsys, "--ckpt_path", str(kept), "--prompt", "import ").startswith("import ")


@pytest.mark.parametrize("overlay", ["with/twin", "with/residual"])
def test_other_models_write_too(overlay: str, run: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    path = run(name=Path(overlay).stem, overlays=(overlay,))
    assert len(written(capsys, "--ckpt_path", path, "--prompt", "The ", "--max_new_tokens", "30")) == 35


def test_a_text_without_a_prompt_begins_like_a_line(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = load_language_model(checkpoint)
    after = model.generate(tokenizer.encode("\n").unsqueeze(0), 40)[0, 1:]
    assert written(capsys, "--ckpt_path", checkpoint, "--max_new_tokens", "40") == tokenizer.decode(after) + "\n"


def test_a_text_ends_with_what_stops_it(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--ckpt_path", checkpoint, "--prompt", "e", "--seed", "1"]
    whole = written(capsys, *options)
    stop = whole[20:23]
    end = whole.index(stop, 1) + len(stop)
    assert written(capsys, *options, "--stop", stop) == whole[:end] + "\n"
    assert written(capsys, *options, "--stop", "☃") == whole


def test_a_seed_that_torch_cannot_take_is_named(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(capsys, ["--ckpt_path", checkpoint, "--prompt", "a", "--seed", "9" * 23], "`seed` must be a whole")


def test_several_samples_are_several_texts(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--ckpt_path", checkpoint, "--prompt", "The ", "--num_samples", "3"]
    texts = written(capsys, *options, "--max_new_tokens", "30").split("\n---\n")
    assert len(texts) == len(set(texts)) == 3
    assert all(text.startswith("The ") for text in texts)
    model, tokenizer = load_language_model(checkpoint)
    rows = model.generate(tokenizer.encode("The ").expand(3, -1), 30)
    assert texts == [tokenizer.decode(rows[0]), tokenizer.decode(rows[1]), tokenizer.decode(rows[2]) + "\n"]
    assert written(capsys, *options, "--max_new_tokens", "0").split("\n---\n") == ["The ", "The ", "The \n"]


def test_characters_of_several_bytes_are_written_whole(
    run: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = run(*BYTES, name="bytes")
    text = written(capsys, "--ckpt_path", path, "--prompt", "naïve ☃", "--max_new_tokens", "300", "--temperature", "9")
    model, tokenizer = load_language_model(path)
    tokens = model.generate(tokenizer.encode("naïve ☃").unsqueeze(0), 300, temperature=9.0)
    assert text == tokenizer.decode(tokens[0]) + "\n"


def test_pieces_hold_no_half_characters() -> None:
    tokens = ByteTokenizer().encode("a☃é😀").tolist()
    assert list(filter(None, pieces(ByteTokenizer(), tokens))) == ["a", "☃", "é", "😀"]
    assert "".join(pieces(ByteTokenizer(), tokens[:-1])) == "a☃é\ufffd"


@pytest.mark.parametrize(
    ("stop", "expected"), [("", "abcab"), ("a", "a"), ("bc", "abc"), ("ca", "abca"), ("x", "abcab"), ("bca", "abca")]
)
def test_pieces_end_after_the_first_stop(stop: str, expected: str) -> None:
    assert "".join(pieces(CharacterTokenizer("abc"), [0, 1, 2, 0, 1], stop)) == expected


def test_a_document_ends_with_its_token(
    run: Callable[..., str], shared_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    arguments = ["ff_lightning.data.TiktokenTokenizer", "--data.tokenizer.name", "gpt2"]
    path = run("--data.tokenizer", *arguments, "--data.tokenizer.vocab_size", "300", name="tiktoken")
    content = torch.load(path, weights_only=True)
    content["state_dict"]["network.prior"][299] = 100.0  # nothing but the end is likely
    torch.save(content, Path(path).with_name("ends.ckpt"))
    assert len(written(capsys, "--ckpt_path", path, "--max_new_tokens", "30")) > 20
    ends = str(Path(path).with_name("ends.ckpt"))
    assert written(capsys, "--ckpt_path", ends, "--prompt", "The ") == "The \n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--prompt", "naïve ☃"], "The text has 'ï' (U+00EF) at position 2, which is none of the"),
        (["--prompt", "a" * 25], "`context=24`"),
        (["--temperature", "0"], "Passed `temperature=0.0`. `temperature` must be positive"),
        (["--temperature", "-1"], "Passed `temperature=-1.0`."),
        (["--temperature", "hot"], "`--temperature`: "),
        (["--top_k", "0"], "Passed `top_k=0`."),
        (["--top_p", "2"], "Passed `top_p=2.0`."),
        (["--max_new_tokens", "-1"], "Passed `max_new_tokens=-1`."),
        (["--num_samples", "0"], "`--num_samples`: "),
        (["--promt", "a"], "unrecognized arguments: --promt a; did you mean '--prompt'?"),
        (["--ckpt_path", "nothing.ckpt"], "Passed `ckpt_path=nothing.ckpt`. There is no such file."),
        (["--ckpt_path", __file__], "cannot be loaded safely"),
    ],
)
def test_what_makes_no_sense_is_named_and_nothing_is_written(
    args: list[str], says: str, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capsys, ["--ckpt_path", checkpoint, *args], says)


def assert_refused(capsys: pytest.CaptureFixture[str], args: list[str], says: str) -> None:
    capsys.readouterr()
    assert main(["generate", *args]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("ff-lightning: error: ")
    assert said.err.count("\n") == 1
    assert says in said.err


def test_a_checkpoint_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(capsys, [], "ckpt_path")


def test_a_classifier_does_not_write(digits_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(digits_run / "last.ckpt")
    assert_refused(capsys, ["--ckpt_path", path], "keeps no `tokenizer` of its data: it is not of a language model")


def remove_hyperparameters(content: dict[str, Any]) -> None:
    del content["hyper_parameters"]["network"]


def exchange_tokenizer(content: dict[str, Any]) -> None:
    content["TextDataModule"]["tokenizer"] = ByteTokenizer().to_dict()


def break_tokenizer(content: dict[str, Any]) -> None:
    content["TextDataModule"]["tokenizer"] = {"kind": "words"}


def cut_prior(content: dict[str, Any]) -> None:
    content["state_dict"]["network.prior"] = torch.zeros(7)


def rename_class(content: dict[str, Any]) -> None:
    content["hyper_parameters"]["_class_path"] = "ff_lightning.FFClassifier"


def add_weight(content: dict[str, Any]) -> None:
    content["state_dict"]["network.more"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (remove_hyperparameters, "does not say how its network is built"),
        (exchange_tokenizer, "The tokenizer in it has 256 tokens, its network 1"),
        (break_tokenizer, "what `to_dict` of a tokenizer returned"),
        (cut_prior, "made for a vocabulary of 7 tokens"),
        (rename_class, "FFClassifier"),
        (add_weight, "`network.more` is not in the network"),
    ],
)
def test_a_checkpoint_with_something_wrong_in_it(
    spoil: Callable[[dict[str, Any]], None],
    says: str,
    checkpoint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    spoil(content)
    torch.save(content, tmp_path / "spoilt.ckpt")
    assert_refused(capsys, ["--ckpt_path", str(tmp_path / "spoilt.ckpt"), "--prompt", "a"], says)


def test_a_vocabulary_without_line_breaks_needs_a_prompt(
    run: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "line.txt").write_text("one line and no more " * 100)
    path = run("--data.source", str(tmp_path / "line.txt"), name="line")
    assert_refused(capsys, ["--ckpt_path", path], "Passed no `prompt` to a model that knows no line break")
    assert written(capsys, "--ckpt_path", path, "--prompt", "one ").startswith("one ")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["generate", "--help"])
    text = capsys.readouterr().out
    assert "usage: ff-lightning generate" in text
    assert all(word in text for word in ("--ckpt_path", "--prompt", "--num_samples", "divides the logits"))
