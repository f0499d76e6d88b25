import pickle
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
@pytest.mark.parametrize("vocab_size", [257, 300, 4096, 50257])
def test_beginning_of_an_encoding(vocab_size: int) -> None:
    tokenizer = TiktokenTokenizer("gpt2", vocab_size)
    for text in (REFERENCE, ODD, ""):
        assert_round_trip(tokenizer, text)
        assert all(token < vocab_size - 1 for token in tokenizer.encode(text).tolist())
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (vocab_size, vocab_size - 1)
    assert tokenizer.decode([vocab_size - 1]) == "<|endoftext|>"
    assert tokenizer.to_dict() == {"kind": "tiktoken", "name": "gpt2", "vocab_size": vocab_size}


@pytest.mark.usefixtures("tiktoken_files")
def test_more_tokens_are_longer_and_all_are_the_encoding_itself() -> None:
    sizes = [257, 300, 1000, 4096, 50257]
    encoded = [TiktokenTokenizer("gpt2", size).encode(REFERENCE) for size in sizes]
    lengths = [len(REFERENCE.encode()) / len(tokens) for tokens in encoded]
    assert lengths == sorted(lengths)
    assert lengths[0] == 1
    assert lengths[3] > 2
    assert torch.equal(encoded[-1], TiktokenTokenizer("gpt2").encode(REFERENCE))


@pytest.mark.usefixtures("tiktoken_files")
def test_smaller_encoding_merges_in_the_same_order() -> None:
    """What the encoding itself merges from tokens that are all kept is not merged otherwise."""
    whole, part = TiktokenTokenizer("gpt2"), TiktokenTokenizer("gpt2", 4096)
    for word in (" the", " statement", "ing", "python", " assignment"):
        merged = [tokenizer.encode(word).tolist() for tokenizer in (whole, part)]
        if max(merged[0]) < 4095:
            assert merged[0] == merged[1]
        else:
            assert len(merged[1]) > len(merged[0])


@pytest.mark.usefixtures("tiktoken_files")
@pytest.mark.parametrize("vocab_size", [0, 256, 50258, 300.0])
def test_size_that_an_encoding_cannot_be_cut_to(vocab_size: int) -> None:
    with pytest.raises(InputError, match=rf"name='gpt2', vocab_size={vocab_size}\).*from 257 .* to 50257, or None"):
        TiktokenTokenizer("gpt2", vocab_size)


@pytest.mark.usefixtures("tiktoken_files")
def test_state_without_a_size_is_the_whole_encoding() -> None:
    state = {"kind": "tiktoken", "name": "gpt2"}
    assert TiktokenTokenizer("gpt2").to_dict() == state
    assert Tokenizer.from_dict(state) == TiktokenTokenizer("gpt2") != TiktokenTokenizer("gpt2", 300)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharacterTokenizer.from_text(ODD)])
def test_text_token_by_token(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(ODD).tolist()
    parts = list(tokenizer.decode_each(tokens))
    assert "".join(parts) == ODD
    assert len(parts) >= len(tokens)
    assert all(len(part) <= 1 for part in parts)


def test_bytes_that_are_no_text_become_the_same_token_by_token() -> None:
    tokens = torch.randint(256, (5000,), generator=torch.Generator().manual_seed(0)).tolist()
    assert "".join(ByteTokenizer().decode_each(tokens)) == ByteTokenizer().decode(tokens)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharacterTokenizer("ab")])
def test_token_by_token_outside_the_vocabulary(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="Token 256 is outside the vocabulary"):
        list(tokenizer.decode_each([0, 256]))


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
