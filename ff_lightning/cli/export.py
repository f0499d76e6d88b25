"""``ff-lightning export``: a trained model as a program for other machines, by ``torch.export`` or as ONNX."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ff_lightning.errors import InputError

if TYPE_CHECKING:
    from ff_lightning.cli.programs import Program
    from ff_lightning.data.images import ImageDataModule
    from ff_lightning.module import FFLightningModule
    from ff_lightning.pretrained import Pretrained


def export(ckpt_path: str, output: str, int8: bool = False, check: bool = False, trust: str = "") -> None:
    """Write a model as a program that needs neither this package nor the recipe.

    A classifier takes images ``(B, C, H, W)``, float32 in [0, 1], any number at a time, and gives class scores
    ``(B, classes)``; of texts it takes ``input_ids`` and ``attention_mask``, ``(B, T)``. A language model takes tokens
    ``(B, T)`` and gives logits ``(B, T, V)``. Names of classes, or the tokenizer, are in the file.

    Args:
        ckpt_path: file that ``ff-lightning fit`` wrote, such as ``runs/digits_mlp/last.ckpt``.
        output: ``.pt2`` for ``torch.export``, to be read by ``torch.export.load``; ``.onnx`` for ONNX.
        int8: weights of 8 bits, by onnxruntime's dynamic quantisation; needs ``.onnx``.
        check: say how often the program is right on the validation images of the training, which are read again, and
            how often the model is; needs ``.onnx``.
        trust: packages of your own of which the checkpoint may name classes, with commas in between.

    Raises:
        InputError: another ending, a checkpoint that does not know the form of its data, packages are missing, or there
            is nothing to check on. Nothing is written then.
    """
    from ff_lightning.engine.outputs import output_file

    path = output_file(output, ".pt2", ".onnx", reads=[ckpt_path])
    if path.suffix != ".onnx" and (int8 or check):
        raise InputError(f"Passed `int8={int8}, check={check}` with `output={output}`. It must end in .onnx for them.")

    from lightning.pytorch.utilities import rank_zero_info

    from ff_lightning.cli.models import trusted, validation_of
    from ff_lightning.cli.programs import need, to_int8, write
    from ff_lightning.module import FFLightningModule
    from ff_lightning.pretrained import read_content, restored

    if int8 or check:
        need(path, "onnxruntime")
    content, packages = read_content(ckpt_path), trusted(trust)
    found = restored(content, ckpt_path, FFLightningModule, trust=packages)
    program = program_of(found, ckpt_path)
    images = validation_of(content, ckpt_path, "check", check, packages) if check else None
    path.parent.mkdir(parents=True, exist_ok=True)
    write(program, path)
    size = path.stat().st_size
    if int8:
        to_int8(path)
        rank_zero_info(f"Brought weights to 8 bits: {size:,} bytes before, {path.stat().st_size:,} now.")
    if images is not None:
        rank_zero_info(compared(found.model, images, path))
    rank_zero_info(f"Wrote {output}.")


def program_of(found: "Pretrained[Any]", source: str) -> "Program":
    """The program of a trained model.

    Args:
        found: the model, and what is known of its data.
        source: its checkpoint, for errors.

    Raises:
        InputError: it is no classifier and no language model, or does not know the form of its images.
    """
    from ff_lightning.cli.programs import classifier_program, language_program
    from ff_lightning.data.columns import Columns
    from ff_lightning.tasks.evaluation import ImageClassification
    from ff_lightning.tasks.language_modelling import LanguageModelling

    model, known = found.model, found.known
    if isinstance(model, LanguageModelling):
        return language_program(model, known.get("tokenizer"))
    if not isinstance(model, ImageClassification):
        raise InputError(
            f"Passed `ckpt_path={source}`, of a {type(model).__name__}. Classifiers and language models are exported."
        )
    shape = known.get("image_shape") or getattr(model.network, "input_shape", None)
    if shape is None and "columns" in known:
        shape = [Columns.from_dict(known["columns"]).in_features]
    if shape is None:
        raise InputError(
            f"Passed `ckpt_path={source}`. The model keeps no `image_shape` of its data: it is not of an image "
            "classifier that was trained on an `ImageDataModule`. Call "
            "`ff_lightning.cli.programs.write_program(ff_lightning.load(path), image_shape, output)`."
        )
    return classifier_program(model, shape, known.get("class_names"))


def compared(model: "FFLightningModule", images: "ImageDataModule", path: Path) -> str:
    """How often a program and its model are right on the validation images of the training.

    Args:
        model: the model, a classifier of images.
        images: of its training, with those for validation at hand.
        path: the program, as ONNX.
    """
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    right, total = torch.zeros(2), 0
    with torch.inference_mode():
        for x, y in images.val_dataloader():
            (scores,) = session.run(None, {"images": x.numpy()})
            answers = (torch.from_numpy(scores), model(x))
            right += torch.tensor([float((answer.argmax(1) == y).sum()) for answer in answers])
            total += len(y)
    program, of_model = (100 * right / total).tolist()
    return f"Of {total} validation images the program gets {program:.2f} % right, the model {of_model:.2f} %."
