"""``ff-lightning export``: a trained classifier as a program for other machines, by ``torch.export`` or as ONNX."""

from __future__ import annotations

from pathlib import Path

from ff_lightning.errors import InputError


def export(ckpt_path: str, output: str) -> None:
    """Write a classifier as a program that needs neither this package nor the recipe.

    It takes images ``(B, C, H, W)``, float32 in [0, 1], any number at a time, and gives class scores ``(B, classes)``.

    Args:
        ckpt_path: file that ``ff-lightning fit`` wrote, such as ``runs/digits_mlp/last.ckpt``.
        output: ``.pt2`` for ``torch.export``, to be read by ``torch.export.load``; ``.onnx`` for ONNX.

    Raises:
        InputError: another ending, a checkpoint that is not of an image classifier, or ONNX's packages are missing.
    """
    path = Path(output)
    if path.suffix not in (".pt2", ".onnx"):
        raise InputError(f"Passed `output={output}`. It must end in .pt2 or .onnx.")

    from lightning.pytorch.utilities import rank_zero_info

    from ff_lightning.cli.models import load_classifier
    from ff_lightning.cli.programs import write_program

    model, images, _ = load_classifier(ckpt_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_program(model, tuple(images["image_shape"]), path)
    rank_zero_info(f"Wrote {output}.")
