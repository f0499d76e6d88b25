"""Which checkpoint a subcommand means: one that was named, a word for one of the run's own, or the run's best."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from ff_lightning.errors import InputError

OWN = ("last", "best")
"""Words for the checkpoints of a run folder; ``hpc``, which SLURM's are called, is Lightning's."""


def chosen_weights(subcommand: str, given: str | None, folder: Path) -> str | None:
    """Find the checkpoint that a subcommand starts from.

    Args:
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
        given: what was passed as ``--ckpt_path``.
        folder: of the run.

    Returns:
        A path, an address or ``hpc``; ``None`` for a training from the start.

    Raises:
        InputError: the run has no such checkpoint; or nothing was passed, and an evaluation has nothing to evaluate.
    """
    if given in OWN:
        path = folder / f"{given}.ckpt"
        if not path.exists():
            raise InputError(
                f"Passed `ckpt_path={given}`. There is no {path}: the run in {folder} has not written one."
            )
        rank_zero_info(f"--ckpt_path {given} is {path}.")
        return str(path)
    if given is not None or subcommand == "fit":
        return given
    for name in ("best", "last"):
        path = folder / f"{name}.ckpt"
        if path.exists():
            rank_zero_info(f"No --ckpt_path was passed: taking the run's own {path}.")
            return str(path)
    raise InputError(
        f"Passed no `ckpt_path` to `{subcommand}`, and {folder} has neither best.ckpt nor last.ckpt. Without weights "
        "there is nothing to evaluate: name a checkpoint, or train one by `fit`."
    )
