r"""Event-driven Forward-Forward of spiking networks: error, floors, and memory against the number of time steps.

    python recipes/benchmarks/spiking.py --data mnist|nmnist [--seed 0] [--parts ff twin linear memory]

Arguments of the recipe change one thing at a time; with `--validation-only` the test set stays closed:

    python recipes/benchmarks/spiking.py --data nmnist --parts ff --validation-only --model.network.lateral 0

- `ff`: the recipe `spiking_mnist` or `spiking_nmnist`, tier T1.
- `twin`: the same network under the same recipe, trained by surrogate gradients through time.
- `linear`: a linear softmax on what enters the network, added up over time; its weight decay is chosen on validation.
- `memory`: the allocator's peak in a training step above what is there before, for 100 time steps over 10.

Everything was chosen on validation data cut from the training set; the test set is looked at once. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from lightning.pytorch.cli import LightningCLI
from memory import Meter
from recipe import load, provenance
from torch import Tensor, nn
from torch.nn import functional as F

DECAYS = (1e-4, 1e-3, 1e-2)


def build(args: argparse.Namespace, *overrides: str, twin: bool = False, **trainer: Any) -> LightningCLI:
    recipes = [f"spiking_{args.data}"] + ["with/twin"] * twin
    return load(recipes, ["--seed_everything", str(args.seed), *args.changes, *overrides], **trainer)


def train(args: argparse.Namespace, *, twin: bool) -> dict[str, Any]:
    """Errors in percent after the whole training, and what it cost."""
    run = build(args, twin=twin)
    run.trainer.check_val_every_n_epoch = run.trainer.max_epochs
    started, cpu_started = time.perf_counter(), time.process_time()
    run.trainer.fit(run.model, run.datamodule)
    result = {
        "train_cpu_seconds": round(time.process_time() - cpu_started),
        "train_seconds": round(time.perf_counter() - started),
        "epochs": run.trainer.max_epochs,
    }
    measured = {f"validation_{name}": value for name, value in errors(run, "val").items()}
    if not args.validation_only:
        run.trainer.test(run.model, run.datamodule, verbose=False)
        measured |= {f"test_{name}": value for name, value in errors(run, "test").items()}
    return measured | result


def errors(run: LightningCLI, stage: str) -> dict[str, Any]:
    values = {name: round(100 * (1 - float(v)), 2) for name, v in run.trainer.callback_metrics.items()}
    blocks = [values[name] for name in sorted(values) if name.startswith(f"{stage}/accuracy/")]
    return {"error": values[f"{stage}/accuracy"]} | ({"error_by_block": blocks} if blocks else {})


@torch.no_grad()
def counts(run: LightningCLI, split: str) -> tuple[Tensor, Tensor]:
    """What enters the network in all steps, as a mean ``(N, D)``, and the classes."""
    network = run.model.network.eval()
    loader = {
        "train": run.datamodule.train_dataloader,
        "validation": run.datamodule.val_dataloader,
        "test": run.datamodule.test_dataloader,
    }[split]()
    pieces = [(sum(network.frames(x)) / network.encoding.steps, y) for x, y in loader]
    features, labels = zip(*pieces, strict=True)
    return torch.cat(features), torch.cat(labels)


def fit_linear(x: Tensor, y: Tensor, decay: float) -> nn.Linear:
    linear = nn.Linear(x.shape[1], int(y.max()) + 1)
    nn.init.zeros_(linear.weight)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(linear(x), y) + decay * linear.weight.square().sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    return linear


def linear_floor(args: argparse.Namespace) -> dict[str, float]:
    run = build(args)
    run.datamodule.setup("fit")
    x, y = counts(run, "train")
    center, scale = x.mean(0), x.std(0).mean()

    def error(linear: nn.Linear, split: str) -> float:
        features, labels = counts(run, split)
        return round(100 * (linear((features - center) / scale).argmax(1) != labels).float().mean().item(), 2)

    tried = [fit_linear((x - center) / scale, y, decay) for decay in DECAYS]
    found, _, best = min((error(linear, "validation"), index, linear) for index, linear in enumerate(tried))
    if args.validation_only:
        return {"linear_validation_error": found}
    run.datamodule.setup("test")
    return {"linear_validation_error": found, "linear_error": error(best, "test")}


def peak(args: argparse.Namespace, steps: int) -> int:
    """Bytes of the allocator's peak in one training step."""
    overrides = [f"--model.network.encoding.steps={steps}", f"--data.batch_size={args.memory_batch}"]
    overrides += [f"--data.steps={steps}"] * (args.data == "nmnist")
    meter = Meter()
    run = build(args, *overrides, limit_val_batches=0, callbacks=[meter])
    run.trainer.fit_loop.epoch_loop.max_steps = 4
    run.trainer.fit(run.model, run.datamodule)
    return meter.peak


def memory(args: argparse.Namespace) -> dict[str, float]:
    few, many = peak(args, 10), peak(args, 100)
    return {
        "memory_ratio": round(many / few, 4),
        "memory_mib_10_steps": round(few / 2**20, 2),
        "memory_mib_100_steps": round(many / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["mnist", "nmnist"], default="mnist")
    parser.add_argument("--parts", nargs="+", choices=["ff", "twin", "linear", "memory"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-batch", type=int, default=50, help="samples in a batch where memory is measured")
    parser.add_argument("--validation-only", action="store_true", help="do not look at the test set")
    args, args.changes = parser.parse_known_args()
    torch.set_num_threads(args.threads)

    parts = args.parts or ["ff", "twin", "linear", "memory"]
    result: dict[str, Any] = {"data": args.data, "seed": args.seed, "tier": "T1"}
    if "ff" in parts:
        result |= train(args, twin=False)
    if "twin" in parts:
        result |= {f"twin_{name}": value for name, value in train(args, twin=True).items()}
    if "linear" in parts:
        result |= linear_floor(args)
    if "memory" in parts:
        result |= memory(args)
    print(json.dumps(result | provenance()))


if __name__ == "__main__":
    main()
