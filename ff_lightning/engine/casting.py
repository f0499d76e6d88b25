"""Batches of other people's loaders, brought to images and classes where nothing is lost by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ff_lightning.errors import InputError

IMAGES = ("image", "images", "pixel_values", "pixels", "img", "x", "input", "inputs", "features", "data")
LABELS = ("label", "labels", "target", "targets", "class", "y")
"""How dicts call what a batch is made of."""
IGNORED = -100
"""The label by which many losses leave a row out."""


def images_and_labels(
    batch: Any, *, num_classes: int, look: bool = True, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Images and classes of a batch, whatever loader made it.

    Args:
        batch: ``(x, y)``, or a dict that holds them under one of their usual names. Images may be uint8, which become
            [0, 1], bool, or float of any precision; labels whole numbers of any size, ``(B,)`` or ``(B, 1)``, or
            one-hot ``(B, num_classes)``.
        num_classes: length of a one-hot label.
        look: whether values may be looked at, which makes the host wait for a device.
        dtype: of the network; see :func:`as_images`.

    Returns:
        Images ``(B, …)`` in floating point, and labels ``(B,)`` int64.

    Raises:
        InputError: the batch has another form, or something would be lost.
    """
    x, y = _parts(batch)
    if len(x) != len(y):
        raise InputError(f"Passed a batch of {len(x)} images and {len(y)} labels. There must be a label for each.")
    return as_images(x, dtype), as_labels(y, num_classes=num_classes, look=look)


def images_and_numbers(batch: Any, *, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Samples and the number of each, whatever loader made the batch.

    Args:
        batch: as of :func:`images_and_labels`; numbers of any real type, ``(B,)`` or ``(B, 1)``.
        dtype: of the network; see :func:`as_images`.

    Returns:
        Samples ``(B, …)`` in floating point, and numbers ``(B,)`` of torch's default type.

    Raises:
        InputError: the batch has another form.
    """
    x, y = _parts(batch)
    y = y[:, 0] if y.dim() == 2 and y.shape[1] == 1 else y
    if y.dim() != 1 or len(y) != len(x) or y.is_complex():
        raise InputError(
            f"Passed {len(x)} samples and numbers of shape {tuple(y.shape)}, {y.dtype}. There must be a real "
            "number for each, (B,) or (B, 1)."
        )
    return as_images(x, dtype), y.to(torch.get_default_dtype())


def images_and_label_sets(
    batch: Any, *, num_classes: int, look: bool = True, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Samples and all labels of each, whatever loader made the batch.

    Args:
        batch: as of :func:`images_and_labels`; labels ``(B, num_classes)`` of 0 and 1, of any type.
        num_classes: number of labels.
        look: whether values may be looked at, which makes the host wait for a device.
        dtype: of the network; see :func:`as_images`.

    Returns:
        Samples ``(B, …)`` and labels ``(B, num_classes)``, both in floating point.

    Raises:
        InputError: the batch has another form, or labels are neither 0 nor 1.
    """
    x, y = _parts(batch)
    if y.shape != (len(x), num_classes):
        raise InputError(
            f"Passed {len(x)} samples and labels of shape {tuple(y.shape)}. With `num_classes={num_classes}` they "
            f"must be {(len(x), num_classes)}: 1 where a label is there, else 0."
        )
    if look and not bool(((y == 0) | (y == 1)).all()):
        raise InputError("Passed labels that are neither 0 nor 1. Several labels at once are there, 1, or not, 0.")
    return as_images(x, dtype), y.to(torch.get_default_dtype())


def images_and_anomalies(batch: Any, *, look: bool = True, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Samples and whether each is an anomaly, whatever loader made the batch.

    Args:
        batch: as of :func:`images_and_labels`; labels ``(B,)`` or ``(B, 1)``, 1 or True for an anomaly, else 0.
        look: whether values may be looked at, which makes the host wait for a device.
        dtype: of the network; see :func:`as_images`.

    Returns:
        Samples ``(B, …)`` in floating point, and labels ``(B,)`` int64.

    Raises:
        InputError: the batch has another form, or labels are neither 0 nor 1.
    """
    x, y = _parts(batch)
    y = y[:, 0] if y.dim() == 2 and y.shape[1] == 1 else y
    if y.dim() != 1 or len(y) != len(x):
        raise InputError(
            f"Passed {len(x)} samples and labels of shape {tuple(y.shape)}. There must be one for each, (B,)."
        )
    if look and not bool(((y == 0) | (y == 1)).all()):
        raise InputError(
            f"Passed labels such as {y[(y != 0) & (y != 1)][0].item()}. For anomalies they must be 0, normal, or 1, an "
            "anomaly; our data modules make them of classes by `normal=[…]`."
        )
    return as_images(x, dtype), y.long()


def images_of(batch: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Images of a batch, with or without labels; see :func:`images_and_labels`.

    Raises:
        InputError: the batch has another form, or something would be lost.
    """
    if isinstance(batch, Tensor):
        return as_images(batch, dtype)
    if isinstance(batch, Mapping):
        _refuse_masks(batch)
        return as_images(_named(batch, IMAGES, "images"), dtype)
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor):
        return as_images(batch[0], dtype)
    raise InputError(f"Passed {_form(batch)} as a batch. It must be images (B, …), or (images, labels).")


def as_images(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Bring images to floating point, uint8 to [0, 1].

    Args:
        x: ``(B, …)``.
        dtype: of the network, in which it gets them; without one float64 becomes torch's default, and other precisions
            stay as they are.

    Raises:
        InputError: they are whole numbers of which nobody knows the largest, or complex.
    """
    if x.dtype == torch.uint8:
        x = x.float() / 255
    elif x.dtype == torch.bool:
        x = x.float()
    elif x.dtype == torch.float64 and dtype is None:
        x = x.to(torch.get_default_dtype())
    elif not x.is_floating_point():
        raise InputError(
            f"Passed images of dtype {x.dtype}. They must be floating point, for images in [0, 1], or uint8 from 0 to "
            "255, which are divided by 255."
        )
    return x if dtype in (None, x.dtype) else x.to(dtype)  # an exported program keeps what changes nothing


def as_tensor(values: Any, what: str) -> Tensor:
    """A tensor as it is, or made of an array or of lists of numbers.

    Args:
        values: what was passed.
        what: it is, for the error.

    Raises:
        InputError: it is none of these, or its lists differ in length.
    """
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"Passed {what} as a {type(values).__name__}. They must be a tensor, an array, or lists of numbers, all of "
            "one length."
        ) from error


def as_labels(y: Tensor, *, num_classes: int, look: bool = True) -> Tensor:
    """Bring labels to classes ``(B,)`` int64.

    Args:
        y: whole numbers ``(B,)`` or ``(B, 1)``, or one-hot ``(B, num_classes)`` of any type.
        num_classes: length of a one-hot label.
        look: whether values may be looked at.

    Raises:
        InputError: they have another form, are shares of classes, or some are -100.
    """
    if y.dim() == 2 and y.shape[1] == num_classes and num_classes > 1:
        ones, zeros = (y == 1).sum(1), (y == 0).sum(1)
        if look and not bool(((ones == 1) & (zeros == num_classes - 1)).all()):
            raise InputError(
                f"Passed labels of shape {tuple(y.shape)} that are not one-hot. Shares of several classes are not "
                "supported: pass one class for each image, (B,) int64."
            )
        return (y.long() if y.dtype == torch.bool else y).argmax(1)
    if y.dim() == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dim() != 1:
        raise InputError(
            f"Passed labels of shape {tuple(y.shape)}. With `num_classes={num_classes}` they must be (B,), (B, 1), or "
            f"one-hot (B, {num_classes})."
        )
    if y.is_floating_point() or y.is_complex():
        raise InputError(f"Passed labels of dtype {y.dtype}. Labels must be integers.")
    y = y.long()
    if look and bool((y == IGNORED).any()):
        raise InputError(
            f"Passed labels of {IGNORED}, which mark rows to leave out. That is not supported: leave these rows out of "
            "the batches."
        )
    return y


def texts_and_labels(batch: Any, *, num_classes: int, vocab_size: int, look: bool = True) -> tuple[Tensor, Tensor]:
    """Texts and their classes, whatever loader made them.

    Args:
        batch: a dict of ``input_ids`` and ``labels``, as transformers makes them, with or without an
            ``attention_mask``; or (tokens, labels). See :func:`texts_of` and :func:`as_labels`.
        num_classes: length of a one-hot label.
        vocab_size: tokens that the network knows.
        look: whether values may be looked at.

    Returns:
        Tokens ``(B, T)`` int64, -1 where there is none, and labels ``(B,)`` int64.

    Raises:
        InputError: the batch has another form, or something would be lost.
    """
    if isinstance(batch, Mapping):
        y = _named(batch, LABELS, "labels")
    elif isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        batch, y = batch
    else:
        raise InputError(f"Passed {_form(batch)} as a batch. It must be (tokens, labels), or a dict of 'input_ids'.")
    x = texts_of(batch, vocab_size=vocab_size, look=look)
    if len(x) != len(y):
        raise InputError(f"Passed a batch of {len(x)} texts and {len(y)} labels. There must be a label for each.")
    return x, as_labels(y, num_classes=num_classes, look=look)


def texts_of(batch: Any, *, vocab_size: int, look: bool = True) -> Tensor:
    """Texts of a batch, with or without labels.

    Args:
        batch: a dict with ``input_ids`` ``(B, T)`` and, if some are padding, an ``attention_mask`` ``(B, T)``, 0 there;
            or tokens ``(B, T)``, -1 there, alone or before their labels.
        vocab_size: tokens that the network knows.
        look: whether values may be looked at.

    Returns:
        ``(B, T)`` int64, -1 at padding.

    Raises:
        InputError: another form, a second segment, a text without a token, or a token outside the vocabulary.
    """
    mask = None
    if isinstance(batch, Mapping):
        segments, mask = batch.get("token_type_ids"), batch.get("attention_mask")
        if look and isinstance(segments, Tensor) and bool(segments.any()):
            raise InputError("Passed `token_type_ids` that are not all 0. Texts of two segments are not supported.")
        batch = batch.get("input_ids")
    elif isinstance(batch, tuple | list) and batch:
        batch = batch[0]
    if not isinstance(batch, Tensor) or batch.dim() != 2 or batch.is_floating_point():
        raise InputError(f"Passed {_form(batch)} as texts. They must be (B, T) whole numbers, called 'input_ids'.")
    x = batch.long()
    if mask is not None:
        if mask.shape != x.shape:
            raise InputError(
                f"Passed `attention_mask` of shape {tuple(mask.shape)} with `input_ids` of {tuple(x.shape)}. They must "
                "be equal."
            )
        x = torch.where(mask.bool(), x, -1)
    if look and x.numel():
        low, high = (int(end) for end in x.aminmax())
        if low < -1 or high >= vocab_size or not bool((x >= 0).any(1).all()):
            raise InputError(
                f"Passed texts with tokens from {low} to {high}. They must lie in 0 to {vocab_size - 1}, or be -1 for "
                "padding, and no text may be padding alone."
            )
    return x


def tokens_of(batch: Any, *, look: bool = True) -> Tensor:
    """Tokens of a batch of a language model, whatever loader made it.

    Args:
        batch: ``(B, T + 1)`` whole numbers; ``(x, y)``, each ``(B, T)``, where ``y`` is ``x`` one token later; or a
            dict with ``input_ids`` ``(B, T + 1)``, whose ``labels`` are the same and whose ``attention_mask`` is all 1.
        look: whether values may be looked at, which makes the host wait for a device.

    Returns:
        ``(B, T + 1)`` int64.

    Raises:
        InputError: the batch has another form, or leaves tokens out.
    """
    if isinstance(batch, Mapping) and isinstance(batch.get("input_ids"), Tensor):
        tokens: Tensor = batch["input_ids"]
        mask, labels = batch.get("attention_mask"), batch.get("labels")
        if mask is not None and look and not bool((mask == 1).all()):
            raise InputError(
                "Passed an `attention_mask` that leaves tokens out. That is not supported: pass windows of equal "
                "length, without padding."
            )
        if labels is not None and look and not torch.equal(labels, tokens):
            raise InputError(
                "Passed `labels` that differ from `input_ids`, such as -100 for tokens to leave out. That is not "
                "supported: every next token is learned."
            )
    elif isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        x, y = batch
        if x.shape != y.shape or (look and not torch.equal(x[:, 1:], y[:, :-1])):
            raise InputError(
                f"Passed (x, y) of shapes {tuple(x.shape)} and {tuple(y.shape)}, where y is not x one token later. "
                "Pass windows (B, T + 1), or such a pair."
            )
        tokens = torch.cat([x[:, :1], y], dim=1)
    elif isinstance(batch, Tensor):
        tokens = batch
    else:
        raise InputError(f"Passed {_form(batch)} as a batch. It must be windows of tokens (B, T + 1).")
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise InputError(f"Passed tokens of dtype {tokens.dtype}. They must be whole numbers.")
    return tokens.long()


def pair_of(streams: Any, owner: str) -> tuple[Any, Any]:
    """Check what ``pairs`` of a task returned.

    Args:
        streams: positives and negatives.
        owner: name of the task.

    Raises:
        InputError: it is no pair.
    """
    if isinstance(streams, tuple | list) and len(streams) == 2:
        return streams[0], streams[1]
    raise InputError(
        f"`{owner}.pairs` returned {_form(streams)}. It must return two tensors: positives and negatives, both (B, …)."
    )


def _parts(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Mapping):
        _refuse_masks(batch)
        return _named(batch, IMAGES, "images"), _named(batch, LABELS, "labels")
    if isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch):
        return batch[0], batch[1]
    raise InputError(
        f"Passed {_form(batch)} as a batch. It must be (images, labels), or a dict of {IMAGES[0]!r} and {LABELS[0]!r}."
    )


def _named(batch: Mapping[Any, Any], names: tuple[str, ...], what: str) -> Tensor:
    found = [name for name in batch if str(name).lower() in names and isinstance(batch[name], Tensor)]
    if len(found) != 1:
        raise InputError(
            f"Passed a batch with the keys {', '.join(map(str, batch))}, of which {len(found)} are {what}. One must be "
            f"called {names[0]!r} (or {', '.join(names[1:])})."
        )
    tensor: Tensor = batch[found[0]]
    return tensor


def _refuse_masks(batch: Mapping[Any, Any]) -> None:
    masks = [str(name) for name in batch if "mask" in str(name).lower()]
    if masks:
        raise InputError(
            f"Passed a batch with {masks[0]!r}. Masks are not supported: all of a row is read. Leave the mask out of "
            "the batch if all its values are 1, or pass rows of equal length."
        )


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"one tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} parts ({', '.join(type(part).__name__ for part in value)})"
    return f"a {type(value).__name__}"
