"""Models of torchvision, timm and transformers, converted in one line and trained from scratch, their twin beside them.

    python recipes/benchmarks/convert.py --model bert [--seed 0] [--tier T1] [--parts ff twin] [--lr 1e-3]

`resnet18` (torchvision) and `vit` (timm) learn MNIST digits, and need these packages; `bert` and `gpt2` (transformers)
learn from which of ten novels a paragraph is. `--data` is `mnist`, `gutenberg` or another folder of the kind, below
the folder that `FF_LIGHTNING_DATA` names. Forward-Forward and the twin get the same examples for the same number of
epochs, in the same order, from the same weights. Validation examples, cut from the training set, choose the readout;
the test set is looked at once, at the end, and not at all with `--validation-only`. The last line is JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from conv import best_readout, percent
from recipe import SILENT, be_quiet, provenance
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import ff_lightning as ff
from ff_lightning.candidates import LinearContrast, Softmax
from ff_lightning.data import ImageDataModule
from ff_lightning.readouts import label_goodness

LOSSES = {"T1": LinearContrast, "T2": Softmax}
VOCABULARY, LONGEST, SHORTEST = 2000, 48, 12
"""Byte-pair tokens that the training passages give, and the length of a passage in tokens."""
NOVELS, TESTED = 10, 2000
"""Novels to tell apart, and images of the test set that are looked at, from its beginning."""


def resnet18() -> Any:
    import torchvision

    return torchvision.models.resnet18(num_classes=10)


def vit() -> Any:
    import timm

    sizes = {"img_size": 28, "patch_size": 4, "in_chans": 1, "embed_dim": 96, "depth": 4, "num_heads": 3}
    return partial(timm.create_model, "vit_tiny_patch16_224", num_classes=10, **sizes)


def bert() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 192}
    return BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, num_labels=NOVELS, **sizes))


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    ends = {"bos_token_id": 0, "eos_token_id": 0, "n_positions": LONGEST}
    return GPT2ForSequenceClassification(
        GPT2Config(vocab_size=VOCABULARY, num_labels=NOVELS, n_embd=96, n_layer=4, n_head=3, **ends)
    )


MODELS = {"resnet18": resnet18, "vit": vit, "bert": bert, "gpt2": gpt2}
TEXTS = ("bert", "gpt2")


def images(source: str, train: int, channels: int) -> dict[str, TensorDataset]:
    """A part of a set of images: the first of the training set to learn from, the last of it for validation."""
    data = ImageDataModule(source, validation=1000, batch_size=1000)
    data.setup("fit")
    data.setup("test")
    loaders = {"train": data.train_dataloader(), "validation": data.val_dataloader(), "test": data.test_dataloader()}
    found = {}
    for name, loader in loaders.items():
        batches = list(loader)
        x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
        count = {"train": train, "test": TESTED}.get(name, len(x))
        found[name] = TensorDataset(x[:count].expand(-1, channels, -1, -1).contiguous(), y[:count])
    return found


def paragraphs(folder: Path) -> Iterator[list[str]]:
    """Those of every novel, in their order."""
    text = (folder / "gutenberg_en_novels.txt").read_text(encoding="utf-8")
    lengths = [int(row["chars"]) for row in csv.DictReader((folder / "manifest.csv").open(encoding="utf-8"))]
    start = 0
    for length in lengths[:NOVELS]:
        yield [" ".join(part.split()) for part in text[start : start + length].split("\n\n") if len(part) > 80]
        start += length


def passages(source: str, train: int) -> dict[str, TensorDataset]:
    """Paragraphs of every novel: of its first eight tenths to learn from, of the ninth and the tenth to look at."""
    folder = Path(source) if Path(source).is_dir() else Path(os.environ["FF_LIGHTNING_DATA"]) / source
    novels = list(paragraphs(folder))
    cuts = {"train": (0.0, 0.8, train // len(novels)), "validation": (0.8, 0.9, 50), "test": (0.9, 1.0, 50)}
    chosen = {
        name: [spread(novel[int(low * len(novel)) : int(high * len(novel))], count) for novel in novels]
        for name, (low, high, count) in cuts.items()
    }
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([text for novel in chosen["train"] for text in novel], vocab_size=VOCABULARY)
    found = {}
    for name, by_novel in chosen.items():
        rows = [(tokenizer.encode(text).ids[:LONGEST], label) for label, texts in enumerate(by_novel) for text in texts]
        rows = [(ids, label) for ids, label in rows if len(ids) >= SHORTEST]
        tokens = torch.full((len(rows), LONGEST), -1)
        for row, (ids, _) in enumerate(rows):
            tokens[row, : len(ids)] = torch.tensor(ids)
        found[name] = TensorDataset(tokens, torch.tensor([label for _, label in rows]))
    return found


def spread(texts: list[str], count: int) -> list[str]:
    """So many of them, from beginning to end."""
    return [texts[index * len(texts) // count] for index in range(min(count, len(texts)))]


def trained(model: ff.FFLightningModule, data: TensorDataset, args: argparse.Namespace) -> float:
    """Train a model; minutes of CPU time."""
    order = torch.Generator().manual_seed(args.seed)
    batches = DataLoader(data, args.batch_size, shuffle=True, generator=order, drop_last=True)
    run = pl.Trainer(**SILENT, max_epochs=args.epochs)
    started = time.process_time()
    run.fit(model, batches)
    return round((time.process_time() - started) / 60, 2)


@torch.no_grad()
def said(model: Any, data: TensorDataset) -> Tensor:
    """Goodness of all classes, ``(L, N, C)``, or scores of a twin, ``(N, C)``."""
    model.eval()
    answers = [
        label_goodness(model.network, x, model.num_classes) if isinstance(model, ff.FFClassifier) else model(x)
        for (x, _) in DataLoader(data, 250)
    ]
    return torch.cat(answers, -2)


def network(args: argparse.Namespace) -> ff.Network:
    """The one line."""
    torch.manual_seed(args.seed)
    shape = (3, 28, 28) if args.model == "resnet18" else None
    return ff.convert(MODELS[args.model](), loss=LOSSES[args.tier](), example=shape)


def forward_forward(args: argparse.Namespace, data: dict[str, TensorDataset]) -> dict[str, object]:
    model = ff.FFClassifier(network(args), optimizer=partial(torch.optim.Adam, lr=args.lr))
    model.seed = args.seed
    found: dict[str, object] = {"cpu_minutes": trained(model, data["train"], args)}
    labels = data["validation"].tensors[1]
    readout, validation = best_readout(said(model, data["validation"]), labels)
    found |= {"readout": type(readout).__name__, "validation": validation[type(readout).__name__]}
    if not args.validation_only:
        goodness, labels = said(model, data["test"]), data["test"].tensors[1]
        found |= {"test": percent(readout.combine(goodness), labels)}
        found |= {"test_by_block": [percent(g, labels) for g in goodness]}
    return found


def backprop(args: argparse.Namespace, data: dict[str, TensorDataset]) -> dict[str, object]:
    model = ff.BackpropTwin(network(args), optimizer=partial(torch.optim.Adam, lr=args.twin_lr))
    model.seed = args.seed
    found: dict[str, object] = {"twin_cpu_minutes": trained(model, data["train"], args)}
    found["twin_validation"] = percent(said(model, data["validation"]), data["validation"].tensors[1])
    if not args.validation_only:
        found["twin_test"] = percent(said(model, data["test"]), data["test"].tensors[1])
    return found


PARTS = {"ff": forward_forward, "twin": backprop}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(MODELS), required=True)
    parser.add_argument("--data", help="mnist or gutenberg by default, as the model wants it")
    parser.add_argument("--tier", choices=list(LOSSES), default="T1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=1000, help="training examples")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=25)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--twin-lr", type=float, default=1e-3)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--validation-only", action="store_true", help="do not look at the test set")
    args = parser.parse_args()
    torch.set_num_threads(1)
    be_quiet()
    if args.model in TEXTS:
        data = passages(args.data or "gutenberg", args.train)
    else:
        data = images(args.data or "mnist", args.train, 3 if args.model == "resnet18" else 1)
    found: dict[str, object] = {"model": args.model, "tier": args.tier, "seed": args.seed, "epochs": args.epochs}
    found |= {"train": len(data["train"]), "blocks": len(network(args))}
    for part in args.parts:
        found |= PARTS[part](args, data)
    print(json.dumps(found | provenance()))


if __name__ == "__main__":
    main()
