"""Tasks that people bring: numbers, several labels, anomalies, tables and labelled texts, with the twin beside each.

    python recipes/benchmarks/tasks.py [--task regression labels anomaly wine breast_cancer text] [--seed 0 1 2]

Each task prints one line of JSON: what Forward-Forward reaches, the same network trained by backprop, and a classical
method. The seed is that of weights, order and negatives, and of the rows that are kept for validation and test, where
the data has no test of its own. Validation rows chose the settings below; with `--validation-only` the test stays
closed. `cpu_minutes` are those of training Forward-Forward, a seed.

- regression: scikit-learn's diabetes, 442 patients; R2. Classical: ridge regression.
- labels: two of scikit-learn's digits side by side in one picture of 8 x 16; F1, the mean over ten labels. The digits
  of test pictures are the test split, those of validation are in no training picture. Classical: a random forest.
- anomaly: scikit-learn's digits 0 to 4 are normal, 5 to 9 anomalies; AUROC. Classical: the local outlier factor.
- wine, breast_cancer: scikit-learn's tables; accuracy, %. Classical: logistic regression.
- text: which of six novelists wrote a passage of 1,000 characters; accuracy, %. All passages of the test are from books
  of which the training has none. It needs `gutenberg` in the folder that `FF_LIGHTNING_DATA` names. Classical: logistic
  regression on the same counts of words.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import lightning.pytorch as pl
import torch
from recipe import SILENT, be_quiet, provenance
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, f1_score, r2_score, roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, TensorDataset

import ff_lightning as ff
from ff_lightning.candidates import EachLabel
from ff_lightning.data import ImageDataModule, TableDataModule
from ff_lightning.negatives import AnyOf, Averaged, HybridMask, MixedEntries
from ff_lightning.networks import MLP, ClassMLP, ConvNet
from ff_lightning.processor import prepare_cpu
from ff_lightning.schedules import HoldThenDecay

BOOKS = {
    "Carroll": (["Alice's Adventures in Wonderland"], ["Through the Looking-Glass"]),
    "Wells": (["The War of the Worlds"], ["The Time Machine"]),
    "Stevenson": (["Treasure Island"], ["The Strange Case of Dr. Jekyll and Mr. Hyde"]),
    "Dickens": (["A Tale of Two Cities"], ["A Christmas Carol in Prose; Being a Ghost Story of Christmas"]),
    "Twain": (["The Adventures of Tom Sawyer, Complete"], ["Adventures of Huckleberry Finn"]),
    "Austen": (["Emma", "Sense and Sensibility"], ["Persuasion"]),
}
"""Novelists, with the books that are trained on and those of the test."""
PASSAGE, MOST, BETWEEN = 1000, 300, 3
"""Characters of a passage, passages of an author in a split, and characters between two books of the file."""


@dataclass
class Task:
    """A task: its data for a seed, how it is learned, and how it is judged."""

    data: Callable[[int], Any]
    network: Callable[[Any], ff.Network]
    kind: type[ff.FFLightningModule]
    logged: str
    classical: Callable[[tuple[Tensor, Tensor], Tensor, int], Any]
    score: Callable[[Any, Any], float]
    tier: str = "T1"
    epochs: int = 15
    lr: float = 2e-3
    percent: bool = False
    arguments: Callable[[Any], dict[str, Any]] = lambda data: {}
    of_twin: list[str] = field(default_factory=list)
    """Which of the arguments the twin has, too."""


class Pairs(pl.LightningDataModule):
    """Two digits side by side, with a label for each digit that is there."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.digits = ImageDataModule("digits", validation=0.2, split_seed=seed)
        self.digits.setup()
        self.pairs = {split: self._pairs(split, seed, count) for split, count in SIZES.items()}

    def _pairs(self, split: str, seed: int, count: int) -> TensorDataset:
        images = self.digits._splits[split]
        rows = torch.randint(len(images), (2, count), generator=torch.Generator().manual_seed(seed))
        left, right = (images.scaled(images.pixels_of(some)) for some in rows)
        labels = one_hot(images.labels[rows], 10).amax(0).float()
        return TensorDataset(torch.cat([left, right], dim=3), labels)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.pairs["train"], batch_size=100, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.pairs["validation"], batch_size=500)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.pairs["test"], batch_size=500)


SIZES = {"train": 4000, "validation": 1000, "test": 1000}


def passages(folder: Path) -> None:
    """Write tables of passages, with the name of the author, of the training and of the test."""
    place = Path(os.environ["FF_LIGHTNING_DATA"]) / "gutenberg"
    text = (place / "gutenberg_en_novels.txt").read_text(encoding="utf-8")
    books, at = {}, 0
    for row in csv.DictReader((place / "manifest.csv").open(encoding="utf-8")):
        books[row["title"]] = text[at : at + int(row["chars"])]
        at += int(row["chars"]) + BETWEEN
    for index, split in enumerate(("train", "test")):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["text", "label"])
            for author, titles in BOOKS.items():
                body = "".join(books[title][3 * PASSAGE : -PASSAGE] for title in titles[index])  # title pages say more
                starts = range(0, len(body) - PASSAGE, PASSAGE)
                chosen = torch.randperm(len(starts), generator=torch.Generator().manual_seed(0))[:MOST].tolist()
                table.writerows([body[starts[one] : starts[one] + PASSAGE], author] for one in chosen)


def novelists(seed: int) -> TableDataModule:
    with tempfile.TemporaryDirectory() as folder:
        passages(Path(folder))
        data = TableDataModule(
            folder, text_columns=["text"], most_words=3000, batch_size=50, split_seed=seed, balance=True
        )
        data.setup()
    return data


def outliers(train: tuple[Tensor, Tensor], x: Tensor, seed: int) -> Any:
    return -LocalOutlierFactor(novelty=True).fit(train[0].flatten(1)).score_samples(x.flatten(1))


def fitted(make: Callable[[int], Any]) -> Callable[[tuple[Tensor, Tensor], Tensor, int], Any]:
    """A method of scikit-learn, fitted on training rows, and what it predicts of others."""
    return lambda train, x, seed: make(seed).fit(train[0].flatten(1), train[1]).predict(x.flatten(1))


def logistic(seed: int) -> LogisticRegression:
    return LogisticRegression(max_iter=2000)


def table(name: str) -> Task:
    return Task(
        data=lambda seed: TableDataModule(name, split_seed=seed, batch_size=16),
        network=lambda data: ClassMLP(data.in_features, [100, 100], num_classes=data.num_classes),
        kind=ff.FFClassifier,
        logged="accuracy",
        epochs=20 if name == "wine" else 10,
        percent=True,
        classical=fitted(logistic),
        score=accuracy_score,
    )


def anomalies() -> AnyOf:
    return AnyOf([HybridMask(2), MixedEntries(), Averaged()])


TASKS = {
    "regression": Task(
        data=lambda seed: TableDataModule("diabetes", target="number", split_seed=seed),
        network=lambda data: ClassMLP(data.in_features, [64, 64], num_classes=16),
        kind=ff.FFRegressor,
        arguments=lambda data: {"low": data.low, "high": data.high},
        of_twin=["low", "high"],
        logged="r2",
        classical=fitted(lambda seed: RidgeCV([0.1, 1.0, 10.0, 100.0])),
        score=r2_score,
    ),
    "labels": Task(
        data=Pairs,
        network=lambda data: ConvNet((1, 8, 16), [32, 64], pool_after=[1], num_classes=10, loss=EachLabel()),
        kind=ff.FFMultiLabel,
        logged="f1",
        epochs=10,
        lr=4e-3,
        classical=fitted(lambda seed: RandomForestClassifier(300, random_state=seed)),
        score=partial(f1_score, average="macro"),
    ),
    "anomaly": Task(
        data=lambda seed: ImageDataModule("digits", normal=range(5), validation=0.2, split_seed=seed, batch_size=50),
        network=lambda data: MLP(64, [500, 500], num_classes=None),
        kind=ff.FFAnomalyDetector,
        arguments=lambda data: {"anomalies": anomalies()},
        of_twin=["anomalies"],
        logged="auroc",
        epochs=40,
        lr=1e-3,
        classical=outliers,
        score=roc_auc_score,
    ),
    "wine": table("wine"),
    "breast_cancer": table("breast_cancer"),
    "text": Task(
        data=novelists,
        network=lambda data: ClassMLP(data.in_features, [200, 200], num_classes=data.num_classes),
        kind=ff.FFClassifier,
        logged="accuracy",
        epochs=10,
        percent=True,
        classical=fitted(logistic),
        score=accuracy_score,
    ),
}


def trained(module: pl.LightningModule, data: Any, epochs: int) -> tuple[pl.Trainer, float]:
    """Train, and say how many minutes of CPU time it took."""
    trainer = pl.Trainer(**SILENT | {"max_epochs": epochs, "check_val_every_n_epoch": epochs})
    started = time.process_time()
    trainer.fit(module, data)
    return trainer, round((time.process_time() - started) / 60, 3)


def rows(loader: Any) -> tuple[Tensor, Tensor]:
    """All rows that a loader gives, and what is to be said of them."""
    return tuple(torch.cat(parts) for parts in zip(*loader, strict=True))  # type: ignore[return-value]


def run(task: Task, seed: int, *, validation_only: bool) -> dict[str, Any]:
    """Forward-Forward, the twin and the classical method, for one seed."""
    found: dict[str, Any] = {"seed": seed}
    factor = 100 if task.percent else 1
    for name, kind in (("", task.kind), ("twin_", ff.BackpropTwin)):
        pl.seed_everything(seed)
        data = task.data(seed)
        if not isinstance(data, Pairs):
            data.shuffle_seed = seed
            data.setup("fit")
        chosen = task.arguments(data)
        chosen = chosen if name == "" else {key: value for key, value in chosen.items() if key in task.of_twin}
        optimizer = partial(torch.optim.Adam, lr=task.lr)
        module = kind(task.network(data), optimizer=optimizer, lr_scheduler=HoldThenDecay, **chosen)
        trainer, found[f"{name}cpu_minutes"] = trained(module, data, task.epochs)
        found[f"{name}validation"] = round(factor * float(trainer.callback_metrics[f"val/{task.logged}"]), 4)
        if not validation_only:
            (tested,) = trainer.test(module, data, verbose=False)
            found[f"{name}test"] = round(factor * tested[f"test/{task.logged}"], 4)
    splits = {"validation": data.val_dataloader} if validation_only else {"test": data.test_dataloader}
    for split, loader in splits.items():
        x, y = rows(loader())
        said = task.classical(rows(data.train_dataloader()), x, seed)
        found[f"classical_{split}"] = round(factor * float(task.score(y, said)), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--validation-only", action="store_true", help="leave the test closed")
    args = parser.parse_args()
    be_quiet()
    prepare_cpu()
    for name in args.task:
        task = TASKS[name]
        each = [run(task, seed, validation_only=args.validation_only) for seed in args.seed]
        facts = provenance()
        facts["command"] = " ".join(
            ["python recipes/benchmarks/tasks.py --task", name, "--seed", *map(str, args.seed)]
            + ["--validation-only"] * args.validation_only
        )
        minutes = round(mean(one["cpu_minutes"] for one in each), 3)
        about = {"task": name, "measure": task.logged, "tier": task.tier, "seeds": args.seed, "cpu_minutes": minutes}
        print(json.dumps({**about, "by_seed": each, **facts}), flush=True)


if __name__ == "__main__":
    main()
