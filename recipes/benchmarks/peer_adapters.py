"""Trains one public Forward-Forward repository, its own code, for so many CPU seconds; started by `peers.py --repos`.

    python recipes/benchmarks/peer_adapters.py loewex --repos DIR --data DIR --seconds 60

`--data` is a folder as `peers.py` writes it: torchvision finds MNIST in it (`MNIST/raw`), or it holds the tokens of a
text. The last line is JSON: images or tokens learned from per CPU second, the error on validation images (the last
10,000 of the training set) or nats a token of a validation text, and the peak of resident memory. What is changed of a
peer: `.cuda()` does nothing, loaders have no processes of their own, and its schedule is pressed into the time that
there is. Loading and evaluation are not timed.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import data
from torch.utils.data import DataLoader, Subset

TRAIN, ALL = 50_000, 60_000


class Measured(NamedTuple):
    """What training for some CPU seconds gave.

    Attributes:
        samples: images or tokens learned from.
        seconds: CPU seconds that it took.
        error: share of wrong predictions on validation images, in percent; or nats a token of a validation text.
        seen: on how many images or tokens.
    """

    samples: int
    seconds: float
    error: float
    seen: int


class Peer(NamedTuple):
    """A public repository.

    Attributes:
        repository: on GitHub; empty for a package on PyPI.
        commit: or the version of the package.
        train: trains its code, given its clone, the folder of data and the CPU seconds that there are.
        recipe: of ours, with the data of which it is trained.
        folder: of its clone that its modules import each other from.
        needs: what it imports beside torch and torchvision.
    """

    repository: str
    commit: str
    train: Callable[[Path, Path, float], Measured]
    recipe: str = "mnist_mlp"
    folder: str = ""
    needs: tuple[str, ...] = ()


def without_device_and_processes() -> None:
    """Let what a peer sends to a GPU stay, and let its loaders work in this process."""
    for kind in (Tensor, nn.Module):
        kind.cuda = lambda self, *_, **__: self  # type: ignore[attr-defined, method-assign, assignment]
    plain: Any = DataLoader

    class InThisProcess(plain):  # type: ignore[misc]
        def __class_getitem__(cls, item: Any) -> type:  # some annotate with `DataLoader[…]`
            return cls

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"num_workers": 0, "persistent_workers": False, "pin_memory": False})

    torch.utils.data.DataLoader = data.DataLoader = InThisProcess  # type: ignore[misc]


def peak_mb() -> int:
    """Peak of resident memory of this process; what getrusage says begins with that of the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024)


def again(batches: Any) -> Iterator[Any]:
    """Batches, epoch after epoch."""
    while True:
        yield from batches


def train(step: Callable[[Any, float], int], batches: Any, seconds: float) -> tuple[int, float]:
    """Train for so many CPU seconds; a step is told what share of them has passed, and says how many images it saw."""
    started, samples, passed = time.process_time(), 0, 0.0
    for batch in again(batches):
        samples += step(batch, passed / seconds)
        passed = time.process_time() - started
        if passed >= seconds:
            return samples, passed
    raise AssertionError


@torch.no_grad()
def error_of(predict: Callable[[Tensor], Tensor], images: Any, batch: int = 250) -> tuple[float, int]:
    """Error of predictions for a set of images and classes, in percent, and how many there are."""
    pairs = [(predict(x), torch.as_tensor(y)) for x, y in DataLoader(images, batch_size=batch)]
    wrong = torch.cat([found.cpu() != y for found, y in pairs])
    return round(100 * wrong.float().mean().item(), 2), len(wrong)


def loewex(repo: Path, images: Path, seconds: float) -> Measured:
    """github.com/loeweX/Forward-Forward: its model, optimizer, data and update, at the rates of its epochs."""
    from omegaconf import OmegaConf
    from src import utils

    utils.get_original_cwd = lambda: str(images)
    opt = OmegaConf.load(repo / "config.yaml")
    opt.device, opt.input.path = "cpu", "."
    model, optimizer = utils.get_model_and_optimizer(opt)

    def step(batch: Any, progress: float) -> int:
        utils.update_learning_rate(optimizer, opt, int(progress * opt.training.epochs))
        inputs, labels = utils.preprocess_inputs(opt, *batch)
        optimizer.zero_grad()
        outputs = model(inputs, labels)
        outputs["Loss"].backward()
        optimizer.step()
        return len(labels["class_labels"])

    samples, passed = train(step, utils.get_data(opt, "train"), seconds)
    model.eval()
    with torch.no_grad():
        found = [
            float(model.forward_downstream_classification_model(*batch)["classification_accuracy"])
            for batch in utils.get_data(opt, "val")
        ]
    return Measured(samples, passed, round(100 * (1 - sum(found) / len(found)), 2), 100 * len(found))


def mpezeshki(repo: Path, images: Path, seconds: float) -> Measured:
    """github.com/mpezeshki/pytorch_forward_forward: as many of its 1,000 steps a layer as there is time for."""
    del repo, images  # it reads `data/` of the folder that it runs in
    import main

    x, y = next(iter(main.MNIST_loaders()[0]))
    held = main.MNIST("./data/", train=True, transform=main.MNIST_loaders()[0].dataset.transform)
    positive, negative = main.overlay_y_on_x(x, y), main.overlay_y_on_x(x, y[torch.randperm(len(y))])
    probe = main.Net([784, 500, 500])
    started = time.process_time()
    for layer in probe.layers:
        layer.num_epochs = 2
    probe.train(positive, negative)
    steps = max(1, int(2 * seconds / (time.process_time() - started)))
    net = main.Net([784, 500, 500])
    for layer in net.layers:
        layer.num_epochs = steps
    started = time.process_time()
    net.train(positive, negative)
    passed = time.process_time() - started
    return Measured(steps * len(x), passed, *error_of(net.predict, Subset(held, range(TRAIN, ALL))))


def dah33(repo: Path, images: Path, seconds: float) -> Measured:
    """github.com/dah33/explore_forward_forward: model, examples and loss of `ff_hinton.py`, and its loop."""
    del images
    Path("data/MNIST/preprocessed").mkdir(parents=True, exist_ok=True)
    runpy.run_path(str(repo / "mnist.py"), run_name="__main__")
    import mnist

    torch.manual_seed(42)
    its: dict[str, Any] = {"__name__": "ff_hinton"}
    definitions = (repo / "ff_hinton.py").read_text().split("# %%\n# Train the model")[0]
    exec(compile(definitions, "ff_hinton.py", "exec"), its)
    model, optimizer = its["model"], torch.optim.Adam(its["model"].parameters(), lr=0.35)
    pairs = list(zip(mnist.train_x, mnist.train_y, strict=True))

    def step(batch: Any, progress: float) -> int:
        del progress
        x_pos, x_neg = its["make_examples"](model, *batch)
        for layer in model:
            loss = its["swish_loss"](layer(x_pos), layer(x_neg))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                x_pos, x_neg = layer(x_pos), layer(x_neg)
        return len(batch[1])

    samples, passed = train(step, DataLoader(pairs[:TRAIN], batch_size=4096), seconds)
    return Measured(samples, passed, *error_of(partial(its["predict"], model), pairs[TRAIN:]))


def fflib(repo: Path, images: Path, seconds: float) -> Measured:
    """The package fflib from PyPI, as its `examples/ff_net_mnist.py` uses it: two layers of 2000 units."""
    del repo
    from fflib.nn.ff_linear import FFLinear
    from fflib.nn.ff_net import FFNet
    from fflib.probes.one_hot import TryAllClasses
    from fflib.utils.data.mnist import FFMNIST, NegativeGenerator
    from fflib.utils.ff_suite import FFSuite

    mnist = FFMNIST(
        128, ALL / ALL - TRAIN / ALL, path=str(images), download=False, negative_generator=NegativeGenerator.RANDOM
    )
    device = torch.device("cpu")
    sizes = ((794, 2000), (2000, 2000))
    net = FFNet([FFLinear(*size, loss_threshold=20, lr=0.02, device=device) for size in sizes], device)
    probe = TryAllClasses(lambda x, y: net(torch.cat((x, y), 1)), output_classes=10)
    suite = FFSuite(net, probe, mnist, device)
    loaders = mnist.get_all_loaders()
    net.train()

    def step(batch: Any, progress: float) -> int:
        del progress
        suite._train(*batch)
        return len(batch[1])

    samples, passed = train(step, loaders["train"], seconds)
    held = loaders["val"].dataset
    return Measured(samples, passed, round(100 * (1 - suite.run_test_epoch(loaders["val"])), 2), len(held))


def cwcomp(repo: Path, images: Path, seconds: float) -> Measured:
    """github.com/andreaspapac/CwComp: its CFSE for MNIST and its loop, which predicts every training batch again."""
    del repo
    import Datasets
    import Models

    full = Datasets.MNIST(str(images), train=True)
    train_set = Datasets.X_MNIST(Subset(full, range(TRAIN)), number_samples=TRAIN, dataset="MNIST")
    held = Datasets.X_MNIST(Subset(full, range(TRAIN, TRAIN + 1000)), number_samples=1000, dataset="MNIST")
    model = Models.CW_Comp([20, 80, 240, 480], 128, CFSE=True, sf_pred=True, dataset="MNIST", loss_="CwC_CE")

    def step(batch: Any, progress: float) -> int:
        x, y = batch[0], batch[1].long()
        model.train_(x, y, y[torch.randperm(len(y))], int(20 * progress))
        model.predict(x)
        return len(y)

    samples, passed = train(step, DataLoader(train_set, batch_size=128, shuffle=True), seconds)
    model.eval()
    return Measured(samples, passed, *error_of(lambda x: model.predict(x)[1], held))


def trifecta(repo: Path, images: Path, seconds: float) -> Measured:
    """github.com/tdooms/trifecta: its LightningModule (small, MNIST) under a Trainer that stops in time."""
    del repo
    import lightning as L
    import main

    class Stop(L.Callback):
        samples, started, passed = 0, 0.0, 0.0

        def on_train_start(self, *_: Any) -> None:
            self.started = time.process_time()

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            self.samples += len(batch[1])
            self.passed = time.process_time() - self.started
            trainer.should_stop = self.passed >= seconds

    config = main.Config(model="small", dataset="mnist", test=True, batch_size=128)
    # Its own transforms of the images, on the part for training.
    source = main.Data(config)
    full = main.MNIST(str(images), train=True, transform=source.train_transform)
    held = main.MNIST(str(images), train=True, transform=source.test_transform)
    model, stop = main.Model(config), Stop()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(accelerator="cpu", callbacks=[stop], limit_val_batches=0, max_epochs=100, **quiet)
    trainer.fit(model, DataLoader(Subset(full, range(TRAIN)), batch_size=config.batch_size, shuffle=True))
    model.eval()

    def predict(x: Tensor) -> Tensor:
        labels = [torch.full((len(x),), label) for label in range(10)]
        goodness = torch.stack([model(x, label)[-1] for label in labels])
        return goodness.argmax(0)

    return Measured(stop.samples, stop.passed, *error_of(predict, Subset(held, range(TRAIN, TRAIN + 300)), 100))


def praxis(repo: Path, folder: Path, seconds: float) -> Measured:
    """github.com/0-5788719150923125/praxis: the workers of its Mono-Forward in the size of `shakespeare_gpt`.

    Embedding, layers, projections and local updates are its own, in the order of its trainer in one process, with the
    optimizer that a worker has where none is configured (Adam at .001).
    """
    del repo
    from praxis import PraxisConfig
    from praxis.modeling import PraxisForCausalLM
    from praxis.trainers.mono_forward import LocalLayerWorker

    text = torch.load(folder / "text.pt", weights_only=True)
    size, context = 128, text["context"]
    config = PraxisConfig(
        **{"vocab_size": text["vocab_size"], "hidden_size": size, "embed_size": size, "num_heads": 4, "depth": 4},
        **{"num_layers": 4, "max_length": 2 * context, "decoder_type": "sequential", "attention_type": "modular"},
        **{"encoder_type": None, "tie_weights": False},
    )
    model = PraxisForCausalLM(config).train()
    workers = [
        LocalLayerWorker(
            index, layer, copy.deepcopy(model.criterion), size, config.vocab_size, torch.device("cpu"), num_layers=4
        )
        for index, layer in enumerate(model.decoder.locals)
    ]

    def pass_through(kind: str, tokens: Tensor, *arguments: Any) -> list[float]:
        with torch.no_grad():
            h, losses = model.embeds(tokens), []
        for worker in workers:
            found = getattr(worker, kind)(h, tokens[:, 1:].contiguous(), *arguments)
            h = found["hidden_states"]
            losses.append(found["loss"])
        return losses

    def step(batch: Tensor, progress: float) -> int:
        del progress
        pass_through("train_batch", batch, 0)
        return batch[:, 1:].numel()

    def windows() -> Iterator[Tensor]:
        while True:
            starts = torch.randint(len(text["train"]) - context, (32, 1))
            yield text["train"][starts + torch.arange(context + 1)]

    samples, passed = train(step, windows(), seconds)
    for worker in workers:
        worker.layer.eval()
    held = text["validation"].unfold(0, context + 1, context)
    losses = torch.tensor([pass_through("val_batch", part) for part in held.split(256)])
    of = torch.tensor([float(len(part)) for part in held.split(256)])
    return Measured(samples, passed, round(float((losses[:, -1] * of).sum() / of.sum()), 3), held[:, 1:].numel())


PEERS = {
    "loewex": Peer("loeweX/Forward-Forward", "da516f0", loewex, needs=("hydra-core",)),
    "mpezeshki": Peer("mpezeshki/pytorch_forward_forward", "1c7a211", mpezeshki, needs=("tqdm",)),
    "dah33": Peer("dah33/explore_forward_forward", "55c5395", dah33, needs=("matplotlib",)),
    "fflib": Peer("", "0.3.0", fflib),
    "cwcomp": Peer("andreaspapac/CwComp", "254960a", cwcomp, folder="src", needs=("opencv-python-headless",)),
    "trifecta": Peer("tdooms/trifecta", "6890438", trifecta),
    "praxis": Peer(
        "0-5788719150923125/praxis",
        "67765c5",
        praxis,
        recipe="shakespeare_gpt",
        needs=("transformers", "pytorch_optimizer", "torcheval"),
    ),
}
"""By name; of fflib the wheel on PyPI is used, without its dependencies, which ask for an older torchvision."""


def judged(recipe: str, error: float, seen: int) -> dict[str, float]:
    """What a validation found, by the names that it has in results."""
    if recipe == "mnist_mlp":
        return {"validation_error": error, "validation_images": seen}
    return {"validation_nats": error, "validation_tokens": seen}


def commands(folder: str = "DIR") -> list[str]:
    """What clones the repositories, and what else they need beside torchvision."""
    clones = [
        f"git clone https://github.com/{peer.repository} {folder}/{name} && "
        f"git -C {folder}/{name} checkout {peer.commit}"
        for name, peer in PEERS.items()
        if peer.repository
    ]
    needs = " ".join(sorted({package for peer in PEERS.values() for package in peer.needs}))
    return [*clones, f"pip install --no-deps fflib==0.3.0 && pip install {needs}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(PEERS))
    parser.add_argument("--repos", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = SimpleNamespace(**vars(parser.parse_args()))
    torch.set_num_threads(1)
    os.environ.setdefault("MPLBACKEND", "Agg")
    peer = PEERS[args.name]
    repo, folder = (args.repos / args.name).resolve(), args.data.resolve()
    sys.path[0] = str(repo / peer.folder)  # in the place of this folder, whose names are others
    without_device_and_processes()
    torch.manual_seed(args.seed)
    Path("data").exists() or Path("data").symlink_to(folder)
    found = peer.train(repo, folder, args.seconds)
    result = {
        "name": args.name,
        "samples_per_second": round(found.samples / found.seconds, 1),
        "cpu_seconds": round(found.seconds, 1),
        **judged(peer.recipe, found.error, found.seen),
        "peak_mb": peak_mb(),
        "torch": torch.__version__,
    }
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
