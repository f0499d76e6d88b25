"""Recipes are read as LightningCLI does, and what the data knows a recipe need not say of the network."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from ff_lightning.callbacks import BestCheckpoint
from ff_lightning.cli.parser import Parser, explain
from ff_lightning.errors import InputError
from ff_lightning.processor import Answer, ask

LINKED = ("vocab_size", "context")
"""What a network takes from its data, if the network has an argument and the data an attribute of that name."""

MIXED = {
    "cpu": dict.fromkeys(("bf16-mixed", "bf16", "16-mixed", "16"), torch.bfloat16),
    "cuda": dict.fromkeys(("bf16-mixed", "bf16"), torch.bfloat16) | dict.fromkeys(("16-mixed", "16"), torch.float16),
}
"""By type of device, the values of ``precision`` that Lightning takes for mixed precision, and in which type."""

FOLDERS = (Path(__file__).parents[1], Path(__file__).parents[2])
"""Where ``recipes/`` lies: in the package if it was installed, beside it in a checkout."""


def with_own_recipes(words: Sequence[str]) -> list[str]:
    """A command, with the recipes of this project found wherever it runs.

    Args:
        words: of the command; a path that begins with ``recipes/`` and is no file here is taken from the package.

    Raises:
        InputError: the package has no recipe of that name; names the nearest ones.

    >>> Path(with_own_recipes(["--config", "recipes/digits_mlp.yaml"])[1]).is_file()
    True
    """
    return [_own(word) for word in words]


def _own(word: str) -> str:
    option, equals, path = word.rpartition("=") if word.startswith("--config=") else ("", "", word)
    if Path(path).is_file() or not (path.startswith("recipes/") and path.endswith(".yaml")):
        return word
    recipes = {
        file.relative_to(folder).as_posix(): file for folder in FOLDERS for file in (folder / "recipes").rglob("*.yaml")
    }
    if path not in recipes:
        near = " or ".join(f"`{name}`" for name in difflib.get_close_matches(path, recipes, n=2))
        hint = f" Did you mean {near}?" if near else ""
        raise InputError(f"Passed `{path}`. There is no such recipe, neither here nor in the package.{hint}")
    return option + equals + str(recipes[path])


class RecipeParser(Parser):
    """Parser whose configurations can be read again."""

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Write a configuration, without defaults that no file can hold: they come back when it is read."""
        plain = namespace.clone()
        for key, value in namespace.items():
            if isinstance(value, partial):
                plain.pop(key)
        return str(super().dump(plain, *args, **kwargs))


class RecipeCLI(LightningCLI):
    """LightningCLI for recipes: builds what they describe, the data first."""

    resumed_in: str | None = None
    """Precision of the training that goes on, if one does."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let a recipe say what the best checkpoint is, and the network take its vocabulary from the data."""
        parser.add_lightning_class_args(BestCheckpoint, "best")
        for name in LINKED:
            parser.link_arguments(f"data.{name}", f"model.init_args.network.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Keep whether the command itself, and not a file, names a precision."""
        words = sys.argv[1:] if args is None else args
        self.asks_for_precision = any(str(word).split("=")[0] == "--trainer.precision" for word in words)
        super().parse_arguments(parser, args)

    def before_instantiate_classes(self) -> None:
        """Drop what is switched off, and half precision of a recipe where float32 is faster."""
        trainer = self._get(self.config, "trainer")
        if trainer.enable_checkpointing is False:
            self._parser(self.subcommand).callback_keys.remove("best")
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
            InputError: the network was told something else than what it takes from the data, or nobody knows it.
        """
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            if explain(error) is None:
                self._refuse_unknown(error)
            raise
        self._refuse_other()

    def _network(self) -> dict[str, Any]:
        """What was passed for the network."""
        network = self._get(self.config, "model").get("init_args.network")
        return network.as_dict() if isinstance(network, Namespace) else {}

    def _refuse_unknown(self, error: Exception) -> None:
        for name in LINKED:
            if self._network().get("init_args", {}).get(name, "") is None:
                raise InputError(
                    f"Passed no `model.network.{name}`, and data that does not offer it. Use "
                    "`ff_lightning.data.TextDataModule`, or say what it is."
                ) from error

    def _refuse_other(self) -> None:
        network = self._network()
        for name in LINKED:
            passed, taken = network.get("init_args", {}).get(name), getattr(self.datamodule, name, None)
            if None in (passed, taken) or passed in (taken, _default(network["class_path"], name)):
                continue
            raise InputError(
                f"Passed `model.network.{name}={passed}` with data of `{name}={taken}`. The network takes it from the "
                "data: leave it out."
            )


def half_precision(precision: Any, accelerator: Any) -> Answer | None:
    """Whether mixed precision is worth it on this machine, or ``None`` if ``precision`` does not ask for it."""
    device = device_type(accelerator)
    dtype = MIXED.get(device, {}).get(str(precision))
    return None if dtype is None else ask(device, dtype)


def precision_of_a_recipe(precision: Any, accelerator: Any) -> Any:
    """What a recipe's ``precision`` becomes on this machine: ``32-true`` where mixed precision would be slower."""
    answer = half_precision(precision, accelerator)
    return precision if answer is None or answer.pays else "32-true"


def device_type(accelerator: Any) -> str:
    """Type of the devices that Lightning's ``accelerator`` stands for; of what torch does not know, its own name."""
    if accelerator not in ("auto", "gpu", "cuda", "mps"):
        return str(accelerator)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device.type if device else "cpu"


def _default(class_path: str, name: str) -> Any:
    parameter = inspect.signature(locate(class_path)).parameters.get(name)  # type: ignore[arg-type]
    return None if parameter is None else parameter.default
