"""What has to hold on a GPU, and how fast it is there: one command of at most eight minutes, one JSON.

    python recipes/benchmarks/gpu_check.py [--only NAME …] [--seconds 480]

- `streamed_is_fused`: the weights after 20 updates are the same bit by bit, of an MLP, a ConvNet and a GPT.
- `local`: no loss has a gradient for parameters of another block.
- `step_time`: Forward-Forward over the twin in bf16-mixed, of all three (`step_time.py`).
- `memory`: the allocator's peak of a streamed step in MiB, above what stays, at depth 4, 16, 64, and that of backprop.
- `compiled`: time of a step with `compile_blocks` over one without, and the largest difference of the losses.
- `resumed`: killed and resumed runs that end bit-equal, of how many (`resume.py`).
- `generate`: tokens a second of a GPT of 8 layers of 512 units, with its cache.

Without a GPU it prints why it does nothing. A part for which no time is left, or that fails, says so in its place.
`--device cpu` tries the script itself; times are then not those of a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from recipe import SILENT, be_quiet, provenance
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ff_lightning as ff
from ff_lightning.candidates import LinearContrast, Softmax
from ff_lightning.goodness import WeightedEnergy
from ff_lightning.language import GPT
from ff_lightning.networks import MLP, ConvNet
from ff_lightning.optim import MuonAdamW

HERE = Path(__file__).parent
DEPTHS = (4, 16, 64)
VOCABULARY, CONTEXT = 96, 64
ADAM = partial(torch.optim.Adam, lr=1e-3)


def images(shape: Sequence[int], steps: int, batch: int = 64) -> DataLoader[Any]:
    x = torch.rand(steps * batch, *shape, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, torch.arange(len(x)) % 10), batch_size=batch)


def texts(steps: int, batch: int = 32) -> DataLoader[Any]:
    tokens = torch.randint(VOCABULARY, (steps * batch, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    return DataLoader(tokens, batch_size=batch)  # type: ignore[arg-type]


def networks(steps: int) -> dict[str, tuple[Callable[..., ff.FFLightningModule], DataLoader[Any]]]:
    """By name: what builds a task, with the same weights at every call, and its data."""

    def seeded(build: Callable[[], nn.Module], task: Any, optimizer: Any) -> Callable[..., ff.FFLightningModule]:
        def make(**arguments: Any) -> ff.FFLightningModule:
            torch.manual_seed(0)
            found: ff.FFLightningModule = task(build(), optimizer=optimizer, **arguments)
            return found

        return make

    conv = partial(ConvNet, (3, 16, 16), [32, 64, 64], pool_after=[0], goodness=WeightedEnergy(), loss=Softmax())
    gpt = partial(GPT, VOCABULARY, width=64, layers=3, heads=2, context=CONTEXT, loss=LinearContrast())
    return {
        "mlp": (seeded(partial(MLP, 784, [256] * 3, dropout=0.2), ff.FFClassifier, ADAM), images((784,), steps)),
        "conv": (seeded(conv, ff.FFClassifier, MuonAdamW), images((3, 16, 16), steps)),
        "gpt": (seeded(gpt, ff.FFLanguageModel, MuonAdamW), texts(steps)),
    }


def fit(device: str, module: pl.LightningModule, data: Any, *callbacks: pl.Callback, **flags: Any) -> pl.Trainer:
    settings = SILENT | {"accelerator": device, "limit_val_batches": 0, "max_epochs": 1} | flags
    trainer = pl.Trainer(callbacks=list(callbacks), **settings)
    trainer.fit(module, data)
    return trainer


def streamed_is_fused(args: argparse.Namespace) -> dict[str, bool]:
    found = {}
    for name, (make, data) in networks(20).items():
        states = []
        for update in ("streamed", "fused"):
            module = make(update=update)
            fit(args.device, module, data)
            states.append(module.state_dict())
        found[name] = all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    return found


class Reach(pl.Callback):
    """Asks every loss for its gradient of the parameters of all blocks."""

    def __init__(self) -> None:
        self.foreign: list[str] = []

    def on_local_step(self, trainer: pl.Trainer, module: ff.FFLightningModule, step: Any) -> None:
        for index, block in enumerate(module.network):
            if index not in step.blocks:
                parameters = list(block.parameters())
                grads = torch.autograd.grad(step.loss, parameters, retain_graph=True, allow_unused=True)
                self.foreign += [f"loss {step.block}, block {index}" for grad in grads if grad is not None]


def local(args: argparse.Namespace) -> dict[str, bool]:
    found = {}
    for name, (make, data) in networks(2).items():
        reach = Reach()
        fit(args.device, make(update="fused"), data, reach, log_every_n_steps=1)  # which frees no graph in between
        found[name] = not reach.foreign
    return found


def script(name: str, *words: str, seconds: float) -> dict[str, Any]:
    """The last line of another benchmark."""
    done = subprocess.run(
        [sys.executable, str(HERE / name), *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=max(1.0, seconds),
        check=False,
    )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {key: value for key, value in found.items() if key not in ("command", "commit", "hardware", "date")}


def step_time(args: argparse.Namespace) -> dict[str, Any]:
    size = ["--accelerator", args.device, "--precision", "bf16-mixed", "--steps", str(args.steps), "--warm-up", "5"]
    return {
        network: script("step_time.py", "--network", network, *size, seconds=args.end - time.monotonic())
        for network in ("mlp", "conv", "gpt")
    }


class Peak(pl.Callback):
    """The allocator's peak of a step, above what was there before it."""

    def on_train_batch_start(self, *_: Any) -> None:
        torch.cuda.reset_peak_memory_stats()
        self.before = torch.cuda.memory_allocated()

    def on_train_batch_end(self, *_: Any) -> None:
        self.mib = round((torch.cuda.max_memory_allocated() - self.before) / 2**20, 1)


def memory(args: argparse.Namespace) -> dict[str, Any]:
    if args.device != "cuda":
        return {"skipped": "the peak is that of the allocator of CUDA; memory.py measures it on a CPU"}
    found: dict[str, Any] = {}
    for depth in DEPTHS:
        network = GPT(VOCABULARY, width=256, layers=depth, heads=8, context=CONTEXT)
        for kind, task in (("streamed", ff.FFLanguageModel), ("backprop", ff.BackpropTwin)):
            peak = Peak()
            fit(args.device, task(network, optimizer=partial(torch.optim.AdamW, lr=1e-4)), texts(4), peak)
            found.setdefault(kind, {})[str(depth)] = peak.mib
    return found


class Losses(pl.Callback):
    """Losses and times of the steps."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.times: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))  # waits for the device
        self.times.append(time.perf_counter() - self.started)


def compiled(args: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for name, (make, data) in networks(30).items():
        watches = [Losses(), Losses()]
        for compile_blocks, watch in zip((False, True), watches, strict=True):
            fit(args.device, make(compile_blocks=compile_blocks), data, watch, log_every_n_steps=1)
        plain, other = (sorted(watch.times)[len(watch.times) // 2] for watch in watches)
        off = max(abs(a - b) for a, b in zip(watches[0].losses, watches[1].losses, strict=True))
        found[name] = {"time": round(other / plain, 3), "loss_difference": off}
    return found


def resumed(args: argparse.Namespace) -> dict[str, Any]:
    size = ["--kills", "1", "--ranks", "1", "--accelerator", args.device]
    return {
        network: script("resume.py", "--network", network, *size, seconds=args.end - time.monotonic())
        for network in ("mlp", "gpt")
    }


def generate(args: argparse.Namespace) -> dict[str, float]:
    layers, width = (8, 512) if args.device == "cuda" else (2, 64)
    model = ff.FFLanguageModel(GPT(VOCABULARY, width=width, layers=layers, heads=8, context=256)).to(args.device).eval()
    found = {}
    for count in (1, 64):
        prompt: Tensor = torch.zeros(count, 1, dtype=torch.long, device=args.device)
        model.generate(prompt, 8, seed=0)
        started = time.perf_counter()
        model.generate(prompt, 255, seed=0)
        if args.device == "cuda":
            torch.cuda.synchronize()
        found[f"tokens_per_second_{count}"] = round(count * 255 / (time.perf_counter() - started), 1)
    return found


CHECKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    check.__name__: check  # type: ignore[attr-defined]
    for check in (streamed_is_fused, local, memory, generate, step_time, resumed, compiled)
}


def run(check: Callable[[argparse.Namespace], dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    if time.monotonic() >= args.end:
        return {"skipped": "no time was left"}
    try:
        return check(args)
    except subprocess.TimeoutExpired:
        return {"skipped": "the time was over"}
    except Exception as error:  # the others are to be seen all the same
        return {"failed": f"{type(error).__name__}: {error}"}


def main() -> None:
    args = arguments()
    be_quiet()
    if args.device == "cuda" and not torch.cuda.is_available():
        reason = "torch sees no GPU" if torch.backends.cuda.is_built() else "this torch was built without CUDA"
        print(json.dumps({"skipped": f"{reason}: torch.cuda.is_available() is False"} | provenance()))
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    torch.use_deterministic_algorithms(True, warn_only=True)
    args.end = time.monotonic() + args.seconds
    found = {name: run(CHECKS[name], args) for name in args.only}
    print(json.dumps(found | {"device": args.device} | provenance()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--steps", type=int, default=60, help="of every comparison of step times")
    return parser.parse_args()


if __name__ == "__main__":
    main()
