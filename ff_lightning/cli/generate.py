"""``ff-lightning generate``: text from a checkpoint, without the recipe and the text that it was trained with."""

import sys
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import TYPE_CHECKING

from jsonargparse.typing import PositiveInt

from ff_lightning.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from ff_lightning.data.tokenizers import Tokenizer

BETWEEN = "---\n"
"""Line between several texts."""


def generate(
    ckpt_path: str,
    prompt: str = "",
    max_new_tokens: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str = "",
    num_samples: PositiveInt = 1,
    crop: bool = False,
    trust: str = "",
) -> None:
    """Write a prompt and what follows it to stdout; a single text is written as it is drawn.

    A text ends early where the model says that a document ends.

    Args:
        ckpt_path: file that ``ff-lightning fit`` wrote, such as ``runs/pydoc_gpt/last.ckpt``.
        prompt: text to continue; without one, a document begins.
        max_new_tokens: tokens to draw.
        temperature: divides the logits; below 1 for likelier texts.
        top_k: draw among this many of the likeliest tokens only.
        top_p: draw among the likeliest tokens that together have this probability only.
        seed: of the draws; the training's seed by default.
        stop: end a text when this has been written.
        num_samples: texts to write, with a line between them.
        crop: go on from the end of a prompt that is longer than the model's context; it is refused otherwise.
        trust: packages of your own of which the checkpoint may name classes, with commas in between.

    Raises:
        InputError: an argument makes no sense, or the checkpoint is not of a language model.
    """
    from ff_lightning.cli.models import load_language_model, trusted

    model, tokenizer = load_language_model(ckpt_path, trusted(trust))
    first = tokenizer.encode(prompt) if prompt else _beginning(tokenizer)
    end = tokenizer.end_of_text
    drawn = model.stream(
        first.expand(num_samples, -1),
        max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=[] if end is None else [end],
        crop=crop,
    )
    for index, tokens in enumerate(_texts(drawn, num_samples)):
        _write(BETWEEN * (index > 0) + prompt)
        for piece in pieces(tokenizer, takewhile(lambda token: token != end, tokens), stop):
            _write(piece)
        _write("\n")


def pieces(tokenizer: "Tokenizer", tokens: Iterable[int], stop: str = "") -> Iterator[str]:
    """Turn tokens into text as they come.

    Args:
        tokenizer: knows the tokens.
        tokens: whole numbers.
        stop: text to end with, if it occurs.

    Yields:
        Parts of the text, without halves of characters.
    """
    text = ""
    for piece in tokenizer.decode_each(tokens):
        searched = len(text)
        text += piece
        place = text.find(stop, max(0, searched - len(stop) + 1)) if stop else -1
        if place >= 0:
            yield text[searched : place + len(stop)]
            return
        yield piece


def _beginning(tokenizer: "Tokenizer") -> "Tensor":
    """What stands before a document: the end of another, or of a line."""
    import torch

    if tokenizer.end_of_text is not None:
        return torch.tensor([tokenizer.end_of_text])
    try:
        return tokenizer.encode("\n")
    except InputError as error:
        raise InputError("Passed no `prompt` to a model that knows no line break to begin after.") from error


def _texts(drawn: "Iterator[Tensor]", count: int) -> Iterator[Iterable[int]]:
    """Tokens of each text; those of a single one as they are drawn."""
    if count == 1:
        yield (int(token) for token in drawn)
    else:
        yield from list(zip(*(tokens.tolist() for tokens in drawn), strict=True)) or [()] * count


def _write(text: str) -> None:
    """Write to stdout at once; a terminal that lacks a character shows a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
