"""``ff-lightning predict --folder``: a table of what a classifier says of the pictures in a folder."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import PositiveInt

from ff_lightning.errors import InputError

if TYPE_CHECKING:
    from ff_lightning.readouts import Answer
    from ff_lightning.tasks.evaluation import ImageClassification


def predict_folder(
    folder: str,
    ckpt_path: str,
    output: str = "predictions.csv",
    tolerance: float | None = None,
    batch_size: PositiveInt = 250,
) -> None:
    """Write a table of the pictures in a folder: file, label, block that answered, and a score for each class.

    Pictures of any size are made grey or RGB and resized to the shape of the images of the training, without keeping
    their proportions. They should look like those otherwise: MNIST's digits are white on black.

    Args:
        folder: with PNG, JPEG or other pictures, in folders below it too.
        ckpt_path: file that ``ff-lightning fit`` wrote, such as ``runs/digits_mlp/last.ckpt``.
        output: CSV file to write.
        tolerance: stop at the block at which the answer is clear, losing at most this much accuracy on the validation
            images of the training, which are read again to find out what is clear.
        batch_size: pictures in memory at a time.

    Raises:
        InputError: there are no pictures, one cannot be read, or the checkpoint is not of an image classifier.
    """
    import torch
    from lightning.pytorch.utilities import rank_zero_info

    from ff_lightning.cli.models import load_classifier
    from ff_lightning.data.pictures import find_pictures, picture_batches

    paths = find_pictures(folder)
    model, images, arguments = load_classifier(ckpt_path)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    if tolerance is not None:
        _exit_early(model, arguments, tolerance)
    with torch.inference_mode():
        batches = picture_batches(paths, images["image_shape"], batch_size=batch_size)
        answers = [model.answer(x.to(model.device)) for x in batches]
    names = images["class_names"] or [str(label) for label in range(model.num_classes)]
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with Path(output).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "block", *(f"score {name}" for name in names)])
        table.writerows(_rows(paths, answers, names))
    rank_zero_info(f"Wrote {output}: {len(paths)} pictures.")


def _exit_early(model: "ImageClassification", data: Mapping[str, Any], tolerance: float) -> None:
    """Let a classifier stop where its answer is clear; ``data`` are the arguments of the datamodule of its training."""
    from ff_lightning.data.images import ImageDataModule
    from ff_lightning.tasks.classifier import FFClassifier

    if not isinstance(model, FFClassifier):
        raise InputError(f"Passed `tolerance={tolerance}` for a {type(model).__name__}. Only an FFClassifier stops.")
    images = ImageDataModule(**{name: value for name, value in data.items() if not name.startswith("_")})
    images.setup("validate")
    model.exit_early(images.val_dataloader(), tolerance=tolerance)


def _rows(paths: Sequence[Path], answers: "Sequence[Answer]", names: Sequence[str]) -> Iterator[list[object]]:
    """Lines of the table."""
    import torch

    scores = torch.cat([answer.scores for answer in answers])
    blocks = torch.cat([answer.block for answer in answers]).tolist()
    for path, label, block, values in zip(paths, scores.argmax(1).tolist(), blocks, scores.tolist(), strict=True):
        yield [path, names[label], block, *(f"{value:.6g}" for value in values)]
