"""Trainings with sharded blocks beside the same ones under `ddp`."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins import DoublePrecision
from lightning.pytorch.strategies import ModelParallelStrategy

import ff_lightning as ff
from ff_lightning.data import ImageDataModule
from ff_lightning.language import HintonMLP, Independent
from ff_lightning.language.rollouts import SleepBuffer
from ff_lightning.losses import MovingThresholdLoss
from ff_lightning.negatives import HardWrongLabel
from ff_lightning.readouts import LinearReadout
from tests import ddp_cases
from tests.ddp_cases import ADAMW, HARD, RESUMED, SGD, Case, Collectives, Counted, Language, SaveBetween, gpt, text
from tests.training import classifier, labelled_conv, loader, mlp, trainer


class Classifier(Counted, ff.FFClassifier):
    """Wrong labels that the network itself believes."""

    def __init__(self, network: ff.BlockStack, **kwargs: Any) -> None:
        super().__init__(network, negatives=HardWrongLabel(0.5), **kwargs)

    def local_losses(self, batch: Any) -> Any:
        return super().local_losses((batch[0].double(), batch[1]))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step((batch[0].double(), batch[1]), batch_idx)


class Read(Classifier):
    """A linear readout, which is a block of its own."""

    def __init__(self, network: ff.BlockStack, **kwargs: Any) -> None:
        super().__init__(network, readout=LinearReadout(32, 10).double(), **kwargs)


class Dreamer(Counted, ff.FFLanguageModel):
    """A language model with rollouts that it makes while it is sharded."""

    def __init__(self, network: Any, **kwargs: Any) -> None:
        rollouts = SleepBuffer(16, sequences=12, refresh_every=4, renew=0.5, prefix=(2, 12), rows=3)
        super().__init__(network, rollouts=rollouts, **kwargs)


def hinton() -> HintonMLP:
    torch.manual_seed(0)
    return HintonMLP(text(1).vocab_size, window=4, widths=[8, 8], context=16, loss=MovingThresholdLoss())


CASES = {name: ddp_cases.CASES[name] for name in ("sgd", RESUMED, "adamw, fused", "branch")} | {
    "gpt, own negatives, inherited": Case(
        Language, {"optimizer": ADAMW, **HARD}, network=partial(gpt, combination=Independent(inherit=True))
    ),
    "classifier, labels in every block": Case(Classifier, {"optimizer": ADAMW}, network=labelled_conv),
    "classifier, own negatives": Case(
        Read, {"optimizer": ADAMW}, network=lambda: mlp(3, 16, loss=MovingThresholdLoss(), peer_weight=0.1)
    ),
    "hinton, rollouts": Case(Dreamer, {"optimizer": SGD}, network=hinton),
}


def fit(
    folder: Path,
    case: str,
    *,
    sharded: bool,
    ranks: int = 2,
    precision: str = "64-true",
    folders: bool = False,
    resume: Path | None = None,
    **kwargs: Any,
) -> tuple[pl.Trainer, Counted]:
    """Train one case for seven batches, or for two epochs where it is resumed."""
    what = CASES[case]
    network = what.network()
    exact = precision == "64-true"
    module = what.task(network.double() if exact else network, **what.arguments)
    # Lightning offers 64-true with this strategy only in this way.
    arithmetic: Any = {"plugins": [DoublePrecision()]} if exact else {"precision": precision}
    if ranks > 1:
        sharding = ModelParallelStrategy(2, 1, save_distributed_checkpoint=folders)
        arithmetic |= {"strategy": sharding if sharded else what.strategy, "devices": ranks}
    run = trainer(folder, max_epochs=2 if case == RESUMED else 1, limit_val_batches=0, **arithmetic, **kwargs)
    images = ImageDataModule("digits", batch_size=200 // ranks, validation=1437 - ddp_cases.IMAGES)
    data = text(ranks) if issubclass(what.task, ff.FFLanguageModel) else images
    run.fit(module, data, ckpt_path=resume, weights_only=None if resume is None else True)
    return run, module


def before(folder: Path) -> None:
    """The checkpoint of one process that two ranks go on from."""
    fit(folder / "one", RESUMED, sharded=False, ranks=1, callbacks=[SaveBetween()])


def main(folder: Path) -> None:
    """Train every case, sharded and under `ddp`, and keep checkpoints of one file."""
    warnings.filterwarnings("ignore")

    def store(name: str, case: str, sharded: bool = True, **kwargs: Any) -> Counted:
        run, module = fit(folder, case, sharded=sharded, **kwargs)
        run.save_checkpoint(folder / f"{name}, {'sharded' if sharded else 'ddp'}.ckpt")
        return module

    collectives = Collectives()
    for case in CASES:
        module = store(case, case, callbacks={RESUMED: [SaveBetween()], "sgd": [collectives]}.get(case, []))
        if isinstance(module, Language):
            words = module.generate(torch.zeros(1, 3, dtype=torch.long), 20, seed=1)
            torch.save(words, folder / f"words, rank {module.global_rank}.pt")
        store(case, case, sharded=False)
    for precision in ("bf16-mixed", "bf16-true"):
        for sharded in (True, False):
            store(precision, "gpt, own negatives, inherited", sharded, precision=precision)
    torch.save(dict(collectives.counts), folder / "collectives.pt")
    try:
        trainer(folder, strategy=ModelParallelStrategy(), devices=2).fit(classifier(), loader(40, 20))
    except ff.InputError as error:
        (folder / "refused.txt").write_text(str(error))
    store("resumed from a file", RESUMED, resume=folder / "between.ckpt")
    store("resumed from one process", RESUMED, resume=folder / "one" / "between.ckpt")
    fit(folder / "parts", RESUMED, sharded=True, folders=True, callbacks=[SaveBetween()])
    store("resumed from a folder", RESUMED, resume=folder / "parts" / "between.ckpt")
