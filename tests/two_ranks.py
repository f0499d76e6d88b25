"""One launch of two real processes for all tests that need two ranks: each start imports torch and Lightning twice."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock

from ff_lightning.cli import main as command_line
from tests import ddp_cases, sharded_cases, test_distributed
from tests.command_line import FEW, NARROW, configs
from tests.engine import precision_cases
from tests.strategies import layer_cases
from tests.tasks import rank_cases

ROOT = Path(__file__).parent.parent
RECIPES = {("digits_mlp", "fsdp"): FEW, ("digits_mlp", "layer_parallel"): FEW, ("pydoc_gpt", "layer_parallel"): NARROW}
"""Recipes with overlays of strategies that are trained here, by the command line; `ddp` has a launch of its own."""
SLEEPING = ["--blocks", "2", "--width", "16", "--batch", "8", "--steps", "7", "--sleep", "0.3", "--sleep-steps", "8"]
"""A small size of the benchmark of two ranks: blocks that sleep nearly all the time."""


def two_ranks(folder: Path) -> Path:
    """Folder with what two ranks have made of every case; the first process that asks starts them.

    Args:
        folder: to make it in, the same for all processes that share the tests.
    """
    folder.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "finished").exists():
            made_by_one_process(folder)
            launch(folder)
            (folder / "finished").touch()
    return folder


def made_by_one_process(folder: Path) -> None:
    """Checkpoints that two ranks go on from."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the ranks has: with more, sums are in another order
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sharded_cases.before(folder / "sharded")
        layer_cases.before(folder / "layers")
    torch.set_num_threads(threads)


def launch(folder: Path) -> None:
    """Run `main` in two processes, as torchrun starts them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "-m", "tests.two_ranks", str(folder)], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """All output goes to a file, whoever holds which stream."""
    kept = os.dup(1), os.dup(2)
    with path.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, old in zip((1, 2), kept, strict=True):
                os.dup2(old, stream)
                os.close(old)


def train_recipes(folder: Path) -> None:
    """Overlays of strategies, as a cluster would start the command line."""
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    for (recipe, overlay), few in RECIPES.items():
        with written_to(folder / f"{recipe}-smoke-{overlay}, rank {os.environ['RANK']}.txt"):
            words = [*configs(recipe, "with/smoke", f"with/{overlay}"), *few, "--trainer.accelerator", "cpu"]
            assert command_line(["fit", *words]) == 0
    os.chdir(ROOT)


def run_benchmark(folder: Path) -> None:
    """The benchmark of two ranks under `ddp`; that of `layer_parallel` has a launch of its own."""
    folder.mkdir(exist_ok=True)
    sys.path.insert(0, str(ROOT / "recipes" / "benchmarks"))
    sys.argv = ["parallel.py", "--strategy", "ddp", *SLEEPING, "--folder", str(folder)]
    parallel = importlib.import_module("parallel")
    parallel.train(parallel.arguments())


def main(folder: Path) -> None:
    """All cases, on this rank."""
    kinds = {"ddp": ddp_cases, "sharded": sharded_cases, "precision": precision_cases, "tasks": rank_cases}
    for name, cases in (kinds | {"distributed": test_distributed}).items():
        (folder / name).mkdir(exist_ok=True)
        cases.main(folder / name)
    train_recipes(folder / "recipes")
    layer_cases.main(folder / "layers")
    run_benchmark(folder / "benchmark")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
