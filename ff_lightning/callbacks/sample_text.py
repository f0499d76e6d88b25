"""Text that a language model writes while it is trained, and how good it is in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ff_lightning.callbacks.language_table import COUNTED
from ff_lightning.distributed import is_sharded
from ff_lightning.engine.casting import tokens_of
from ff_lightning.errors import InputError, check_seeds, whole
from ff_lightning.language.floors import WittenBell
from ff_lightning.language.generation import Sampler, check_prompt
from ff_lightning.language.samples import distinct_n, ngram_loss
from ff_lightning.normalization import evaluating
from ff_lightning.report.records import add_to_record, table_values
from ff_lightning.tasks.language_modelling import LanguageModelling

PROMPT_TOKENS = 32
"""Tokens of a prompt taken from the validation text, at most half the context."""

JUDGED = 16
"""Samples that are judged at the end."""


class SampleText(pl.Callback):
    """Lets a language model go on with a text after every validation of a training.

    Samples are appended to ``samples.txt`` in the run folder and sent to loggers that take text: Weights & Biases gets
    a table with all samples so far, TensorBoard a text. The last one is printed when the training has ended.

    Then 16 samples of the same length, each going on with another place of the validation text, are judged beside the
    real text there: the shares of different 2-grams and 4-grams
    (:func:`~ff_lightning.language.samples.distinct_n`), and nats a token under a 4-gram model of the training text
    (:func:`~ff_lightning.language.samples.ngram_loss`). These are printed, and logged as ``samples/distinct_2``,
    ``samples/distinct_4`` and ``samples/ngram_loss``; those of the real text as ``text/distinct_2`` and so on. They
    need a datamodule with ``tokens(split)``.

    Args:
        prompt: what to go on with, in a training with a datamodule that has a ``tokenizer``; the first tokens of the
            validation text by default.
        max_new_tokens: length of a sample.
        temperature: see :class:`~ff_lightning.language.generation.Sampler`.
        top_k: see :class:`~ff_lightning.language.generation.Sampler`.
        top_p: see :class:`~ff_lightning.language.generation.Sampler`.
        seed: of the draws; the same for every sample.

    Raises:
        InputError: an argument makes no sense.
    """

    def __init__(
        self,
        prompt: str | None = None,
        *,
        max_new_tokens: int = 200,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> None:
        whole("max_new_tokens", max_new_tokens, least=1, owner=self)
        check_seeds(self, seed=seed)
        Sampler(temperature, top_k=top_k, top_p=top_p)
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self.options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        self._prompt: Tensor | None = None
        self._samples: list[list[Any]] = []
        self._last = Text()
        self._judged: dict[str, float] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Turn the prompt into tokens, so that a bad one is refused at once, as is a network in shards."""
        if isinstance(pl_module, LanguageModelling) and is_sharded(pl_module.network[0]):
            raise InputError(
                "Passed `SampleText` with `ModelParallelStrategy`. One rank writes the samples, and the blocks are "
                "spread over all of them: leave it out, and generate from a checkpoint."
            )
        self._prompt, self._samples, self._last, self._judged = None, [], Text(), {}
        if self.prompt is None or not isinstance(pl_module, LanguageModelling):
            return
        tokenizer = _tokenizer(trainer)
        if tokenizer is None:
            raise InputError(
                f"Passed `SampleText(prompt={self.prompt!r})` to a training without a datamodule that has a "
                "`tokenizer`. Leave `prompt` out to go on with the validation text."
            )
        self._prompt = tokenizer.encode(self.prompt).unsqueeze(0)
        check_prompt(pl_module.network, self._prompt, self.max_new_tokens)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start a new file, unless a training is resumed."""
        if trainer.global_step == 0 and trainer.is_global_zero and isinstance(pl_module, LanguageModelling):
            _file(trainer).unlink(missing_ok=True)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the beginning of the validation text."""
        if self._prompt is None and isinstance(pl_module, LanguageModelling):
            tokens = tokens_of(batch, look=False)  # the task has looked at it
            self._prompt = tokens[:1, : _prompt_length(pl_module)].cpu()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw a sample, keep it, and send it to the loggers."""
        wanted = trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.is_global_zero
        if not wanted or not isinstance(pl_module, LanguageModelling) or self._prompt is None:
            return
        with evaluating(pl_module):
            tokens = pl_module.generate(self._prompt, self.max_new_tokens, **self.options)[0].cpu()
        prompt, written = (_decoded(trainer, part) for part in tokens.tensor_split([self._prompt.shape[1]]))
        step = trainer.global_step
        self._samples.append([step, prompt + written])
        self._last = Text.assemble((f"After {step:,} updates\n", "italic"), (prompt, "bold"), written)
        with _file(trainer).open("a", encoding="utf-8") as file:
            file.write(f"=== after {step} updates ===\n{prompt}|{written}\n\n")
        self._log_text(trainer, step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge samples, and log what comes out."""
        if not trainer.is_global_zero or not self._samples or not isinstance(pl_module, LanguageModelling):
            return
        self._judged = self._judge(trainer, pl_module)
        for logger in trainer.loggers if self._judged else []:
            logger.log_metrics(self._judged, step=trainer.global_step)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Print the last sample below the progress bar, which is gone by now."""
        if stage == "fit" and self._samples:
            console = Console(highlight=False)
            console.print(self._last)
            if self._judged:
                table = judged_table(self._judged, self.max_new_tokens)
                console.print(table)
                add_to_record(Path(trainer.default_root_dir), "tables", {"samples": table_values(table)})
            self._samples = []

    def _log_text(self, trainer: pl.Trainer, step: int) -> None:
        logger: Any
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_text("samples", columns=["step", "text"], data=self._samples, step=step)
            elif hasattr(logger.experiment, "add_text"):
                logger.experiment.add_text("samples", self._samples[-1][1], global_step=step)

    def _judge(self, trainer: pl.Trainer, module: LanguageModelling) -> dict[str, float]:
        """Values by name; none without a datamodule, or if the validation text is too short."""
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "tokens"):
            return {}
        text, first = data.tokens("validation"), _prompt_length(module)
        places = len(text) - first - self.max_new_tokens + 1
        if places < 1 or self.max_new_tokens < 4:
            return {}
        starts = torch.linspace(0, places - 1, JUDGED).long()
        real = text[starts.unsqueeze(1) + torch.arange(first + self.max_new_tokens)]
        with evaluating(module):
            written = module.generate(real[:, :first], self.max_new_tokens, **self.options).cpu()
        counts = WittenBell(data.tokens("train")[:COUNTED], order=4, vocab_size=module.network.vocab_size)
        values: dict[str, float] = {}
        for name, rows in (("samples", written[:, first:]), ("text", real[:, first:])):
            values |= {f"{name}/distinct_{n}": distinct_n(rows, n) for n in (2, 4)}
            values[f"{name}/ngram_loss"] = ngram_loss(rows, counts)
        return values


def judged_table(values: dict[str, float], tokens: int) -> Table:
    """Lay out what samples and real text are like.

    Args:
        values: by name, such as ``samples/distinct_2``.
        tokens: of each sample.
    """
    table = Table(title=f"{JUDGED} samples of {tokens} tokens")
    for name in ("", "distinct 2-grams", "distinct 4-grams", "4-gram nats"):
        table.add_column(name, justify="right" if name else "left")
    for row in ("samples", "text"):
        shares = (f"{100 * values[f'{row}/distinct_{n}']:.2f} %" for n in (2, 4))
        table.add_row("validation text" if row == "text" else row, *shares, f"{values[f'{row}/ngram_loss']:.4f}")
    return table


def _prompt_length(module: LanguageModelling) -> int:
    return max(1, min(PROMPT_TOKENS, module.network.context // 2))


def _tokenizer(trainer: pl.Trainer) -> Any:
    return getattr(getattr(trainer, "datamodule", None), "tokenizer", None)


def _decoded(trainer: pl.Trainer, tokens: Tensor) -> str:
    """Text of tokens ``(T,)``, or their numbers if nobody knows what they stand for."""
    tokenizer = _tokenizer(trainer)
    return " ".join([*map(str, tokens.tolist()), ""]) if tokenizer is None else str(tokenizer.decode(tokens))


def _file(trainer: pl.Trainer) -> Path:
    folder = Path(trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "samples.txt"
