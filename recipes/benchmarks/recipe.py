"""What the benchmarks share: a recipe, built and ready to train, and a look at the machine."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

import ff_lightning as ff
from ff_lightning.cli.recipes import RecipeCLI, half_precision
from ff_lightning.data.sources import LOCAL_COPIES
from ff_lightning.data.tables import local_path
from ff_lightning.processor import prepare_cpu
from ff_lightning.report import card

RECIPES = Path(__file__).parent.parent


SILENT: dict[str, Any] = {
    "accelerator": "auto",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
"""A Trainer on one device that says and keeps nothing."""

_ANSWER = half_precision("bf16-mixed", SILENT["accelerator"])
MIXED = "bf16-mixed" if _ANSWER is None or _ANSWER.pays else "32-true"
"""What this machine makes of ``precision: bf16-mixed`` in a recipe."""


def be_quiet() -> None:
    """Keep Lightning's messages out of what a benchmark prints."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def load(recipes: list[str], overrides: list[str], **trainer: Any) -> RecipeCLI:
    """Build what recipes describe.

    Args:
        recipes: names below the recipe folder, without ending, such as ``["mnist_mlp", "with/twin"]``.
        overrides: more command-line arguments.
        **trainer: defaults for the Trainer.

    Returns:
        An object with ``trainer``, ``model`` and ``datamodule``.
    """
    be_quiet()
    prepare_cpu()
    configs = [word for recipe in recipes for word in ("--config", str(RECIPES / f"{recipe}.yaml"))]
    return RecipeCLI(
        ff.FFLightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_callback=None,
        trainer_defaults=SILENT | trainer,
        run=False,
        args=[*configs, *overrides],
    )


def with_twins(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in what backprop was given no value of its own for: `twin_lr` is `lr`, and so on."""
    own = {name: value for name, value in vars(args).items() if name.startswith("twin_") and value is None}
    return argparse.Namespace(**vars(args) | {name: getattr(args, name.removeprefix("twin_")) for name in own})


def tier_of(model: ff.FFLightningModule) -> str:
    """The tier of what a model trains, as its card has it, without how far it looks ahead."""
    return card.tier_of(model).split(",")[0]


def name_of_images(source: str) -> str:
    """What a set of images is called: of a hub id with a copy on this machine, the copy, which may not be the same."""
    return (local_path(source, LOCAL_COPIES) or Path(source)).name


def provenance(earlier: Iterable[str] = ()) -> dict[str, str]:
    """Command, commit, machine and day, for the results page.

    Args:
        earlier: commits at which parts of the result were made before, which are named, too.
    """
    commit = subprocess.run(
        ["git", "--no-optional-locks", "describe", "--always", "--dirty"],
        cwd=RECIPES,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    cpu = models[0] if models else ": unknown CPU"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu.split(":")[1].strip()
    slow = "" if MIXED == "bf16-mixed" else ", which has no fast bfloat16"
    return {
        "command": shlex.join(["python", f"recipes/benchmarks/{Path(sys.argv[0]).name}", *portable(sys.argv[1:])]),
        "commit": ", ".join(sorted({commit, *earlier})),
        "hardware": f"{os.cpu_count()} x {device}{slow}",
        "date": date.today().isoformat(),
    }


def portable(words: list[str]) -> list[str]:
    """Arguments without the places of this machine: of a file its name, and no folder of `--data` or `--folder`."""
    kept: list[str] = []
    for word in words:
        if Path(word).is_dir() and kept[-1:] in (["--data"], ["--folder"]):
            kept.pop()
        elif not Path(word).is_dir():
            kept.append(Path(word).name if Path(word).is_file() else word)
    return kept
