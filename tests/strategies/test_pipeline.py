"""What a signal is taken apart into, and put together from."""

from __future__ import annotations

import pytest
import torch

from ff_lightning.errors import InputError
from ff_lightning.language import GPT, Independent
from ff_lightning.signals import Labelled, Signal
from ff_lightning.strategies.pipeline import put_together, taken_apart


def test_a_signal_comes_out_as_it_went_in() -> None:
    network = GPT(10, width=8, layers=2, heads=2, context=4, combination=Independent(inherit=True))
    tokens = torch.arange(8).view(2, 4)
    sent = network.signal(tokens, tokens)
    other = network.signal(tokens.flip(1), tokens.flip(1))
    parts, tensors = taken_apart(sent)
    assert len(tensors) == 5, "tokens, next tokens, where predictions start from, weight and bias of the readout"
    received = put_together(other, parts, tensors)
    assert received.h is sent.h
    assert received.labels is sent.labels
    assert received.readout is not None
    assert torch.equal(received.readout[1], sent.readout[1])


def test_labels_that_a_block_is_told_travel_with_its_input() -> None:
    """The process that receives them has made a plain tensor of the batch."""
    h, labels, y = torch.randn(6, 4), torch.arange(6).view(2, 3), torch.arange(3)
    parts, tensors = taken_apart(Signal(Labelled(h, labels, image_part=torch.randn(9)), labels=y))
    received = put_together(Signal(torch.zeros(3, 8), labels=y), parts, tensors)
    assert isinstance(received.h, Labelled)
    assert received.h.image is h
    assert received.h.labels is labels
    assert received.h.image_part is None
    assert received.labels is y


def test_tensors_in_other_fields_are_refused() -> None:
    parts, tensors = taken_apart(Signal(torch.zeros(2, 3)))
    with pytest.raises(InputError, match="tensors in h where Signal has them in h, labels"):
        put_together(Signal(torch.zeros(2, 3), labels=torch.zeros(1)), parts, tensors)
