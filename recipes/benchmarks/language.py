"""Next-token Forward-Forward against its backprop twin, on the same tokens in one run.

    python recipes/benchmarks/language.py --data FILE --steps 1500 --arm own --layers-per-block 2 [--seed 0]

`--data` is a text file, of which the last 10 % are for validation; a token is a character unless `--tokens` says
otherwise. Trained one after the other, each from the same seed on the same windows: the FF network; its twin, the same
layers under one softmax, by backprop; the twin of one layer; and random layers that are never trained under a trained
readout (`frozen`). `ff` is the last block alone, `ff_average` the mean of what all blocks say
(`average_up_to_block`: of the lowest 1, 2, … of them). Losses are nats a token on all validation windows. Optimizer,
schedule and clipping are the same for all; the twin may have rates of its own. With `--evaluations N` both are also
judged on part of the validation text N times while they learn (`curve`). Every result goes to stderr as soon as it is
there; the last line of stdout is JSON.
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
from recipe import MIXED, SILENT, be_quiet, provenance, with_twins
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from ff_lightning.candidates import CandidateLoss, LinearContrast, LogisticContrast, Softmax
from ff_lightning.data import ByteTokenizer, TextDataModule, TiktokenTokenizer, Tokenizer
from ff_lightning.language import GPT, HintonGPT, Independent, OwnChannels, Residual
from ff_lightning.language.floors import nats_per_token
from ff_lightning.language.frozen import frozen_nats
from ff_lightning.language.rollouts import SleepBuffer
from ff_lightning.language.stack import TokenStack
from ff_lightning.losses import MovingThresholdLoss
from ff_lightning.optim import CosineDecay, MuonAdamW
from ff_lightning.processor import prepare_cpu
from ff_lightning.tasks.language import FFLanguageModel
from ff_lightning.tasks.language_modelling import LanguageModelling
from ff_lightning.tasks.twin import BackpropTwin

WARMUP = 50
TIERS = {"own": "T1", "logistic": "T1", "residual": "T1", "softmax": "T2", "hinton": "T1"}
CURVE_TOKENS = 100_000
TOKENS_AT_ONCE, LOGITS_AT_ONCE = 1 << 13, 1 << 25
"""Most of a batch in which windows are judged."""


def network(args: argparse.Namespace, layers: int, arm: str = "own", layers_per_block: int = 1) -> TokenStack:
    """The network of an arm; a twin is made of that of the arm `own`."""
    vocab_size = data(args).vocab_size
    pl.seed_everything(args.seed, verbose=False)
    sizes: dict[str, Any] = {
        "width": args.width,
        "layers": layers,
        "layers_per_block": layers_per_block,
        "heads": max(1, args.width // 32),
        "context": args.context,
    }
    if arm == "hinton":
        return HintonGPT(vocab_size, loss=MovingThresholdLoss(scale=4.0), teacher_forced=not args.rollouts, **sizes)
    losses: dict[str, CandidateLoss] = {
        "own": LinearContrast(args.negatives),
        "logistic": LogisticContrast(args.negatives),
        "residual": LogisticContrast(args.negatives, from_below=True),
        "softmax": Softmax(),
    }
    inherit = args.inherit and layers > layers_per_block
    parts: dict[str, Any] = {"combination": Residual() if arm == "residual" else Independent(inherit=inherit)}
    parts |= {"channels": OwnChannels() if args.channels else None}
    return GPT(vocab_size, loss=losses[arm], dream_weight=0.1 if args.rollouts else 0.0, **parts, **sizes)


def tokenizer(name: str) -> Tokenizer | None:
    """`characters`, `bytes`, or an encoding of tiktoken with the number of its first tokens to keep, `gpt2:4096`."""
    if name == "characters":
        return None
    encoding, _, size = name.partition(":")
    return ByteTokenizer() if name == "bytes" else TiktokenTokenizer(encoding, int(size) if size else None)


def in_batches(windows: Tensor, vocab_size: int) -> tuple[Tensor, ...]:
    """Windows ``(N, T + 1)`` to be judged, so many at a time that neither tokens nor their logits are too many."""
    tokens = min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // vocab_size)
    parts: tuple[Tensor, ...] = windows.split(max(1, tokens // (windows.shape[1] - 1)))
    return parts


def data(args: argparse.Namespace) -> TextDataModule:
    sizes = {"context": args.context, "batch_size": args.batch, "eval_batch_size": max(1, 16384 // args.context)}
    return TextDataModule(args.data, tokenizer=tokenizer(args.tokens), seed=args.seed, **sizes)


class Curve(pl.Callback):
    """Judges the last block now and then, on the first windows of the validation text."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.due = {round(args.steps * (part + 1) / args.evaluations) for part in range(args.evaluations)}
        self.points: list[tuple[int, float]] = []
        self.tokens_a_step = args.batch * args.context

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, LanguageModelling)
        if trainer.global_step not in self.due:
            return
        text = trainer.datamodule.tokens("validation")[: CURVE_TOKENS + 1]  # type: ignore[attr-defined]
        context = pl_module.network.context
        nats = []
        for windows in text.unfold(0, context + 1, context).split(max(1, 16384 // context)):
            with trainer.precision_plugin.forward_context():
                logits = pl_module(windows[:, :-1])
            nats.append(F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten(), reduction="none"))
        self.points.append((trainer.global_step * self.tokens_a_step, round(torch.cat(nats).mean().item(), 4)))
        print(self.points[-1], file=sys.stderr, flush=True)


def measure(args: argparse.Namespace, name: str, model: LanguageModelling) -> dict[str, Any]:
    """Train, and return what validation says, the CPU seconds of training, and the curve."""
    text, curve = data(args), Curve(args)
    trainer = pl.Trainer(
        max_steps=args.steps, precision=args.precision, callbacks=[curve], limit_val_batches=0, **SILENT
    )
    started = time.process_time()
    trainer.fit(model, text)
    seconds = time.process_time() - started
    trainer.limit_val_batches = 1.0
    (values,) = trainer.validate(model, text, verbose=False)
    model.network.average = len(model.network) > 1 and not model.network.residual
    (mean,) = trainer.validate(model, text, verbose=False) if model.network.average else (values,)
    found = {"nats": values["val/loss"], "average": mean["val/loss"], "accuracy": values["val/accuracy"]}
    for key, losses in {"per_block": values, "average_up_to_block": mean}.items():
        found[key] = [losses[f"val/loss/block_{index}"] for index in range(len(model.network))]
    found["seconds"] = seconds
    found = {key: rounded(value) for key, value in found.items()} | {"curve": curve.points}
    print(json.dumps({name: found}), file=sys.stderr, flush=True)
    return found


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Train all that is asked for."""
    schedule = partial(CosineDecay, warmup=min(0.2, WARMUP / args.steps), final=0.05)
    ours = {"optimizer": optimizer(args, args.muon_lr, args.lr), "lr_scheduler": schedule, "clip_norm": args.clip}
    theirs = ours | {"optimizer": optimizer(args, args.twin_muon_lr, args.twin_lr), "clip_norm": args.twin_clip}
    result: dict[str, Any] = {}
    if args.ff:
        stack = network(args, args.layers, args.arm, args.layers_per_block)
        buffer = SleepBuffer(args.context) if args.rollouts else None
        ff = measure(args, "ff", FFLanguageModel(stack, rollouts=buffer, **ours))
        result |= {"ff": ff["nats"], "ff_average": ff["average"], "per_block": ff["per_block"]}
        result |= {"average_up_to_block": ff["average_up_to_block"]}
        result |= {"accuracy": ff["accuracy"], "ff_seconds": ff["seconds"], "curve": {"ff": ff["curve"]}}
    if args.twin:
        twin = measure(args, "backprop", BackpropTwin(network(args, args.layers), **theirs))
        result |= {"backprop": twin["nats"], "backprop_accuracy": twin["accuracy"]}
        result |= {"backprop_seconds": twin["seconds"]}
        result["curve"] = result.get("curve", {}) | {"backprop": twin["curve"]}
    if args.one_layer:
        result["one_layer_backprop"] = measure(args, "one layer", BackpropTwin(network(args, 1), **theirs))["nats"]
    if args.floors:
        result |= floors(args)
    return result


def floors(args: argparse.Namespace) -> dict[str, Any]:
    """What needs no learning of layers: n-grams, and random layers under a trained readout."""
    text = data(args)
    text.setup("fit")
    train, validation = text.tokens("train"), text.tokens("validation")
    ngram = nats_per_token(train, validation, vocab_size=text.vocab_size)
    steps = min(args.steps, 1500)
    frozen = frozen_nats(network(args, args.layers), train, validation, steps=steps, batch_size=args.batch)
    sizes = {"characters_per_token": round(text.characters_per_token(), 4), "vocab_size": text.vocab_size}
    return {"frozen": round(frozen, 4), "ngram": {str(n): round(x, 4) for n, x in ngram.items()}} | sizes


def optimizer(args: argparse.Namespace, muon_lr: float, lr: float) -> partial[MuonAdamW]:
    return partial(MuonAdamW, lr=lr, muon_lr=muon_lr, weight_decay=args.weight_decay)


def rounded(value: Any) -> Any:
    return [round(item, 4) for item in value] if isinstance(value, list) else round(value, 4)


def table(result: dict[str, Any]) -> Table:
    """All losses side by side, from the highest to the lowest."""
    rows = {f"{n}-gram, Witten-Bell": nats for n, nats in result.get("ngram", {}).items()}
    rows |= {"random layers, trained readout": result.get("frozen"), "backprop, end to end": result.get("backprop")}
    rows |= {"backprop, one layer": result.get("one_layer_backprop")}
    rows |= {f"FF, block {index}": nats for index, nats in enumerate(result.get("per_block", []))}
    shown = Table("", "nats a token", title="Validation")
    for name, nats in sorted(rows.items(), key=lambda row: -(row[1] or 0)):
        if nats is not None:
            shown.add_row(name, f"{nats:.4f}")
    return shown


def main() -> None:
    args = arguments()
    be_quiet()
    torch.set_num_threads(args.threads)
    prepare_cpu()
    result = compare(args)
    Console(stderr=True).print(table(result))
    sizes = {"tokens": args.steps * args.batch * args.context, "layers": args.layers}
    sizes |= {"layers_per_block": args.layers_per_block, "negatives": args.negatives}
    named = {"arm": args.arm, "tier": TIERS[args.arm], "seed": args.seed}
    print(json.dumps(result | sizes | named | provenance()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a text file")
    parser.add_argument("--tokens", default="characters", help="or bytes, or an encoding and its size: gpt2:4096")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--arm", choices=TIERS, default="own")
    parser.add_argument("--rollouts", action="store_true", help="negatives that the model made itself")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--layers-per-block", type=int, default=1)
    parser.add_argument("--inherit", action="store_true", help="read all blocks with the readout of the first")
    parser.add_argument("--channels", action="store_true", help="every block reads the token in channels of its own")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--muon-lr", type=float, default=0.04, help="for matrices")
    parser.add_argument("--lr", type=float, default=4e-3, help="for all else")
    parser.add_argument("--twin-muon-lr", type=float, help="the same as FF by default")
    parser.add_argument("--twin-lr", type=float, help="the same as FF by default")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--clip", type=float, help="largest gradient norm of a block; none by default")
    parser.add_argument("--twin-clip", type=float, help="the same as FF by default")
    parser.add_argument("--evaluations", type=int, default=1, help="points of the curve")
    parser.add_argument("--precision", default=MIXED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    for name in ("ff", "twin", "one-layer", "floors"):
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=True)
    return with_twins(parser.parse_args())


if __name__ == "__main__":
    main()
