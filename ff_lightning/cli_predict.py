"""``ff-lightning predict --folder``: a table of what a classifier says of the pictures in a folder."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch.utilities import rank_zero_info

from ff_lightning.cli_errors import Parser
from ff_lightning.cli_models import load_classifier
from ff_lightning.data.images import ImageDataModule
from ff_lightning.data.pictures import find_pictures, picture_batches
from ff_lightning.errors import InputError
from ff_lightning.tasks.classifier import FFClassifier


def predict_parser() -> Parser:
    """Parser of the arguments of :func:`predict_folder`."""
    parser = Parser(prog="ff-lightning predict", description="Classify the pictures in a folder.")
    parser.add_function_arguments(predict_folder)
    return parser


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
    paths = find_pictures(folder)
    model, images, arguments = load_classifier(ckpt_path)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    if tolerance is not None:
        if not isinstance(model, FFClassifier):
            raise InputError(f"Passed `tolerance={tolerance}` for a {type(model).__name__}. Only an FFClassifier stops.")
        data = ImageDataModule(**{k: v for k, v in arguments.items() if not k.startswith("_")})
        data.setup("validate")
        loader = data.val_dataloader()
        model.exit_early(loader, tolerance=tolerance)
    names = images["class_names"] or [str(label) for label in range(model.num_classes)]
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with Path(output).open("w", newline="", encoding="utf-8") as file, torch.inference_mode():
        table = csv.writer(file)
        table.writerow(["file", "label", "block", *(f"score {name}" for name in names)])
        rows = iter(paths)
        for x in picture_batches(paths, images["image_shape"], batch_size=batch_size):
            answer = model.answer(x.to(model.device))
            labels = answer.scores.argmax(1).tolist()
            for label, block, scores in zip(labels, answer.block.tolist(), answer.scores.tolist(), strict=True):
                table.writerow([next(rows), names[label], block, *(f"{score:.6g}" for score in scores)])
    rank_zero_info(f"Wrote {output}: {len(paths)} pictures.")
