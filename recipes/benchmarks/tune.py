"""Chooses settings on validation data: a grid, or a study by Optuna, for Forward-Forward and its twin alike.

    python recipes/benchmarks/tune.py --recipe novels_gpt --grid rates.yaml [--seeds 0 1] [--trainer.max_epochs 1]
    python recipes/benchmarks/tune.py --recipe novels_gpt --recipe with/twin --grid rates.yaml

`--recipe` is a name below the folder of recipes; an overlay follows its recipe, so that `with/twin` tunes the network
that backprop trains, on the same grid. Further arguments are those of the recipe. The file of `--grid` names arguments,
each with a list of values, or with a range:

    model.optimizer.init_args.muon_lr: [0.01, 0.02, 0.04]
    model.optimizer.init_args.lr: {low: 0.001, high: 0.01, log: true}

With lists alone every combination is tried once. With a range Optuna chooses `--trials` settings (TPE). A setting is
judged by what the recipe calls best, on its validation data, at the best validation of the training; the mean over
`--seeds`. The test data stay closed. `--processes` trainings run at a time, a thread each. What is done is kept in
`--folder`: the same command again continues, and a training that was cut off is made anew. A table of all settings goes
to stderr, the best first; the last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import optuna
import torch
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from recipe import load, provenance

from ff_lightning.errors import DivergedError, InputError

RANGE = {"low", "high", "log"}


class Watch(pl.Callback):
    """Keeps what a training is judged by, at every validation."""

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.found: list[float] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            raise InputError(f"The recipe calls best by `{self.monitor}`, which its validation does not log.")
        self.found.append(float(trainer.callback_metrics[self.monitor]))


def one_thread() -> None:
    """Every training of several has one core."""
    torch.set_num_threads(1)


def train(recipes: list[str], overrides: list[str], seeds: list[int]) -> dict[str, Any]:
    """Train one setting with every seed; what its validations found."""
    curves, started = [], time.process_time()
    for seed in seeds:
        pl.seed_everything(seed, verbose=False)
        cli = load(recipes, overrides)
        watch = Watch(cli.config["best"]["monitor"])
        cli.trainer.callbacks.append(watch)  # type: ignore[attr-defined]
        try:
            cli.trainer.fit(cli.model, cli.datamodule)
        except DivergedError:
            watch.found.append(math.nan)
        if not watch.found:
            names = ("max_epochs", "max_steps", "check_val_every_n_epoch", "limit_val_batches")
            said = {name: cli.config["trainer"][name] for name in names}
            passed = ", ".join(f"`trainer.{name}={value}`" for name, value in said.items() if value not in (None, -1))
            raise InputError(
                f"Passed {passed}. The training ended without a validation, by which a setting is judged: train "
                "longer, validate more often, or keep data for it."
            )
        curves.append(watch.found)
    best = min if cli.config["best"]["mode"] == "min" else max
    values = [math.nan if math.nan in curve else best(curve) for curve in curves]
    return {
        "value": sum(values) / len(values),
        "values": values,
        "curves": curves,
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def read_space(path: Path) -> dict[str, BaseDistribution]:
    """What is tried of every argument.

    Raises:
        InputError: the file is none of arguments with lists or ranges.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"Passed `--grid {path}`, which cannot be read as YAML: {error}") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f"Passed `--grid {path}`. The file must hold lines such as `model.clip_norm: [0.3, 1.0]`.")
    return {str(name): _distribution(str(name), values) for name, values in content.items()}


def _distribution(name: str, values: Any) -> BaseDistribution:
    if isinstance(values, list) and values:
        words = [value if isinstance(value, (bool, int, float, str)) else json.dumps(value) for value in values]
        if len(set(words)) == len(words):
            return CategoricalDistribution(words)
    if isinstance(values, dict) and {"low", "high"} <= values.keys() <= RANGE:
        low, high, log = _number(values["low"]), _number(values["high"]), values.get("log", False)
        numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in (low, high))
        if numbers and isinstance(log, bool) and low < high and (low > 0 or not log):
            whole = isinstance(low, int) and isinstance(high, int)
            return IntDistribution(low, high, log=log) if whole else FloatDistribution(low, high, log=log)
    raise InputError(
        f"Passed `{name}: {values!r}` in the file of `--grid`. Use a list of different values, such as [0.01, 0.02], "
        "or {low: 0.001, high: 0.01, log: true} with low < high, above 0 if log."
    )


def _number(value: Any) -> Any:
    """A number that YAML reads as text, as it does with ``1e-3``; whatever else stays."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def points(space: dict[str, BaseDistribution]) -> Iterator[dict[str, Any]]:
    """Every combination of values of a space of lists."""
    lists = [one.choices for one in space.values() if isinstance(one, CategoricalDistribution)]
    for values in itertools.product(*lists):
        yield dict(zip(space, values, strict=True))


def open_study(args: argparse.Namespace, space: dict[str, BaseDistribution], mode: str) -> optuna.Study:
    """The study of a command, as an earlier run has left it: what it did not finish is to be made anew."""
    args.folder.mkdir(parents=True, exist_ok=True)
    what = [args.recipe, args.overrides, args.seeds, {name: str(one) for name, one in space.items()}]
    grid = all(isinstance(one, CategoricalDistribution) for one in space.values())
    study = optuna.create_study(
        study_name=hashlib.sha256(json.dumps(what).encode()).hexdigest()[:10],
        storage=JournalStorage(JournalFileBackend(str(args.folder / "studies.log"))),
        sampler=RandomSampler(0) if grid else TPESampler(seed=0, constant_liar=True),
        direction="minimize" if mode == "min" else "maximize",
        load_if_exists=True,
    )
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        if not grid:
            study.enqueue_trial(trial.params)
    if grid:
        known = [trial.params or trial.system_attrs["fixed_params"] for trial in waiting(study) + finished(study)]
        for point in points(space):
            if point not in known:
                study.enqueue_trial(point)
    else:
        args.trials -= len(finished(study))
    return study


def waiting(study: optuna.Study) -> list[Any]:
    """Settings that are to be tried."""
    return study.get_trials(deepcopy=False, states=[TrialState.WAITING])


def finished(study: optuna.Study) -> list[Any]:
    """Settings that were tried to the end; those that diverged have no value."""
    return [trial for trial in study.get_trials(deepcopy=False) if "cpu_seconds" in trial.user_attrs]


def executor(processes: int) -> Executor:
    """Where trainings run: one alone needs no other process."""
    if processes == 1:
        one_thread()
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=one_thread)


def run(args: argparse.Namespace, study: optuna.Study, space: dict[str, BaseDistribution]) -> None:
    """Try what is left of a study."""
    grid = all(isinstance(one, CategoricalDistribution) for one in space.values())
    left = len(waiting(study)) if grid else args.trials
    running: dict[Future[dict[str, Any]], optuna.Trial] = {}
    with executor(args.processes) as pool:
        while left > 0 or running:
            while left > 0 and len(running) < args.processes:
                trial = study.ask(space)
                words = [word for name, value in trial.params.items() for word in (f"--{name}", str(value))]
                running[pool.submit(train, args.recipe, [*args.overrides, *words], args.seeds)] = trial
                left -= 1
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                trial, found = running.pop(future), future.result()
                for name, value in found.items():
                    trial.set_user_attr(name, value)
                tell(study, trial, found["value"])
                print(json.dumps(trial.params | found), file=sys.stderr, flush=True)


def tell(study: optuna.Study, trial: optuna.Trial, value: float) -> None:
    """Note what a setting reached; one that diverged reached nothing."""
    if math.isfinite(value):
        study.tell(trial, value)
    else:
        study.tell(trial, state=TrialState.FAIL)


def table(study: optuna.Study, names: list[str], mode: str) -> list[dict[str, Any]]:
    """All settings that were tried, the best first."""
    sign = 1 if mode == "min" else -1
    trials = sorted(finished(study), key=lambda trial: math.inf if trial.value is None else sign * trial.value)
    keys = ("value", "values", "cpu_seconds")
    return [
        {name: trial.params[name] for name in names} | {key: trial.user_attrs[key] for key in keys} for trial in trials
    ]


def markdown(rows: list[dict[str, Any]], names: list[str], monitor: str) -> str:
    """The table as text."""
    lines = [f"| {' | '.join(names)} | {monitor} | CPU seconds |", "|---" * (len(names) + 2) + "|"]
    for row in rows:
        cells = [str(row[name]) for name in names]
        lines.append(f"| {' | '.join(cells)} | {row['value']:.4f} | {row['cpu_seconds']:.0f} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", action="append", required=True, help="a recipe, then its overlays")
    parser.add_argument("--grid", type=Path, required=True, help="a YAML file of arguments and their values")
    parser.add_argument("--trials", type=int, default=20, help="of a study with ranges")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, default=Path("runs/tune"), help="for what is done")
    args, overrides = parser.parse_known_args()
    args.overrides = overrides
    return args


def main() -> None:
    args = arguments()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = read_space(args.grid)
    best = load(args.recipe, args.overrides).config["best"]
    study = open_study(args, space, best["mode"])
    run(args, study, space)
    rows = table(study, list(space), best["mode"])
    print(markdown(rows, list(space), best["monitor"]), file=sys.stderr)
    result = {"recipe": args.recipe, "monitor": best["monitor"], "mode": best["mode"], "trials": rows}
    print(json.dumps(result | {"seeds": args.seeds, "threads": 1} | provenance()))


if __name__ == "__main__":
    main()
