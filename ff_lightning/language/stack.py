"""A stack of blocks that score candidate tokens, however its layers look and however it is trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ff_lightning.candidates import Softmax
from ff_lightning.distributed import gathered
from ff_lightning.errors import InputError, positive, tell_left_out
from ff_lightning.language.attention import TransformerLayer
from ff_lightning.language.blocks import Dreams, Readout, SequenceContrast, TextSignal, TokenBlock, TokenLayers
from ff_lightning.language.candidate_blocks import CandidateBlock
from ff_lightning.language.channels import OwnChannels, joined
from ff_lightning.signals import Labelled, StepContext
from ff_lightning.stacks import Ahead, BlockStack

AnyTokenBlock = TokenBlock | CandidateBlock

ONE_BLOCK = "which is one block"
"""Why what is of blocks with others above them is left out."""


class TokenStack(BlockStack):
    """Stack of blocks that score candidate tokens: what training, evaluation and generation ask of a network.

    Args:
        blocks: from the tokens upwards; the first one reads tokens and has a readout of its own.
        vocab_size: ``V``, number of tokens.
        context: largest number of tokens seen at once.
        average: predict with the mean of what the blocks up to the last say, as Hinton adds the goodness of layers
            (2212.13345, section 3.3); ``False`` predicts with the last block alone. It changes no training.
        lookahead: see :class:`~ff_lightning.stacks.BlockStack`; left out where there is one block.

    Attributes:
        prior: ``(V,)`` log-probability of every token, where predictions start from; uniform until
            :meth:`set_unigram`. It is saved with the weights.

    Shape:
        ``(B, T)`` int64 to ``(B, T, V)`` float32, the prediction, unnormalised.
    """

    prior: Tensor

    def __init__(
        self,
        blocks: Sequence[AnyTokenBlock],
        *,
        vocab_size: int,
        context: int,
        average: bool = False,
        lookahead: Ahead | None = None,
    ) -> None:
        if len(blocks) == 1:
            tell_left_out(ONE_BLOCK, lookahead=lookahead)
            lookahead = None
        super().__init__(blocks, lookahead=lookahead)
        self.vocab_size = vocab_size
        self.context = context
        self.average = average
        self.residual = any(block.residual for block in blocks)
        self.inherit = any(block.readout.weight is None for block in blocks)
        self.register_buffer("prior", torch.full((vocab_size,), -math.log(vocab_size)))

    def set_unigram(self, counts: Tensor) -> None:
        """Let predictions start from how often tokens occur.

        Args:
            counts: ``(V,)``, not negative; every token is counted once more, so that none is impossible.

        Raises:
            InputError: there are more or fewer counts than tokens, or no tensor of them.
        """
        if not isinstance(counts, Tensor):
            raise InputError(f"Passed counts as a {type(counts).__name__}. They must be a tensor ({self.vocab_size},).")
        if counts.shape != self.prior.shape:
            raise InputError(
                f"Passed counts of {counts.numel()} tokens to a network of `vocab_size={self.vocab_size}`."
            )
        with torch.no_grad():
            self.prior.copy_((counts.double() + 1).log() - (counts.double() + 1).sum().log())

    def fits_vocabulary(self, size: int) -> bool:
        """Whether data of ``size`` different tokens can be read."""
        return size == self.vocab_size

    def check_tokens(self, tokens: Tensor) -> None:
        """Check that tokens are integers of the vocabulary.

        Raises:
            InputError: names the range.
        """
        if tokens.is_floating_point():
            raise InputError(f"Passed tokens of dtype {tokens.dtype}. Tokens must be integers.")
        low, high = (int(end) for end in tokens.aminmax()) if tokens.numel() else (0, 0)
        if low < 0 or high >= self.vocab_size:
            raise InputError(
                f"Passed tokens from {low} to {high}. With `vocab_size={self.vocab_size}` they must lie in 0 to "
                f"{self.vocab_size - 1}."
            )

    def check_windows(self, batch: Tensor, *, look: bool = True) -> None:
        """Check windows of tokens that are read and predicted.

        Args:
            batch: ``(B, T + 1)``, of which ``T`` are read.
            look: whether values may be looked at.

        Raises:
            InputError: a window is too short or too long, or a token outside the vocabulary.
        """
        if batch.dim() != 2 or not 2 <= batch.shape[1] <= self.context + 1:
            raise InputError(
                f"Passed a batch of shape {tuple(batch.shape)}. With `context={self.context}` it must be "
                f"(B, 2) to (B, {self.context + 1})."
            )
        if look:
            self.check_tokens(batch)

    def new_caches(self) -> list[list[Any]]:
        """Empty caches, one a layer, grouped by block."""
        return [block.layer.new_caches() for block in self.token_blocks()]

    def token_blocks(self) -> Iterator[AnyTokenBlock]:
        """The blocks, from the input upwards."""
        return iter(self.blocks)  # type: ignore[arg-type]

    def signal(
        self, tokens: Tensor, targets: Tensor, context: StepContext = StepContext(), dreams: Dreams | None = None
    ) -> TextSignal:
        """What the first block receives in training.

        Args:
            tokens: ``(B, T)`` int64.
            targets: ``(B, T)`` int64, the tokens one position later.
            context: what is known of the step.
            dreams: sequences of tokens that the network made itself, ``(D, T)``.
        """
        del context
        readout = next(self.token_blocks()).readout.snapshot() if self.inherit else None
        told = None
        if any(block.layer.channels is not None for block in self.token_blocks()):
            told, dreams = tokens, None if dreams is None else replace(dreams, tokens=dreams.h)
        return TextSignal(tokens, targets, below=self.prior, readout=readout, dreams=dreams, tokens=told)

    def predictions(
        self, tokens: Tensor, caches: list[list[Any]] | None = None, *, last_only: bool = False
    ) -> Iterator[Tensor]:
        """Yield what the network predicts up to every block, with the gradient of the chain.

        These are log-probabilities up to a constant; with ``average``, of the blocks up to there, else of the block.

        This is the one way to a prediction: evaluation and generation use it, and training computes the same.

        Args:
            tokens: ``(B, T)`` int64.
            caches: of the tokens before, from :meth:`new_caches`; they take in ``tokens``.
            last_only: yield only what the last block predicts, and compute no other readout that it does not need.

        Yields:
            ``(B, T, V)`` a block, float32.
        """
        first = next(self.token_blocks()).readout
        inherited: Readout | None = None
        if self.inherit and first.weight is not None and first.bias is not None:
            inherited = gathered(first.weight), gathered(first.bias)
        x, below, total = tokens, self.prior, torch.zeros_like(self.prior)
        alone = last_only and not self.residual and not self.average
        for index, block in enumerate(self.token_blocks()):
            self.stage.require(index, training=self.training)
            h = block(x, None if caches is None else caches[index], tokens)
            x = block.norm(h)
            if alone and index < len(self) - 1:
                continue
            answer = block.answer(h, below, inherited)
            below = answer if self.residual else below
            if self.average:
                total = total + answer
                answer = total / (index + 1)
            if not last_only or index == len(self) - 1:
                yield answer

    def forward(  # type: ignore[override]
        self, x: Tensor, caches: list[list[Any]] | None = None
    ) -> Tensor:
        """What :meth:`predictions` yields last, ``(B, T, V)``, for the token after each of ``x``, ``(B, T)``.

        Raises:
            InputError: ``x`` has another form, or a token lies outside the vocabulary.
        """
        if caches is None and not torch.compiler.is_compiling():
            if x.dim() != 2 or not x.shape[1]:
                raise InputError(f"Passed tokens of shape {tuple(x.shape)}. They must be (B, T), with T at least 1.")
            self.check_tokens(x)
        (logits,) = self.predictions(x, caches, last_only=True)
        return logits

    @torch.no_grad()
    def activities(self, x: Tensor | Labelled) -> Iterator[Tensor]:
        """Yield the activities of every block, ``(B, T, width)``; see :class:`~ff_lightning.stacks.BlockStack`."""
        assert isinstance(x, Tensor)
        tokens = x
        for index, block in enumerate(self.token_blocks()):
            self.stage.require(index, training=self.training)
            h: Tensor = block(x, None, tokens)
            yield h
            x = block.norm(h)

    @torch.no_grad()
    def goodness(self, x: Tensor | Labelled, *, blocks: int | None = None) -> Tensor:
        """Goodness that every block gives to every candidate token, ``(L, B, T, V)``."""
        first = next(self.token_blocks()).readout
        inherited = first.snapshot() if self.inherit else None
        answers = zip(list(self.token_blocks())[:blocks], self.activities(x), strict=False)
        return torch.stack([block.readout(h, inherited) for block, h in answers])

    def as_one_block(self, num_classes: int | None = None) -> TokenStack:
        """The same layers under one loss on top, all tokens at once: the network that backprop trains, the twin.

        Layers are copied, with the channels that they read. The last block's readout is kept, or the first one's where
        it is inherited.

        Args:
            num_classes: unused: the candidates are the tokens.
        """
        del num_classes
        blocks = copy.deepcopy(list(self.token_blocks()))
        readout = blocks[0].readout if self.inherit else blocks[-1].readout
        layers = [layer for block in blocks for layer in block.layer]
        tables = [block.layer.channels for block in blocks if block.layer.channels is not None]
        layer = TokenLayers(layers, blocks[0].layer.embedding, channels=joined(tables) if tables else None)
        whole = TokenBlock(layer, readout, Softmax())
        stack = TokenStack([whole], vocab_size=self.vocab_size, context=self.context)
        stack.prior.copy_(self.prior)
        return stack


def sequence_contrast(width: int, dream_weight: float) -> SequenceContrast | None:
    """Goodness of sequences for one block, or ``None`` if it has no weight.

    Args:
        width: of the activities.
        dream_weight: not negative; see :class:`~ff_lightning.language.GPT`.

    Raises:
        InputError: the weight is negative or not finite.
    """
    return SequenceContrast(width, weight=positive("dream_weight", dream_weight)) if dream_weight else None


def check_span(layers: int, layers_per_block: int) -> None:
    """Check that layers can be cut into blocks of equal size.

    Raises:
        InputError: they cannot.
    """
    if layers % layers_per_block:
        raise InputError(
            f"Passed `layers={layers}, layers_per_block={layers_per_block}`. Blocks are of equal size: `layers` "
            "must be a multiple of `layers_per_block`."
        )


def transformer_blocks(
    vocab_size: int,
    width: int,
    layers: int,
    layers_per_block: int,
    heads: int,
    context: int,
    *,
    expansion: int = 4,
    taps: int = 4,
    channels: OwnChannels | None = None,
) -> list[TokenLayers]:
    """Transformer layers cut into blocks of equal size, behind an embedding, which is standard normal.

    Args:
        vocab_size: see :class:`~ff_lightning.language.GPT`, as for all.
        width: of the residual stream.
        layers: in all.
        layers_per_block: in one block.
        heads: of each layer.
        context: largest number of positions.
        expansion: of the MLP.
        taps: of the convolutions.
        channels: in which every block reads the token beside the stream.

    Raises:
        InputError: the layers cannot be cut like that.
    """
    check_span(layers, layers_per_block)
    embedding = nn.Embedding(vocab_size, width)
    beside = 0 if channels is None else channels.width(width)
    every = [
        TransformerLayer(width, heads, context, expansion=expansion, taps=taps, channels=beside) for _ in range(layers)
    ]
    return [
        TokenLayers(
            every[start : start + layers_per_block],
            None if start else embedding,
            channels=None
            if channels is None
            else channels.tables(vocab_size, width, layers_per_block, first=not start),
        )
        for start in range(0, layers, layers_per_block)
    ]
