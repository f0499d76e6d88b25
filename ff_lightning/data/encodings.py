"""Encodings of `tiktoken`: those that it has a name for, their beginnings, and plain bytes."""

from typing import TYPE_CHECKING

from ff_lightning.errors import InputError

if TYPE_CHECKING:
    import tiktoken

END_OF_TEXT = "<|endoftext|>"
"""The special token between documents."""


def open_encoding(name: str) -> "tiktoken.Encoding":
    """Open an encoding by its name; its file is downloaded once.

    Args:
        name: As `tiktoken.get_encoding` takes it.

    Raises:
        InputError: There is no such encoding, or its file is not here and cannot be downloaded.
    """
    import tiktoken

    known = tiktoken.list_encoding_names()
    if name not in known:
        raise InputError(f"Passed `TiktokenTokenizer(name={name!r})`. `name` must be one of {', '.join(known)}.")
    try:
        return tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:  # of `requests`, of the file system, or for a damaged download
        raise InputError(
            f"Passed `TiktokenTokenizer(name={name!r})`. The file of this encoding is not here and cannot be "
            f"downloaded ({type(error).__name__}). Set the environment variable TIKTOKEN_CACHE_DIR to a folder that "
            "has it, or use `ByteTokenizer`, which needs no file."
        ) from error


def first_tokens(encoding: "tiktoken.Encoding", vocab_size: int) -> "tiktoken.Encoding":
    """Make a smaller encoding of the tokens that were merged first.

    Byte-pair encoding merges in the order of its tokens, so those below any number are an encoding themselves.

    Args:
        encoding: A larger one, in which the 256 bytes come first.
        vocab_size: Number of tokens to keep, with `<|endoftext|>` as the last one.

    Raises:
        InputError: `vocab_size` is below 257 or more than there are.
    """
    import tiktoken

    ranks = encoding._mergeable_ranks
    if not isinstance(vocab_size, int) or not 257 <= vocab_size <= len(ranks) + 1:
        raise InputError(
            f"Passed `TiktokenTokenizer(name={encoding.name!r}, vocab_size={vocab_size})`. `vocab_size` must be a "
            f"whole number from 257 (the bytes and {END_OF_TEXT}) to {len(ranks) + 1}, or None."
        )
    return tiktoken.Encoding(
        f"{encoding.name}[:{vocab_size}]",
        pat_str=encoding._pat_str,
        mergeable_ranks={token: rank for token, rank in ranks.items() if rank < vocab_size - 1},
        special_tokens={END_OF_TEXT: vocab_size - 1},
        explicit_n_vocab=vocab_size,
    )


def byte_encoding() -> "tiktoken.Encoding":
    """Make the encoding of single bytes."""
    import tiktoken

    return tiktoken.Encoding(
        "bytes",
        pat_str=r"[\s\S]{1,16}",  # any cut will do, since no bytes are ever merged
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={},
        explicit_n_vocab=256,
    )
