"""Classifiers and other tasks of samples as programs that need nothing of this package: ``torch.export``, ONNX."""

from __future__ import annotations

import io
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ff_lightning.engine.integrity import replace_file
from ff_lightning.errors import InputError
from ff_lightning.readouts.early_exit import EarlyExit
from ff_lightning.tasks.evaluation import SampleTask


class Scores(nn.Module):
    """Class scores of a classifier, or what else a task says of samples, and nothing else of it.

    Args:
        model: on the CPU.
    """

    def __init__(self, model: SampleTask) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(B, C)`` of images ``(B, …)``, or what the task gives in their place."""
        scores: Tensor = self.model(x)
        return scores


def write_program(model: SampleTask, image_shape: tuple[int, ...], path: Path) -> None:
    """Export a classifier, or another task that says something of every sample.

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
            program = torch.export.export(scores, example, dynamic_shapes=batch)
        content = io.BytesIO()  # torch ends the process where a disk is full
        torch.export.save(program, content)
        replace_file(path, content.getvalue())
        return
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"Passed `output={path}`. ONNX needs {' and '.join(missing)}: pip install 'ff-lightning[export]'."
        )
    part = path.with_name(f".{path.name}.part")
    try:
        _write_onnx(scores, example, batch, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write_onnx(scores: Scores, example: tuple[torch.Tensor], batch: Any, path: Path) -> None:
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
