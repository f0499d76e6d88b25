"""Next-token Forward-Forward against its backprop twin, on the same tokens in one run.

    python recipes/benchmarks/language.py --data FILE --steps 1500 --arm own --layers-per-block 2 [--seed 0]

`--data` is a text file: one token a character, the last 10 % for validation. Trained one after the other, each from
the same seed on the same windows: the FF network; its twin, the same layers under one softmax, by backprop; the twin
of one layer; and random layers that are never trained under a trained readout (`frozen`). Losses are nats a token on
all validation windows. Optimizer, schedule and clipping are the same for all; the twin may have rates of its own.
Progress goes to stderr; the last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from recipe import provenance
from torch import nn

from ff_lightning.data.text import TextDataModule
from ff_lightning.floors import nats_per_token
from ff_lightning.language import LinearContrast, LogisticContrast, TokenLoss, TokenSoftmax
from ff_lightning.networks.gpt import GPT, TokenStack
from ff_lightning.optim import CosineDecay, MuonAdamW
from ff_lightning.tasks.language import FFLanguageModel, LanguageTwin
from ff_lightning.tasks.language_modelling import LanguageModelling

WARMUP = 50
TIERS = {"own": "T1", "logistic": "T1", "residual": "T1", "softmax": "T2"}


def parts(args: argparse.Namespace) -> dict[str, Any]:
    """What makes an arm: the local loss, and whether blocks correct the prediction below."""
    losses: dict[str, TokenLoss] = {
        "own": LinearContrast(args.negatives),
        "logistic": LogisticContrast(args.negatives),
        "residual": LogisticContrast(args.negatives, from_below=True),
        "softmax": TokenSoftmax(),
    }
    return {"loss": losses[args.arm], "residual": args.arm == "residual", "inherit": args.inherit}


def network(args: argparse.Namespace, layers: int, **kwargs: Any) -> GPT:
    vocab_size = data(args).vocab_size
    pl.seed_everything(args.seed, verbose=False)
    return GPT(
        vocab_size, width=args.width, layers=layers, heads=max(1, args.width // 32), context=args.context, **kwargs
    )


def data(args: argparse.Namespace) -> TextDataModule:
    return TextDataModule(args.data, context=args.context, batch_size=args.batch, seed=args.seed)


def frozen(args: argparse.Namespace) -> TokenStack:
    """Random layers that pass on more than the embedding, and never learn; only the readout does."""
    stack = network(args, args.layers).as_one_block()
    (block,) = stack.token_blocks()
    for parameter in block.layer.parameters():
        parameter.requires_grad_(False)
        if not parameter.any():
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return stack


def optimizer(args: argparse.Namespace, muon_lr: float, lr: float) -> partial[MuonAdamW]:
    return partial(MuonAdamW, lr=lr, muon_lr=muon_lr, weight_decay=args.weight_decay)


def measure(args: argparse.Namespace, name: str, model: LanguageModelling) -> tuple[dict[str, float], float]:
    """Train, and return what validation says and the CPU seconds of training."""
    text = data(args)
    trainer = pl.Trainer(
        max_steps=args.steps,
        accelerator="auto",
        devices=1,
        precision=args.precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    started = time.process_time()
    trainer.fit(model, text)
    seconds = time.process_time() - started
    trainer.limit_val_batches = 1.0
    (values,) = trainer.validate(model, text, verbose=False)
    print(f"{name}: {values['val/loss']:.4f} nats, {seconds:.0f} s", file=sys.stderr, flush=True)
    return dict(values), seconds


def main() -> None:
    args = arguments()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    shared = {
        "lr_scheduler": partial(CosineDecay, warmup=min(0.2, WARMUP / args.steps), final=0.05),
        "clip_norm": args.clip,
    }
    ours = optimizer(args, args.muon_lr, args.lr)
    stack = network(args, args.layers, layers_per_block=args.layers_per_block, **parts(args))
    values, seconds = measure(args, "ff", FFLanguageModel(stack, optimizer=ours, **shared))
    result: dict[str, Any] = {
        "ff": values["val/loss"],
        "per_block": [values[f"val/loss/block_{index}"] for index in range(len(stack))],
        "accuracy": values["val/accuracy"],
        "ff_seconds": seconds,
        "tokens": args.steps * args.batch * args.context,
    }
    if args.twin:
        theirs = optimizer(args, args.twin_muon_lr or args.muon_lr, args.twin_lr or args.lr)
        twin = LanguageTwin(network(args, args.layers), optimizer=theirs, **shared)
        values, result["backprop_seconds"] = measure(args, "backprop", twin)
        result |= {"backprop": values["val/loss"], "backprop_accuracy": values["val/accuracy"]}
        one, _ = measure(args, "one layer", LanguageTwin(network(args, 1), optimizer=theirs, **shared))
        result["one_layer_backprop"] = one["val/loss"]
    if args.floors:
        readout = partial(torch.optim.AdamW, lr=args.lr, betas=(0.9, 0.95), weight_decay=args.weight_decay)
        values, _ = measure(args, "frozen", FFLanguageModel(frozen(args), optimizer=readout, **shared))
        text = data(args)
        text.setup("fit")
        ngram = nats_per_token(text.tokens("train"), text.tokens("validation"), vocab_size=text.vocab_size)
        result |= {"frozen": values["val/loss"], "ngram": {str(order): round(x, 4) for order, x in ngram.items()}}
    rounded = {key: rounded_value(value) for key, value in result.items()}
    print(json.dumps(rounded | {"tier": TIERS[args.arm], "seed": args.seed} | where(args)))


def rounded_value(value: Any) -> Any:
    if isinstance(value, list):
        return [round(item, 4) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def where(args: argparse.Namespace) -> dict[str, str]:
    """Provenance, without the place of the data on this machine."""
    found = provenance()
    return found | {"command": found["command"].replace(args.data, f"--data {Path(args.data).name}")}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a text file")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--arm", choices=TIERS, default="own")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--layers-per-block", type=int, default=1)
    parser.add_argument("--inherit", action="store_true", help="read all blocks with the readout of the first")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--muon-lr", type=float, default=0.02, help="for matrices")
    parser.add_argument("--lr", type=float, default=4e-3, help="for all else")
    parser.add_argument("--twin-muon-lr", type=float, help="the same as FF by default")
    parser.add_argument("--twin-lr", type=float, help="the same as FF by default")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--clip", type=float, help="largest gradient norm of a block; none by default")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--twin", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--floors", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
