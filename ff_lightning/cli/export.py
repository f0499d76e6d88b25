"""``ff-lightning export``: a trained classifier as a program for other machines, by ``torch.export`` or as ONNX."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from ff_lightning.cli.models import load_classifier, trusted
from ff_lightning.errors import InputError
from ff_lightning.readouts.early_exit import EarlyExit
from ff_lightning.tasks.evaluation import ImageClassification


class Scores(nn.Module):
    """Class scores of a classifier, and nothing else of it.

    Args:
        model: on the CPU.
    """

    def __init__(self, model: ImageClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(B, C)`` of images ``(B, …)``; the highest is the prediction."""
        scores: Tensor = self.model(x)
        return scores


def export(ckpt_path: str, output: str, trust: str = "") -> None:
    """Write a classifier as a program that needs neither this package nor the recipe.

    It takes images ``(B, C, H, W)``, float32 in [0, 1], any number at a time, and gives class scores ``(B, classes)``.

    Args:
        ckpt_path: file that ``ff-lightning fit`` wrote, such as ``runs/digits_mlp/last.ckpt``.
        output: ``.pt2`` for ``torch.export``, to be read by ``torch.export.load``; ``.onnx`` for ONNX.
        trust: packages of your own of which the checkpoint may name classes, with commas in between.

    Raises:
        InputError: another ending, a checkpoint that is not of an image classifier, or ONNX's packages are missing.
    """
    path = Path(output)
    if path.suffix not in (".pt2", ".onnx"):
        raise InputError(f"Passed `output={output}`. It must end in .pt2 or .onnx.")
    model, images, _ = load_classifier(ckpt_path, trusted(trust))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_program(model, tuple(images["image_shape"]), path)
    rank_zero_info(f"Wrote {output}.")


def write_program(model: ImageClassification, image_shape: tuple[int, ...], path: Path) -> None:
    """Export a classifier.

    Args:
        model: on the CPU.
        image_shape: of one image.
        path: ends in ``.pt2`` or ``.onnx``.

    Raises:
        InputError: ONNX's packages are missing, or the readout's work depends on what it sees.
    """
    if isinstance(getattr(model, "readout", None), EarlyExit):
        raise InputError(
            "Passed a model with `readout=EarlyExit` to an export. How much it computes depends on the images: export "
            "it with a `GoodnessReadout`."
        )
    scores = Scores(model).eval()
    example = (torch.zeros(2, *image_shape),)
    batch = {"x": {0: torch.export.Dim.DYNAMIC}}
    if path.suffix == ".pt2":
        with torch.no_grad():  # otherwise every part that needs no gradient becomes a program within the program
            torch.export.save(torch.export.export(scores, example, dynamic_shapes=batch), path)
        return
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"Passed `output={path}`. ONNX needs {' and '.join(missing)}: pip install 'ff-lightning[export]'."
        )
    torch.onnx.export(
        scores,
        example,
        path,
        dynamo=True,
        input_names=["images"],
        output_names=["scores"],
        dynamic_shapes=batch,
        external_data=False,
        verbose=False,
    )
