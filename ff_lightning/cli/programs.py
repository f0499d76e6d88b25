"""Models as programs that need nothing of this package: ``torch.export``, ONNX, ONNX in 8 bits."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ff_lightning.conversion.tokens import PADDING
from ff_lightning.engine.integrity import replace_file
from ff_lightning.errors import InputError
from ff_lightning.readouts.early_exit import EarlyExit
from ff_lightning.tasks.evaluation import SampleTask
from ff_lightning.tasks.language_modelling import LanguageModelling


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


class TextScores(Scores):
    """Class scores of texts, by tokens and mask as a tokenizer of transformers gives them."""

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Scores ``(B, C)`` of tokens ``(B, T)`` int64 with ``mask`` ``(B, T)`` int64, 0 at padding."""
        scores: Tensor = self.model(torch.where(mask != 0, tokens, PADDING))
        return scores


class NextTokenLogits(nn.Module):
    """Logits of a language model, and nothing else of it.

    Args:
        model: on the CPU.
    """

    def __init__(self, model: LanguageModelling) -> None:
        super().__init__()
        self.network = model.network

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``(B, T, V)`` for the token after each of ``(B, T)`` int64."""
        logits: Tensor = self.network(tokens)
        return logits


@dataclass(frozen=True)
class Program:
    """What is exported.

    Attributes:
        module: gives one tensor.
        inputs: an example of each of its inputs, by name.
        axes: names of the axes that may have any length, by input and number of the axis.
        output: name of what it gives.
        notes: kept in the file, as JSON by name: ``class_names``, or ``tokenizer`` and ``context``.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    axes: dict[str, dict[int, str]]
    output: str = "scores"
    notes: Mapping[str, Any] = field(default_factory=dict)


def classifier_program(model: SampleTask, shape: Sequence[int], class_names: Sequence[str] | None = None) -> Program:
    """A classifier, or another task that says something of every sample, as a program.

    Args:
        model: on the CPU.
        shape: of one image, or of one row of a table; of a model that reads texts it does not matter.
        class_names: are kept in the file.

    Raises:
        InputError: the readout's work depends on what it sees.
    """
    if isinstance(getattr(model, "readout", None), EarlyExit):
        raise InputError(
            "Passed a model with `readout=EarlyExit` to an export. How much it computes depends on the images: export "
            "it with a `GoodnessReadout`."
        )
    notes = {} if class_names is None else {"class_names": list(class_names)}
    if getattr(model, "vocab_size", None) is not None:
        inputs = {name: torch.ones(2, 5, dtype=torch.long) for name in ("input_ids", "attention_mask")}
        axes = {name: {0: "batch", 1: "time"} for name in inputs}
        return Program(TextScores(model), inputs, axes, notes=notes)
    return Program(Scores(model), {"images": torch.zeros(2, *shape)}, {"images": {0: "batch"}}, notes=notes)


def language_program(model: LanguageModelling, tokenizer: Mapping[str, Any] | None = None) -> Program:
    """A language model as a program: tokens in, logits of the next ones out.

    Args:
        model: on the CPU.
        tokenizer: is kept in the file.
    """
    context = model.network.context
    notes = {"context": context} | ({} if tokenizer is None else {"tokenizer": dict(tokenizer)})
    tokens = torch.zeros(2, min(5, context), dtype=torch.long)
    return Program(NextTokenLogits(model), {"tokens": tokens}, {"tokens": {0: "batch", 1: "time"}}, "logits", notes)


def write_program(
    model: SampleTask, image_shape: Sequence[int], path: Path, class_names: Sequence[str] | None = None
) -> None:
    """Export a classifier; see :func:`write` and :func:`classifier_program`."""
    write(classifier_program(model, image_shape, class_names), path)


def write(program: Program, path: Path) -> None:
    """Export a program.

    Args:
        program: what it computes.
        path: ends in ``.pt2`` or ``.onnx``.

    Raises:
        InputError: ONNX's packages are missing.
    """
    module, example = program.module.eval(), tuple(program.inputs.values())
    if path.suffix == ".pt2":
        parameters = dict(zip(module.forward.__code__.co_varnames[1:], program.axes.values(), strict=False))
        shapes = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in parameters.items()}
        notes = {name: json.dumps(value) for name, value in program.notes.items()}
        with torch.no_grad():  # otherwise every part that needs no gradient becomes a program within the program
            exported = torch.export.export(module, example, dynamic_shapes=shapes)
        content = io.BytesIO()  # torch ends the process where a disk is full
        torch.export.save(exported, content, extra_files=notes)
        replace_file(path, content.getvalue())
        return
    need(path, "onnx", "onnxscript")
    with in_its_place(path) as part:
        write_onnx(program, part)


def write_onnx(program: Program, path: Path) -> None:
    """Export a program to ONNX, with its notes as the file's metadata."""
    module, example = program.module.eval(), tuple(program.inputs.values())
    with torch.no_grad(), quiet():
        written = torch.onnx.export(
            module,
            example,
            dynamo=True,
            input_names=list(program.inputs),
            output_names=[program.output],
            dynamic_shapes=tuple(program.axes.values()),
            verbose=False,
        )
    assert written is not None
    written.save(path, external_data=False)
    import onnx

    graph = onnx.load(path)
    # Shapes within are stale once a quantiser has turned a matrix, and whoever runs the program infers them anyway.
    del graph.graph.value_info[:]
    onnx.helper.set_model_props(graph, {name: json.dumps(value) for name, value in program.notes.items()})
    onnx.save(graph, path)


def to_int8(path: Path) -> None:
    """Bring the weights of an ONNX program to 8 bits, in its place; activities are brought there as they come.

    (onnxruntime's dynamic quantisation.)

    Args:
        path: of a program that :func:`write` wrote.

    Raises:
        InputError: onnxruntime is missing.
    """
    need(path, "onnx", "onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet(), in_its_place(path) as part:
        # Unsigned: onnxruntime has no convolution of signed weights for a CPU.
        quantize_dynamic(path, part, weight_type=QuantType.QUInt8)


@contextmanager
def in_its_place(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its place when it is whole."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def need(path: Path, *packages: str) -> None:
    """Check that packages are there.

    Raises:
        InputError: names those that are not.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise InputError(
            f"Passed `output={path}`. ONNX needs {' and '.join(missing)}: pip install 'ff-lightning[export]'."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters tell their own developers off the terminal."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx", "root")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
