"""Recipes are read as LightningCLI does, and what the data knows a recipe need not say of the network."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pydoc import locate
from traceback import format_exception_only
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from ff_lightning.callbacks import BestCheckpoint
from ff_lightning.cli.parser import Parser, explain, missing_package, raised_by, shorten
from ff_lightning.engine.lightning import subcommand_parser
from ff_lightning.errors import InputError
from ff_lightning.processor import Answer, ask

LINKED = {
    "network.vocab_size": "TextDataModule",
    "network.context": "TextDataModule",
    "network.image_shape": "ImageDataModule",
    "network.in_features": "ImageDataModule",
    "network.num_classes": "ImageDataModule",
    "num_classes": "ImageDataModule",
    "network.bands": "SpottingDataModule",
    "frame_seconds": "SpottingDataModule",
    "low": "TableDataModule",
    "high": "TableDataModule",
}
"""What a model takes from its data unless it is told, if it has an argument and the data an attribute of that name; and
which of our data offers it."""

MIXED = {
    "cpu": dict.fromkeys(("bf16-mixed", "bf16", "16-mixed", "16"), torch.bfloat16),
    "cuda": dict.fromkeys(("bf16-mixed", "bf16"), torch.bfloat16) | dict.fromkeys(("16-mixed", "16"), torch.float16),
}
"""By type of device, the values of ``precision`` that Lightning takes for mixed precision, and in which type."""


OTHER_KIND = re.compile(r"^.*Import path \S+ does not correspond to a subclass of .*$", re.MULTILINE)
"""What jsonargparse says where an argument may be of several classes, of those that were not meant."""


class RecipeParser(Parser, LightningArgumentParser):
    """Parser whose configurations can be read again."""

    taken: Sequence[str] = ()
    """Keys of what is taken from the data, and not told."""

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Read a configuration.

        Raises:
            InputError: the file holds something else than text.
        """
        try:
            found: Namespace = super().parse_path(cfg_path, *args, **kwargs)
        except UnicodeDecodeError as error:
            raise InputError(f"Passed `--config {cfg_path}`, which is no text. It must be a recipe in YAML.") from error
        return found

    def dump(self, namespace: Namespace, *args: Any, skip_link_targets: bool = True, **kwargs: Any) -> str:
        """Write a configuration, without what comes back when it is read.

        That is what the data knows, and defaults that no file can hold. What the user told a model stays, though the
        data knows it, too: jsonargparse would leave it out.
        """
        plain = namespace.clone()
        for key, value in namespace.items():
            if isinstance(value, partial) or (skip_link_targets and key in self.taken):
                plain.pop(key)
        return str(super().dump(plain, *args, skip_link_targets=False, **kwargs))


class RecipeCLI(LightningCLI):
    """LightningCLI for recipes: builds what they describe, the data first."""

    resumed_in: str | None = None
    """Precision of the training that goes on, if one does."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let a recipe say what the best checkpoint is, and the model take from the data what it knows."""
        parser.add_lightning_class_args(BestCheckpoint, "best")
        for place in LINKED:
            parser.link_arguments("data", key_of(place), compute_fn=self._taker(place), apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Keep what was said, in files or the command, and whether the command itself names a precision."""
        words = sys.argv[1:] if args is None else args
        self.asks_for_precision = any(str(word).split("=")[0] == "--trainer.precision" for word in words)
        super().parse_arguments(parser, args)
        self.said = parser.parse_args(args, defaults=False)

    def before_instantiate_classes(self) -> None:
        """Drop what is switched off, what need not be taken from the data, and half precision where it is slower."""
        self._link_the_unsaid()
        trainer = self._passed().trainer
        if trainer.enable_checkpointing is False:
            subcommand_parser(self, self.subcommand).callback_keys.remove("best")
        precision, said = self._choose(trainer.precision, trainer.accelerator)
        trainer.precision = precision
        if said:
            rank_zero_info(said)

    def _choose(self, precision: Any, accelerator: Any) -> tuple[Any, str]:
        """What to compute in, and what to say of it: nothing where there is nothing to choose."""
        answer = half_precision(precision, accelerator)
        if answer is None:
            return precision, ""
        chosen = precision if answer.pays else "32-true"
        if self.asks_for_precision:
            slow = f"Computing in {precision}, as the command asks, many times slower than in 32-true: {answer.why}."
            return precision, "" if answer.pays else slow
        if self.resumed_in in (precision, "32-true") and self.resumed_in != chosen:
            instead = f"this machine would choose {chosen}: {answer.why}"
            return self.resumed_in, f"Computing in {self.resumed_in}, as before the stop; {instead}."
        if answer.pays:
            return precision, f"Computing in {precision}: {answer.why}."
        return chosen, f"Computing in 32-true, not in {precision} (unless the command asks for it): {answer.why}."

    def instantiate_classes(self) -> None:
        """Build data, network and Trainer.

        Raises:
            InputError: the network was told something else than what it takes from the data, or nobody knows it; or a
                class cannot be built, and said so in an error of its own.
        """
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            if explain(error) is None:
                raise InputError(missing_package(error) or _why_not_built(error)) from error
            raise
        self._refuse_other()

    def _passed(self) -> Namespace:
        """What was passed, to the subcommand if there is one."""
        passed: Namespace = self.config if self.subcommand is None else self.config[self.subcommand]
        return passed

    def _link_the_unsaid(self) -> None:
        """Take from the data what the model has an argument for, and was not told."""
        parser, config = subcommand_parser(self, self.subcommand), self._passed().model
        told = self._told()
        if told.get("network.num_classes") is not None:
            told["num_classes"] = None  # the model takes that of its network, which is then compared with the data
        wanted = {key_of(place) for place in LINKED if place not in told}
        links = parser._links_group._group_actions  # type: ignore[attr-defined]
        links[:] = [link for link in links if link.dest in wanted and link.dest.removeprefix("model.") in config]
        if isinstance(parser, RecipeParser):
            parser.taken = [link.dest for link in links]

    def _told(self) -> dict[str, Any]:
        """What a recipe or the command says of the things that the data may know."""
        said = (self.said if self.subcommand is None else self.said[self.subcommand]).get("model", {})
        keys = {place: key_of(place).removeprefix("model.") for place in LINKED}
        return {place: said.get(key) for place, key in keys.items() if key in said}

    def _taker(self, place: str) -> Callable[[Any], Any]:
        """What reads an argument of the model off the data, or leaves its default where the data does not know it."""

        def take(data: Any) -> Any:
            if hasattr(data, _name(place)):
                return getattr(data, _name(place))
            config = self._passed().model
            if _needs(config, place):
                raise InputError(
                    f"Passed no `model.{place}`, and data that does not offer it. Use "
                    f"`ff_lightning.data.{LINKED[place]}`, or say what it is."
                )
            return config[key_of(place).removeprefix("model.")]

        take.__name__ = _name(place)  # which `--help` shows
        return take

    def _refuse_other(self) -> None:
        """Refuse what the model was told where the data knows better; ``None`` says that there is no such thing."""
        for place, told in self._told().items():
            known = None if told is None else getattr(self.datamodule, _name(place), None)
            if known is not None and _plain(told) != _plain(known):
                raise InputError(
                    f"Passed `model.{place}={_plain(told)}` with data of `{_name(place)}={_plain(known)}`. The model "
                    "takes it from the data: leave it out."
                )


def key_of(place: str) -> str:
    """Where an argument of the model stands in a configuration.

    >>> key_of("network.context")
    'model.init_args.network.init_args.context'
    """
    return ".".join(["model", *(f"init_args.{part}" for part in place.split("."))])


def _name(place: str) -> str:
    return place.rpartition(".")[2]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value


def half_precision(precision: Any, accelerator: Any) -> Answer | None:
    """Whether mixed precision is worth it on this machine, or ``None`` if ``precision`` does not ask for it."""
    device = device_type(accelerator)
    dtype = MIXED.get(device, {}).get(str(precision))
    return None if dtype is None else ask(device, dtype)


def device_type(accelerator: Any) -> str:
    """Type of the devices that Lightning's ``accelerator`` stands for; of what torch does not know, its own name."""
    if accelerator not in ("auto", "gpu", "cuda", "mps"):
        return str(accelerator)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device.type if device else "cpu"


def _why_not_built(error: Exception) -> str:
    """One line of what a class said when it was built, which jsonargparse wraps in messages of its own."""
    own = next((cause for cause in _wrapped(error) if not raised_by(cause, "jsonargparse")), None)
    if own is None:
        return f"What was passed cannot be built: {shorten(OTHER_KIND.sub('', str(error)))}."
    if said := explain(own):
        return said
    return f"What was passed cannot be built: {' '.join(''.join(format_exception_only(own)).split())}"


def _wrapped(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _needs(model: Namespace, place: str) -> bool:
    """Whether an argument of the model, or of its network, has no default."""
    *owners, name = place.split(".")
    for owner in owners:
        model = model[f"init_args.{owner}"]
    parameter = inspect.signature(locate(model.class_path)).parameters.get(name)  # type: ignore[arg-type]
    return parameter is not None and parameter.default is inspect.Parameter.empty
