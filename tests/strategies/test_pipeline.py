"""What a signal is taken apart into, and put together from."""

from __future__ import annotations

import pytest
import torch

from ff_lightning.blocks import Signal
from ff_lightning.errors import InputError
from ff_lightning.networks import GPT
from ff_lightning.strategies.pipeline import tensors_of, with_tensors


def test_a_signal_comes_out_as_it_went_in() -> None:
    network = GPT(10, width=8, layers=2, heads=2, context=4, inherit=True)
    tokens = torch.arange(8).view(2, 4)
    draw = torch.Generator().manual_seed
    sent = network.signal(tokens, tokens, draw)
    other = network.signal(tokens.flip(1), tokens.flip(1), draw)
    tensors = tensors_of(sent)
    assert len(tensors) == 5, "tokens, next tokens, where predictions start from, weight and bias of the readout"
    received = with_tensors(other, tensors)
    assert received.h is sent.h
    assert received.labels is sent.labels
    assert received.readout is not None
    assert torch.equal(received.readout[1], sent.readout[1])
    assert received.draw == draw


def test_another_number_of_tensors_is_refused() -> None:
    with pytest.raises(InputError, match="1 tensors where Signal has 2"):
        with_tensors(Signal(torch.zeros(2, 3), labels=torch.zeros(1)), [torch.zeros(2, 3)])
