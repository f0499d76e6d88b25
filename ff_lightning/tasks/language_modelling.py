"""What every language model shares, however it is trained: its batches, evaluation, prediction, generation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ff_lightning.engine.batches import seeded_generator
from ff_lightning.engine.casting import as_tensor, tokens_of
from ff_lightning.errors import InputError
from ff_lightning.language.blocks import Dreams
from ff_lightning.language.generation import Sampler, continued, stream
from ff_lightning.language.stack import TokenStack
from ff_lightning.metrics import TokenMetrics
from ff_lightning.module import FFLightningModule
from ff_lightning.signals import LocalStep


class LanguageModelling(FFLightningModule):
    """Base of the language models: what is reported and generated, not how it is learned.

    Batches are ``(B, T + 1)`` int64 tokens: the first ``T`` are read, the last ``T`` predicted. A datamodule may
    offer ``vocab_size``, which is checked, and ``unigram``, counts of tokens ``(V,)`` that predictions start from.
    Logged are ``val/loss`` (nats a token), ``val/bits``, ``val/accuracy`` and ``val/calibration_error`` of the model's
    prediction, and all but the bits of the prediction up to every block, ``val/loss/block_0`` and so on; the same for
    ``test``. A prediction is what the network's ``predictions`` yields last. If the datamodule offers
    ``characters_per_token(split)`` or ``bytes_per_token(split)``, so are ``val/bits_per_character``, unless a token
    is a character, and ``val/bits_per_byte``.

    Args:
        network: the blocks to train.
        **kwargs: see :class:`~ff_lightning.FFLightningModule`.
    """

    network: TokenStack

    def __init__(self, network: TokenStack, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        self.val_metrics = TokenMetrics(len(network))
        self.test_metrics = TokenMetrics(len(network))

    def setup(self, stage: str) -> None:
        """Check that the data has the network's vocabulary, and take the frequencies of tokens from it."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        size = getattr(data, "vocab_size", None)
        if size is not None and not self.network.fits_vocabulary(size):
            raise InputError(
                f"Passed data of {size} different tokens to a network built with "
                f"`vocab_size={self.network.vocab_size}`. They must be equal."
            )
        counts = getattr(data, "unigram", None)
        if stage == "fit" and counts is not None:
            self.network.set_unigram(torch.as_tensor(counts).to(self.network.prior.device))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights for another vocabulary."""
        super().on_load_checkpoint(checkpoint)
        self.check_vocabulary(checkpoint.get("state_dict", {}))  # a sharded checkpoint is loaded by its strategy

    def check_vocabulary(self, state: Mapping[str, Tensor]) -> None:
        """Check that weights are for as many tokens as the network has.

        Args:
            state: weights of a checkpoint, by name.

        Raises:
            InputError: they are for another vocabulary.
        """
        prior = state.get("network.prior")  # other models have none
        if prior is not None and prior.numel() != self.network.vocab_size:
            raise InputError(
                f"The checkpoint was made for a vocabulary of {prior.numel()} tokens. The network was built with "
                f"`vocab_size={self.network.vocab_size}`: use the text and the tokenizer of that training."
            )

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """The losses of the blocks, each with randomness of its own."""
        tokens, targets = self.windows(batch)
        context = self.step_context()
        signal = self.network.signal(tokens, targets, context, self.dreams(tokens))
        yield from self.network.local_losses(signal, context)

    def dreams(self, tokens: Tensor) -> Dreams | None:
        """Sequences that the model made itself, for a step on ``(B, T)`` tokens; ``None`` for none."""
        return None

    def look_at(self, batch: Any) -> None:
        """Refuse tokens outside the vocabulary; see :meth:`~ff_lightning.FFLightningModule.look_at`."""
        self.windows(batch)

    def windows(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Tokens read and tokens predicted, each ``(B, T)``.

        Raises:
            InputError: a window that is too short or too long, or a token outside the vocabulary.
        """
        look = self.may_look()
        batch = tokens_of(batch, look=look)
        self.network.check_windows(batch, look=look)
        return batch[:, :-1], batch[:, 1:]

    def forward(self, tokens: Tensor) -> Tensor:
        """Prediction ``(B, T, V)``, unnormalised, for the token after each of ``(B, T)``.

        Raises:
            InputError: more tokens than the context, or a token outside the vocabulary.
        """
        if not torch.compiler.is_compiling():
            self._check_read(tokens)
        (logits,) = self.network.predictions(tokens, last_only=True)  # `network(tokens)` would look once more
        return logits

    def _check_read(self, tokens: Tensor) -> None:
        if not isinstance(tokens, Tensor) or tokens.dim() != 2 or not 1 <= tokens.shape[1] <= self.network.context:
            given = f"of shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else f"as a {type(tokens).__name__}"
            raise InputError(
                f"Passed tokens {given}. They must be (B, T), T from 1 to `context={self.network.context}`."
            )
        if self.may_look():
            self.network.check_tokens(tokens)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Take in one batch; the values are logged at the end of the epoch."""
        self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Take in one batch; the values are logged at the end of the epoch."""
        self._evaluate(batch, self.test_metrics)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The likeliest next token at every position, ``(B, T)``."""
        tokens, _ = self.windows(batch)
        logits: Tensor = self(tokens)
        return logits.argmax(-1)

    def _evaluate(self, batch: Any, metrics: TokenMetrics) -> None:
        tokens, targets = self.windows(batch)
        for index, logits in enumerate(self.network.predictions(tokens)):
            metrics.update(index, logits, targets)

    def on_validation_epoch_end(self) -> None:
        """Log how well every block predicts."""
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log how well every block predicts."""
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, stage: str, metrics: TokenMetrics) -> None:
        values = {name: value.reshape(-1) for name, value in metrics.compute().items()}  # one block makes a scalar
        metrics.reset()
        for name, by_block in values.items():
            self.log_dict({f"{stage}/{name}/block_{index}": value for index, value in enumerate(by_block)})
        self.log(f"{stage}/loss", values["loss"][-1], prog_bar=True)
        self.log(f"{stage}/accuracy", values["accuracy"][-1], prog_bar=True)
        self.log(f"{stage}/calibration_error", values["calibration_error"][-1])
        bits = values["loss"][-1] / math.log(2)
        self.log(f"{stage}/bits", bits)
        for unit, length in self._units("validation" if stage == "val" else stage).items():
            self.log(f"{stage}/bits_per_{unit}", bits / length)

    def _units(self, split: str) -> dict[str, float]:
        """What a token of a split stands for on average, as far as the datamodule says it."""
        data = getattr(self.trainer, "datamodule", None)
        units = {unit: getattr(data, f"{unit}s_per_token", None) for unit in ("character", "byte")}
        lengths = {unit: float(length(split)) for unit, length in units.items() if length is not None}
        return {unit: length for unit, length in lengths.items() if unit == "byte" or length != 1}

    def stream(
        self,
        prompt: Any,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: Sequence[int] = (),
        use_cache: bool = True,
        crop: bool = False,
    ) -> Iterator[Tensor]:
        """Continue prompts, and yield tokens as they are drawn.

        Args:
            prompt: ``(B, T)`` whole numbers, at most as many as the context: a tensor, an array or lists; brought to
                the module's device.
            max_new_tokens: tokens to draw for each prompt.
            temperature: divides the logits; positive.
            top_k: draw among this many of the likeliest tokens only.
            top_p: draw among the likeliest tokens that together have this probability only.
            seed: of the draws; the module's seed by default.
            stop: tokens of the vocabulary that end a text; a text that has ended repeats the token that ended it.
            use_cache: keep keys and values of earlier tokens; the tokens drawn are the same without.
            crop: of a prompt that is longer than the context, read the end alone.

        The network answers as in evaluation mode, whatever mode it is in.

        Yields:
            ``(B,)`` int64; ends early when all texts have ended.

        Raises:
            InputError: an argument makes no sense, or a token is not in the vocabulary.
        """
        sampler = Sampler(temperature, top_k=top_k, top_p=top_p)
        prompt = self._tokens(prompt)
        if crop and prompt.dim() == 2:
            prompt = prompt[:, -self.network.context :]
        generator = seeded_generator(self.seed if seed is None else seed, self.device)
        return stream(self.network, prompt, max_new_tokens, sampler, generator, stop=stop, use_cache=use_cache)

    def generate(self, prompt: Any, max_new_tokens: int, **options: Any) -> Tensor:
        """Continue prompts ``(B, T)``: the prompts and what follows, ``(B, T + new)``.

        Args:
            prompt: see :meth:`stream`.
            max_new_tokens: see :meth:`stream`.
            **options: see :meth:`stream`.
        """
        prompt = self._tokens(prompt)
        return continued(prompt, self.stream(prompt, max_new_tokens, **options))

    def _tokens(self, prompt: Any) -> Tensor:
        return tokens_of(as_tensor(prompt, "a prompt")).to(self.device)
