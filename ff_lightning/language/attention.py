"""Causal transformer layers: rotary attention and a squared-ReLU MLP, both behind a short causal convolution.

A layer computes the same whether it sees a sequence at once or piece by piece with a :class:`LayerCache`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ff_lightning.errors import InputError, whole
from ff_lightning.language.functional import (
    attend,
    depthwise_convolution,
    rms_norm,
    rotary_attention,
    rotated,
    squared_relu,
    squared_relu_mlp,
)
from ff_lightning.optim import HiddenMatrix


@dataclass
class LayerCache:
    """What one layer remembers of the tokens it has seen; filled and read by the layer alone.

    Attributes:
        keys: ``(B, heads, S, width / heads)``, rotated; ``None`` before the first token.
        values: the same shape.
        attention_taps: ``(B, taps - 1, width)``, the last inputs of the convolution before attention; of a layer with
            channels beside the stream ``width + channels``.
        mlp_taps: the same for the convolution before the MLP.
    """

    keys: Tensor | None = None
    values: Tensor | None = None
    attention_taps: Tensor | None = None
    mlp_taps: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take in keys and values of new tokens, and return those of all tokens."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2)
        self.keys, self.values = keys, values
        return keys, values


def hidden_linear(in_features: int, out_features: int, *, zero: bool = False) -> nn.Linear:
    """A linear map without bias whose weight is a :class:`~ff_lightning.optim.HiddenMatrix`.

    Weights have variance ``1 / in_features``, or are 0.
    """
    linear = nn.Linear(in_features, out_features, bias=False)
    weight = torch.zeros(out_features, in_features)
    linear.weight = HiddenMatrix(weight if zero else weight.normal_(std=in_features**-0.5))
    return linear


class CausalConvolution(nn.Module):
    """Depthwise convolution over the current and the previous ``taps - 1`` positions.

    Its weights start with variance ``1 / taps``, so that an input of unit RMS stays one. Local learning depends on
    it: started as the identity, a block of one layer is about 0.1 nats worse after 250 steps on characters.

    Args:
        width: channels.
        taps: positions seen.
    """

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, 1, taps).normal_(std=taps**-0.5))

    def forward(self, x: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve.

        Args:
            x: ``(B, T, width)``.
            before: ``(B, taps - 1, width)``, what came before ``x``; zeros by default.

        Returns:
            ``(B, T, width)``, and what comes before the position after the last.
        """
        taps = self.weight.shape[-1]
        if before is None and x.shape[1] >= taps:
            return depthwise_convolution(x, self.weight, padded=True), x[:, x.shape[1] - taps + 1 :]
        if before is None:
            before = x.new_zeros(x.shape[0], taps - 1, x.shape[2])
        x = torch.cat([before, x], 1)
        return depthwise_convolution(x, self.weight), x[:, x.shape[1] - taps + 1 :]

    def pair(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams, ``(B, T, width)`` each: a position of the second sees itself and the real ones before it."""
        y, _ = self(real)
        return y, y + (fake - real) * self.weight[:, 0, -1]


class RotaryAttention(nn.Module):
    """Causal attention with rotary positions (Su 2021, 2104.09864); the output projection starts at 0.

    Args:
        width: of the activities.
        heads: divide ``width`` into even parts.
        context: largest number of positions.
        channels: read beside them, and not written.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, heads: int, context: int, *, channels: int = 0) -> None:
        super().__init__()
        if width % (2 * whole("heads", heads, least=1)):
            raise InputError(f"Passed `width={width}, heads={heads}`. `width` must be a multiple of `2 * heads`.")
        self.heads = heads
        self.width = width
        self.qkv = hidden_linear(width + channels, 3 * width)
        self.out = hidden_linear(width, width, zero=True)
        half = width // heads // 2
        angles = torch.outer(torch.arange(context).double(), 10_000.0 ** -(torch.arange(half).double() / half))
        self.register_buffer("cos", torch.cat([angles.cos(), angles.cos()], 1).float(), persistent=False)
        self.register_buffer("sin", torch.cat([-angles.sin(), angles.sin()], 1).float(), persistent=False)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """Activities ``(B, T, width + channels)`` to ``(B, T, width)``; the cache holds what came before."""
        batch, length, width = *x.shape[:2], self.width
        if cache is None:
            found: Tensor = self.out(rotary_attention(self.qkv(x), *self._angles(0, length), self.heads))
            return found
        qk, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).split([2, 1], 2)
        start = 0 if cache.keys is None else cache.keys.shape[2]
        q, k = self._rotated(qk, start).permute(2, 0, 3, 1, 4)
        k, v = cache.append(k, v.squeeze(2).transpose(1, 2))
        y: Tensor = self.out(attend(q, k, v).transpose(1, 2).reshape(batch, length, width))
        return y

    def pair(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams, ``(B, T, width)`` each: a position of the second sees itself and the real ones before it."""
        batch, length, width = real.shape
        shape = (2 * batch, length, 3, self.heads, width // self.heads)
        qk, v = self.qkv(torch.cat([real, fake])).view(shape).split([2, 1], 2)
        q, k = self._rotated(qk, 0).permute(2, 0, 3, 1, 4)
        (q, q_fake), (k, k_fake), (v, v_fake) = (x.chunk(2) for x in (q, k, v.squeeze(2).transpose(1, 2)))
        q_fake = q_fake * q_fake.shape[-1] ** -0.5
        hidden = torch.ones(length, length, dtype=torch.bool, device=real.device).triu_()
        scores = (q_fake @ k.transpose(-1, -2)).masked_fill(hidden, -torch.inf)
        own = (q_fake * k_fake).sum(-1, keepdim=True)
        weights = torch.cat([scores, own], -1).softmax(-1).to(v.dtype)
        mixed = weights[..., :-1] @ v + weights[..., -1:] * v_fake
        both = torch.cat([attend(q, k, v), mixed]).transpose(1, 2).reshape(2 * batch, length, width)
        y, y_fake = self.out(both).chunk(2)
        return y, y_fake

    def _rotated(self, x: Tensor, start: int) -> Tensor:
        """Turn pairs of channels of ``(B, T, 2, heads, width / heads)`` by the angle of their position."""
        return rotated(x, *self._angles(start, x.shape[1]))

    def _angles(self, start: int, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the angles of positions."""
        if not torch.compiler.is_compiling() and start + length > len(self.cos):
            raise InputError(f"Passed {start + length} tokens. With `context={len(self.cos)}` there may be no more.")
        seen = slice(start, start + length)
        return self.cos[seen], self.sin[seen]


class TransformerLayer(nn.Module):
    """Attention and squared-ReLU MLP (So 2021, 2109.08668), each added to the residual stream.

    Both read the stream at unit RMS and through a causal convolution; both add nothing at first.

    Args:
        width: of the residual stream.
        heads: attention heads.
        context: largest number of positions.
        expansion: hidden units of the MLP for each channel of the stream.
        taps: positions that the convolutions see.
        channels: read by both branches beside the stream, and left out of it; see
            :class:`~ff_lightning.language.OwnChannels`.
    """

    def __init__(
        self, width: int, heads: int, context: int, *, expansion: int = 4, taps: int = 4, channels: int = 0
    ) -> None:
        super().__init__()
        self.attention_taps = CausalConvolution(width + channels, taps)
        self.attention = RotaryAttention(width, heads, context, channels=channels)
        self.mlp_taps = CausalConvolution(width + channels, taps)
        self.up = hidden_linear(width + channels, expansion * width)
        self.down = hidden_linear(expansion * width, width, zero=True)

    def forward(self, h: Tensor, cache: LayerCache | None = None, own: Tensor | None = None) -> Tensor:
        """Residual stream ``(B, T, width)`` to the same; the cache holds what came before.

        Args:
            h: the stream.
            cache: of the tokens before.
            own: ``(B, T, channels)``, read beside it.
        """
        known = LayerCache() if cache is None else cache
        x, known.attention_taps = self.attention_taps(beside(rms_norm(h), own), known.attention_taps)
        h = h + self.attention(x, cache)
        x, known.mlp_taps = self.mlp_taps(beside(rms_norm(h), own), known.mlp_taps)
        return h + self.mlp(x)

    def mlp(self, x: Tensor) -> Tensor:
        """The squared-ReLU MLP; matrices in whose place a user put other modules are called one by one."""
        if isinstance(self.up, nn.Linear) and isinstance(self.down, nn.Linear):
            return squared_relu_mlp(x, self.up.weight, self.down.weight)
        y: Tensor = self.down(squared_relu(self.up(x)))
        return y

    @staticmethod
    def new_cache() -> LayerCache:
        """An empty cache."""
        return LayerCache()

    def pair(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams, ``(B, T, width)`` each: a position of the second sees itself and the real ones before it."""
        deltas = self.attention.pair(*self.attention_taps.pair(rms_norm(real), rms_norm(fake)))
        real, fake = real + deltas[0], fake + deltas[1]
        both = torch.cat(self.mlp_taps.pair(rms_norm(real), rms_norm(fake)))
        y, y_fake = self.mlp(both).chunk(2)
        return real + y, fake + y_fake


def beside(x: Tensor, own: Tensor | None) -> Tensor:
    """The stream ``(B, T, width)`` with what is read beside it, if anything is."""
    return x if own is None else torch.cat([x, own], -1)
