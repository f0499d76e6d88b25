"""``ff-lightning predict --folder`` and ``--table``: what a model says of pictures, or of the rows of a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import PositiveInt

from ff_lightning.errors import InputError

if TYPE_CHECKING:
    from ff_lightning.tasks.evaluation import SampleTask


def predict_folder(
    folder: str,
    ckpt_path: str,
    output: str = "predictions.csv",
    tolerance: float | None = None,
    batch_size: PositiveInt = 250,
    trust: str = "",
) -> None:
    """Write a table of the pictures or recordings in a folder: file, label, and a number for each class.

    What a file shows or says is read as in the training of the checkpoint. Of pictures, the block that answered stands
    beside the label. Of recordings there are start and end in seconds: in one that is longer than those of the
    training, a label is given to every window of their length.

    Pictures of any size are made grey or RGB and resized to the shape of the images of the training, without keeping
    their proportions. They should look like those otherwise: MNIST's digits are white on black.

    Args:
        folder: with PNG, JPEG or other pictures, or with WAV, FLAC, OGG or MP3 files, in folders below it too.
        ckpt_path: file that ``ff-lightning fit`` wrote, such as ``runs/digits_mlp/last.ckpt``.
        output: CSV file to write.
        tolerance: stop at the block at which the answer is clear, losing at most this much accuracy on the validation
            images of the training, which are read again to find out what is clear.
        batch_size: pictures in memory at a time.
        trust: packages of your own of which the checkpoint may name classes, with commas in between.

    Raises:
        InputError: there are no pictures, one cannot be read, the checkpoint is not of an image classifier, or
            ``output`` is no CSV file or would destroy something.
    """
    import torch
    from lightning.pytorch.utilities import rank_zero_info

    from ff_lightning.cli.models import classifier_of, trusted
    from ff_lightning.cli.predictions import write_table
    from ff_lightning.cli.recordings import is_of_recordings, predict_recordings
    from ff_lightning.data.pictures import find_pictures, picture_batches
    from ff_lightning.engine.outputs import output_file
    from ff_lightning.pretrained import read_content

    path = output_file(output, ".csv", reads=[ckpt_path], folder=folder)
    content, packages = read_content(ckpt_path), trusted(trust)
    if is_of_recordings(content):
        predict_recordings(folder, content, ckpt_path, path, tolerance=tolerance, batch_size=batch_size, trust=packages)
        return
    paths = find_pictures(folder)
    model, images, _ = classifier_of(content, ckpt_path, packages)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    if tolerance is not None:
        _exit_early(model, content, ckpt_path, tolerance, packages)
    with torch.inference_mode():
        batches = picture_batches(
            paths, images["image_shape"], batch_size=batch_size, ground=images.get("ground", "white")
        )
        found = [model.predicted(x.to(model.device)) for x in batches]
    write_table(path, "file", list(map(str, paths)), found, images["class_names"])
    rank_zero_info(f"Wrote {output}: {len(paths)} pictures.")


def predict_table(
    table: str,
    ckpt_path: str,
    output: str = "predictions.csv",
    encoding: str = "utf-8",
    batch_size: PositiveInt = 1000,
    trust: str = "",
) -> None:
    """Write a table of the rows of a table: row, label, block that answered, and a probability for each class.

    Where numbers were learned, their value and deviation stand there; of several labels all that are there, and the
    probability of each; where anomalies are looked for, what the row is, and its score.

    Args:
        table: CSV, JSON or Parquet file with the columns of the training; others are not looked at.
        ckpt_path: file that ``ff-lightning fit`` wrote in a training on a ``TableDataModule``.
        output: CSV file to write.
        encoding: of the table, as Python names it.
        batch_size: rows in memory at a time.
        trust: packages whose classes the checkpoint may name, with commas in between.

    Raises:
        InputError: the table lacks a column or holds what is no number, the checkpoint is of other data, or ``output``
            is no CSV file or would destroy something.
    """
    import torch
    from lightning.pytorch.utilities import rank_zero_info

    from ff_lightning.cli.models import load_of_table, trusted
    from ff_lightning.cli.predictions import write_table
    from ff_lightning.data.columns import Columns
    from ff_lightning.data.rows import read_rows
    from ff_lightning.engine.outputs import output_file

    file = local_table(table)
    path = output_file(output, ".csv", reads=[file, ckpt_path])
    model, known = load_of_table(ckpt_path, trusted(trust))
    columns, names = Columns.from_dict(known["columns"]), list(known["class_names"])
    rows = list(read_rows(file, encoding=encoding))
    features = columns.features(rows, table) if rows else torch.zeros(0, columns.in_features)
    for name, count in columns.unseen.items():
        rank_zero_info(f"{count} values of {name!r} occur in no training row.")
    with torch.inference_mode():
        found = [model.predicted(x) for x in torch.split(features, batch_size)] if rows else []
    write_table(path, "row", [str(number) for number in range(1, len(rows) + 1)], found, names)
    rank_zero_info(f"Wrote {output}: {len(rows)} rows.")


def local_table(path: str) -> Path:
    """The file of a table.

    Raises:
        InputError: there is none, or it has another ending.
    """
    from ff_lightning.data.rows import ENDINGS, is_table

    file = Path(path).expanduser()
    if not file.is_file():
        told = "It is a folder." if file.is_dir() else "There is no such file."
        raise InputError(f"Passed `table={path}`. {told}")
    if not is_table(file):
        raise InputError(f"Passed `table={path}`. It must be a file that ends in {', '.join(ENDINGS)}.")
    return file


def _exit_early(model: "SampleTask", content: Mapping[str, Any], path: str, tolerance: float, trust: list[str]) -> None:
    """Let a classifier stop where its answer is clear on the validation images of its training."""
    from ff_lightning.cli.models import validation_of
    from ff_lightning.tasks.classifier import FFClassifier

    if not isinstance(model, FFClassifier):
        raise InputError(f"Passed `tolerance={tolerance}` for a {type(model).__name__}. Only an FFClassifier stops.")
    images = validation_of(content, path, "tolerance", tolerance, trust)
    model.exit_early(images.val_dataloader(), tolerance=tolerance)
