"""Tokenizers of the library `tokenizers`: byte-pair encodings trained here, and those that other models bring."""

import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from ff_lightning.data.encodings import END_OF_TEXT
from ff_lightning.data.tokenizers import ByteTokenizer, SubwordTokenizer, TiktokenTokenizer, Tokenizer
from ff_lightning.errors import InputError

BPE = re.compile(r"bpe:(\d+)")
OF_ITS_PLACE = ("auto_map", "is_local", "local_files_only", "name_or_path")
"""What a ``tokenizer_config.json`` says of where it lay, or of code beside it."""

LEAST = 257
"""The bytes, and the end of a text."""


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
    """Read a ``tokenizer.json``, and what stands beside it: special tokens, and a chat template."""
    try:
        description = path.read_text(encoding="utf-8")
        beside, template = (path.with_name(name) for name in ("tokenizer_config.json", "chat_template.jinja"))
        told = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
        told = (
            {name: value for name, value in told.items() if name not in OF_ITS_PLACE} if isinstance(told, dict) else {}
        )
        if template.is_file():
            told["chat_template"] = template.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the tokenizer {str(path)!r}: {error}.") from error
    end = told.get("eos_token")
    end = end.get("content") if isinstance(end, dict) else end
    try:
        return SubwordTokenizer(description, end if isinstance(end, str) else None, json.dumps(told) if told else None)
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
    with suppress(OSError, ValueError, HfHubHTTPError, EntryNotFoundError):  # few models have one
        hf_hub_download(name, "chat_template.jinja")
    return _from_file(path)
