"""A causal language model trained block by block."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ff_lightning.blocks import BlockStack, Labelled
from ff_lightning.errors import InputError
from ff_lightning.language import LinearContrast, TokenLoss, TokenSoftmax
from ff_lightning.networks.attention import LayerCache, TransformerLayer
from ff_lightning.networks.token_blocks import Readout, TextSignal, TokenBlock, TokenGoodness, TokenLayers

Draw = Callable[[int], torch.Generator | None]


class TokenStack(BlockStack):
    """Stack of blocks that score candidate tokens: what training, evaluation and generation ask of a network.

    Args:
        blocks: from the tokens upwards; the first one has the embedding and a readout of its own.
        vocab_size: ``V``, number of tokens.
        context: largest number of tokens seen at once.

    Attributes:
        prior: ``(V,)`` log-probability of every token, where predictions start from; uniform until
            :meth:`set_unigram`. It is saved with the weights.

    Shape:
        ``(B, T)`` int64 to ``(B, T, V)`` float32, the prediction of the last block, unnormalised.
    """

    prior: Tensor

    def __init__(self, blocks: Sequence[TokenBlock], *, vocab_size: int, context: int) -> None:
        super().__init__(blocks)
        self.vocab_size = vocab_size
        self.context = context
        self.residual = any(block.residual for block in blocks)
        self.inherit = any(block.goodness.weight is None for block in blocks)
        self.register_buffer("prior", torch.full((vocab_size,), -math.log(vocab_size)))

    def set_unigram(self, counts: Tensor) -> None:
        """Let predictions start from how often tokens occur.

        Args:
            counts: ``(V,)``, not negative; every token is counted once more, so that none is impossible.
        """
        if counts.shape != self.prior.shape:
            raise InputError(
                f"Passed counts of {counts.numel()} tokens to a network of `vocab_size={self.vocab_size}`."
            )
        with torch.no_grad():
            self.prior.copy_((counts.double() + 1).log() - (counts.double() + 1).sum().log())

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

    def new_caches(self) -> list[list[LayerCache]]:
        """Empty caches, one a layer, grouped by block."""
        return [[LayerCache() for _ in block.layer] for block in self.token_blocks()]

    def token_blocks(self) -> Iterator[TokenBlock]:
        """The blocks, from the input upwards."""
        return iter(self.blocks)  # type: ignore[arg-type]

    def signal(self, tokens: Tensor, targets: Tensor, draw: Draw | None = None) -> TextSignal:
        """What the first block receives in training.

        Args:
            tokens: ``(B, T)`` int64.
            targets: ``(B, T)`` int64, the tokens one position later.
            draw: source of randomness of each block.
        """
        readout = next(self.token_blocks()).goodness.snapshot() if self.inherit else None
        return TextSignal(tokens, 1, targets, below=self.prior, readout=readout, draw=draw or (lambda index: None))

    def predictions(
        self, tokens: Tensor, caches: list[list[LayerCache]] | None = None, *, last_only: bool = False
    ) -> Iterator[Tensor]:
        """Yield the prediction of every block, log-probabilities up to a constant, with the gradient of the chain.

        This is the one way to a prediction: evaluation and generation use it, and training computes the same.

        Args:
            tokens: ``(B, T)`` int64.
            caches: of the tokens before, from :meth:`new_caches`; they take in ``tokens``.
            last_only: yield only what the last block predicts, and compute no other readout that it does not need.

        Yields:
            ``(B, T, V)`` a block, float32.
        """
        first = next(self.token_blocks()).goodness
        inherited: Readout | None = (first.weight, first.bias) if self.inherit else None  # type: ignore[assignment]
        x, below = tokens, self.prior
        for index, block in enumerate(self.token_blocks()):
            x = block.layer(x, None if caches is None else caches[index])
            if last_only and not self.residual and index < len(self) - 1:
                continue
            logits = block.predict(x, below, inherited)
            answer = block.loss.calibrated(logits, below)
            below = answer if self.residual else below
            if not last_only or index == len(self) - 1:
                yield answer

    def forward(  # type: ignore[override]
        self, x: Tensor, caches: list[list[LayerCache]] | None = None
    ) -> Tensor:
        """Prediction of the last block ``(B, T, V)`` for the token after each of ``x``, ``(B, T)``."""
        (logits,) = self.predictions(x, caches, last_only=True)
        return logits

    @torch.no_grad()
    def goodness(self, x: Tensor | Labelled, *, blocks: int | None = None) -> Tensor:
        """Goodness that every block gives to every candidate, ``(L, B, T, V)``."""
        first = next(self.token_blocks()).goodness
        inherited = first.snapshot() if self.inherit else None
        answers = zip(list(self.token_blocks())[:blocks], self.activities(x), strict=False)
        return torch.stack([block.goodness(h, inherited) for block, h in answers])

    def as_one_block(self) -> TokenStack:
        """The same layers under one loss on top, all tokens at once: the network that backprop trains.

        Layers are copied. The last block's readout is kept, or the first one's where it is inherited.
        """
        blocks = copy.deepcopy(list(self.token_blocks()))
        readout = blocks[0].goodness if self.inherit else blocks[-1].goodness
        layers = [layer for block in blocks for layer in block.layer]
        whole = TokenBlock(TokenLayers(layers, blocks[0].layer.embedding), readout, TokenSoftmax())
        stack = TokenStack([whole], vocab_size=self.vocab_size, context=self.context)
        stack.prior.copy_(self.prior)
        return stack


class GPT(TokenStack):
    """Stack of :class:`TokenBlock`: a small causal language model trained without backprop between blocks.

    Args:
        vocab_size: ``V``, number of tokens.
        width: of the residual stream.
        layers: transformer layers in all.
        layers_per_block: layers trained by one local loss; autograd runs inside these.
        heads: attention heads of each layer.
        context: largest number of tokens seen at once.
        loss: copied for every block; :class:`~ff_lightning.language.LinearContrast` by default.
        residual: every block corrects the prediction of the block below instead of predicting all by itself.
        inherit: blocks above the first are read with a constant copy of its readout instead of their own.
        expansion: hidden units of the MLP for each channel of the stream.
        taps: positions that the convolutions see.

    Raises:
        InputError: sizes that do not fit each other, or ``residual`` with ``inherit``.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        width: int = 128,
        layers: int = 4,
        layers_per_block: int = 1,
        heads: int = 4,
        context: int = 64,
        loss: TokenLoss | None = None,
        residual: bool = False,
        inherit: bool = False,
        expansion: int = 4,
        taps: int = 4,
    ) -> None:
        sizes = {"vocab_size": vocab_size, "layers": layers, "layers_per_block": layers_per_block, "context": context}
        for name, value in (sizes | {"width": width, "expansion": expansion, "taps": taps}).items():
            if value < 1:
                raise InputError(f"Passed `GPT({name}={value})`. `{name}` must be at least 1.")
        if layers % layers_per_block:
            raise InputError(
                f"Passed `layers={layers}, layers_per_block={layers_per_block}`. Blocks of equal size must fill the "
                "network."
            )
        if residual and inherit:
            raise InputError(
                "Passed `residual=True` with `inherit=True`. A block that corrects the one below needs a readout of "
                "its own."
            )
        embedding = nn.Embedding(vocab_size, width)  # standard normal
        every = [TransformerLayer(width, heads, context, expansion=expansion, taps=taps) for _ in range(layers)]
        super().__init__(
            [
                TokenBlock(
                    TokenLayers(every[start : start + layers_per_block], None if start else embedding),
                    TokenGoodness(width, vocab_size, inherit=inherit and start > 0),
                    copy.deepcopy(loss) or LinearContrast(),
                    residual=residual,
                )
                for start in range(0, layers, layers_per_block)
            ],
            vocab_size=vocab_size,
            context=context,
        )
