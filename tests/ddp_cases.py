"""Trainings that must give the same weights on one process and on two."""

from __future__ import annotations

import atexit
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import ff_lightning as ff
from ff_lightning.candidates import EachLabel, LinearContrast, Softmax
from ff_lightning.data import ImageDataModule, StringsDataModule
from ff_lightning.data.text import TextDataModule
from ff_lightning.language import GPT, HintonMLP, Independent
from ff_lightning.language.rollouts import SleepBuffer
from ff_lightning.losses import MovingThresholdLoss
from ff_lightning.networks import ClassMLP
from ff_lightning.optim import MuonAdamW
from tests.engine.test_compilation import GRAPHS_ALONE
from tests.training import conv, mlp, trainer, weights

IMAGES = 1250  # in batches of 200: the seventh has 50
TEXT_BATCHES = 7


class Counted(ff.FFLightningModule):
    """Counts what is sent of gradients: collectives and bytes."""

    def __init__(self, network: Any, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        self.sent = nn.Buffer(torch.zeros(2, dtype=torch.long))

    def on_fit_start(self) -> None:
        super().on_fit_start()
        assert self._updates is not None
        launch = self._updates.sync.launch

        def counted(parameters: Any) -> None:
            launch(parameters)
            in_flight = getattr(self._updates.sync, "in_flight", [])
            self.sent += torch.tensor([len(in_flight), sum(bucket.nbytes for bucket, *_ in in_flight)])

        self._updates.sync.launch = counted


class FlippedPixels(Counted):
    """Negatives that depend on the sample alone, so that ranks and one process see the same ones."""

    def pairs(self, batch: Any) -> tuple[Tensor, Tensor]:
        x = batch[0].flatten(1).double()
        return x, x.flip(1)


class Classes(Counted):
    """A softmax over the classes of whole images in every block, without negatives."""

    def local_losses(self, batch: Any) -> Iterator[ff.LocalStep]:
        x, y = batch
        yield from self.network.local_losses(ff.Signal(x.double(), y), self.step_context())


class Sets(Counted, ff.FFMultiLabel):
    """Every class as a label by itself."""

    def checked(self, batch: Any) -> tuple[Tensor, Tensor]:
        x, y = batch
        return x.double(), nn.functional.one_hot(y, 10).double()


class Branch(FlippedPixels):
    """Uses one parameter on the first rank only, as a data-dependent branch in a block would."""

    def __init__(self, network: ff.BlockStack, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        network[1].gate = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def local_losses(self, batch: Any) -> Any:
        for step in super().local_losses(batch):
            extra = self.network[1].gate.sum() if step.block == 1 and self.global_rank == 0 else 0
            yield ff.LocalStep(step.block, step.loss + extra)


class Language(Counted, ff.FFLanguageModel):
    """A language model. One process stands for both ranks: each half of a batch has the negatives of its rank."""

    half: int | None = None

    @property
    def global_rank(self) -> int:
        return super().global_rank if self.half is None else self.half

    def draw(self, half: int, block: int) -> torch.Generator:
        self.half = half
        generator = self.generator(block)
        self.half = None
        return generator

    def local_losses(self, batch: Any) -> Iterator[ff.LocalStep]:
        if self.trainer.world_size > 1:
            yield from super().local_losses(batch)
            return
        tokens, targets = self.windows(batch)
        halves = [
            self.network.local_losses(
                self.network.signal(x, y), replace(self.step_context(), generator=partial(self.draw, half))
            )
            for half, (x, y) in enumerate(zip(tokens.chunk(2), targets.chunk(2), strict=True))
        ]
        for first, second in zip(*halves, strict=True):
            yield ff.LocalStep(first.block, (first.loss + second.loss) / 2)


@dataclass
class Case:
    """One training: what is trained with which arguments, and with what strategy on two ranks."""

    task: type[Counted]
    arguments: dict[str, Any]
    strategy: str = "ddp"
    network: Callable[[], ff.BlockStack] = field(
        default=lambda: mlp(3, 16, num_classes=None, loss=MovingThresholdLoss(), peer_weight=0.1)
    )


def gpt(**kwargs: Any) -> GPT:
    torch.manual_seed(0)
    return GPT(vocabulary(), width=16, layers=2, heads=2, context=16, **kwargs)


def label_sets() -> ClassMLP:
    torch.manual_seed(0)
    return ClassMLP(64, [16, 16], loss=EachLabel(scale=2.0))


def text(ranks: int) -> TextDataModule:
    return TextDataModule("pydoc", context=16, batch_size=8 // ranks, batches_per_epoch=TEXT_BATCHES)


def vocabulary() -> int:
    return text(1).vocab_size


SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
ADAMW = partial(torch.optim.AdamW, lr=1e-3)
MUON = partial(MuonAdamW, lr=4e-3, muon_lr=0.02)
HARD = {"accumulate_batches": 4, "clip_norm": 0.05}
RESUMED = "adamw, accumulated, clipped"
NOT_EQUAL = ("branch", "conv, batch statistics")
"""Cases with a test of their own."""
CASES = {
    "sgd": Case(FlippedPixels, {"optimizer": SGD}),
    "adamw, accumulated, clipped": Case(FlippedPixels, {"optimizer": ADAMW, **HARD}),
    "adamw, fused": Case(FlippedPixels, {"optimizer": ADAMW, "update": "fused"}),
    "gpt, adamw, accumulated, clipped": Case(
        Language, {"optimizer": ADAMW, **HARD}, network=partial(gpt, loss=Softmax())
    ),
    "gpt, muon, own negatives": Case(Language, {"optimizer": MUON}, network=partial(gpt, loss=LinearContrast(4))),
    "gpt, muon, own negatives, inherited": Case(
        Language,
        {"optimizer": MUON, **HARD},
        "ddp_find_unused_parameters_true",
        partial(gpt, combination=Independent(inherit=True)),
    ),
    "conv, adamw, accumulated, clipped": Case(Classes, {"optimizer": ADAMW, **HARD}, network=conv),
    "conv, batch statistics": Case(Classes, {"optimizer": SGD}, network=partial(conv, batch_statistics=True)),
    "several labels": Case(Sets, {"optimizer": ADAMW}, network=label_sets),
    "branch": Case(Branch, {"optimizer": partial(torch.optim.SGD, lr=0.1)}),
}


class Collectives(pl.Callback):
    """Counts all that a training sends, whoever sends it, by what the backend itself tells the profiler."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def on_train_start(self, *_: Any) -> None:
        self.run = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
        self.run.start()

    def on_train_end(self, *_: Any) -> None:
        self.run.stop()
        self.counts.update(
            f"{event.name} {event.input_shapes}" for event in self.run.events() if event.name.startswith("gloo:")
        )


class SaveBetween(pl.Callback):
    """Writes a checkpoint between two batches that share an update."""

    def on_train_batch_end(self, run: pl.Trainer, *rest: Any) -> None:
        if rest[-1] == 5 and run.current_epoch == 0:
            run.save_checkpoint(Path(run.default_root_dir) / "between.ckpt")


def fit(
    folder: Path,
    case: str,
    ranks: int,
    *,
    strategy: str | None = None,
    resume: Path | None = None,
    **kwargs: Any,
) -> Counted:
    """Train one case for two epochs of seven batches."""
    what = CASES[case]
    module = what.task(what.network().double(), **what.arguments)
    parallel = {"strategy": strategy or what.strategy, "devices": ranks} if ranks > 1 else {}
    run = trainer(folder, max_epochs=2, precision="64-true", limit_val_batches=0, **parallel, **kwargs)
    images = ImageDataModule("digits", batch_size=200 // ranks, validation=1437 - IMAGES)
    data = text(ranks) if what.task is Language else images
    run.fit(module, data, ckpt_path=resume, weights_only=None if resume is None else True)
    return module


class Overflow(ff.FFClassifier):
    """Gradients of block 1 that fp16 cannot hold, in the second update, on the second rank alone."""

    def local_losses(self, batch: Any) -> Iterator[ff.LocalStep]:
        for step in super().local_losses(batch):
            spike = (self.global_step, self.global_rank, step.block) == (1, 1, 1)
            yield ff.LocalStep(step.block, step.loss * 1e36 if spike else step.loss)


class Moved(pl.Callback):
    """Records which blocks change at every step."""

    def __init__(self) -> None:
        self.steps: list[list[bool]] = []

    def on_train_batch_start(self, _: Any, module: Any, *rest: Any) -> None:
        self.before = [weights(block.layer) for block in module.network]

    def on_train_batch_end(self, _: Any, module: Any, *rest: Any) -> None:
        now = [weights(block.layer) for block in module.network]
        pairs = zip(self.before, now, strict=True)
        self.steps.append([any(not torch.equal(a[name], b[name]) for name in a) for a, b in pairs])


def two_blocks(folder: Path, *, compiled: bool) -> FlippedPixels:
    """A small network, through the graphs of the compiler; its C++ is made in ``tests/engine/test_compilation.py``."""
    network = mlp(2, 16, num_classes=None, loss=MovingThresholdLoss(), peer_weight=0.1).double()
    module = FlippedPixels(network, optimizer=SGD, compile_blocks=compiled)
    run = trainer(folder, max_steps=6, precision="64-true", limit_val_batches=0, strategy="ddp", devices=2)
    with patch("ff_lightning.module.compile_steps", GRAPHS_ALONE):
        run.fit(module, ImageDataModule("digits", batch_size=100))
    return module


def overflow(folder: Path) -> None:
    """Train in fp16 with a gradient scaler; store what moved, and the scale."""
    scaler, moved = torch.amp.GradScaler("cpu", init_scale=1024.0), Moved()
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
    run = trainer(
        folder, strategy="ddp", devices=2, max_steps=3, limit_val_batches=0, plugins=plugins, callbacks=[moved]
    )
    module = Overflow(mlp(), accumulate_batches=2, clip_norm=0.05)
    run.fit(module, ImageDataModule("digits", batch_size=100))
    result = {"moved": moved.steps, "scale": scaler.get_scale(), "weights": weights(module)}
    torch.save(result, folder / f"overflow, rank {run.global_rank}.pt")


def strings() -> StringsDataModule:
    """Strings of a real text, four a step and rank."""
    return StringsDataModule("pydoc", length=17, strings=24, held_out=8, batch_size=4)


def sleep(folder: Path) -> ff.FFLanguageModel:
    """Train a language model on rollouts, renewed once, on two ranks."""
    torch.manual_seed(0)
    data = strings()
    network = HintonMLP(data.vocab_size, window=4, widths=[8, 8], context=16, teacher_forced=False)
    rollouts = SleepBuffer(16, sequences=11, refresh_every=2, renew=0.5, prefix=(2, 12), rows=3)
    module = ff.FFLanguageModel(network, rollouts=rollouts)
    run = trainer(folder, strategy="ddp", devices=2, limit_val_batches=0)
    run.fit(module, data)
    return module


def main(folder: Path) -> None:
    """Train every case on this rank and store its weights, and at the very end whether the group still stands."""
    warnings.filterwarnings("ignore")
    at_exit = folder / f"at exit, rank {os.environ['RANK']}.txt"
    atexit.register(lambda: at_exit.write_text(f"group: {torch.distributed.is_initialized()}"))

    def store(name: str, case: str, **kwargs: Any) -> None:
        module = fit(folder, case, ranks=2, **kwargs)
        torch.save(weights(module), folder / f"{name}, rank {module.global_rank}.pt")

    collectives = Collectives()
    for case in CASES:
        store(case, case, callbacks={"sgd": [collectives], RESUMED: [SaveBetween()]}.get(case, []))
    store("own negatives again", "gpt, muon, own negatives")
    store("resumed", RESUMED, resume=folder / "between.ckpt")
    for name, compiled in (("not compiled", False), ("compiled", True)):
        module = two_blocks(folder, compiled=compiled)
        torch.save(weights(module), folder / f"{name}, rank {module.global_rank}.pt")
    torch.save(dict(collectives.counts), folder / f"collectives, rank {torch.distributed.get_rank()}.pt")
    overflow(folder)
    slept = sleep(folder)
    torch.save(weights(slept), folder / f"rollouts, rank {slept.global_rank}.pt")
