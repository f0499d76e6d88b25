"""``ff-lightning fit|validate|test|predict --config RECIPE``: Lightning's command line with this project's defaults."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

# So that `fit --help` knows what there is to choose from.
import ff_lightning.data
import ff_lightning.language
import ff_lightning.networks
import ff_lightning.tasks  # noqa: F401
from ff_lightning.callbacks import MonitorCheck
from ff_lightning.cli import begin
from ff_lightning.cli.callbacks import default_callbacks, own_callbacks, refuse_clashing
from ff_lightning.cli.catalogue import with_own_recipes
from ff_lightning.cli.messages import above_the_bar
from ff_lightning.cli.numbers import whole_numbers_first
from ff_lightning.cli.predictions import write_predictions
from ff_lightning.cli.recipes import RecipeCLI, RecipeParser
from ff_lightning.cli.run_folder import requeued, run_folder, trial_folder
from ff_lightning.cli.weights import chosen_weights
from ff_lightning.data.tokenizers import Tokenizer
from ff_lightning.engine.checkpoints import check_checkpoint, check_fit
from ff_lightning.engine.folder import locked, prepared, refuse_foreign
from ff_lightning.engine.lightning import subcommand_parser
from ff_lightning.engine.reading import local_path
from ff_lightning.errors import InputError
from ff_lightning.module import FFLightningModule
from ff_lightning.report.curves import MetricsFile
from ff_lightning.report.records import read_record, start_record
from ff_lightning.tasks.language_modelling import LanguageModelling

CHECKPOINT_WORDS = ("last", "best", "hpc")
"""Values of ``--ckpt_path`` by which Lightning finds a file itself."""


class SaveConfig(SaveConfigCallback):
    """Keeps the resolved configuration in the run folder, and sends it to loggers that take one.

    That of a training is written when its first batch is through, since all that can be refused has been by then.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the configuration of an evaluation."""
        if stage != "fit":
            super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write that of a training."""
        if not self.already_saved:
            super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write ``config.yaml``."""
        name = str(getattr(stage, "value", stage))  # Lightning passes its own enumeration
        folder = Path(trainer.default_root_dir) / ("" if name == "fit" else name)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{self.config_filename}.part"
        self.parser.save(self.config, part, skip_none=False, overwrite=True, multifile=False)
        part.replace(folder / self.config_filename)
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):
                logger.log_hyperparams({"trainer": self.config.trainer.as_dict()})


class FFLightningCLI(RecipeCLI):
    """Lightning's command line with the defaults of this project."""

    subcommand: str
    held: ExitStack
    asked: str
    """The subcommand that the command begins with."""

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        """The one that is asked for, if there is such a one: to build the parser of each takes time."""
        known = LightningCLI.subcommands()
        return {cls.asked: known[cls.asked]} if cls.asked in known else known

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let a command name the run."""
        super().add_arguments_to_parser(parser)
        told = "Folder of the run in `runs/`; `auto` for one that is new. (default: named after the recipes)"
        parser.add_argument("--run_name", type=str | None, help=told)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Keep the command as it was given, for the record of the run; refuse a seed that can be none."""
        self.words = list(args)
        self.command = shlex.join(["ff-lightning", *args])
        super().parse_arguments(parser, with_own_recipes(args))
        seed = self.config[self.config.subcommand].seed_everything
        if not isinstance(seed, bool) and seed is not None and not 0 <= seed < 2**32:
            raise InputError(f"Passed `seed_everything={seed}`. It must be a whole number from 0 to 2**32 - 1.")

    def setup_parser(self, *args: Any) -> None:
        """Leave the results of an evaluation to our own table, and let a training begin with trained weights."""
        super().setup_parser(*args)
        for subcommand in self.subcommands():
            parser = subcommand_parser(self, subcommand)
            begin.add_option(parser)
            if subcommand in ("validate", "test"):
                parser.set_defaults({"verbose": False})

    def _parse_ckpt_path(self) -> None:
        """Check a checkpoint before anything is built.

        Lightning would here put the model of the checkpoint in place of what was passed. We build what was passed
        and refuse weights that do not fit it.
        """
        config = self.config[self.config.subcommand]
        folder = run_folder(config, self.config.subcommand)
        if self.config.subcommand == "fit":
            begin.refuse_folder(config.ckpt_path)
        path = config.ckpt_path = chosen_weights(self.config.subcommand, config.ckpt_path, folder)
        self._weights = None
        if path is not None and path not in CHECKPOINT_WORDS and local_path(path) is not None:
            checkpoint = check_checkpoint(path)
            self._weights = checkpoint.get("state_dict")
            if self.config.subcommand == "fit":
                self.resumed_in = checkpoint["ff_lightning"].get("precision")

    def before_instantiate_classes(self) -> None:
        """Name the run folder, and drop what is switched off."""
        config = self.config[self.subcommand]
        self._begins = begin.asked(config, self.subcommand, self.words)
        if self._begins is not None:
            begin.tell_recipe(config, self.said["fit"], self._begins)
        super().before_instantiate_classes()
        config.trainer.default_root_dir = str(trial_folder(config))
        for logger in wandb_loggers(config.trainer):
            if logger.init_args.save_dir == ".":  # Lightning's default
                logger.init_args.save_dir = config.trainer.default_root_dir
        if self.subcommand == "fit" and config.ckpt_path is not None:
            self._go_on_in_wandb(config.trainer)

    def _go_on_in_wandb(self, trainer: Namespace) -> None:
        """Let a resumed training go on with its run in Weights & Biases, which is known by an id."""
        known = read_record(Path(trainer.default_root_dir)).get("run", {}).get("wandb_id")
        for logger in wandb_loggers(trainer) if known else []:
            if logger.init_args.id is None and logger.init_args.version is None:
                logger.init_args.id = known

    def after_instantiate_classes(self) -> None:
        """Check that the checkpoint fits what was built, or begin with trained weights."""
        if self._begins is not None:
            begin.begin(self.model, self._begins)
        if self._weights is not None:
            if isinstance(self.model, LanguageModelling):
                self.model.check_vocabulary(self._weights)
            self._check_fit(self._weights, self.config[self.subcommand].ckpt_path)
            self._weights = None

    def _check_fit(self, weights: Mapping[str, Tensor], path: str) -> None:
        try:
            check_fit(self.model, weights, path)
        except InputError as error:
            hint = " To begin another training with these weights, pass them as `--init_from`."
            raise InputError(f"{error}{hint * (self.subcommand == 'fit')}") from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the Trainer, with the callbacks and the logger that every run has unless told otherwise."""
        config = self.config_init[self.subcommand].trainer
        self.trainer_defaults["callbacks"] = default_callbacks(config, self.command)
        refuse_clashing(own_callbacks(config), self.trainer_defaults["callbacks"])
        if config.logger in (None, True):
            version = "" if self.subcommand == "fit" else self.subcommand
            kwargs["logger"] = MetricsFile(config.default_root_dir, version)
        if config.enable_model_summary is None:  # there is ours
            kwargs["enable_model_summary"] = False
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise InputError(f"The Trainer cannot be built: {error}") from error
        # Before what a recipe brings, too, which would otherwise print while the bar is still there.
        # What looks for misspelt names comes before those who would wait for them, and what keeps the configuration
        # before those who end a training.
        first = (ProgressBar, MonitorCheck, SaveConfig)
        trainer.callbacks.sort(key=lambda callback: not isinstance(callback, first))  # type: ignore[attr-defined]
        return trainer

    def before_fit(self) -> None:
        """Say where the run is kept, and what becomes of an earlier one there."""
        folder, path = Path(self.trainer.default_root_dir), self.config.fit.ckpt_path
        anew, earlier = path is None and not requeued(folder), None
        if self.trainer.is_global_zero:
            if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # which keeps nothing
                refuse_foreign(folder, path)
            self.held.enter_context(locked(folder))
            if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
                earlier = self.held.enter_context(prepared(folder, anew=anew))
            if anew:  # who is killed before the first batch leaves what can be told from files of others
                start_record(folder, {"run": {"command": self.command}})
        if anew:
            aside = f" The earlier one there is now in {earlier}." if earlier else ""
            rank_zero_info(f"The run is kept in {folder}.{aside}")
        else:
            rank_zero_info(f"The run goes on in {folder}.")

    def predict(self, **kwargs: Any) -> None:
        """Predict, and write what :func:`prediction_lines` makes of it; each process writes its own file."""
        batches = self.trainer.predict(**kwargs) or []
        rank = f"_rank{self.trainer.global_rank}" if self.trainer.world_size > 1 else ""
        path = Path(self.trainer.default_root_dir) / "predict" / f"predictions{rank}.csv"
        if write_predictions(batches, self.trainer, path):
            rank_zero_info(f"Wrote {path}")
            return
        ending, lines = prediction_lines(batches, getattr(self.datamodule, "tokenizer", None))
        if not lines:
            rank_zero_info("Wrote no predictions: there are none, or they are neither (B,) values nor (B, T) tokens.")
            return
        path = path.with_suffix(f".{ending}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        rank_zero_info(f"Wrote {path}")


def wandb_loggers(trainer: Namespace) -> list[Namespace]:
    """Loggers of Weights & Biases among the arguments of a Trainer."""
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    return [one for one in loggers if isinstance(one, Namespace) and one.class_path.endswith("WandbLogger")]


def prediction_lines(batches: Sequence[Any], tokenizer: Tokenizer | None = None) -> tuple[str, list[str]]:
    """Lines of a file of predictions.

    Args:
        batches: what ``predict_step`` returned: ``(B,)`` values, written one a line below a heading; or ``(B, T)``
            whole numbers, written as JSON, a row a line.
        tokenizer: turns rows of tokens into text; without one they stay numbers.

    Returns:
        Ending of the file's name, and the lines; none if there are no predictions, or they have another form.
    """
    tensors = [batch for batch in batches if isinstance(batch, Tensor)]
    dims = {batch.dim() for batch in tensors}
    if len(tensors) == len(batches) and dims == {1}:
        return "csv", ["prediction", *map(str, torch.cat(tensors).tolist())]
    if len(tensors) == len(batches) and dims == {2} and not any(batch.is_floating_point() for batch in tensors):
        rows = [row for batch in tensors for row in batch.tolist()]
        return "jsonl", [json.dumps(tokenizer.decode(row) if tokenizer else row, ensure_ascii=False) for row in rows]
    return "", []


def train_or_evaluate(words: list[str]) -> None:
    """Run a command that is a method of the Trainer.

    Args:
        words: the command, such as ``["fit", "--config", "recipes/digits_mlp.yaml"]``.
    """
    FFLightningCLI.asked = words[0]
    whole_numbers_first(pl.Trainer.__init__)
    with ExitStack() as FFLightningCLI.held, above_the_bar():  # it runs while it is built
        FFLightningCLI(
            FFLightningModule,
            pl.LightningDataModule,
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True, "save_to_log_dir": False},
            seed_everything_default=0,
            parser_kwargs={"prog": "ff-lightning"},
            parser_class=RecipeParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            # It would build one optimizer for the whole network; ours has one a block.
            auto_configure_optimizers=False,
            args=words,
        )
