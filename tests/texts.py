"""Small real language models for the tests: the language reference that CPython ships, a few steps, one line each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from pydoc_data.topics import topics
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ff_lightning.language.gpt import GPT
from ff_lightning.language.hinton import HintonGPT, HintonMLP
from ff_lightning.language.stack import TokenStack
from ff_lightning.language.window_mlp import WindowMLP
from ff_lightning.optim import MuonAdamW
from ff_lightning.signals import StepContext
from ff_lightning.tasks.language import FFLanguageModel

CONTEXT = 16
SEEDED = StepContext(lambda index: torch.Generator().manual_seed(index))
"""A step in which every block has the same draws at every call."""
MUON = partial(MuonAdamW, lr=4e-3, muon_lr=0.02)
Network = TypeVar("Network", bound=TokenStack)


@cache
def text() -> tuple[Tensor, int]:
    """Characters of a real text, as int64 tokens, and the number of different ones."""
    raw = "".join(topics[name] for name in sorted(topics))[:100_000]
    characters = {character: index for index, character in enumerate(sorted(set(raw)))}
    return torch.tensor([characters[character] for character in raw]), len(characters)


def windows(count: int, start: int = 0) -> Tensor:
    """``count`` windows of CONTEXT + 1 tokens, one after the other, ``(count, CONTEXT + 1)``."""
    return text()[0][start:].unfold(0, CONTEXT + 1, CONTEXT)[:count].clone()


class Batches(DataLoader[Any]):
    """Windows in their order, as plain ``(B, CONTEXT + 1)`` batches."""

    def __init__(self, count: int, batch_size: int, start: int = 0) -> None:
        data = TensorDataset(windows(count, start))
        super().__init__(data, batch_size=batch_size, collate_fn=lambda rows: torch.stack([row for (row,) in rows]))


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "dict": lambda tokens: {"input_ids": tokens, "labels": tokens, "attention_mask": torch.ones_like(tokens)},
    "pair": lambda tokens: (tokens[:, :-1], tokens[:, 1:]),
}
"""What other loaders make of a batch of windows."""


def in_form(form: str, batches: Iterable[Tensor]) -> DataLoader[Any]:
    """The same batches as another loader would make them."""
    made: Any = [FORMS[form](tokens) for tokens in batches]
    return DataLoader(made, batch_size=None)


def gpt(**kwargs: Any) -> GPT:
    """A small stack with the same weights at every call."""
    torch.manual_seed(0)
    return GPT(text()[1], **{"width": 16, "layers": 3, "heads": 2, "context": CONTEXT} | kwargs)


def hinton_gpt(**kwargs: Any) -> HintonGPT:
    """A small transformer that judges the token in its input, with the same weights at every call."""
    torch.manual_seed(0)
    return HintonGPT(text()[1], **{"width": 16, "layers": 3, "heads": 2, "context": CONTEXT} | kwargs)


def hinton_mlp(**kwargs: Any) -> HintonMLP:
    """The same over a window of tokens."""
    torch.manual_seed(0)
    return HintonMLP(text()[1], **{"window": 5, "widths": [24, 16, 20], "context": CONTEXT} | kwargs)


def window_mlp(**kwargs: Any) -> WindowMLP:
    """A small stack over a window of tokens, with the same weights at every call."""
    torch.manual_seed(0)
    return WindowMLP(text()[1], **{"window": 5, "widths": [24, 16, 20], "context": CONTEXT} | kwargs)


def awake(network: Network) -> Network:
    """Give the parameters that start at 0 random values, so that every path matters."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if not bool(parameter.any()) or parameter.dim() == 3:
                parameter.normal_(std=0.3)
    return network


def model(**kwargs: Any) -> FFLanguageModel:
    """A small language model with the same weights and the same negatives at every call."""
    network = kwargs.pop("network", None) or gpt()
    module = FFLanguageModel(network, **{"optimizer": MUON} | kwargs)
    module.seed = 0
    return module
