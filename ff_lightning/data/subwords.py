"""Tokenizers of the library `tokenizers`: byte-pair encodings trained here, and those that other models bring."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ff_lightning.data.encodings import END_OF_TEXT
from ff_lightning.data.tokenizers import ByteTokenizer, TiktokenTokenizer, Tokenizer
from ff_lightning.errors import InputError

if TYPE_CHECKING:
    import tokenizers

ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<end_of_turn>", "[SEP]")
"""Special tokens that end a text in public tokenizers; the first that there is counts, unless a configuration says."""

BPE = re.compile(r"bpe:(\d+)")
LEAST = 257
"""The bytes, and the end of a text."""


@dataclass(frozen=True)
class SubwordTokenizer(Tokenizer):
    """A tokenizer of the library `tokenizers`, as its file ``tokenizer.json`` says it.

    Text is never cut or padded, whatever the file says, and what looks like a special token is ordinary text.

    Args:
        description: Content of a ``tokenizer.json``; nothing in it is executed.
        end: The token between documents; None for the usual one, if there is one.

    Raises:
        InputError: It is no such description.
    """

    description: str = field(repr=False)
    end: str | None = None
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

    @property
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
            self.decode([token])  # refuses what is none
            seen.append(int(token))
            part = stream.step(self.library, int(token)) or ""
            text += part
            yield part
        yield self.decode(seen)[len(text) :] if seen else ""

    def to_dict(self) -> dict[str, str | int]:
        """Return the kind and the description."""
        return {"kind": "subwords", "description": self.description, **({"end": self.end} if self.end else {})}

    def _decode(self, tokens: Tensor) -> str:
        return str(self.library.decode(tokens.tolist(), skip_special_tokens=False))


def train_byte_pairs(documents: Iterable[str], vocab_size: int) -> SubwordTokenizer:
    """Learn a byte-pair encoding of the bytes of UTF-8, as GPT-2's, from a text (Sennrich et al. 2016, 1508.07909).

    Args:
        documents: The text to learn from.
        vocab_size: Tokens to make: 256 bytes, `<|endoftext|>`, and what was merged; fewer if the text is too short.

    Raises:
        InputError: `vocab_size` is too small.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if vocab_size < LEAST:
        raise InputError(
            f"Passed `tokenizer='bpe:{vocab_size}'`. It must have at least {LEAST} tokens: all bytes and an end."
        )
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    # The library would otherwise warn after a fork, as by workers of a loader.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    library.train_from_iterator(documents, trainer)
    tokenizer = SubwordTokenizer(library.to_str(), END_OF_TEXT)
    fewer = f", not {vocab_size}: the text has no more pairs to merge" if tokenizer.vocab_size < vocab_size else ""
    rank_zero_info(f"Trained a byte-pair encoding of {tokenizer.vocab_size} tokens on the training text{fewer}.")
    return tokenizer


def byte_pairs_asked(name: str) -> int | None:
    """Number of tokens in ``bpe:4096``; None for any other name."""
    match = BPE.fullmatch(name)
    return int(match[1]) if match else None


def open_tokenizer(name: str) -> Tokenizer:
    """Open a tokenizer by a name.

    Args:
        name: "bytes"; an encoding of `tiktoken`, such as "gpt2"; a file ``tokenizer.json``, or a folder with one; or
            the id of a model on the hub, such as "openai-community/gpt2".

    Raises:
        InputError: It is none of these, or cannot be read or downloaded.
    """
    import tiktoken

    if name == "bytes":
        return ByteTokenizer()
    if name in tiktoken.list_encoding_names():
        return TiktokenTokenizer(name)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "tokenizer.json").is_file():
            there = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
            raise InputError(f"Passed `tokenizer={name!r}`. The folder has no tokenizer.json, only {there}.")
        return _from_file(path / "tokenizer.json")
    if path.is_file():
        return _from_file(path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and path.suffix != ".json":
        return _from_hub(name)
    raise InputError(
        f"Passed `tokenizer={name!r}`. It must be 'characters', 'bytes', 'bpe:N' for a byte-pair encoding of N tokens "
        "trained on the text, an encoding of `tiktoken` such as 'gpt2', a file tokenizer.json or a folder with one, "
        "the id of a model on the hub such as 'openai-community/gpt2', or a class such as "
        "ff_lightning.data.ByteTokenizer."
    )


def _from_file(path: Path) -> SubwordTokenizer:
    """Read a ``tokenizer.json``, and what a ``tokenizer_config.json`` beside it says of the end of a text."""
    try:
        description = path.read_text(encoding="utf-8")
        beside = path.with_name("tokenizer_config.json")
        configuration = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the tokenizer {str(path)!r}: {error}.") from error
    end = configuration.get("eos_token") if isinstance(configuration, dict) else None
    end = end.get("content") if isinstance(end, dict) else end
    try:
        return SubwordTokenizer(description, end if isinstance(end, str) else None)
    except InputError as error:
        raise InputError(f"Cannot read the tokenizer {str(path)!r}: {error}") from error


def _from_hub(name: str) -> SubwordTokenizer:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        path = Path(hf_hub_download(name, "tokenizer.json"))
    except (OSError, ValueError, HfHubHTTPError, EntryNotFoundError) as error:
        reason = str(error).strip().split("\n", 1)[0].rstrip(".")
        raise InputError(
            f"Passed `tokenizer={name!r}`. Its tokenizer.json is not here and cannot be downloaded: {reason}. A local "
            "folder with it can be passed instead."
        ) from error
    try:
        hf_hub_download(name, "tokenizer_config.json")  # lies beside the other
    except (OSError, ValueError, HfHubHTTPError, EntryNotFoundError):
        rank_zero_info(f"{name} has no tokenizer_config.json: the end of a text is the usual one.")
    return _from_file(path)
