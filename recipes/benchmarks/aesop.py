"""Hinton's experiment with Aesop's Fables: next-character Forward-Forward over a window of ten characters.

    python recipes/benchmarks/aesop.py --data FILE --arm hinton --negatives teacher_forced [--seed 0]

248 strings of 100 characters of 30 symbols are learned; the 248 strings that follow are held out. Three blocks of
2,000 ReLU units see ten characters, and predict the next one of the 90 places of a string that have ten before them.
Arms: `hinton` judges the last character of the window as part of the input, with negatives drawn by the model itself
in real contexts (`teacher_forced`) or in sequences that it made itself (`rollout`); `own` scores all candidates, and
contrasts with its own prediction, with (`rollout`) or without (`teacher_forced`) a goodness of sequences; `frozen`
keeps the blocks as they were drawn and trains the readout alone, which is Hinton's control; `twin` is backprop end to
end. Validation strings chose nothing but the number of epochs, for all arms alike. Progress goes to stderr; the last
line of stdout is JSON, with losses in nats a character.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from recipe import MIXED, SILENT, be_quiet, provenance
from torch import Tensor
from torch.nn import functional as F

from ff_lightning.data.strings import StringsDataModule
from ff_lightning.language import HintonMLP, WindowMLP
from ff_lightning.language.rollouts import SleepBuffer
from ff_lightning.language.stack import TokenStack
from ff_lightning.losses import MovingThresholdLoss
from ff_lightning.optim import CosineDecay
from ff_lightning.processor import prepare_cpu
from ff_lightning.tasks.language import FFLanguageModel
from ff_lightning.tasks.language_modelling import LanguageModelling
from ff_lightning.tasks.twin import BackpropTwin

WINDOW = 10


def model(args: argparse.Namespace, data: StringsDataModule) -> LanguageModelling:
    """The network of an arm, ready to train."""
    pl.seed_everything(args.seed, verbose=False)
    rollouts = args.negatives == "rollout"
    sizes: dict[str, Any] = {"window": WINDOW, "widths": [args.width] * args.blocks, "context": data.context}
    network: TokenStack
    if args.arm in ("hinton", "frozen"):
        loss = MovingThresholdLoss(scale=args.scale)
        network = HintonMLP(data.vocab_size, loss=loss, teacher_forced=args.arm == "frozen" or not rollouts, **sizes)
    else:
        network = WindowMLP(data.vocab_size, dream_weight=0.1 if rollouts and args.arm == "own" else 0.0, **sizes)
    if args.arm == "frozen":
        for block in network.token_blocks():
            block.layer.requires_grad_(False)
    options: dict[str, Any] = {
        "optimizer": partial(torch.optim.Adam, lr=args.lr, betas=(0.9, 0.98)),
        "lr_scheduler": partial(CosineDecay, warmup=0.05, final=0.05),
    }
    if args.arm == "twin":
        return BackpropTwin(network, **options)
    buffer = None
    if rollouts and args.arm != "frozen":
        prefix = (WINDOW, WINDOW)
        buffer = SleepBuffer(data.context, sequences=248, refresh_every=31, renew=1.0, prefix=prefix, rows=args.batch)
    return FFLanguageModel(network, rollouts=buffer, **options)


@torch.no_grad()
def judged(network: TokenStack, strings: Tensor) -> dict[str, Any]:
    """Loss and accuracy of the predictions that have a whole window before them, of every block and the last one."""
    targets = strings[:, WINDOW:]
    nats, accuracy = [], []
    for logits in network.predictions(strings[:, :-1]):
        seen = logits[:, WINDOW - 1 :]
        nats.append(round(F.cross_entropy(seen.flatten(0, 1), targets.flatten()).item(), 4))
        accuracy.append(round((seen.argmax(-1) == targets).float().mean().item(), 4))
    return {"accuracy": accuracy[-1], "nats": nats[-1], "accuracy_per_block": accuracy, "nats_per_block": nats}


def main() -> None:
    args = arguments()
    be_quiet()
    torch.set_num_threads(args.threads)
    prepare_cpu()
    data = StringsDataModule(args.data, batch_size=args.batch, seed=args.seed)
    module = model(args, data)
    trainer = pl.Trainer(max_epochs=args.epochs, precision=args.precision, limit_val_batches=0, **SILENT)
    started = time.process_time()
    trainer.fit(module, data)
    result: dict[str, Any] = {"arm": args.arm, "negatives": args.negatives, "seed": args.seed}
    for split, name in (("train", "train"), ("validation", "held_out")):
        result[name] = judged(module.network, data.rows(split))
        print(f"{name}: {result[name]}", file=sys.stderr, flush=True)
    tier = "backprop" if args.arm == "twin" else "T1"
    cpu = {"cpu_seconds": round(time.process_time() - started), "epochs": args.epochs}
    print(json.dumps(result | {"tier": tier} | cpu | provenance()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a text file")
    parser.add_argument("--arm", choices=("hinton", "own", "frozen", "twin"), default="hinton")
    parser.add_argument("--negatives", choices=("teacher_forced", "rollout"), default="teacher_forced")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--width", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8, help="strings a step")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--scale", type=float, default=4.0, help="of the logistic, per unit of goodness")
    parser.add_argument("--precision", default=MIXED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
