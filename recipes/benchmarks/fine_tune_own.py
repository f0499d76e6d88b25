r"""A model that was trained by Forward-Forward, fine-tuned on another text: by Forward-Forward, and by backprop.

    python recipes/benchmarks/fine_tune_own.py --pretrain gutenberg_en_novels.txt --data input.txt [--seed 0]

A small GPT of `--layers` in blocks of `--layers-per-block` learns `--pretrain`, with own negatives (tier T1). From its
weights, `--data` is learned by every arm in the same number of steps, on the same windows: `ff` as it was trained,
`twin` as one block by backprop, which begins from the same weights. `ff_from_nothing` and `twin_from_nothing` begin
with new ones. Of both texts the last tenth is not read; validation is the last 5 % of the rest. `before` is the
pretrained model on the other text. Rates are `--lr` and `--muon-lr` from nothing, and `--fine` of them from weights.
Losses are nats a token, of the last block. Every part is written to `--folder` as soon as it is done, and the same
command again continues. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from language import in_batches, tokenizer
from recipe import MIXED, SILENT, be_quiet, provenance
from torch.nn import functional as F

from ff_lightning.candidates import LinearContrast
from ff_lightning.data import TextDataModule
from ff_lightning.language import GPT, OwnChannels
from ff_lightning.language.stack import TokenStack
from ff_lightning.optim import CosineDecay, MuonAdamW
from ff_lightning.processor import prepare_cpu
from ff_lightning.tasks.language import FFLanguageModel


def text(args: argparse.Namespace, path: Path) -> TextDataModule:
    """The first 90 % of a text, with validation cut from its end."""
    data = TextDataModule(
        str(path),
        tokenizer=tokenizer(args.tokens),
        context=args.context,
        batch_size=args.batch,
        validation=0.05,
        max_characters=int(0.9 * len(path.read_text(encoding="utf-8"))),
        seed=args.seed,
        cache_dir=str(args.folder / "tokens"),
    )
    data.setup("fit")
    return data


def network(args: argparse.Namespace, vocab_size: int) -> GPT:
    pl.seed_everything(args.seed, verbose=False)
    return GPT(
        vocab_size,
        width=args.width,
        layers=args.layers,
        layers_per_block=args.layers_per_block,
        heads=max(1, args.width // 32),
        context=args.context,
        loss=LinearContrast(args.negatives),
        channels=OwnChannels(),
    )


def learn(
    args: argparse.Namespace, stack: TokenStack, data: TextDataModule, steps: int, share: float, name: str
) -> Any:
    """Train a network, or take what an earlier run has of it; its validation loss and the processor's seconds."""
    done = args.folder / f"{name}-{key(args)}.pt"
    if done.exists():
        kept = torch.load(done, weights_only=True)
        stack.load_state_dict(kept["weights"])
        return kept["found"]
    module = FFLanguageModel(
        stack,
        optimizer=partial(MuonAdamW, lr=args.lr * share, muon_lr=args.muon_lr * share),
        lr_scheduler=partial(CosineDecay, warmup=min(0.2, 50 / steps), final=0.05),
        clip_norm=1.0,
    )
    module.seed = args.seed
    started = time.process_time()
    pl.Trainer(max_steps=steps, precision=args.precision, limit_val_batches=0, **SILENT).fit(module, data)
    found = {"loss": judge(stack, data), "cpu_seconds": round(time.process_time() - started, 1)}
    torch.save({"weights": stack.state_dict(), "found": found}, done)
    print(json.dumps({name: found}), file=sys.stderr, flush=True)
    return found


@torch.no_grad()
def judge(stack: TokenStack, data: TextDataModule) -> float:
    """Nats a token on the validation text, in windows side by side."""
    windows = data.tokens("validation").unfold(0, stack.context + 1, stack.context)
    total = 0.0
    stack.eval()
    for some in in_batches(windows, stack.vocab_size):
        total += F.cross_entropy(stack(some[:, :-1]).flatten(0, 1), some[:, 1:].flatten(), reduction="sum").item()
    stack.train()
    return round(total / (len(windows) * stack.context), 4)


def compare(args: argparse.Namespace) -> dict[str, Any]:
    first, second = text(args, args.pretrain), text(args, args.data)
    found: dict[str, Any] = {}
    pretrained = network(args, first.vocab_size)
    found["pretrained"] = learn(args, pretrained, first, args.pretrain_steps, 1.0, "pretrained")
    weights = {name: value.clone() for name, value in pretrained.state_dict().items()}
    pretrained.set_unigram(second.unigram)
    found["before"] = judge(pretrained, second)
    for arm in ("ff", "twin", "ff_from_nothing", "twin_from_nothing"):
        stack: TokenStack = network(args, first.vocab_size)
        if "nothing" not in arm:
            stack.load_state_dict(weights)
        stack = stack.as_one_block() if arm.startswith("twin") else stack
        share = 1.0 if "nothing" in arm else args.fine
        found[arm] = learn(args, stack, second, args.steps, share, arm)
    return found


def key(args: argparse.Namespace) -> str:
    """Tells apart what makes another result."""
    others = {name: str(value) for name, value in vars(args).items() if name not in ("folder", "threads")}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:10]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrain", type=Path, required=True, help="a text file, learned first")
    parser.add_argument("--data", type=Path, required=True, help="a text file, learned then")
    parser.add_argument("--tokens", default="gpt2:1024", help="an encoding and its size, or characters, or bytes")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--layers-per-block", type=int, default=2)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--negatives", type=int, default=32)
    parser.add_argument("--pretrain-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--fine", type=float, default=0.5, help="share of the rates, from trained weights")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--precision", default=MIXED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/fine_tune_own"))
    return parser.parse_args()


def main() -> None:
    args = arguments()
    be_quiet()
    torch.set_num_threads(args.threads)
    prepare_cpu()
    args.folder.mkdir(parents=True, exist_ok=True)
    found = compare(args)
    sizes = {"tokens": args.tokens, "layers": args.layers, "layers_per_block": args.layers_per_block}
    sizes |= {"width": args.width, "steps": args.steps, "pretrain_steps": args.pretrain_steps, "tier": "T1"}
    print(json.dumps(found | sizes | {"seed": args.seed} | provenance()))


if __name__ == "__main__":
    main()
