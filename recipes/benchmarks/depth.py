"""Does depth pay without backprop between blocks? A chain of blocks beside its twins and controls, on the same batches.

    python recipes/benchmarks/depth.py --data FILE --small [--lookahead 1 --horizon 2] [--negatives 16] [--seed 0]

`--data` is a text file. Its last 10 % are not read; validation is cut from the end of the rest. Every block of the
chain reads the token in channels of its own (`--no-channels`: none has them), and is judged by its own readout alone.
Trained one after the other, each from the same seed on the same windows, with the same loss and clipping, and with the
same rates unless `--twin-lr` and `--twin-muon-lr` name those of backprop:

- `chain`: blocks with local losses, with `--lookahead W --refresh R` also for what the next blocks make of them,
  `--horizon` of them;
- `twin_same_parts`: the same layers and tables as one block, by backprop; `twin`: without the channels;
- `twin_supervised`: by backprop, with the loss at the end of every block: extra losses without locality;
- `block_1`: the first block alone; `independent`: another one from another seed. The mean of both is an ensemble of two
  blocks without depth, the control of every mean.

`--without twin_supervised independent` leaves controls out, which then are null.

`share_of_depth_kept` is what the chain gains on `block_1`, of what `twin_same_parts` gains on it. `cosine` is that
between the gradient of a block's layers and the gradient of backprop through the whole chain as it stands, with the
softmax of its last block, on the same batch, by block: `{step: […]}`. `rates` are those of matrices and of all else.
Milliseconds are of a CPU, for forward pass, loss and backward pass without optimizer, in turns in one process. All
losses are nats a token. Every arm is written to `--folder` as soon as it is done, and goes on from its last checkpoint
after a stop: the same command again continues, CPU seconds of the arms in `continued` are those since the stop, and
`commit` names all that arms were trained at. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from language import in_batches, tokenizer
from lightning.pytorch.callbacks import ModelCheckpoint
from recipe import MIXED, SILENT, be_quiet, provenance, with_twins
from torch import Tensor
from torch.nn import functional as F

from ff_lightning.candidates import CandidateLoss, LinearContrast, Softmax
from ff_lightning.data import TextDataModule
from ff_lightning.language import GPT, OwnChannels
from ff_lightning.language.stack import TokenStack
from ff_lightning.networks import Lookahead
from ff_lightning.optim import CosineDecay, MuonAdamW
from ff_lightning.processor import prepare_cpu
from ff_lightning.schedules import Schedule
from ff_lightning.signals import StepContext
from ff_lightning.tasks.language import FFLanguageModel

WARMUP, SAVE_EVERY, TIMED = 50, 100, 15
ARMS = ("chain", "twin_same_parts", "twin", "twin_supervised", "block_1", "independent")
CONTROLS = ("twin_supervised", "independent")
BY_BACKPROP = ("twin_same_parts", "twin", "twin_supervised")
SMALL = {"tokens": "gpt2:1024", "width": 64, "context": 64, "batch": 16, "steps": 600, "muon_lr": 0.02}


class Supervised(GPT):
    """Backprop through all blocks, with the loss of each of them."""

    def spans(self, update: int) -> Iterator[range]:
        yield range(len(self))


class Cosines(pl.Callback):
    """Compares the gradients of blocks with backprop through all of them, some times in a training."""

    def __init__(self, steps: int, times: int) -> None:
        self.due = {round(steps * (part + 1) / times) for part in range(times)}
        self.found: dict[int, list[float]] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.found = state_dict["found"]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step in self.due:
            with torch.enable_grad(), trainer.precision_plugin.forward_context():
                self.found[trainer.global_step] = cosines(pl_module.network, batch)


def cosines(network: TokenStack, batch: Tensor) -> list[float]:
    """Cosine between what a block's own loss and what backprop asks of its layers, by block."""
    tokens, targets = batch[:, :-1], batch[:, 1:]
    (whole,) = (twin := network.as_one_block()).token_blocks()
    (top,) = twin.local_losses(twin.signal(tokens, targets))
    gradients = iter(torch.autograd.grad(top.loss, list(whole.layer.layers.parameters())))
    between = 1  # an update at which no copy is made anew: nothing of the training is touched
    context = StepContext(lambda index: torch.Generator(batch.device).manual_seed(index), between)
    found = []
    for step in network.local_losses(network.signal(tokens, targets), context):
        own = torch.autograd.grad(step.loss, list(network[step.block].layer.layers.parameters()))
        theirs = [next(gradients) for _ in own]
        a, b = (torch.cat([part.flatten() for part in parts]) for parts in (own, theirs))
        found.append(round(F.cosine_similarity(a, b, dim=0).item(), 4))
        del step, own, a, b
    return found


def data(args: argparse.Namespace) -> TextDataModule:
    """The first 90 % of the text, with validation cut from its end."""
    return TextDataModule(
        args.data,
        tokenizer=tokenizer(args.tokens),
        context=args.context,
        batch_size=args.batch,
        validation=0.05,
        max_characters=int(0.9 * len(Path(args.data).read_text(encoding="utf-8"))),
        seed=args.seed,
        cache_dir=str(args.folder / "tokens"),
    )


def network(args: argparse.Namespace, arm: str, vocab_size: int) -> TokenStack:
    """The network of an arm, with new weights."""
    pl.seed_everything(args.seed + 1000 * (arm == "independent"), verbose=False)
    alone = arm in ("block_1", "independent")
    loss: CandidateLoss = LinearContrast(args.negatives) if args.negatives else Softmax()
    make = Supervised if arm == "twin_supervised" else GPT
    ahead = args.lookahead if arm == "chain" else 0
    stack: TokenStack = make(
        vocab_size,
        width=args.width,
        layers=args.layers_per_block if alone else args.layers,
        layers_per_block=args.layers_per_block,
        heads=max(1, args.width // 32),
        context=args.context,
        loss=loss,
        channels=OwnChannels(args.channel_size) if args.channels and arm != "twin" else None,
        lookahead=Lookahead(ahead, refresh=args.refresh, horizon=args.horizon) if ahead else None,
    )
    if arm in ("twin", "twin_same_parts"):
        stack = stack.as_one_block()
        next(stack.token_blocks()).loss = loss
    return stack


def measure(args: argparse.Namespace, arm: str, text: TextDataModule) -> tuple[dict[str, Any], TokenStack]:
    """Train an arm, or take what an earlier run has of it; and judge it."""
    args = with_rates(args, arm)
    stack = network(args, arm, text.vocab_size)
    watch = Cosines(args.steps, args.cosines) if arm == "chain" and args.cosines else None
    return train(args, stack, text, folder_of(args, arm), watch), stack


def with_rates(args: argparse.Namespace, arm: str) -> argparse.Namespace:
    """The arguments with the rates of an arm in the place of the chain's."""
    if arm not in BY_BACKPROP:
        return args
    return argparse.Namespace(**vars(args) | {"lr": args.twin_lr, "muon_lr": args.twin_muon_lr})


def train(
    args: argparse.Namespace,
    stack: TokenStack,
    text: TextDataModule,
    folder: Path,
    watch: Cosines | None = None,
    schedule: Schedule | None = None,
) -> dict[str, Any]:
    """Train a network, or take what an earlier run has left of it in a folder; and judge every block."""
    pl.seed_everything(args.seed, verbose=False)
    module = FFLanguageModel(
        stack,
        optimizer=partial(MuonAdamW, lr=args.lr, muon_lr=args.muon_lr),
        lr_scheduler=partial(CosineDecay, warmup=min(0.2, WARMUP / args.steps), final=0.05),
        clip_norm=args.clip,
        schedule=schedule,
    )
    module.seed = args.seed
    last = folder / "last.ckpt"
    done = folder / "found.json"
    if done.exists():
        module.load_state_dict(torch.load(last, weights_only=True)["state_dict"])
        kept: dict[str, Any] = json.loads(done.read_text())
        if kept.get("judged", args.judged) != args.judged:
            kept["per_block"] = judge([stack], text, args)
        return kept
    saver = ModelCheckpoint(folder, filename="last", every_n_train_steps=SAVE_EVERY, enable_version_counter=False)
    silent = SILENT | {"enable_checkpointing": True}
    callbacks = [saver, *filter(None, [watch])]
    run = pl.Trainer(max_steps=args.steps, precision=args.precision, callbacks=callbacks, limit_val_batches=0, **silent)
    started = time.process_time()
    begun = last if last.exists() else None
    run.fit(module, text, ckpt_path=begun, weights_only=None if begun is None else True)
    seconds = time.process_time() - started
    run.save_checkpoint(last)
    found: dict[str, Any] = {"per_block": judge([stack], text, args), "continued": begun is not None}
    found |= {"cpu_seconds": round(seconds, 1), "judged": args.judged, "commit": provenance()["commit"]}
    if watch is not None:
        found["cosine"] = watch.found
    done.write_text(json.dumps(found))
    print(json.dumps({folder.name: found}), file=sys.stderr, flush=True)
    return found


def folder_of(args: argparse.Namespace, arm: str) -> Path:
    """That of an arm. A network without channels is the same whatever they would be, and is trained once."""
    if arm == "twin_same_parts" and not args.channels:
        arm = "twin"
    if arm == "twin":
        args = argparse.Namespace(**vars(args) | {"channels": False, "channel_size": None})
    return Path(args.folder / f"{arm}-{key(args, arm)}")


def key(args: argparse.Namespace, arm: str) -> str:
    """Tells apart what makes another result."""
    names = ["data", "tokens", "layers", "layers_per_block", "width", "context", "batch", "steps", "muon_lr", "lr"]
    names += ["clip", "seed", "negatives", "precision", "channels", "channel_size"]
    names += ["lookahead", "refresh", "cosines"] if arm == "chain" else []
    names += ["horizon"] if arm == "chain" and args.horizon > 1 else []
    return hashlib.sha256(json.dumps([str(getattr(args, name)) for name in names]).encode()).hexdigest()[:10]


@torch.no_grad()
def judge(stacks: list[TokenStack], text: TextDataModule, args: argparse.Namespace) -> list[float]:
    """Nats a token of what networks predict together up to every block: the mean of their log-probabilities."""
    windows = text.tokens("validation")[: args.judged + 1].unfold(0, args.context + 1, args.context)
    totals: dict[int, float] = {}
    for some in in_batches(windows, text.vocab_size):
        for index, answers in enumerate(zip(*(stack.predictions(some[:, :-1]) for stack in stacks), strict=True)):
            logits = torch.stack([answer.log_softmax(-1) for answer in answers]).mean(0)
            nats = F.cross_entropy(logits.flatten(0, 1), some[:, 1:].flatten(), reduction="sum").item()
            totals[index] = totals.get(index, 0.0) + nats
    return [round(total / (len(windows) * args.context), 4) for total in totals.values()]


def milliseconds(args: argparse.Namespace, text: TextDataModule) -> dict[str, float]:
    """Forward pass, loss and backward pass of chain and twin on a batch, in turns; the median."""
    stacks = {arm: network(args, arm, text.vocab_size) for arm in ("chain", "twin_same_parts")}
    windows = text.tokens("validation")[: args.batch * (args.context + 1)].view(args.batch, -1)
    times: dict[str, list[float]] = {arm: [] for arm in stacks}
    for update in range(TIMED):
        for arm, stack in stacks.items():
            started = time.process_time()
            context = StepContext(update=update)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16-mixed"):
                for step in stack.local_losses(stack.signal(windows[:, :-1], windows[:, 1:]), context):
                    step.loss.backward()  # type: ignore[no-untyped-call]
                    del step
            times[arm].append(1e3 * (time.process_time() - started))
            stack.zero_grad(set_to_none=True)
    return {arm: round(statistics.median(values), 1) for arm, values in times.items()}


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Train all arms and put their losses together."""
    text = data(args)
    text.prepare_data()
    text.setup("fit")
    found, stacks = {}, {}
    for arm in (arm for arm in ARMS if arm not in args.without):
        found[arm], stacks[arm] = measure(args, arm, text)
    blocks = {arm: one["per_block"] for arm, one in found.items()}
    last = {arm: values[-1] for arm, values in blocks.items()}
    stacks["chain"].average = True
    gain = last["block_1"] - last["twin_same_parts"]
    two = [stacks[arm] for arm in ("block_1", "independent") if arm in stacks]
    ms = milliseconds(args, text)
    return {
        "per_block": blocks["chain"],
        "average": judge([stacks["chain"]], text, args)[-1],
        "twin_same_parts": last["twin_same_parts"],
        "twin": last["twin"],
        "twin_supervised": last.get("twin_supervised"),
        "supervised_per_block": blocks.get("twin_supervised"),
        "block_1": last["block_1"],
        "independent": judge(two, text, args)[-1] if len(two) == 2 else None,
        "share_of_depth_kept": round((last["block_1"] - last["chain"]) / gain, 4) if gain else math.nan,
        "cosine": found["chain"].get("cosine", {}),
        "ms": ms["chain"],
        "twin_ms": ms["twin_same_parts"],
        "cpu_seconds": {arm: one["cpu_seconds"] for arm, one in found.items()},
        "continued": [arm for arm, one in found.items() if one["continued"]],
        "commits": [one["commit"] for one in found.values() if "commit" in one],  # some arms may be older
        "parameters": {arm: sum(one.numel() for one in stack.parameters()) for arm, stack in stacks.items()},
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a text file")
    parser.add_argument("--small", action="store_true", help=f"other sizes where none is named: {SMALL}")
    parser.add_argument("--tokens", default="gpt2:4096", help="an encoding and its size, or characters, or bytes")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--layers-per-block", type=int, default=2)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--negatives", type=int, default=0, help="K own negatives (tier T1); 0 for all tokens (T2)")
    parser.add_argument("--channels", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--channel-size", type=int, help="of every table; as wide as the stream by default")
    parser.add_argument("--lookahead", type=float, default=0.0, help="weight of the next block's loss; 0 for none")
    parser.add_argument("--refresh", type=int, default=1, help="updates until the copy is made anew")
    parser.add_argument("--horizon", type=int, default=1, help="blocks that a block answers for beside itself")
    parser.add_argument("--muon-lr", type=float, default=0.03, help="for matrices")
    parser.add_argument("--lr", type=float, default=4e-3, help="for all else")
    parser.add_argument("--twin-muon-lr", type=float, help="of arms by backprop; that of the chain by default")
    parser.add_argument("--twin-lr", type=float, help="of arms by backprop; that of the chain by default")
    parser.add_argument("--clip", type=float, default=1.0, help="largest gradient norm of a block")
    parser.add_argument("--without", nargs="+", choices=CONTROLS, default=[], help="controls that are not trained")
    parser.add_argument("--cosines", type=int, default=4, help="times that gradients are compared; 0 for never")
    parser.add_argument("--judged", type=int, default=98_304, help="validation tokens")
    parser.add_argument("--precision", default=MIXED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/depth"), help="for what is done, and checkpoints")
    if parser.parse_args().small:
        parser.set_defaults(**SMALL)
    return with_twins(parser.parse_args())


def main() -> None:
    args = arguments()
    be_quiet()
    torch.set_num_threads(args.threads)
    prepare_cpu()
    result = compare(args)
    made = provenance(result.pop("commits"))
    sizes = {"tokens": args.steps * args.batch * args.context, "layers": args.layers}
    sizes |= {"layers_per_block": args.layers_per_block, "width": args.width, "negatives": args.negatives}
    sizes |= {"rates": [args.muon_lr, args.lr], "twin_rates": [args.twin_muon_lr, args.twin_lr]}
    refresh, horizon = (args.refresh, args.horizon) if args.lookahead else (None, None)
    ahead = {"lookahead": args.lookahead, "refresh": refresh, "horizon": horizon}
    tier = ("T1" if args.negatives else "T2") + (" with lookahead" if args.lookahead else "")
    print(json.dumps(result | sizes | ahead | {"tier": tier, "seed": args.seed} | made))


if __name__ == "__main__":
    main()
