"""From text to tokens and back: characters, bytes, or any encoding of `tiktoken`, or a `tokenizer.json`."""

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ff_lightning.data.encodings import END_OF_TEXT, byte_encoding, first_tokens, open_encoding
from ff_lightning.errors import InputError

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<end_of_turn>", "[SEP]")
"""Special tokens that end a text in public tokenizers; the first that there is counts, unless a configuration says."""


class Tokenizer(ABC):
    """Turns text into whole numbers from 0 to vocab_size - 1, and back."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of tokens, V."""

    @property
    def end_of_text(self) -> int | None:
        """The token between documents, if there is a special one."""
        return None

    @property
    def unknown(self) -> int | None:
        """The token that stands for what the vocabulary lacks; None if it refuses such text or lacks nothing."""
        return None

    @abstractmethod
    def encode(self, text: str) -> Tensor:
        """Turn text into tokens.

        Args:
            text: Any text; what looks like a special token is ordinary text.

        Returns:
            (N,) int64.
        """

    def decode(self, tokens: Tensor | Sequence[int]) -> str:
        """Turn tokens into text.

        Args:
            tokens: (N,), whole numbers.

        Raises:
            InputError: A token is not one of the vocabulary.
        """
        return self._decode(self._checked(tokens))

    def decode_each(self, tokens: Iterable[int]) -> Iterator[str]:
        """Turn tokens into text as they come.

        Args:
            tokens: Whole numbers.

        Yields:
            What each token adds to the text: nothing while a character lacks a part of its bytes.

        Raises:
            InputError: A token is not one of the vocabulary.
        """
        return (self.decode([token]) for token in tokens)

    @abstractmethod
    def to_dict(self) -> dict[str, str | int]:
        """Return what `from_dict` needs to make it again; plain enough for any checkpoint."""

    @staticmethod
    def from_dict(state: Mapping[str, Any]) -> "Tokenizer":
        """Make a tokenizer of any kind again.

        Args:
            state: What its `to_dict` returned.

        Raises:
            InputError: It is nothing of the sort, or the file of an encoding is missing.
        """
        match state:
            case {"kind": "characters", "characters": str(characters)}:
                return CharacterTokenizer(characters)
            case {"kind": "tiktoken", "name": str(name)}:
                return TiktokenTokenizer(name, state.get("vocab_size"))
            case {"kind": "bytes"}:
                return ByteTokenizer()
            case {"kind": "subwords", "description": str(description)}:
                return SubwordTokenizer(description, state.get("end"), state.get("configuration"))
        raise InputError(f"Passed `state={dict(state)!r}`. It must be what `to_dict` of a tokenizer returned.")

    def gives_the_tokens_of(self, state: Mapping[str, Any]) -> bool:
        """Whether it turns text into the same tokens as another one.

        Args:
            state: What `to_dict` of the other one returned.
        """
        told = "configuration"  # says nothing of the tokens
        return {**state, told: None} == {**self.to_dict(), told: None}

    def _checked(self, tokens: Tensor | Sequence[int]) -> Tensor:
        """Tokens (N,) int64; refuses one that is not of the vocabulary."""
        row = torch.as_tensor(tokens, dtype=torch.int64).reshape(-1)
        wrong = row[(row < 0) | (row >= self.vocab_size)]
        if len(wrong):
            raise InputError(f"Token {int(wrong[0])} is outside the vocabulary, 0 to {self.vocab_size - 1}.")
        return row

    @abstractmethod
    def _decode(self, tokens: Tensor) -> str: ...


@dataclass(frozen=True)
class CharacterTokenizer(Tokenizer):
    """A token for each of some characters.

    Args:
        characters: All of them; the place of a character is its token.

    Raises:
        InputError: There are none, or one is repeated.

    Example:
        >>> tokenizer = CharacterTokenizer.from_text("hello world")
        >>> tokenizer.vocab_size, tokenizer.encode("low").tolist()
        (8, [4, 5, 7])
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters:
            raise InputError("Passed `CharacterTokenizer(characters='')`. There must be at least one character.")
        if len(set(self.characters)) < len(self.characters):
            twice = next(one for n, one in enumerate(self.characters) if one in self.characters[:n])
            raise InputError(f"Passed `CharacterTokenizer(characters=…)` with {twice!r} in it more than once.")

    @classmethod
    def from_text(cls, text: str) -> "CharacterTokenizer":
        """Take the characters of a text, sorted."""
        return cls("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        """Number of characters."""
        return len(self.characters)

    def encode(self, text: str) -> Tensor:
        """Turn text into tokens.

        Args:
            text: Any text of the characters.

        Returns:
            (N,) int64.

        Raises:
            InputError: A character is not one of the vocabulary.
        """
        codes = _code_points(text)
        table = self._token_of
        tokens = table[np.minimum(codes, len(table) - 1)]
        unknown = np.flatnonzero(tokens < 0)
        if len(unknown):
            place = int(unknown[0])
            raise InputError(
                f"The text has {text[place]!r} (U+{ord(text[place]):04X}) at position {place}, which is none of the "
                f"{self.vocab_size} characters of the vocabulary."
            )
        return torch.from_numpy(tokens)

    def to_dict(self) -> dict[str, str | int]:
        """Return the kind and the characters."""
        return {"kind": "characters", "characters": self.characters}

    @cached_property
    def _token_of(self) -> NDArray[np.int64]:
        """The token of each code point, -1 for none, with a last entry for all that are greater."""
        codes = _code_points(self.characters)
        table = np.full(int(codes.max()) + 2, -1, dtype=np.int64)
        table[codes] = np.arange(len(codes))
        return table

    def _decode(self, tokens: Tensor) -> str:
        codes = _code_points(self.characters)[tokens.numpy(force=True)]
        return str(codes.tobytes(), "utf-32-le", "surrogatepass")


class EncodingTokenizer(Tokenizer):
    """A tokenizer made of an encoding of `tiktoken`."""

    encoding: "tiktoken.Encoding"

    @property
    def vocab_size(self) -> int:
        """Number of tokens, with the special ones and any gap before them."""
        return self.encoding.n_vocab

    @property
    def end_of_text(self) -> int | None:
        """The token `<|endoftext|>`, if the encoding has it."""
        return self.encoding.eot_token if END_OF_TEXT in self.encoding.special_tokens_set else None

    def encode(self, text: str) -> Tensor:
        """Turn text into tokens.

        Args:
            text: Any text; what looks like a special token is ordinary text.

        Returns:
            (N,) int64.
        """
        return torch.tensor(self.encoding.encode_ordinary(text), dtype=torch.int64)

    def decode_each(self, tokens: Iterable[int]) -> Iterator[str]:
        """Turn tokens into text as they come.

        Args:
            tokens: Whole numbers.

        Yields:
            What each token adds to the text: nothing while a character lacks a part of its bytes.

        Raises:
            InputError: A token is not one of the vocabulary.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            try:
                part = self.encoding.decode_single_token_bytes(token)
            except KeyError as error:
                raise InputError(f"Token {token} is outside the vocabulary of {self.vocab_size} tokens.") from error
            yield decoder.decode(part)
        yield decoder.decode(b"", final=True)

    def _decode(self, tokens: Tensor) -> str:
        try:
            return self.encoding.decode(tokens.tolist())
        except KeyError as error:  # some encodings leave numbers out
            raise InputError(f"The encoding {self.encoding.name!r} has no {error.args[0]}.") from error


@dataclass(frozen=True, init=False)
class TiktokenTokenizer(EncodingTokenizer):
    """An encoding of `tiktoken`, by name, or the beginning of one.

    `tiktoken` downloads the file of an encoding once. For a machine without network, put it into a folder and name that
    with the environment variable `TIKTOKEN_CACHE_DIR`.

    Args:
        name: As `tiktoken.get_encoding` takes it, such as "gpt2", "r50k_base" or "o200k_base".
        vocab_size: Number of tokens to keep for a smaller model: those that were merged first, and `<|endoftext|>` as
            the last one. None for the encoding as it is.

    Raises:
        InputError: There is no such encoding, its file is not here and cannot be downloaded, or it cannot be cut there.
    """

    name: str
    cut: int | None
    encoding: "tiktoken.Encoding" = field(repr=False, compare=False)

    def __init__(self, name: str, vocab_size: int | None = None) -> None:
        encoding = open_encoding(name)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "cut", vocab_size)
        object.__setattr__(self, "encoding", encoding if vocab_size is None else first_tokens(encoding, vocab_size))

    def to_dict(self) -> dict[str, str | int]:
        """Return the kind, the name and where it is cut."""
        cut = {} if self.cut is None else {"vocab_size": self.cut}
        return {"kind": "tiktoken", "name": self.name, **cut}


@dataclass(frozen=True)
class ByteTokenizer(EncodingTokenizer):
    """A token for each of the 256 bytes of UTF-8: an encoding of `tiktoken` that needs no file.

    Example:
        >>> ByteTokenizer().encode("é").tolist()
        [195, 169]
    """

    encoding: "tiktoken.Encoding" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoding", byte_encoding())

    def to_dict(self) -> dict[str, str | int]:
        """Return the kind."""
        return {"kind": "bytes"}


@dataclass(frozen=True)
class SubwordTokenizer(Tokenizer):
    """A tokenizer of the library `tokenizers`, as its file ``tokenizer.json`` says it.

    Text is never cut or padded, whatever the file says, and what looks like a special token is ordinary text.

    Args:
        description: Content of a ``tokenizer.json``; nothing in it is executed.
        end: The token between documents; None for the usual one, if there is one.
        configuration: Content of the ``tokenizer_config.json`` beside it, with special tokens and chat template; kept
            for those who get the trained model, and not used here.

    Raises:
        InputError: It is no such description.
    """

    description: str = field(repr=False)
    end: str | None = None
    configuration: str | None = field(default=None, repr=False, compare=False)
    library: "tokenizers.Tokenizer" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        import tokenizers

        try:
            library = tokenizers.Tokenizer.from_str(self.description)
        except Exception as error:  # the library raises nothing more precise
            raise InputError(
                f"A description of a tokenizer cannot be read: {error}. It is a `tokenizer.json`."
            ) from error
        library.no_truncation()
        library.no_padding()
        library.encode_special_tokens = True
        object.__setattr__(self, "library", library)

    @cached_property
    def vocab_size(self) -> int:
        """Number of tokens, with the special ones and any gap before them."""
        return 1 + max(self.library.get_vocab(with_added_tokens=True).values())

    @property
    def end_of_text(self) -> int | None:
        """The token between documents, if there is a special one."""
        found = (self.library.token_to_id(name) for name in ([self.end] if self.end else ENDS))
        return next((token for token in found if token is not None), None)

    @property
    def unknown(self) -> int | None:
        """The token that stands for what the vocabulary lacks; None if it lacks nothing."""
        name = getattr(self.library.model, "unk_token", None)
        return self.library.token_to_id(name) if isinstance(name, str) else None

    def encode(self, text: str) -> Tensor:
        """Turn text into tokens.

        Args:
            text: Any text; what looks like a special token is ordinary text.

        Returns:
            (N,) int64.
        """
        return torch.tensor(self.library.encode(text, add_special_tokens=False).ids, dtype=torch.int64)

    def decode_each(self, tokens: Iterable[int]) -> Iterator[str]:
        """Turn tokens into text as they come.

        Args:
            tokens: Whole numbers.

        Yields:
            What each token adds to the text: nothing while a character lacks a part of its bytes.

        Raises:
            InputError: A token is not one of the vocabulary.
        """
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        seen: list[int] = []
        text = ""
        for token in tokens:
            self._checked([token])
            seen.append(int(token))
            part = stream.step(self.library, int(token)) or ""
            text += part
            yield part
        yield self.decode(seen)[len(text) :] if seen else ""

    def to_dict(self) -> dict[str, str | int]:
        """Return the kind, the description, and what else is known."""
        known = {"end": self.end, "configuration": self.configuration}
        told = {name: value for name, value in known.items() if value}
        return {"kind": "subwords", "description": self.description, **told}

    def _decode(self, tokens: Tensor) -> str:
        return str(self.library.decode(tokens.tolist(), skip_special_tokens=False))


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
