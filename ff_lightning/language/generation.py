"""Sampling text from a network, token by token."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ff_lightning.candidates import draw_tokens
from ff_lightning.errors import InputError, is_number, is_whole, whole
from ff_lightning.language.stack import TokenStack
from ff_lightning.normalization import evaluating
from ff_lightning.processor import running_sums


class Sampler:
    """How a token is drawn from a prediction.

    Args:
        temperature: divides the logits; positive and finite.
        top_k: draw among this many of the likeliest tokens only.
        top_p: draw among the likeliest tokens that together have this probability only, in ``(0, 1]``.

    Raises:
        InputError: an argument makes no sense.
    """

    def __init__(self, temperature: float = 1.0, *, top_k: int | None = None, top_p: float | None = None) -> None:
        if not (is_number(temperature) and 0 < temperature < math.inf):
            raise InputError(
                f"Passed `temperature={temperature}`. `temperature` must be positive and finite; `top_k=1` always "
                "takes the likeliest token."
            )
        if top_k is not None:
            whole("top_k", top_k, least=1)
        if top_p is not None and not (is_number(top_p) and 0 < top_p <= 1):
            raise InputError(f"Passed `top_p={top_p}`. `top_p` must be in (0, 1], or None.")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p

    def allowed(self, logits: Tensor) -> Tensor:
        """Logits ``(…, V)`` at the temperature, ``-inf`` where a token may not be drawn."""
        if not logits.is_floating_point() or logits.dim() < 1 or logits.shape[-1] < 1:
            raise InputError(
                f"Passed logits as {logits.dtype} of shape {tuple(logits.shape)}. They must be (…, V), V >= 1."
            )
        # From the likeliest one downwards: what is divided by next to nothing overflows, and would become NaN.
        logits = logits - logits.amax(-1, keepdim=True)
        logits = logits / max(self.temperature, torch.finfo(logits.dtype).tiny)
        if self.top_k is not None:
            least = logits.topk(min(self.top_k, logits.shape[-1])).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p is not None:
            ordered, order = logits.softmax(-1).sort(dim=-1, descending=True)
            beyond = running_sums(ordered, -1) - ordered >= self.top_p
            beyond[..., 0] = False  # the likeliest is always kept, even where `top_p` rounds to 0
            logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
        return logits

    def __call__(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw one token ``(…,)`` from logits ``(…, V)``."""
        return draw_tokens(self.allowed(logits), 1, generator).squeeze(-1)


def stream(
    network: TokenStack,
    prompt: Tensor,
    max_new_tokens: int,
    sampler: Sampler,
    generator: torch.Generator | None = None,
    *,
    stop: Sequence[int] = (),
    use_cache: bool = True,
) -> Iterator[Tensor]:
    """Continue prompts, and yield tokens as they are drawn.

    Nothing drops out, also where the network is in training mode, in which it is found again.

    The network sees a window of at most ``network.context`` tokens. When the window is full, it goes on from its
    last half: positions start anew, with and without a cache.

    Args:
        network: predicts the next token.
        prompt: ``(B, T)`` int64, ``1 <= T <= network.context``.
        max_new_tokens: tokens to draw for each prompt.
        sampler: draws a token from a prediction.
        generator: source of randomness; torch's own by default.
        stop: tokens of the vocabulary that end a text; a text that has ended repeats the token that ended it.
        use_cache: keep keys and values of the tokens of the window; the tokens drawn are the same without.

    Yields:
        ``(B,)`` int64; ends early when all texts have ended.

    Raises:
        InputError: an argument makes no sense, or a token is not in the vocabulary.
    """
    check_prompt(network, prompt, max_new_tokens)
    ends = torch.tensor(_stops(network, stop), dtype=prompt.dtype, device=prompt.device)
    return _stream(network, prompt, max_new_tokens, sampler, generator, ends, use_cache)


def _stream(
    network: TokenStack,
    window: Tensor,
    max_new_tokens: int,
    sampler: Sampler,
    generator: torch.Generator | None,
    ends: Tensor,
    use_cache: bool,
) -> Iterator[Tensor]:
    caches = network.new_caches() if use_cache else None
    seen = 0  # tokens of the window that the caches hold
    ended = torch.zeros(window.shape[0], dtype=torch.bool, device=window.device)
    last = window[:, -1]
    for _ in range(max_new_tokens):
        with torch.no_grad(), evaluating(network):
            (logits,) = network.predictions(window[:, seen:], caches, last_only=True)
            token = torch.where(ended, last, sampler(logits[:, -1], generator))
        yield token
        ended = ended | torch.isin(token, ends)
        if bool(ended.all()):
            return
        last = token
        seen = window.shape[1] if use_cache else 0
        window = torch.cat([window, token.unsqueeze(1)], 1)
        if window.shape[1] > network.context:
            window, seen = window[:, -max(1, network.context // 2) :], 0
            caches = network.new_caches() if use_cache else None


def continued(prompt: Tensor, tokens: Iterator[Tensor]) -> Tensor:
    """The prompt ``(B, T)`` and all tokens that follow it, ``(B, T + new)``."""
    return torch.cat([prompt, *(token.unsqueeze(1) for token in tokens)], 1)


def check_prompt(network: TokenStack, prompt: Tensor, max_new_tokens: int) -> None:
    """Check what a text is to be continued from.

    Raises:
        InputError: no prompt, one that is too long, a token outside the vocabulary, or no length of what follows.
    """
    if prompt.dim() != 2 or not 1 <= prompt.shape[1] <= network.context or prompt.shape[0] < 1:
        raise InputError(
            f"Passed a prompt of shape {tuple(prompt.shape)}. It must be (B, T) with T, its tokens, from 1 to "
            f"`context={network.context}`; `crop=True` (`--crop true`) goes on from the end of a longer one."
        )
    network.check_tokens(prompt)
    whole("max_new_tokens", max_new_tokens, least=0)


def _stops(network: TokenStack, stop: Sequence[int]) -> list[int]:
    listed = isinstance(stop, Iterable) and not isinstance(stop, Tensor | str | bytes | Mapping)
    tokens = list(stop) if listed else []
    if not listed or not all(is_whole(token, least=0) and token < network.vocab_size for token in tokens):
        raise InputError(
            f"Passed `stop={reprlib.repr(stop)}`. `stop` must be a list of tokens, whole numbers from 0 to "
            f"{network.vocab_size - 1}."
        )
    return [int(token) for token in tokens]
