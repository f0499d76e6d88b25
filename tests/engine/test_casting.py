"""Batches of other loaders become images and classes, or are refused by name."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader

import ff_lightning as ff
from ff_lightning.engine.casting import as_images, as_tensor, images_and_labels, images_of, pair_of, tokens_of
from ff_lightning.errors import InputError
from ff_lightning.networks import MLP

DIGITS = load_digits()
X = torch.from_numpy(DIGITS.images[:40] / 16).float()
Y = torch.from_numpy(DIGITS.target[:40]).long()


def cast(batch: Any) -> tuple[Tensor, Tensor]:
    return images_and_labels(batch, num_classes=10)


@pytest.mark.parametrize(
    "labels",
    [
        Y.int(),
        Y.to(torch.uint8),
        Y.to(torch.int16),
        Y[:, None],
        Y.int()[:, None],
        torch.eye(10)[Y],
        torch.eye(10, dtype=torch.int64)[Y],
        torch.eye(10, dtype=torch.bool)[Y],
        torch.eye(10, dtype=torch.float64)[Y],
    ],
    ids=lambda y: f"{y.dtype}{tuple(y.shape)}",
)
def test_labels_of_any_form_become_classes(labels: Tensor) -> None:
    x, y = cast((X, labels))
    assert y.dtype == torch.int64
    assert torch.equal(y, Y)
    assert x is X


def test_images_become_floating_point() -> None:
    pixels = (X * 255).round().to(torch.uint8)
    assert torch.equal(as_images(pixels), pixels.float() / 255)
    assert torch.equal(as_images(X.double()), X)
    assert torch.equal(as_images(X > 0.5), (X > 0.5).float())
    for kind in (torch.bfloat16, torch.float16):  # of `precision="bf16-true"` and the like
        assert as_images(X.to(kind)).dtype == kind
        assert torch.equal(as_images(X.to(kind), torch.float32), X.to(kind).float())
        assert as_images(pixels, kind).dtype == kind
    assert as_images(X, torch.float32) is X


@pytest.mark.parametrize("values", [[[1, 2], [3, 4]], np.array([[1, 2], [3, 4]]), ((1, 2), (3, 4))])
def test_arrays_and_lists_become_tensors(values: Any) -> None:
    assert torch.equal(as_tensor(values, "tokens"), torch.tensor([[1, 2], [3, 4]]))


@pytest.mark.parametrize("values", ["text", None, [[1, 2], [3]], [X, X], {"x": X}, np.array(["a"])])
def test_what_is_no_tensor_is_said(values: Any) -> None:
    says = rf"Passed samples as a {type(values).__name__}. They must be a tensor, an array, or lists"
    with pytest.raises(InputError, match=says):
        as_tensor(values, "samples")


@pytest.mark.parametrize(
    "names", [("image", "label"), ("pixel_values", "labels"), ("x", "y"), ("Image", "Target"), ("img", "class")]
)
def test_dicts_are_read_by_their_usual_names(names: tuple[str, str]) -> None:
    batch = dict(zip(names, (X, Y), strict=True)) | {"path": ["a.png"] * 40}
    assert all(torch.equal(got, expected) for got, expected in zip(cast(batch), (X, Y), strict=True))
    assert torch.equal(images_of(batch), X)
    assert torch.equal(images_of({names[0]: X}), X)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (X, r"Passed one tensor of shape \(40, 8, 8\) as a batch. It must be \(images, labels\)"),
        ((X, Y, Y), r"Passed a tuple of 3 parts \(Tensor, Tensor, Tensor\)"),
        ((X, Y[:5]), "a batch of 40 images and 5 labels"),
        ((X.long(), Y), "Passed images of dtype torch.int64. They must be floating point"),
        ((X, Y.float()), "Passed labels of dtype torch.float32. Labels must be integers"),
        ((X, torch.full((40, 10), 0.1)), "not one-hot. Shares of several classes are not supported"),
        ((X, torch.ones(40, 10)), "not one-hot"),
        ((X, torch.zeros(40, 3).long()), r"Passed labels of shape \(40, 3\). .* one-hot \(B, 10\)"),
        ((X, torch.where(Y == 3, -100, Y)), "Passed labels of -100, which mark rows to leave out"),
        ({"image": X, "label": Y, "attention_mask": X}, "Passed a batch with 'attention_mask'. Masks are not"),
        ({"image": X, "img": X, "label": Y}, "the keys image, img, label, of which 2 are images"),
        ({"image": X, "kind": Y}, "of which 0 are labels. One must be called 'label'"),
        ("text", "Passed a str as a batch"),
    ],
)
def test_what_would_lose_something_is_refused(batch: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        cast(batch)


def test_without_a_look_only_forms_are_checked() -> None:
    soft = torch.full((40, 10), 0.05)
    soft[torch.arange(40), Y] = 0.55
    assert torch.equal(images_and_labels((X, soft), num_classes=10, look=False)[1], Y)


@pytest.mark.parametrize(
    ("streams", "says"),
    [
        (X, r"`Mine.pairs` returned one tensor of shape \(40, 8, 8\). It must return two tensors: positives"),
        ((X, X, X), "`Mine.pairs` returned a tuple of 3 parts"),
        (None, "`Mine.pairs` returned a NoneType"),
    ],
)
def test_what_is_no_pair_is_said(streams: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        pair_of(streams, "Mine")


@pytest.mark.parametrize("kind", ["dict", "onehot"])
def test_the_weights_are_those_of_plain_batches(kind: str) -> None:
    """From a loader as people write them to an evaluation."""
    pixels = (X * 255).round().to(torch.uint8)
    rows: dict[str, list[Any]] = {
        "plain": [(x.float() / 255, y) for x, y in zip(pixels, Y, strict=True)],
        "dict": [{"image": x, "label": y.int()} for x, y in zip(pixels, Y, strict=True)],
        "onehot": [(x.double() / 255, torch.eye(10)[y]) for x, y in zip(pixels, Y, strict=True)],
    }
    results = []
    for name in ("plain", kind):
        pl.seed_everything(0)
        module = ff.FFClassifier(MLP(64, [20], overlay=False))
        trainer = pl.Trainer(
            max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
        )
        loader: DataLoader[Any] = DataLoader(rows[name], batch_size=20)  # type: ignore[arg-type]
        trainer.fit(module, loader, loader)
        results.append((module.network[0].layer.image.weight.detach(), trainer.callback_metrics["val/accuracy"]))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    assert results[0][1] == results[1][1]


TOKENS = torch.arange(24).view(4, 6) % 7


@pytest.mark.parametrize(
    "batch",
    [
        TOKENS,
        TOKENS.int(),
        TOKENS.to(torch.uint8),
        (TOKENS[:, :-1], TOKENS[:, 1:]),
        {"input_ids": TOKENS},
        {"input_ids": TOKENS.int(), "attention_mask": torch.ones(4, 6), "labels": TOKENS.int()},
    ],
    ids=["windows", "int32", "uint8", "pair", "dict", "dict with labels"],
)
def test_tokens_of_any_form_become_windows(batch: Any) -> None:
    tokens = tokens_of(batch)
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, TOKENS)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ({"input_ids": TOKENS, "attention_mask": TOKENS.clamp(max=1)}, "an `attention_mask` that leaves tokens out"),
        (
            {"input_ids": TOKENS, "labels": torch.where(TOKENS == 0, -100, TOKENS)},
            "`labels` that differ .* such as -100",
        ),
        ((TOKENS, TOKENS), "where y is not x one token later"),
        (TOKENS.float(), "Passed tokens of dtype torch.float32. They must be whole numbers"),
        ({"text": ["a"]}, "Passed a dict as a batch. It must be windows of tokens"),
    ],
)
def test_tokens_that_are_left_out_are_refused(batch: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        tokens_of(batch)
