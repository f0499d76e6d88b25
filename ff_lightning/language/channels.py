"""Channels of its own in which every block reads the token of a position, beside the stream from below.

A block that predicts the next of many tokens turns the stream to that end, and the one above then reads the token it
stands on from a stream that is full of other things. In channels of its own the token costs nothing to read.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ff_lightning.errors import whole
from ff_lightning.language.functional import rms_norm
from ff_lightning.parts import Part

EMBEDDING = -1
"""Stands for the embedding of a first block in the place of a table."""


class OwnChannels(Part):
    """Every block looks its token up in a table of its own, and all of its layers read that beside the stream.

    Both branches of a layer read ``[N(h); E[x]]``: the normalised stream ``h`` and the row of the token ``x`` in the
    block's table ``E``, ``width + size`` channels. Nothing is added to the stream. Tables start standard normal.

    Args:
        size: channels ``s``, so ``V * s`` more parameters a block. ``None`` for as many as the stream is wide; then the
            first block needs no table, since its layers read its embedding, normalised.

    Raises:
        InputError: a size below 1.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = None if size is None else whole("size", size, least=1, owner=self)

    def width(self, stream: int) -> int:
        """Channels beside a stream of so many."""
        return stream if self.size is None else self.size

    def tables(self, vocab_size: int, stream: int, layers: int, *, first: bool) -> TokenTables:
        """What a block of so many layers reads.

        Args:
            vocab_size: ``V``.
            stream: its width.
            layers: of the block.
            first: whether the block has the embedding.
        """
        if first and self.size is None:
            return TokenTables([], [EMBEDDING] * layers)
        return TokenTables([nn.Embedding(vocab_size, self.width(stream))], [0] * layers)


class TokenTables(nn.Module):
    """Tables of tokens, and which of them each layer reads.

    Args:
        tables: ``(V, s)`` each.
        reads: for every layer the index of its table, or :data:`EMBEDDING`.
    """

    def __init__(self, tables: Sequence[nn.Embedding], reads: Sequence[int]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(tables)
        self.reads = tuple(reads)

    def forward(self, tokens: Tensor, embedded: Tensor | None) -> list[Tensor]:
        """What every layer reads, each ``(B, T, s)``.

        Args:
            tokens: ``(B, T)`` int64.
            embedded: ``(B, T, width)`` of a first block.
        """
        found = [table(tokens) for table in self.tables]
        if embedded is not None:
            found.append(rms_norm(embedded))  # the last: where `EMBEDDING` points to
        return [found[index] for index in self.reads]


def joined(parts: Sequence[TokenTables]) -> TokenTables:
    """The tables of several blocks, for all of their layers in one."""
    tables: list[nn.Module] = []
    reads: list[int] = []
    for part in parts:
        reads += [index if index == EMBEDDING else index + len(tables) for index in part.reads]
        tables += part.tables
    return TokenTables(tables, reads)  # type: ignore[arg-type]
