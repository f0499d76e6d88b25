"""Small models of transformers with weights that matter, made from a configuration; nothing is downloaded."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from torch import Tensor

transformers: Any = pytest.importorskip("transformers", reason="needs the extra `transformers`")

VOCABULARY, CONTEXT, LAYERS = 97, 32, 4
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
CONFIGS = {
    "llama, tied": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=False),
    "mistral, window": lambda: transformers.MistralConfig(**SIZES, sliding_window=3),
    "qwen2, window above": lambda: transformers.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=3, max_window_layers=2
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=LAYERS, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    ),
}


def model(name: str = "llama, tied") -> Any:
    """A model with the same weights at every call, none of them near 0 or 1 by design."""
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def tokens(rows: int = 2, length: int = CONTEXT) -> Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


@cache
def byte_pairs() -> Any:
    from ff_lightning.data.subwords import train_byte_pairs

    return train_byte_pairs([topics[name] for name in sorted(topics)[:10]], 300)


def folder(place: Path) -> Path:
    """A folder as transformers writes it: configuration, weights and tokenizer."""
    torch.manual_seed(0)
    tokenizer = byte_pairs()
    # The vocabulary is larger than what the tokenizer uses, as many are.
    sizes = SIZES | {"vocab_size": tokenizer.vocab_size + 3, "max_position_embeddings": 256}
    transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**sizes)).save_pretrained(place)
    (place / "tokenizer.json").write_text(tokenizer.description)
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (place / "tokenizer_config.json").write_text(json.dumps(told))
    (place / "chat_template.jinja").write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    return place
