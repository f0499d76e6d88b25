"""``ff-lightning probe``: what a linear softmax reads off every block of a trained network, also of other images."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import PositiveInt

from ff_lightning.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from ff_lightning.data.images import ImageDataModule
    from ff_lightning.stacks import Network
    from ff_lightning.tasks.evaluation import ImageClassification


@dataclass(frozen=True)
class ProbeData:
    """Images to probe with.

    Args:
        source: a folder, a file or the id of a set on the hub, as for a training; the images of the training by
            default.
        image_column: name of the image column of a table.
        label_column: name of the label column of a table.
        resize: side, in pixels, that pictures are brought to.
        validation: share (with a point) or number of training images that choose and judge; that of the training for
            its own images, a tenth of others by default.
        limit: most training images that are read; that of the training for its own images, all of others by default.
    """

    source: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    resize: int | None = None
    validation: int | float | None = None
    limit: int | None = None


KEPT = ("mode", "ground", "memory", "workers")
"""Arguments of the training's data that hold for other images, too; a size holds as that of the network."""
OF_ITS_OWN = ("source", "resize", "image_column", "label_column", "limit", "validation", "stratified", "split_seed")
"""Arguments that hold for the images of the training alone."""


def probe(
    ckpt_path: str,
    data: ProbeData = ProbeData(),
    test: bool = False,
    features: PositiveInt = 2048,
    batch_size: PositiveInt = 500,
    trust: str = "",
) -> None:
    """Fit a linear softmax to what every block makes of images, and write a table of how often each is right.

    The network does not change. Maps are averaged over a grid; features are standardised; validation images choose how
    strongly the weights are held down. The first line is of the pixels themselves. With other images than those of the
    training, it tells what has been learned that serves elsewhere.

    Args:
        ckpt_path: file that ``ff-lightning fit`` wrote, such as ``runs/digits_conv/last.ckpt``. Table and numbers go
            into ``probe/`` beside it.
        data: images with classes, of the shape of those of the training.
        test: look at the test images, too.
        features: most values of a block that are read.
        batch_size: images in memory at a time.
        trust: packages of your own of which the checkpoint may name classes, with commas in between.

    Raises:
        InputError: the images have another shape or no classes, or the checkpoint is not of an image classifier.
    """
    import torch
    from lightning.pytorch.utilities import rank_zero_info

    from ff_lightning.cli.models import load_classifier, trusted
    from ff_lightning.tasks.evaluation import ImageClassification

    model, images, arguments = load_classifier(ckpt_path, trusted(trust))
    if not isinstance(model, ImageClassification):
        raise InputError(
            f"Passed `ckpt_path={ckpt_path}`, a `{type(model).__name__}`. A probe reads classes of images."
        )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    module = opened(data, arguments, tuple(images["image_shape"]), batch_size)
    lines = list(probed(model, module, features, test=test))
    name = Path(str(module.source)).name
    record = {
        "source": name,
        "classes": module.num_classes,
        "training_images": len(module.train_dataloader().images.labels),  # type: ignore[arg-type]
        "features": features,
        "blocks": lines,
    }
    folder = Path(ckpt_path).expanduser().parent / "probe"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    table = as_table(lines, test=test)
    (folder / f"{name}.md").write_text(table + "\n", encoding="utf-8")
    print(table)
    rank_zero_info(f"Wrote {folder / name}.json and {name}.md.")


def opened(
    data: ProbeData, trained_on: Mapping[str, Any], image_shape: tuple[int, ...], batch_size: int
) -> "ImageDataModule":
    """The images to probe with, ready; without the changes that a training makes to its own.

    Args:
        data: what is asked for.
        trained_on: arguments of the data of the training.
        image_shape: that the network takes.
        batch_size: images at a time.

    Raises:
        InputError: they have another shape, no classes, or there are none for validation.
    """
    from ff_lightning.data.images import ImageDataModule

    arguments = arguments_of(data, trained_on, image_shape)
    module = ImageDataModule(**{**arguments, "batch_size": batch_size, "eval_batch_size": batch_size})
    if module.num_classes is None:
        raise InputError(f"Passed `data.source={module.source}`. Its images have no classes.")
    if module.image_shape != image_shape:
        side = f"`--data.resize {image_shape[1]}`" if module.image_shape[0] == image_shape[0] else "other images"
        raise InputError(
            f"Passed `data.source={module.source}`, whose images have shape {module.image_shape}. The network takes "
            f"{image_shape}: use {side}."
        )
    module.setup("fit")
    if not module.val_dataloader():
        raise InputError("Passed `data.validation=0`. A probe is chosen and judged on validation images.")
    return module


def arguments_of(data: ProbeData, trained_on: Mapping[str, Any], image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Arguments of the images to probe with: what is asked for, else of the training, as far as it is about them.

    What is left out of the training's, and is not the default, is said in the log.

    Args:
        data: what is asked for.
        trained_on: arguments of the data of the training.
        image_shape: that the network takes.

    Raises:
        InputError: nobody says which images.
    """
    from lightning.pytorch.utilities import rank_zero_info

    from ff_lightning.data.images import ImageDataModule

    asked = {name: value for name, value in vars(data).items() if value is not None}  # the parser's own, or a ProbeData
    if "source" not in asked and "source" not in trained_on:
        raise InputError("The checkpoint does not say what it was trained on. Pass `data.source`.")
    known = {name: trained_on[name] for name in KEPT if name in trained_on}
    own = {name: trained_on[name] for name in OF_ITS_OWN if name in trained_on}
    if "source" not in asked or place(asked["source"]) == place(str(own.get("source"))):
        return {**known, **own, **asked}
    if own.get("resize") is not None:
        known["resize"] = list(image_shape[1:])
    usual = signature(ImageDataModule).parameters
    left = [
        f"`{name}={value}`"
        for name, value in own.items()
        if name not in ("source", "resize") and name not in asked and value != usual[name].default
    ]
    if left:
        rank_zero_info(
            f"Left out, since {asked['source']} is not what the network was trained on: {', '.join(left)} of the "
            "training."
        )
    return {**known, **asked}


def place(source: str) -> str:
    """What tells the images of one source from those of another: where they lie, or a name.

    >>> place("digits"), place("ylecun/mnist") == place("mnist"), place("./a.npz") == place("a.npz")
    ('digits', True, True)
    """
    from ff_lightning.data.sources import LOCAL_COPIES

    return source if source == "digits" else str(Path(LOCAL_COPIES.get(source, source)).expanduser().resolve())


def probed(
    model: "ImageClassification", data: "ImageDataModule", features: int, *, test: bool
) -> Iterator[dict[str, Any]]:
    """What a probe of the pixels and of every block finds: accuracies in percent, and how it was fitted.

    One block is probed at a time, so that the features of one are in memory.
    """
    from ff_lightning.readouts.probe import fitted_probe

    assert data.num_classes is not None
    loaders: dict[str, Iterable[Any]] = {"train": data.train_dataloader(), "validation": data.val_dataloader()}
    if test:
        data.setup("test")
        loaders["test"] = data.test_dataloader()
    for block in range(-1, len(model.network)):
        parts = {split: features_of(model, block, loader, features) for split, loader in loaders.items()}
        found = fitted_probe(*parts["train"], parts["validation"], data.num_classes)
        line: dict[str, Any] = {"block": "pixels" if block < 0 else block, "features": parts["train"][0].shape[1]}
        for split in [name for name in parts if name != "train"]:
            line[split] = round(100 * found.accuracy(*parts[split]), 2)
        yield line | {"decay": found.decay}


def features_of(
    model: "ImageClassification", block: int, batches: Iterable[Any], most: int
) -> tuple["Tensor", "Tensor"]:
    """What a block passes on of images, ``(N, D)``, or their pixels for block -1; and their classes ``(N,)``."""
    import torch

    from ff_lightning.readouts.probe import pooled

    rows, labels = [], []
    with torch.no_grad():
        for x, y in batches:
            x = x.to(model.device)
            if block >= 0:
                x = passed_on(model.network, block, x)
            rows.append(pooled(x, most if block >= 0 else x[0].numel()))
            labels.append(y.to(model.device))
    return torch.cat(rows), torch.cat(labels)


def passed_on(network: "Network", block: int, x: "Tensor") -> "Tensor":
    """What a block passes on of images ``(B, …)``, as the next one reads it, ``(B, …)``.

    Of spikes that is their rate over all time steps. Where several tensors travel, the first is what is read, as that
    of :class:`~ff_lightning.networks.residual.Carried`; the others go past the next block.
    """
    from ff_lightning.networks import RecurrentMLP

    passed: Any = x
    for below, h in zip(islice(network, block + 1), network.activities(x), strict=False):
        passed = below.pass_on(passed, h)
    if isinstance(network, RecurrentMLP):  # its blocks hand on what they are themselves; neighbours read it normalised
        passed = network[block].norm(h)
    read: Tensor = getattr(passed, fields(passed)[0].name) if is_dataclass(passed) else passed
    return read


def as_table(lines: list[dict[str, Any]], *, test: bool) -> str:
    """A table in Markdown, a line a block."""
    names = ["validation", *(["test"] if test else [])]
    head = ["block", "features", *(f"{name}, %" for name in names)]
    table = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for line in lines:
        values = [str(line["block"]), str(line["features"]), *(f"{line[name]:.2f}" for name in names)]
        table.append(f"| {' | '.join(values)} |")
    return "\n".join(table)
