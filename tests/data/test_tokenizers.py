import pickle
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch

from ff_lightning.data.tokenizers import ByteTokenizer, CharacterTokenizer, TiktokenTokenizer, Tokenizer
from ff_lightning.errors import InputError

REFERENCE = topics["strings"] + topics["identifiers"]
ODD = "naïve ☃ 😀\r\n\t\0 <|endoftext|>"


@pytest.fixture
def tiktoken_files(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken"))


def assert_round_trip(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert (tokens.ndim, tokens.dtype) == (1, torch.int64)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode(tokens.tolist()) == text
    again = Tokenizer.from_dict(tokenizer.to_dict())
    assert again == tokenizer
    assert torch.equal(again.encode(text), tokens)
    assert torch.equal(pickle.loads(pickle.dumps(tokenizer)).encode(text), tokens)


@pytest.mark.parametrize("text", [REFERENCE, ODD, "a"])
def test_characters(text: str) -> None:
    tokenizer = CharacterTokenizer.from_text(text)
    assert_round_trip(tokenizer, text)
    assert tokenizer.characters == "".join(sorted(set(text)))
    assert tokenizer.encode(text).tolist() == [tokenizer.characters.index(character) for character in text]
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (len(set(text)), None)


@pytest.mark.parametrize("text", [REFERENCE, ODD, ""])
def test_bytes(text: str) -> None:
    tokenizer = ByteTokenizer()
    assert_round_trip(tokenizer, text)
    assert bytes(tokenizer.encode(text).tolist()) == text.encode()
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (256, None)


def test_bytes_are_an_encoding_of_tiktoken() -> None:
    import tiktoken

    encoding = ByteTokenizer().encoding
    assert isinstance(encoding, tiktoken.Encoding)
    assert encoding.n_vocab == 256


def test_half_a_character_of_bytes_can_be_decoded() -> None:
    assert ByteTokenizer().decode([97, 195]) == "a\ufffd"


@pytest.mark.usefixtures("tiktoken_files")
@pytest.mark.parametrize("name", ["gpt2", "r50k_base"])
def test_tiktoken(name: str) -> None:
    tokenizer = TiktokenTokenizer(name)
    for text in (REFERENCE, ODD, ""):
        assert_round_trip(tokenizer, text)
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (50257, 50256)
    assert tokenizer.encode("hello world").tolist() == [31373, 995]
    assert 50256 not in tokenizer.encode(ODD)
    assert tokenizer.decode([50256]) == "<|endoftext|>"


@pytest.mark.usefixtures("tiktoken_files")
def test_kinds_differ() -> None:
    kinds = [CharacterTokenizer("ab"), CharacterTokenizer("abc"), ByteTokenizer(), TiktokenTokenizer("gpt2")]
    assert len(set(kinds)) == 4
    assert TiktokenTokenizer("gpt2") != TiktokenTokenizer("r50k_base")


def test_state_can_be_loaded_safely(tmp_path: Path) -> None:
    tokenizer = CharacterTokenizer.from_text(REFERENCE)
    torch.save(tokenizer.to_dict(), tmp_path / "state")
    assert Tokenizer.from_dict(torch.load(tmp_path / "state", weights_only=True)) == tokenizer


@pytest.mark.parametrize(("text", "message"), [("abé", r"'é' \(U\+00E9\) at position 2"), ("A", r"'A' .*position 0")])
def test_unknown_character(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message + ".* none of the 2 characters"):
        CharacterTokenizer("ab").encode(text)


def test_characters_after_the_last_one_are_unknown() -> None:
    with pytest.raises(InputError, match="'c'"):
        CharacterTokenizer("ab").encode("c")
    with pytest.raises(InputError, match="U\\+1F600"):
        CharacterTokenizer("ab").encode("😀")


@pytest.mark.parametrize("token", [-1, 256])
def test_token_outside_the_vocabulary(token: int) -> None:
    with pytest.raises(InputError, match=f"Token {token} is outside the vocabulary, 0 to 255"):
        ByteTokenizer().decode([65, token])


@pytest.mark.parametrize(("characters", "message"), [("", "at least one character"), ("abca", "'a' in it more than")])
def test_characters_must_be_distinct(characters: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CharacterTokenizer(characters)


def test_unknown_encoding() -> None:
    with pytest.raises(InputError, match=r"name='gpt5'.*one of .*gpt2"):
        TiktokenTokenizer("gpt5")


def test_missing_file_while_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")  # where nobody answers
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match=r"name='p50k_base'.*TIKTOKEN_CACHE_DIR.*`ByteTokenizer`") as error:
        TiktokenTokenizer("p50k_base")
    assert isinstance(error.value.__cause__, OSError)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("state", [{}, {"kind": "words"}, {"kind": "characters"}, {"kind": "tiktoken", "name": 1}])
def test_state_of_nothing_known(state: dict[str, object]) -> None:
    with pytest.raises(InputError, match="what `to_dict` of a tokenizer returned"):
        Tokenizer.from_dict(state)


def test_importing_is_fast() -> None:
    code = "import sys, ff_lightning.data; sys.exit('tiktoken' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
