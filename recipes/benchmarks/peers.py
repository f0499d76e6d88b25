"""`mnist_mlp` beside public Forward-Forward repositories, for the same CPU time.

    python recipes/benchmarks/peers.py --data path/to/mnist [--seed 0] [--trainer.max_epochs 5]
    python recipes/benchmarks/peers.py --data path/to/mnist --repos DIR [--python PYTHON] [--only loewex dah33]
    python recipes/benchmarks/peers.py --recipe shakespeare_gpt --repos DIR [--python PYTHON]

Ours is the recipe `mnist_mlp`, 784-1000x3; the CPU seconds that its training takes are what the others get. Loading
the data and evaluation are left out of everyone's seconds.

With `--repos`, the others are the repositories themselves, cloned into DIR: `peer_adapters.py` imports their code and
runs each in a process of its own, ours first and last. They import torchvision, so all of it runs in the interpreter
`--python`, which has both. `peers.py --commands` prints what clones and installs them. With `--recipe shakespeare_gpt`
they are those that learn to predict text, and samples are tokens.

Without, two of them are written anew from what they do, in this process:

- `loewex`, the settings of github.com/loeweX/Forward-Forward: 784-1000x3, batches of 100 images, SGD with momentum, sum
  of squares against the width under a logistic loss, peer normalisation, uniform wrong labels, a linear softmax on the
  side. Images are loaded one by one by way of Pillow, as there (in this process; it has workers).
  `loewex_preloaded_samples_per_second` is the same loop on batches cut from one tensor.
- `mpezeshki`, those of github.com/mpezeshki/pytorch_forward_forward: 784-500x2, all images in one batch, Adam at .03,
  mean of squares against 2, shuffled labels, layer after layer. A sample counts when both layers have learned from it.

Schedules are pressed into the time that there is, which helps them. Errors are those on validation images; the test
set stays closed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from peer_adapters import PEERS, commands, judged, peak_mb
from PIL import Image
from recipe import load, provenance
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

IMAGES, TEXT = "mnist_mlp", "shakespeare_gpt"
LOEWEX_EPOCHS = 100
"""The length of its training, to which its time is drawn out."""

Images = tuple[Tensor, Tensor]
"""Pixels ``(N, 784)`` in [0, 1] and classes ``(N,)``."""


class StraightThroughReLU(torch.autograd.Function):
    """ReLU whose derivative is 1 everywhere."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        del ctx
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        del ctx
        return grad


def with_label(x: Tensor, label: Tensor) -> Tensor:
    """``(B, 784)`` pixels, the first ten of which are ``label``, ``(B, 10)`` or ``(10,)``."""
    return torch.cat([label.expand(*x.shape[:-1], 10), x[..., 10:]], -1)


class Items(Dataset[tuple[Tensor, Tensor, Tensor, int]]):
    """An image with its label, with a wrong one and with none, made one by one."""

    def __init__(self, images: Images) -> None:
        self.x, self.y = (images[0] * 255).round().to(torch.uint8).view(-1, 28, 28), images[1]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, int]:
        picture = Image.fromarray(self.x[index].numpy())  # as torchvision's MNIST and ToTensor do
        x, y = torch.from_numpy(np.array(picture)).float().div(255).flatten(), int(self.y[index])
        wrong = (y + int(torch.randint(1, 10, ()))) % 10
        return (*three(x, torch.tensor(y), torch.tensor(wrong)), y)


def three(x: Tensor, y: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images with the right, a wrong and the neutral label."""
    right, other = (with_label(x, F.one_hot(label, 10).to(x.dtype)) for label in (y, wrong))
    return right, other, with_label(x, torch.full((10,), 0.1))


class Loewex:
    """The network and the training step of loeweX."""

    def __init__(self, widths: tuple[int, ...] = (1000, 1000, 1000)) -> None:
        sizes = (784, *widths)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(sizes, widths, strict=False))
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=layer.weight.shape[0] ** -0.5)
            nn.init.zeros_(layer.bias)
        self.means = [torch.full((width,), 0.5) for width in widths]
        self.softmax = nn.Linear(sum(widths[1:]), 10, bias=False)
        nn.init.zeros_(self.softmax.weight)
        groups = [
            {"params": self.layers.parameters(), "lr": 1e-3, "weight_decay": 3e-4},
            {"params": self.softmax.parameters(), "lr": 1e-2, "weight_decay": 3e-3},
        ]
        self.optimizer = torch.optim.SGD(groups, momentum=0.9)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    @staticmethod
    def normalised(z: Tensor) -> Tensor:
        return z / (z.square().mean(-1, keepdim=True).sqrt() + 1e-8)

    def step(self, right: Tensor, other: Tensor, neutral: Tensor, y: Tensor, progress: float) -> None:
        """One update: one loss summed over layers, and that of the softmax."""
        z, loss = self.normalised(torch.cat([right, other])), torch.zeros(())
        is_right = (torch.arange(len(z)) < len(right)).float()
        for index, layer in enumerate(self.layers):
            z = StraightThroughReLU.apply(layer(z))
            activity = z[: len(right)].mean(0)
            self.means[index] = 0.9 * self.means[index].detach() + 0.1 * activity
            loss = loss + 0.03 * (self.means[index] - self.means[index].mean()).square().mean()
            logits = z.square().sum(-1) - z.shape[1]
            loss = loss + F.binary_cross_entropy_with_logits(logits, is_right)
            z = self.normalised(z).detach()
        loss = loss + F.cross_entropy(self.scores(neutral), y)
        self.optimizer.zero_grad()
        loss.backward()
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * min(1.0, 2 * (1 - progress))
        self.optimizer.step()

    def scores(self, neutral: Tensor) -> Tensor:
        """What the softmax says of images with the neutral label; its gradient is its own."""
        with torch.no_grad():
            z, seen = self.normalised(neutral), []
            for layer in self.layers:
                z = self.normalised(layer(z).relu())
                seen.append(z)
        logits: Tensor = self.softmax(torch.cat(seen[1:], -1))
        return logits

    def batches(self, images: Images, *, preloaded: bool) -> Iterator[tuple[Tensor, ...]]:
        """Batches of 100 without end."""
        while not preloaded:
            yield from DataLoader(Items(images), batch_size=100, shuffle=True, drop_last=True)
        while True:
            for rows in torch.randperm(len(images[0])).split(100):
                x, y = images[0][rows], images[1][rows]
                yield *three(x, y, (y + torch.randint(1, 10, y.shape)) % 10), y

    def train(self, images: Images, seconds: float, *, preloaded: bool = False) -> float:
        """Train for so many CPU seconds, and return the images learned from per CPU second."""
        started, seen = time.process_time(), 0
        for right, other, neutral, y in self.batches(images, preloaded=preloaded):
            self.step(right, other, neutral, y, (time.process_time() - started) / seconds)
            seen += len(y)
            if time.process_time() - started >= seconds:
                break
        return seen / (time.process_time() - started)

    def predict(self, x: Tensor) -> Tensor:
        return self.scores(with_label(x, torch.full((10,), 0.1))).argmax(-1)


class Mpezeshki:
    """The network and the training of mpezeshki, on standardised pixels."""

    def __init__(self, widths: tuple[int, ...] = (500, 500)) -> None:
        self.layers = [nn.Linear(*pair) for pair in zip((784, *widths), widths, strict=False)]

    @staticmethod
    def overlaid(x: Tensor, y: Tensor) -> Tensor:
        x = (x - 0.1307) / 0.3081
        return with_label(x, F.one_hot(y, 10).to(x.dtype) * x.max())

    @staticmethod
    def forward(layer: nn.Linear, x: Tensor) -> Tensor:
        return F.relu(layer(x / (x.norm(2, 1, keepdim=True) + 1e-4)))

    def train(self, images: Images, seconds: float) -> float:
        """Train every layer for its share of the CPU seconds, and return images per CPU second."""
        x, y = images
        positive, negative = self.overlaid(x, y), self.overlaid(x, y[torch.randperm(len(y))])
        started, updates = time.process_time(), 0
        for index, layer in enumerate(self.layers, start=1):
            optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
            while time.process_time() - started < seconds * index / len(self.layers):
                g_pos, g_neg = (self.forward(layer, z).square().mean(1) for z in (positive, negative))
                optimizer.zero_grad()
                F.softplus(torch.cat([2 - g_pos, g_neg - 2])).mean().backward()
                optimizer.step()
                updates += 1
            with torch.no_grad():
                positive, negative = self.forward(layer, positive), self.forward(layer, negative)
        return updates * len(x) / len(self.layers) / (time.process_time() - started)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        goodness = []
        for label in range(10):
            z, total = self.overlaid(x, torch.full((len(x),), label)), torch.zeros(len(x))
            for layer in self.layers:
                z = self.forward(layer, z)
                total += z.square().mean(1)
            goodness.append(total)
        return torch.stack(goodness).argmax(0)


def error(predict: Callable[[Tensor], Tensor], images: Images) -> float:
    return round(100 * (predict(images[0]) != images[1]).float().mean().item(), 2)


def whole(loader: DataLoader[tuple[Tensor, Tensor]]) -> Images:
    x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
    return x.flatten(1), y


def write_idx(folder: Path, images: Images, name: str) -> None:
    """Write images and classes as the files in which MNIST was published, where torchvision looks for them."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    pixels = (images[0] * 255).round().to(torch.uint8).view(-1, 28, 28).numpy()
    for kind, values in (("images-idx3", pixels), ("labels-idx1", images[1].to(torch.uint8).numpy())):
        head = np.array([0x800 + values.ndim, *values.shape], dtype=">i4").tobytes()
        (raw / f"{name}-{kind}-ubyte").write_bytes(head + values.tobytes())


def last_json(output: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


def write_images(folder: Path, data: Any) -> None:
    """Write training and validation images for the others; the test set stays closed."""
    train, validation = whole(data.train_dataloader()), whole(data.val_dataloader())
    write_idx(folder, (torch.cat([train[0], validation[0]]), torch.cat([train[1], validation[1]])), "train")
    write_idx(folder, validation, "t10k")


def write_text(folder: Path, data: Any) -> None:
    """Write the tokens of a text for the others."""
    parts = {split: data.tokens(split) for split in ("train", "validation")}
    torch.save(parts | {"vocab_size": data.vocab_size, "context": data.context}, folder / "text.pt")


def in_turns(args: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
    """Ours, each repository for as many CPU seconds, and ours again; every one in a process of its own."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        run = load([args.recipe], ["--seed_everything", str(args.seed), *source_of(args)])
        run.datamodule.setup("fit")
        (write_images if args.recipe == IMAGES else write_text)(Path(folder), run.datamodule)

        def child(*words: str) -> dict[str, Any]:
            done = subprocess.run(
                [args.python, *words], cwd=folder, env=os.environ, capture_output=True, text=True, check=False
            )
            if done.returncode:
                return {"failed": done.stderr.strip().splitlines()[-1]}
            print(words[0], done.stdout.strip().splitlines()[-1], file=sys.stderr)
            return last_json(done.stdout)

        mine = [str(here / "peers.py"), "--part", "ours", "--recipe", args.recipe, "--seed", str(args.seed)]
        mine += [*source_of(args), *changes]
        first = child(*mine)
        seconds = str(first["cpu_seconds"])
        theirs = [
            child(
                *(str(here / "peer_adapters.py"), name, "--repos", str(Path(args.repos).resolve())),
                *("--data", folder, "--seconds", seconds, "--seed", str(args.seed)),
            )
            | {"name": name, "repository": PEERS[name].repository or name, "commit": PEERS[name].commit}
            for name in args.only
        ]
        last = child(*mine)
    speeds = [row["samples_per_second"] for row in (first, last)]
    loewex = next((row.get("samples_per_second") for row in theirs if row["name"] == "loewex"), None)
    return {
        "recipe": args.recipe,
        "samples_per_second": round(sum(speeds) / 2),
        "loewex_samples_per_second": loewex,
        "speedup": None if loewex is None else round(sum(speeds) / 2 / loewex, 2),
        "ours": [first, last],
        "peers": theirs,
        "seed": args.seed,
    }


def source_of(args: argparse.Namespace) -> list[str]:
    """Arguments for the data; as many images are for validation as the others' repositories take."""
    if args.recipe == IMAGES:
        return ["--data.source", args.data or "ylecun/mnist", "--data.validation", "10000"]
    return ["--data.source", args.data] if args.data else []


class Seconds(pl.Callback):
    """CPU seconds from the start of a training to its last batch, with what Lightning does between batches."""

    def __init__(self) -> None:
        self.passed = 0.0

    def on_train_start(self, *_: Any) -> None:
        self.started = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        self.passed = time.process_time() - self.started


def trained(recipe: str, words: list[str]) -> tuple[Any, float]:
    """A recipe after its training, and the CPU seconds that it took; it is validated at the end."""
    watch = Seconds()
    run = load([recipe], words, callbacks=[watch])
    run.trainer.check_val_every_n_epoch = run.trainer.max_epochs
    run.trainer.fit(run.model, run.datamodule)
    return run, watch.passed


def recipe_alone(args: argparse.Namespace, changes: list[str]) -> dict[str, Any]:
    """The recipe alone."""
    run, seconds = trained(args.recipe, ["--seed_everything", str(args.seed), *changes])
    samples, metrics = run.trainer.global_step * run.datamodule.batch_size, run.trainer.callback_metrics
    if args.recipe == IMAGES:
        found = judged(IMAGES, round(100 * (1 - float(metrics["val/accuracy"])), 2), 10_000)
    else:
        context = run.datamodule.context
        windows = (len(run.datamodule.tokens("validation")) - 1) // context
        found = judged(args.recipe, round(float(metrics["val/loss"]), 3), windows * context)
        samples *= context
    return {
        "samples_per_second": round(samples / seconds, 1),
        "cpu_seconds": round(seconds, 1),
        **found,
        "peak_mb": peak_mb(),
        "precision": str(run.trainer.precision),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="of the recipe's kind; what the recipe names by default")
    parser.add_argument("--recipe", choices=[IMAGES, TEXT], default=IMAGES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repos", help="folder with clones, each named as in `--only`")
    parser.add_argument("--python", default=sys.executable, help="interpreter with torchvision, for all of --repos")
    parser.add_argument("--only", nargs="+", choices=sorted(PEERS), help="all that learn what the recipe learns")
    parser.add_argument("--commands", action="store_true", help="print what clones and installs the repositories")
    parser.add_argument("--part", choices=["ours"], help=argparse.SUPPRESS)
    args, changes = parser.parse_known_args()
    torch.set_num_threads(args.threads)
    args.only = args.only or [name for name, peer in PEERS.items() if peer.recipe == args.recipe]
    if args.commands:
        print("\n".join(commands()))
        return
    if args.part or args.repos:
        print(json.dumps(recipe_alone(args, changes) if args.part else in_turns(args, changes) | provenance()))
        return
    print("The repositories themselves run with --repos DIR; --commands says how to get them.", file=sys.stderr)

    source = ["--data.source", args.data or "ylecun/mnist"]
    run, seconds = trained(IMAGES, ["--seed_everything", str(args.seed), *source, *changes])
    train, validation = whole(run.datamodule.train_dataloader()), whole(run.datamodule.val_dataloader())

    torch.manual_seed(args.seed)
    loewex, mpezeshki = Loewex(), Mpezeshki()
    ours = run.trainer.max_epochs * len(train[0]) / seconds
    theirs = loewex.train(train, seconds)
    full = LOEWEX_EPOCHS * len(train[0]) / theirs
    result = {
        "samples_per_second": round(ours),
        "loewex_samples_per_second": round(theirs),
        "loewex_preloaded_samples_per_second": round(Loewex().train(train, seconds / 10, preloaded=True)),
        "mpezeshki_samples_per_second": round(mpezeshki.train(train, seconds)),
        "speedup": round(ours / theirs, 2),
        "cpu_seconds": round(seconds, 1),
        "epochs": run.trainer.max_epochs,
        "validation_error": round(100 * (1 - float(run.trainer.callback_metrics["val/accuracy"])), 2),
        "loewex_validation_error": error(loewex.predict, validation),
        "mpezeshki_validation_error": error(mpezeshki.predict, validation),
        "loewex_cpu_seconds_of_100_epochs": round(full),
        "share_of_its_time": round(seconds / full, 3),
        "seed": args.seed,
    }
    print(json.dumps(result | provenance()))


if __name__ == "__main__":
    main()
