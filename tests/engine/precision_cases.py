"""Two ranks whose machines answer differently what bfloat16 is worth."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

import ff_lightning as ff
from ff_lightning.cli.recipes import half_precision
from ff_lightning.data import ImageDataModule
from ff_lightning.networks import ConvNet
from ff_lightning.optim import MuonAdamW
from ff_lightning.processor import SETTING
from tests.training import trainer

ANSWERS = {"yes": "no", "no": "yes"}
"""Of the first rank, and of the second."""


def main(folder: Path) -> None:
    """Train on this rank, and store what it would have computed in, what it did compute in, and its weights."""
    rank = int(os.environ["RANK"])
    for first, second in ANSWERS.items():
        os.environ[SETTING] = second if rank else first
        answer = half_precision("bf16-mixed", "cpu")
        assert answer is not None
        own = "bf16-mixed" if answer.pays else "32-true"
        run = trainer(folder, devices=2, strategy="ddp", precision=own, max_steps=2)
        torch.manual_seed(0)
        network = ConvNet((1, 8, 8), [20], pool_after=[])
        run.fit(ff.FFClassifier(network, optimizer=MuonAdamW), ImageDataModule("digits", batch_size=50))
        weights = next(iter(network.parameters())).detach().double().sum().item()
        told = {"own": own, "computed": str(run.precision), "weights": weights}
        (folder / f"{first}, rank {rank}.json").write_text(json.dumps(told))
    del os.environ[SETTING]
