import os
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import torch

from ff_lightning.data import ByteTokenizer, CharacterTokenizer, TextDataModule, TiktokenTokenizer, Tokenizer
from ff_lightning.data.corpora import read_documents
from ff_lightning.errors import InputError
from tests.readers import Reader, SaveAt, read

TOPICS = [topics[name] for name in ("assert", "break", "del", "pass")]  # short real documents


def ready(source: str = "pydoc", stage: str | None = "fit", **options: Any) -> TextDataModule:
    data = TextDataModule(source, **options)
    data.prepare_data()
    data.setup(stage)
    return data


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder with three documents for training and one for testing."""
    for name, text in zip(("a", "b", "c", "test"), TOPICS, strict=True):
        (tmp_path / "topics").mkdir(exist_ok=True)
        (tmp_path / "topics" / f"{name}.txt").write_text(text)
    return str(tmp_path / "topics")


@pytest.mark.parametrize("tokenizer", [None, ByteTokenizer()])
def test_batches_have_the_documented_form(tokenizer: Tokenizer | None) -> None:
    data = ready(tokenizer=tokenizer, context=32, batch_size=8, eval_batch_size=50)
    for loader, largest in ((data.train_dataloader(), 8), (data.val_dataloader(), 50)):
        batch = next(iter(loader))
        assert (batch.ndim, batch.shape[1], batch.dtype) == (2, 33, torch.int64)
        assert 0 < len(batch) <= largest
        assert 0 <= batch.min() <= batch.max() < data.vocab_size
        assert data.tokenizer.decode(batch[0]) in read_documents("pydoc")[0]


def test_training_text_and_then_validation_text_are_the_whole_text() -> None:
    data, (text,) = ready(validation=0.1), read_documents("pydoc")
    train, validation = (data.tokenizer.decode(data.tokens(split)) for split in ("train", "validation"))
    assert train + validation == text
    assert len(train) == int(0.9 * len(text))
    assert data.vocab_size == len(set(text))


@pytest.mark.parametrize(("validation", "count"), [(1000, 1000), (0.5, None), (0, 0), (0.0, 0)])
def test_validation_is_a_share_or_a_number(validation: float, count: int | None) -> None:
    data, (text,) = ready(validation=validation), read_documents("pydoc")
    expected = len(text) - int(0.5 * len(text)) if count is None else count
    assert len(data.tokens("train")) == len(text) - expected
    if expected:
        assert len(data.tokens("validation")) == expected
    else:
        assert data.val_dataloader() == []


def test_unigram_counts_the_training_tokens() -> None:
    data = ready(tokenizer=ByteTokenizer())
    assert (data.unigram.shape, data.unigram.dtype) == ((256,), torch.float64)
    assert data.unigram.sum() == len(data.tokens("train"))
    assert data.unigram[ord("e")] == (data.tokens("train") == ord("e")).sum()


def test_vocabulary_is_known_before_setup() -> None:
    assert TextDataModule().vocab_size == ready().vocab_size
    assert TextDataModule(tokenizer=ByteTokenizer()).vocab_size == 256


def test_documents_stay_apart(folder: str) -> None:
    data = ready(folder, validation=0, separator="\n#\n")
    text = data.tokenizer.decode(data.tokens("train"))
    assert text == "\n#\n".join(TOPICS[:3])
    assert data.tokenizer == CharacterTokenizer.from_text(text)


def test_cut_goes_through_the_document_where_the_share_ends(folder: str) -> None:
    data = ready(folder, tokenizer=ByteTokenizer(), validation=len(TOPICS[2]) + 7)
    assert data.tokenizer.decode(data.tokens("train")) == f"{TOPICS[0]}\n\n{TOPICS[1][:-7]}"
    assert data.tokenizer.decode(data.tokens("validation")) == f"{TOPICS[1][-7:]}\n\n{TOPICS[2]}"


def test_encoding_with_an_end_of_text(folder: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))
    data = ready(folder, tokenizer=TiktokenTokenizer("gpt2"), validation=0, context=16)
    tokens = data.tokens("train")
    assert data.tokenizer.decode(tokens) == "<|endoftext|>".join(TOPICS[:3])
    assert (tokens == 50256).sum() == data.unigram[50256] == 2
    letters = sum(map(len, TOPICS[:3]))
    assert data.characters_per_token("train") == pytest.approx(letters / len(tokens))
    assert data.bytes_per_token("train") == pytest.approx(letters / len(tokens), rel=0.02)


def test_bytes_and_characters_per_token(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("naïve ☃ " * 100)
    data = ready(str(tmp_path / "text"), tokenizer=ByteTokenizer(), validation=80)
    assert data.characters_per_token() == pytest.approx(80 / 110)
    assert data.bytes_per_token() == 1


def test_test_split_is_read_by_test_only(folder: str) -> None:
    data = ready(folder, stage="test", tokenizer=ByteTokenizer(), context=16)
    assert data.tokenizer.decode(data.tokens("test")) == TOPICS[3]
    assert len(list(data.test_dataloader())) == 1
    with pytest.raises(KeyError):
        data.train_dataloader()


def test_character_that_only_the_test_split_has(folder: str) -> None:
    Path(folder, "test.txt").write_text("naïve")
    with pytest.raises(InputError, match=r"'ï' .* none of the \d+ characters"):
        ready(folder, stage="test")


def test_token_files_give_the_same_batches(folder: str, tmp_path: Path) -> None:
    cache, options = tmp_path / "cache", {"context": 16, "validation": 100}
    Path(folder, "test.txt").write_text(TOPICS[0][:50])  # without characters that training lacks
    memory = ready(folder, stage=None, **options)
    for _ in range(2):
        mapped = ready(folder, **options, cache_dir=str(cache))
        assert len(list(cache.iterdir())) == 1
        assert isinstance(mapped.train_dataloader().tokens, np.memmap)
        assert mapped.tokenizer == memory.tokenizer
        assert torch.equal(mapped.unigram, memory.unigram)
        for theirs, ours in (
            (mapped.train_dataloader(), memory.train_dataloader()),
            (mapped.val_dataloader(), memory.val_dataloader()),
        ):
            assert all(torch.equal(x, y) for x, y in zip(theirs, ours, strict=True))
        assert mapped.characters_per_token() == memory.characters_per_token()
    mapped.setup("test")
    assert torch.equal(mapped.tokens("test"), memory.tokens("test"))


def test_token_files_are_not_read_from_the_text_again(folder: str, tmp_path: Path) -> None:
    options = {"cache_dir": str(tmp_path / "cache"), "context": 16}
    expected, file = ready(folder, **options).tokens("train"), Path(folder, "a.txt")
    before = file.stat()
    file.write_text("#" * before.st_size)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # so that nothing seems to have changed
    vocab_size = TextDataModule(folder, **options).vocab_size
    assert vocab_size > expected.max()
    assert torch.equal(ready(folder, **options).tokens("train"), expected)
    file.write_text("#" * before.st_size)
    assert not torch.equal(ready(folder, **options).tokens("train"), expected)


@pytest.mark.parametrize("other", [{"validation": 50}, {"validation": 0.5}, {"separator": "-"}, {"tokenizer": "bytes"}])
def test_other_tokens_have_other_files(other: dict[str, Any], folder: str, tmp_path: Path) -> None:
    options = {"context": 16, "validation": 100}
    ready(folder, **options, cache_dir=str(tmp_path / "cache"))
    if "tokenizer" in other:
        other = {"tokenizer": ByteTokenizer()}
    mapped, memory = (
        ready(folder, **options | other, cache_dir=str(tmp_path / "cache")),
        ready(folder, **options | other),
    )
    assert torch.equal(mapped.tokens("train"), memory.tokens("train"))
    assert mapped.tokenizer == memory.tokenizer


def fit(checkpoint: Path | None = None, data: TextDataModule | None = None, **options: Any) -> Reader:
    data = data or TextDataModule(batch_size=4, batches_per_epoch=5, eval_batch_size=1000)
    return read(data, checkpoint, **options)


@pytest.mark.parametrize("step", [3, 5, 8])
@pytest.mark.parametrize("options", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 15}], ids=["epochs", "steps"])
def test_trainer_resumes_at_the_next_batch(step: int, options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "at.ckpt"
    full = torch.stack(fit(callbacks=[SaveAt(step, path)], **options).train_batches)
    assert len(full) == 15
    assert len(torch.unique(full.flatten(1), dim=0)) == 15
    assert torch.equal(torch.stack(fit(path, **options).train_batches), full[step:])


def test_run_that_stopped_within_an_epoch_can_be_prolonged(tmp_path: Path) -> None:
    path = tmp_path / "at.ckpt"
    full = fit(max_steps=12, max_epochs=-1).train_batches
    first = fit(max_steps=8, max_epochs=-1, callbacks=[SaveAt(8, path)]).train_batches
    last = fit(path, max_steps=12, max_epochs=-1).train_batches
    assert torch.equal(torch.stack(first + last), torch.stack(full))


def test_trainer_validates_on_all_windows() -> None:
    windows = (len(ready().tokens("validation")) - 1) // 64
    assert fit(max_epochs=2).rows == 2 * windows


def test_overfitting_repeats_the_same_batches() -> None:
    batches = fit(overfit_batches=1).train_batches
    assert torch.equal(batches[0], batches[2])


def test_checkpoint_carries_the_tokenizer_and_loads_safely(tmp_path: Path) -> None:
    path = tmp_path / "at.ckpt"
    fit(max_steps=1, callbacks=[SaveAt(1, path)])
    state = torch.load(path, weights_only=True)["TextDataModule"]
    assert Tokenizer.from_dict(state["tokenizer"]) == ready().tokenizer


def test_checkpoint_of_another_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "at.ckpt"
    fit(max_steps=1, callbacks=[SaveAt(1, path)])
    with pytest.raises(InputError, match=r"another vocabulary .* with 256 tokens"):
        fit(path, TextDataModule(tokenizer=ByteTokenizer()), max_steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, r"TextDataModule\(context=0\).*at least 1"),
        ({"batch_size": 2.5}, "batch_size=2.5.*whole number"),
        ({"eval_batch_size": -1}, "eval_batch_size=-1.*at least 1"),
        ({"batches_per_epoch": 0}, "batches_per_epoch=0.*at least 1"),
        ({"validation": -1}, "validation=-1.*at least 0"),
        ({"validation": 1.0}, "validation=1.0.*below 1, or a whole number of characters"),
    ],
)
def test_numbers_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TextDataModule(**options)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, r"Passed `source=.*some.`\. The train text of it is empty"),
        ("a" * 100, {}, "10 tokens is shorter than a window of `context=64`.*larger `validation`"),
        ("a" * 60, {"validation": 0}, "60 tokens is shorter than a window of `context=64`"),
        ("abc", {"validation": 3}, "Of 3 characters this leaves 0 for training and 3"),
        ("abc", {"validation": 7}, "Of 3 characters this leaves 0 for training and 3"),
        ("abc", {"tokenizer": CharacterTokenizer("ab")}, "'c' .* none of the 2 characters"),
    ],
)
def test_text_that_cannot_work(text: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "some").write_text(text)
    with pytest.raises(InputError, match=message):
        fit(data=TextDataModule(str(tmp_path / "some"), **options))


@pytest.mark.usefixtures("shared_data")
def test_tiny_shakespeare_is_split_as_nanogpt_does() -> None:
    data = ready("tinyshakespeare", eval_batch_size=100)
    assert data.vocab_size == 65
    assert (len(data.tokens("train")), len(data.tokens("validation"))) == (1_003_854, 111_540)
    text = Path(os.environ["FF_LIGHTNING_DATA"], "tinyshakespeare/input.txt").read_text()
    assert data.tokenizer.decode(data.tokens("validation")) == text[int(0.9 * len(text)) :]
    assert len(data.train_dataloader()) == 1_003_854 // (32 * 64)
    assert sum(len(batch) for batch in data.val_dataloader()) == 111_539 // 64


def test_no_more_characters_than_asked_for(tmp_path: Path) -> None:
    whole, part = ready(validation=0), ready(validation=0, max_characters=5000)
    text = whole.tokenizer.decode(whole.tokens("train"))
    assert part.tokenizer.decode(part.tokens("train")) == text[:5000]
    kept = [ready(max_characters=count, cache_dir=str(tmp_path)) for count in (5000, 6000)]
    assert [len(data.tokens("train")) for data in kept] == [4500, 5400]  # not the files of the other


def test_an_unused_share_for_validation_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train", "val"):
        (tmp_path / f"{name}.txt").write_text(TOPICS[0])
    with caplog.at_level("INFO"):
        ready(str(tmp_path), context=8, validation=0.3)
    assert f"The validation text is that of {str(tmp_path)!r}; `validation=0.3` is unused." in caplog.text
