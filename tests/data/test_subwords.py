"""Byte-pair encodings trained on a text, and tokenizers that other models bring."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, trainers

from ff_lightning.data import ByteTokenizer, SubwordTokenizer, TextDataModule, Tokenizer
from ff_lightning.data.subwords import open_tokenizer, train_byte_pairs
from ff_lightning.errors import InputError

TEXT = "".join(topics[name] for name in sorted(topics)[:15])
STRANGE = "naïve 🙂 \x00 <|endoftext|> \r\n  tabs\t日本"


@pytest.fixture(scope="module")
def pairs() -> SubwordTokenizer:
    return train_byte_pairs([TEXT], 500)


def test_any_text_comes_back(pairs: SubwordTokenizer) -> None:
    assert pairs.vocab_size == 500
    for text in (TEXT[:2000], STRANGE):
        tokens = pairs.encode(text)
        assert tokens.dtype == torch.int64
        assert pairs.decode(tokens) == text
        assert "".join(pairs.decode_each(tokens.tolist())) == text
    assert len(pairs.encode(TEXT)) < 0.6 * len(TEXT)
    assert pairs.end_of_text not in pairs.encode(STRANGE)
    with pytest.raises(InputError, match="Token 500 is outside the vocabulary, 0 to 499"):
        pairs.decode([500])


def test_training_is_repeatable_and_the_state_is_plain(pairs: SubwordTokenizer) -> None:
    assert train_byte_pairs([TEXT], 500) == pairs
    state = json.loads(json.dumps(pairs.to_dict()))
    again = Tokenizer.from_dict(state)
    assert again == pairs
    assert torch.equal(again.encode(STRANGE), pairs.encode(STRANGE))
    assert again.end_of_text == pairs.end_of_text


def test_a_text_too_short_for_so_many_tokens_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert train_byte_pairs(["abab"], 1000).vocab_size < 270
    assert "not 1000: the text has no more pairs to merge" in caplog.text
    with pytest.raises(InputError, match=r"Passed `tokenizer='bpe:20'`. It must have at least 257"):
        train_byte_pairs(["abab"], 20)


def test_a_module_trains_it_on_its_training_text_alone(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(TEXT)
    (tmp_path / "val.txt").write_text("quokka " * 300)
    data = TextDataModule(str(tmp_path), tokenizer="bpe:400", context=16, cache_dir=str(tmp_path / "cache"))
    data.setup("fit")
    assert data.vocab_size == 400
    assert "quokka" not in {data.tokenizer.decode([token]).strip() for token in range(400)}
    assert data.tokenizer.decode(data.tokens("validation")) == "quokka " * 300
    assert data.tokenizer.decode(data.tokens("train")) == TEXT
    other = TextDataModule(str(tmp_path), tokenizer="bpe:400", context=16, cache_dir=str(tmp_path / "cache"))
    other.setup("fit")
    other.load_state_dict(data.state_dict())
    changed = TextDataModule(str(tmp_path), tokenizer="bytes", context=16)
    with pytest.raises(InputError, match="trained with another vocabulary"):
        changed.load_state_dict(data.state_dict())


def test_tokenizers_of_models_are_read_from_files_and_folders(pairs: SubwordTokenizer, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(pairs.description)
    for name in (str(tmp_path), str(tmp_path / "tokenizer.json")):
        assert torch.equal(open_tokenizer(name).encode(STRANGE), pairs.encode(STRANGE))
    assert open_tokenizer("bytes") == ByteTokenizer()
    (tmp_path / "tokenizer_config.json").write_text(
        '{"eos_token": {"content": "a"}, "auto_map": {"AutoTokenizer": "x.Y"}}'
    )
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    found = open_tokenizer(str(tmp_path))
    assert found.end_of_text == int(pairs.encode("a")[0])
    assert isinstance(found, SubwordTokenizer)
    told = {"eos_token": {"content": "a"}, "chat_template": "{{ messages }}"}
    assert json.loads(found.configuration or "") == told
    again = Tokenizer.from_dict(found.to_dict())
    assert again == found
    assert again.to_dict() == found.to_dict()
    silent = SubwordTokenizer(found.description, "a")
    assert silent.gives_the_tokens_of(found.to_dict()), "a chat template makes no other tokens"
    assert not pairs.gives_the_tokens_of(found.to_dict()), "another end does"


def test_nothing_is_cut_or_padded_and_unknown_words_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As BERT's: words of a vocabulary, cut at so many tokens by the file itself."""
    library = tokenizers.Tokenizer(models.WordLevel(unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.train_from_iterator([TEXT], trainers.WordLevelTrainer(vocab_size=50, special_tokens=["[UNK]", "[SEP]"]))
    library.enable_truncation(4)
    library.enable_padding(length=8)
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "words.txt").write_text("the value of the zyzzyva " * 40)
    data = TextDataModule(str(tmp_path), tokenizer=str(tmp_path / "tokenizer.json"), context=8, validation=0)
    with caplog.at_level("INFO"):
        data.setup("fit")
    assert len(data.tokens("train")) == 200
    assert "40 of 200 tokens are of text that the vocabulary lacks" in caplog.text
    assert data.tokenizer.end_of_text == library.token_to_id("[SEP]")


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    cases = {
        str(tmp_path / "tokenizer.json"): "Cannot read the tokenizer .*tokenizer.json': A description",
        str(tmp_path / "empty"): "The folder has no tokenizer.json, only nothing",
        "bpe": "It must be 'characters', 'bytes', 'bpe:N'",
        "ff_lightning.data.Bytes": "It must be 'characters', 'bytes', 'bpe:N'",
        "no/such": "Its tokenizer.json is not here and cannot be downloaded",
    }
    for name, says in cases.items():
        with pytest.raises(InputError, match=says):
            TextDataModule(tokenizer=name)
