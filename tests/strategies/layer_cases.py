"""Trainings that must give the same bits on one process and layer-parallel on two."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch import distributed as dist
from torch.profiler import ProfilerActivity, profile

import ff_lightning as ff
from ff_lightning.callbacks import GoodnessMonitor
from ff_lightning.data import ImageDataModule
from ff_lightning.data.text import TextDataModule
from ff_lightning.errors import InputError
from ff_lightning.language import GPT, Independent, OwnChannels, Residual
from ff_lightning.language.stack import TokenStack
from ff_lightning.losses import MovingThresholdLoss
from ff_lightning.negatives import HardWrongLabel
from ff_lightning.networks import Lookahead
from ff_lightning.optim import MuonAdamW
from ff_lightning.schedules import HoldThenDecay, Staggered
from ff_lightning.strategies import LayerParallelStrategy
from tests.training import conv, labelled_conv, mlp, trainer, weights

BATCHES, BATCH, WIDTH = 7, 200, 16
ADAMW = partial(torch.optim.AdamW, lr=1e-3)
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
MUON = partial(MuonAdamW, lr=4e-3, muon_lr=0.02)
HARD: dict[str, Any] = {"accumulate_batches": 4, "clip_norm": 0.05}
DECAY = partial(HoldThenDecay, warmup=0.2, hold=0.4)


@dataclass
class Case:
    """One training, and what it is trained with on two ranks."""

    network: Callable[[], ff.BlockStack]
    arguments: dict[str, Any]
    cuts: list[int] | None = None
    precision: str = "32-true"


def gpt(**kwargs: Any) -> GPT:
    torch.manual_seed(0)
    return GPT(text().vocab_size, width=16, layers=3, heads=2, context=16, **kwargs)


def text() -> TextDataModule:
    return TextDataModule("pydoc", context=16, batch_size=8, batches_per_epoch=BATCHES)


def causal_lm() -> ff.BlockStack:
    """A small Llama of transformers, whose lower blocks have readouts of their own."""
    from ff_lightning.finetuning import CausalLM, NextToken

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = {"model_type": "llama", "vocab_size": text().vocab_size + 3, "bos_token_id": 0, "eos_token_id": 0, **sizes}
    return CausalLM(config, layers_per_block=1, context=16, below=NextToken())


def dropping() -> ff.BlockStack:
    """What the upper blocks drop depends on what the lower ones have drawn."""
    stack = mlp(4, WIDTH, loss=MovingThresholdLoss())
    for block in stack:
        block.layer = nn.Sequential(block.layer, nn.Dropout(0.2))
    return stack


def looking_conv() -> ff.BlockStack:
    """Every block answers for the next one as it is now, whoever trains that."""
    stack = conv(3, batch_statistics=True)
    stack.look_ahead(Lookahead())
    return stack


MOVING = partial(mlp, 4, WIDTH, loss=MovingThresholdLoss(), peer_weight=0.1)
CASES = {
    "mlp, uniform, sgd": Case(MOVING, {"optimizer": SGD}),
    "mlp, hard, adamw, accumulated, clipped, decay": Case(
        partial(mlp, 4, WIDTH, dropout=0.2),
        {"negatives": HardWrongLabel(0.5), "optimizer": ADAMW, "lr_scheduler": DECAY, **HARD},
        cuts=[3],
    ),
    "mlp, staggered, dropout, bf16": Case(
        dropping, {"optimizer": ADAMW, "schedule": Staggered(0.2)}, [1], "bf16-mixed"
    ),
    "conv, label bias, hard, adamw": Case(labelled_conv, {"negatives": HardWrongLabel(0.5), "optimizer": ADAMW}),
    "gpt, own, muon, clipped": Case(gpt, {"optimizer": MUON, **HARD}),
    "gpt, residual, adamw": Case(partial(gpt, combination=Residual()), {"optimizer": ADAMW}, cuts=[2]),
    "gpt, own channels, muon": Case(partial(gpt, channels=OwnChannels(8)), {"optimizer": MUON}, cuts=[1]),
    "gpt, lookahead, accumulated": Case(
        partial(gpt, channels=OwnChannels(8), lookahead=Lookahead(refresh=2)), {"optimizer": MUON, **HARD}, cuts=[1]
    ),
    "conv, lookahead, sgd": Case(looking_conv, {"optimizer": SGD}, cuts=[2]),
    "causal lm, adamw": Case(causal_lm, {"optimizer": ADAMW}, cuts=[1]),
    "gpt, inherited, sgd, bf16": Case(
        partial(gpt, combination=Independent(inherit=True)), {"optimizer": SGD}, [2], "bf16-mixed"
    ),
}
RESUMED = "mlp, hard, adamw, accumulated, clipped, decay"


class Sent(pl.Callback):
    """Counts all that a training sends in its last epoch, by what the backend tells the profiler."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def on_train_epoch_start(self, run: pl.Trainer, *_: Any) -> None:
        if run.current_epoch == 1:
            self.run = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
            self.run.start()

    def on_train_batch_end(self, run: pl.Trainer, *rest: Any) -> None:
        if run.current_epoch == 1 and run.is_last_batch:
            run.strategy._stage.flush()  # the profiler must not miss the end of a message
            self.run.stop()
            names = [f"{e.name} {e.input_shapes}" for e in self.run.events() if e.name.startswith("gloo:")]
            self.counts.update(names)


class Seen(pl.Callback):
    """Keeps what loggers and checkpoints would see."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, run: pl.Trainer, *_: Any) -> None:
        self.metrics.append({name: value.clone() for name, value in run.logged_metrics.items()})

    def on_validation_end(self, run: pl.Trainer, *_: Any) -> None:
        self.metrics.append({name: value.clone() for name, value in run.callback_metrics.items()})


def fit(folder: Path, case: str, ranks: int, *, resume: Path | None = None, **kwargs: Any) -> ff.FFLightningModule:
    """Train one case for two epochs of seven batches, the last of them smaller."""
    what = CASES[case]
    torch.manual_seed(0)
    network = what.network()
    task = ff.FFLanguageModel if isinstance(network, TokenStack) else ff.FFClassifier
    module = task(network, **what.arguments)
    parallel = (
        {"strategy": LayerParallelStrategy(cuts=kwargs.pop("cuts", what.cuts)), "devices": 2} if ranks > 1 else {}
    )
    run = trainer(folder, **{"max_epochs": 2, "precision": what.precision} | parallel | kwargs)
    data = text() if isinstance(network, TokenStack) else ImageDataModule("digits", batch_size=BATCH, validation=187)
    run.fit(module, data, ckpt_path=resume, weights_only=None if resume is None else True)
    return module


class SaveBetween(pl.Callback):
    """Writes a checkpoint between two batches that share an update."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_batch_end(self, run: pl.Trainer, *rest: Any) -> None:
        if rest[-1] == 5 and run.current_epoch == 0:
            run.save_checkpoint(Path(run.default_root_dir) / self.name)


class Terminate(pl.Callback):
    """Sends SIGTERM to the first rank alone, which is well ahead of the second one."""

    def on_train_batch_end(self, run: pl.Trainer, *_: Any) -> None:
        self.run = run
        if run.global_step == 4 and run.is_global_zero:
            os.kill(os.getpid(), signal.SIGTERM)
        if run.global_rank == 1:
            time.sleep(0.05)


def before(folder: Path) -> None:
    """The checkpoint of one process that two ranks go on from."""
    fit(folder, RESUMED, ranks=1, callbacks=[SaveBetween("one.ckpt")])


def main(folder: Path) -> None:
    """Train every case on this rank and store its weights."""
    warnings.filterwarnings("ignore")
    sent, seen, terminate = Sent(), Seen(), Terminate()
    extra = {
        "mlp, uniform, sgd": {"callbacks": [sent, GoodnessMonitor(), seen], "log_every_n_steps": 4},
        RESUMED: {"callbacks": [SaveBetween("two.ckpt")]},
    }
    for case in CASES:
        module = fit(folder, case, ranks=2, **extra.get(case, {}))
        torch.save(weights(module), folder / f"{case}, rank {dist.get_rank()}.pt")
        module.trainer.save_checkpoint(folder / f"{case}.ckpt")
    rank = dist.get_rank()
    module = fit(folder, RESUMED, ranks=2, resume=folder / "one.ckpt")
    torch.save(weights(module), folder / f"resumed, rank {rank}.pt")
    told = {"sent": dict(sent.counts), "seen": seen.metrics}
    try:
        fit(folder, "mlp, uniform, sgd", ranks=2, cuts=[4])
    except InputError as error:
        told["refused"] = str(error)
    with suppress(SIGTERMException):
        fit(folder, "mlp, uniform, sgd", ranks=2, callbacks=[terminate])
    told["stopped_at"] = terminate.run.global_step
    torch.save(told, folder / f"told, rank {rank}.pt")
