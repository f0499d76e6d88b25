"""Whether a model in parts computes what it did: the whole and its parts are run on the same inputs, and compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.conversion.tokens import PADDING, Tokens
from ff_lightning.errors import InputError, in_one_line, is_whole
from ff_lightning.normalization import evaluating

CLOSE = 1e-4
"""Largest difference between a model and its parts, as a share of the largest value; more of low precision."""

PROBED = 8
"""Tokens of the texts on which a model and its parts are compared."""

SHORT = 3
"""Tokens that every limit of attention is set to in a second comparison, so that it is within those texts."""

WINDOWS = ("sliding_window", "attention_chunk_size", "local_attention")
"""What configurations of transformers call a limit of attention."""

LIST_THEM = (
    "Pass its parts as a list, in the order in which it applies them, and what it does between them as a module, such "
    "as `nn.ReLU()`."
)


def error_line(error: Exception) -> str:
    """What an error of torch says, in one line that is not too long, without a full stop."""
    return in_one_line(error)[:200].rstrip(".")


def through(parts: Iterable[nn.Module], x: Any) -> Any:
    """Apply modules one after the other; of those that return several things, the first is passed on."""
    for part in parts:
        x = part(x)
        if isinstance(x, tuple):
            x = x[0]
    return x


def telling(example: Tensor) -> Tensor:
    """An input on which functions differ: where all values of ``example`` are the same, random ones in ``[0, 1)``.

    Of zeros, a model that has just been built makes zeros, whatever it does to them.
    """
    if not example.is_floating_point() or example.numel() < 2 or bool((example != example.flatten()[0]).any()):
        return example
    drawn = torch.rand(example.shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(example.device, example.dtype)


def share_off(found: Tensor, said: Tensor) -> float:
    """Largest difference between two tensors, as a share of the largest value of the second."""
    if found.shape != said.shape:
        return math.inf
    found, said = found.double(), said.double()
    return ((found - said).abs().max() / said.abs().max().clamp(min=1e-30)).item()


def is_close(found: Tensor, said: Tensor) -> bool:
    """Whether two tensors are the same, apart from rounding."""
    return share_off(found, said) <= max(CLOSE, 8 * torch.finfo(said.dtype).eps)


# Transformers ------------------------------------------------------------------------------------------------------


def check_images(model: nn.Module, parts: Sequence[nn.Module], example: Tensor, whole: Callable[[Tensor], Any]) -> None:
    """Check that the parts of a model give what the model gives for an image.

    Args:
        model: whose parts they are.
        parts: in their order.
        example: ``(1, C, H, W)``.
        whole: what the model makes of it up to its head.

    Raises:
        InputError: they do not, or cannot take it.
    """
    x = telling(example)
    said, found = _both(model, x.shape, lambda: whole(x), lambda: through(parts, x))
    _refuse_difference(model, found, said)


def check_texts(model: Any, parts: Sequence[nn.Module], context: int | None, vocab_size: int) -> None:
    """Check that the parts of a text model of transformers give what the model gives, with padding and without.

    Where the configuration limits how far attention looks, it does so once more with a limit of a few tokens.

    Args:
        model: whose parts they are.
        parts: in their order.
        context: largest number of tokens; ``None`` for any.
        vocab_size: number of tokens that there are.

    Raises:
        InputError: they do not.
    """
    count, base = min(PROBED, context or PROBED), model.base_model
    device = next(base.parameters()).device
    tokens = (1 + torch.arange(2 * count, device=device) * vocab_size // (2 * count)).remainder(vocab_size).view(2, -1)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, count // 2 + 1 :] = False
    padded = torch.where(mask, tokens, PADDING)

    def whole() -> Any:
        return base(input_ids=tokens, attention_mask=mask.long()).last_hidden_state[mask]

    def apart() -> Any:
        found = through(parts, padded)
        return found.h[mask] if isinstance(found, Tokens) else found

    limits = [name for name in WINDOWS if is_whole(getattr(base.config, name, None), least=1)]
    for limit in (None, SHORT)[: 1 + bool(limits)]:
        with _limited(base.config, limits, limit):
            said, found = _both(model, tokens.shape, whole, apart)
        _refuse_difference(model, found, said)


@contextmanager
def _limited(config: Any, names: Sequence[str], limit: int | None) -> Iterator[None]:
    """Meanwhile attention looks no farther than so many tokens; ``None`` for as far as it does."""
    before = {name: getattr(config, name) for name in names}
    try:
        for name in names if limit is not None else ():
            setattr(config, name, limit)
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


@torch.no_grad()
def _both(
    model: nn.Module, shape: torch.Size, whole: Callable[[], Any], apart: Callable[[], Any]
) -> tuple[Tensor, Tensor]:
    """What a model and its parts give, with the same random numbers."""
    results = []
    try:
        with evaluating(model), torch.random.fork_rng(devices=[]):
            for run in (whole, apart):
                torch.manual_seed(0)
                results.append(run())
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError, AssertionError) as error:
        raise InputError(
            f"Passed `model={type(model).__name__}`, which cannot take an input of shape {tuple(shape)} both whole and "
            f"in parts: {error_line(error)}. Pass one that it takes as `example`, or its parts as a list."
        ) from error
    said, found = results
    return said, found


def _refuse_difference(model: nn.Module, found: Any, said: Any) -> None:
    if not isinstance(found, Tensor) or not is_close(found, said):
        off = share_off(found, said) if isinstance(found, Tensor) else math.inf
        raise InputError(
            f"Passed `model={type(model).__name__}`, which does more than apply its layers one after the other: in "
            f"parts, it is off by {off:.2g} of its largest value. {LIST_THEM}"
        )


# Chains ------------------------------------------------------------------------------------------------------------


def missing_between(last: Tensor, given: Any) -> list[nn.Module] | None:
    """The modules that are missing between what a part gave and what something later got of it.

    Args:
        last: what the part gave, ``(B, …)``.
        given: what the other one got: the same, or what pooling makes of it.

    Returns:
        None of them, or a ReLU; ``None`` if it is something else that is missing, or if it may be either.
    """
    if not isinstance(given, Tensor) or not given.is_floating_point() or given.dim() < 1:
        return None
    positive = F.relu(last)
    plainly, behind_relu = (
        any(is_close(pooled, given.flatten(1)) for pooled in _pooled(maps, given)) for maps in (last, positive)
    )
    if plainly and behind_relu and not torch.equal(last, positive):
        return None  # of maxima that are all positive, nobody knows what was done to lower values
    return [] if plainly else [nn.ReLU()] if behind_relu else None


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors that a model returns: one, or several in a sequence or a mapping."""
    several = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else [value]
    yield from (each for each in several if isinstance(each, Tensor))


def _pooled(maps: Tensor, given: Tensor) -> Iterator[Tensor]:
    """What heads make of maps, ``(B, …)`` each: themselves, means and maxima over places, and single tokens."""
    yield maps.flatten(1)
    if maps.dim() < 3:
        return
    for places in (maps.flatten(2).transpose(1, 2), maps.flatten(1, -2)):  # channels second, or last
        yield places.mean(1)
        yield places.amax(1)
    if maps.dim() == 3:
        yield from (maps[:, 0], maps[:, -1], maps[:, 1:].mean(1))
    side = math.isqrt(given.flatten(1).shape[1] // maps.shape[1])
    if maps.dim() == 4 and side > 1:
        yield F.adaptive_avg_pool2d(maps, side).flatten(1)
        yield F.adaptive_max_pool2d(maps, side).flatten(1)
