"""Which folder a run is kept in: named by the command, after its recipes, or one of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from ff_lightning.engine.folder import own_folder
from ff_lightning.errors import InputError
from ff_lightning.report.records import read_record

HOME = Path("runs")
AUTO = "auto"
"""Value of ``--run_name`` that gives a training a folder of its own."""

CHOSEN = "FF_LIGHTNING_RUN_FOLDER"
"""Variable of the environment by which the first process of a run tells those that it starts where the run is kept."""

TRIAL = "smoke"
"""The overlay that tries a recipe out."""


def run_folder(config: Namespace, subcommand: str) -> Path:
    """Choose the folder of a run, and say so in its configuration.

    Args:
        config: of a subcommand; ``trainer.default_root_dir`` is set.
        subcommand: ``fit`` or another.

    Raises:
        InputError: two options name the folder, or ``auto`` has nothing to begin.
    """
    name, config.run_name = config.run_name, None
    if config.trainer.default_root_dir is not None:
        if name is not None:
            raise InputError(
                f"Passed `run_name={name}` and `trainer.default_root_dir={config.trainer.default_root_dir}`. Both name "
                "the folder of the run: leave one out."
            )
        return Path(config.trainer.default_root_dir)
    stems = [Path(str(path)).stem for path in config.config or ()]
    usual = "-".join(stems) or config.model.class_path.rsplit(".", 1)[-1]
    folder = _own(usual, subcommand) if name == AUTO else HOME / _checked(usual if name is None else name)
    config.trainer.default_root_dir = str(folder)
    return folder


def _checked(name: str) -> str:
    if Path(name).name != name or name in ("", ".."):
        raise InputError(
            f"Passed `run_name={name}`. It must be the name of a folder in `{HOME}`; `--trainer.default_root_dir` "
            "names one elsewhere."
        )
    return name


def _own(name: str, subcommand: str) -> Path:
    """A folder of its own, the same for all ranks of a run."""
    if subcommand != "fit":
        raise InputError(f"Passed `run_name=auto` to `{subcommand}`. Only a training begins a folder: name one.")
    if int(os.environ.get("LOCAL_RANK", "0")) > 0 and CHOSEN in os.environ:
        return Path(os.environ[CHOSEN])
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        return HOME / f"{name}_{os.environ.get('SLURM_JOB_ID', '0')}_{os.environ.get('SLURM_STEP_ID', '0')}"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "Passed `run_name=auto` to processes that were started one by one, such as by `torchrun`. They cannot "
            "agree on a folder before they are joined: pass a name."
        )
    folder = own_folder(HOME, name)
    os.environ[CHOSEN] = str(folder)
    return folder


def requeued(folder: Path) -> bool:
    """Whether SLURM has queued this job again after it kept its state here: Lightning then goes on from that.

    Args:
        folder: of the run.
    """
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0 and any(folder.glob("hpc_ckpt_*.ckpt"))


def trial_folder(config: Namespace) -> Path:
    """Where a subcommand works: a trial of a few batches beside a run, so that it touches nothing of it.

    Args:
        config: of a subcommand, with its folder.
    """
    folder = Path(config.trainer.default_root_dir)
    if config.trainer.fast_dev_run:
        return folder / "fast_dev_run"
    if TRIAL in _stems(config.config or ()) and not _was_trial(folder):
        return folder / TRIAL
    return folder


def _stems(configs: Sequence[object]) -> list[str]:
    return [Path(str(path)).stem for path in configs]


def _was_trial(folder: Path) -> bool:
    """Whether there is no run in a folder, or one that was a trial itself."""
    command = str(read_record(folder).get("run", {}).get("command", ""))
    return not command or f"{TRIAL}.yaml" in command
