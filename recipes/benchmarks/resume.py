r"""Kill a training with SIGKILL at random steps, resume it, and compare it with one that was never stopped.

    python recipes/benchmarks/resume.py --network mlp|conv|gpt [--kills 5] [--ranks 1 2] [--seed 0]

Every rank is a process of its own; with two, Lightning's `ddp` joins them. All ranks are killed at a random moment
of a random step, now and then in the middle of writing a checkpoint, and started again with the checkpoint that is
there. Compared bit by bit, on every rank, with an uninterrupted run: weights and buffers, optimizers, schedules,
torch's random state, the seed of the negatives, and the position in the data. The `mlp` has a moving threshold,
peer means, dropout, shifted images and negatives from what the model believes; the `gpt` draws negatives from its
own predictions of Python's language reference and is trained by Muon; the `conv` has batch normalisation, dropout and
a softmax over classes in every block, and its blocks begin one after the other. All accumulate two batches an update
and clip. Progress goes to stderr; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from recipe import be_quiet, provenance
from torch import Tensor, nn
from torch.optim import AdamW

import ff_lightning as ff
from ff_lightning.blocks import ClassBlock
from ff_lightning.candidates import Softmax
from ff_lightning.data import ImageDataModule
from ff_lightning.data.text import TextDataModule
from ff_lightning.goodness import ChannelGroups
from ff_lightning.language import GPT
from ff_lightning.losses import MovingThresholdLoss
from ff_lightning.negatives import HardWrongLabel
from ff_lightning.networks import MLP
from ff_lightning.optim import CosineDecay, MuonAdamW
from ff_lightning.schedules import HoldThenDecay, Staggered

UPDATES, SAVE_EVERY = 24, 3


class Progress(pl.Callback):
    """Tells the process that started this one of every batch."""

    def on_train_batch_end(self, run: pl.Trainer, *_: Any) -> None:
        if run.is_global_zero:
            print(run.global_step, flush=True)


def mlp() -> tuple[ff.FFLightningModule, pl.LightningDataModule]:
    network = MLP(64, [64, 64], overlay=False, loss=MovingThresholdLoss(), peer_weight=0.1, dropout=0.2)
    module = ff.FFClassifier(
        network,
        negatives=HardWrongLabel(0.5),
        optimizer=partial(AdamW, lr=1e-3),
        lr_scheduler=partial(HoldThenDecay, warmup=0.1, hold=0.3),
        accumulate_batches=2,
        clip_norm=0.5,
    )
    return module, ImageDataModule("digits", batch_size=100 // int(os.environ["WORLD_SIZE"]), shift=1)


class Convolutions(ff.FFLightningModule):
    """A softmax over classes in every block."""

    def local_losses(self, batch: Any) -> Iterator[ff.LocalStep]:
        x, y = batch
        yield from self.network.local_losses(ff.Signal(x, 1, y))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val/accuracy", (self.network.goodness(x).sum(0).argmax(1) == y).float().mean(), sync_dist=True)


def conv() -> tuple[ff.FFLightningModule, pl.LightningDataModule]:
    blocks = []
    for channels in (1, 20):
        layer = nn.Sequential(nn.Conv2d(channels, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(), nn.Dropout(0.1))
        blocks.append(ClassBlock(layer, ChannelGroups(10), Softmax()))
    module = Convolutions(
        ff.BlockStack(blocks),
        optimizer=partial(AdamW, lr=1e-3),
        lr_scheduler=partial(CosineDecay, warmup=0.1),
        schedule=Staggered(0.2),
        accumulate_batches=2,
        clip_norm=0.5,
    )
    return module, ImageDataModule("digits", batch_size=100 // int(os.environ["WORLD_SIZE"]), shift=1)


def gpt() -> tuple[ff.FFLightningModule, pl.LightningDataModule]:
    data = TextDataModule("pydoc", context=32, batch_size=8 // int(os.environ["WORLD_SIZE"]), batches_per_epoch=15)
    module = ff.FFLanguageModel(
        GPT(data.vocab_size, width=32, layers=2, heads=2, context=32),
        optimizer=partial(MuonAdamW, lr=4e-3, muon_lr=0.02),
        lr_scheduler=partial(CosineDecay, warmup=0.1),
        accumulate_batches=2,
        clip_norm=0.5,
    )
    return module, data


def train(args: argparse.Namespace) -> None:
    """Train on this rank, from the checkpoint if there is one, and store the state at the end."""
    be_quiet()
    torch.set_num_threads(1)
    ranks = int(os.environ["WORLD_SIZE"])
    pl.seed_everything(args.seed if not (args.folder / "last.ckpt").exists() else 999, verbose=False)
    module, data = {"mlp": mlp, "conv": conv, "gpt": gpt}[args.network]()
    saver = ModelCheckpoint(
        args.folder, filename="last", every_n_train_steps=SAVE_EVERY, enable_version_counter=False, save_top_k=1
    )
    run = pl.Trainer(
        max_steps=UPDATES,
        accelerator=args.accelerator,
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        precision=args.precision,
        callbacks=[saver, Progress()],
        num_sanity_val_steps=0,
        limit_val_batches=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    checkpoint = args.folder / "last.ckpt"
    resumed = checkpoint.exists()
    run.fit(module, data, ckpt_path=checkpoint if resumed else None, weights_only=True if resumed else None)
    torch.save(state(run, module), args.folder / f"rank{run.global_rank}.pt")


def state(run: pl.Trainer, module: ff.FFLightningModule) -> dict[str, Any]:
    """All that decides how a training goes on from here."""
    scaler = getattr(run.precision_plugin, "scaler", None)
    return {
        "weights": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "schedules": [config.scheduler.state_dict() for config in run.lr_scheduler_configs],
        "scaler": None if scaler is None else scaler.state_dict(),
        "random": torch.get_rng_state(),
        "seed": module.seed,
        "data": run.train_dataloader.state_dict(),
        "steps": run.global_step,
        "epoch": run.current_epoch,
    }


def same(a: Any, b: Any) -> bool:
    """Whether two nestings of tensors and plain values are equal, bit by bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


class Run:
    """The processes of one training.

    Args:
        args: of the benchmark.
        folder: for checkpoints and final states.
        ranks: number of processes.
    """

    def __init__(self, args: argparse.Namespace, folder: Path, ranks: int) -> None:
        self.folder, self.ranks = folder, ranks
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, __file__, "--network", args.network, "--seed", str(args.seed)]
        command += ["--precision", args.precision, "--accelerator", args.accelerator, "--folder", str(folder)]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
        shared |= {"OMP_NUM_THREADS": "1"}
        self.processes = [
            subprocess.Popen(
                command,
                env=os.environ | shared | ({"LOCAL_RANK": str(rank), "NODE_RANK": "0"} if ranks > 1 else {}),
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]

    def kill(self, step: int, delay: float) -> int:
        """Kill all ranks ``delay`` seconds after a step was done; returns the steps of the checkpoint that is there."""
        lines = self.processes[0].stdout
        assert lines is not None
        for line in lines:
            if int(line) >= step:
                break
        time.sleep(delay)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.communicate()
        checkpoint = self.folder / "last.ckpt"
        return torch.load(checkpoint, weights_only=True)["global_step"] if checkpoint.exists() else 0

    def finish(self) -> list[dict[str, Any]]:
        """Wait for the end, and give the final state of every rank."""
        for process in self.processes:
            process.communicate(timeout=600)
        if any(process.returncode for process in self.processes):
            raise SystemExit(f"A rank ended with {[process.returncode for process in self.processes]}.")
        return [torch.load(self.folder / f"rank{rank}.pt", weights_only=True) for rank in range(self.ranks)]


def compare(args: argparse.Namespace, ranks: int) -> int:
    """How many killed and resumed runs end as the one that was never stopped."""
    chance = random.Random(f"{args.seed} {args.network} {ranks}")
    equal = 0
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / str(kill) for kill in range(args.kills + 1)]
        for folder in folders:
            folder.mkdir()
        expected = Run(args, folders[0], ranks).finish()
        for folder in folders[1:]:
            step = chance.randrange(SAVE_EVERY, UPDATES)
            left = Run(args, folder, ranks).kill(step, chance.uniform(0, 0.05))
            found = Run(args, folder, ranks).finish()
            wrong = [key for a, b in zip(expected, found, strict=True) for key in a if not same(a[key], b[key])]
            equal += not wrong
            told = f"different: {', '.join(wrong)}" if wrong else "equal"
            print(f"{ranks} ranks, killed after step {step}, resumed at {left}: {told}", file=sys.stderr, flush=True)
    return equal


def main() -> None:
    args = arguments()
    if args.folder is not None:
        train(args)
        return
    equal = sum(compare(args, ranks) for ranks in args.ranks)
    result = {"kills": args.kills * len(args.ranks), "bit_equal": equal, "ranks": args.ranks}
    print(json.dumps(result | {"network": args.network, "precision": args.precision} | provenance()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["mlp", "conv", "gpt"], default="mlp")
    parser.add_argument("--kills", type=int, default=5, help="for each number of ranks")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--accelerator", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of a run: set for the processes started
    return parser.parse_args()


if __name__ == "__main__":
    main()
