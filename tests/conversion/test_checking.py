"""How a model in parts is compared with itself: which inputs tell functions apart, what counts as the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.conversion.checking import check_images, check_texts, missing_between, share_off, telling, tensors_in
from ff_lightning.conversion.families import TextLayer, known_cut
from ff_lightning.errors import InputError

MAPS = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0))


def test_an_input_of_one_value_is_replaced() -> None:
    zeros, tokens, drawn = torch.zeros(1, 3, 4), torch.zeros(1, 5, dtype=torch.long), torch.rand(1, 4)
    found = telling(zeros)
    assert found.shape == zeros.shape
    assert float(found.std()) > 0.1
    assert torch.equal(found, telling(zeros)), "the same one every time"
    assert telling(tokens) is tokens
    assert telling(drawn) is drawn


@pytest.mark.parametrize(
    ("pool", "last"),
    [
        (lambda x: x, MAPS),
        (lambda x: x.mean((2, 3)), MAPS),
        (lambda x: x.amax((2, 3), keepdim=True), MAPS - 2),
        (lambda x: x.flatten(1), MAPS),
        (lambda x: F.adaptive_avg_pool2d(x, 2).flatten(1), MAPS),
        (lambda x: F.max_pool2d(x, 2), MAPS - 1),
        (lambda x: x.mean((1, 2)), MAPS.movedim(1, -1)),
        (lambda x: x[:, 0], MAPS.flatten(2)),
        (lambda x: x.mean(1), MAPS.flatten(2)),
    ],
)
def test_pooling_is_seen_and_a_relu_before_it(pool: Any, last: Tensor) -> None:
    assert missing_between(last, pool(last)) == []
    assert [type(part) for part in missing_between(last, pool(F.relu(last))) or []] == [nn.ReLU]
    for changed in (last * 1.01, last.sigmoid(), last + last.roll(1, 0)):
        assert missing_between(last, pool(changed)) is None
    assert missing_between(last, None) is None


def test_maxima_say_nothing_of_what_was_done_to_lower_values() -> None:
    for function in (F.relu, F.leaky_relu, lambda x: x):
        assert missing_between(MAPS, function(MAPS).amax((2, 3))) is None
    assert missing_between(F.relu(MAPS), F.relu(MAPS).amax((2, 3))) == []


def test_other_shapes_and_numbers_that_are_none_are_not_the_same() -> None:
    assert share_off(torch.ones(2), torch.ones(3)) == float("inf")
    assert missing_between(torch.ones(2, 3), torch.full((2, 3), torch.nan)) is None
    with pytest.raises(InputError, match="off by nan"):
        check_images(nn.Identity(), [nn.Identity()], torch.ones(1, 2), lambda x: x * torch.nan)
    assert share_off(torch.zeros(2), torch.zeros(2)) == 0


def test_what_a_model_returns_may_be_several_tensors() -> None:
    one = torch.ones(1)
    for value in (one, [one, 3], (None, one), {"out": one}):
        assert list(tensors_in(value)) == [one]


def test_what_parts_cannot_take_is_said_in_one_line() -> None:
    says = r"^Passed `model=Linear`, which cannot take an input of shape \(1, 2\)[^\n]*$"
    with pytest.raises(InputError, match=says):
        check_images(nn.Linear(3, 3), [nn.Linear(3, 3)], torch.zeros(1, 2), lambda x: x)


@pytest.mark.filterwarnings("ignore")
def test_a_window_longer_than_the_texts_is_compared_too() -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra `transformers`")
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"intermediate_size": 64, "num_key_value_heads": 2, "sliding_window": 100, "initializer_range": 0.3}
    model = transformers.MistralModel(transformers.MistralConfig(**sizes, **more))
    cut = known_cut(model, None)
    assert cut is not None
    check_texts(model, cut.parts, None, 60)
    for part in cut.parts:
        if isinstance(part, TextLayer):
            part.windows = None
    with pytest.raises(InputError, match="does more than apply its layers"):
        check_texts(model, cut.parts, None, 60)
    assert model.config.sliding_window == 100
