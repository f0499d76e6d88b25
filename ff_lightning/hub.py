"""Trained models in a folder or on Hugging Face's hub: weights as safetensors, and what rebuilds the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from ff_lightning.cli.models import build_model, take_weights
from ff_lightning.data.tokenizers import Tokenizer
from ff_lightning.engine.checkpoints import check_checkpoint
from ff_lightning.module import FFLightningModule

KEPT = ("tokenizer", "image_shape", "class_names", "ground", "columns")
"""What a checkpoint knows of the data and a user of the model needs."""


class SharedModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="ff_lightning",
    tags=["forward-forward"],
):
    """A model that the command line trained, to be given to others.

    ``SharedModel.from_checkpoint("runs/digits_mlp/best.ckpt")`` makes one. From ``PyTorchModelHubMixin`` come
    ``save_pretrained(folder)``, ``push_to_hub(name)`` and ``SharedModel.from_pretrained(folder or name)``.

    What is loaded names the classes that are built, as a recipe does: load only what you trust.

    Args:
        hyper_parameters: of the task, plain configuration, as in a checkpoint of ``ff-lightning fit``.
        data: what the model must know of its data: ``tokenizer``, or ``image_shape`` and ``class_names``.

    Attributes:
        model: the task with its network, such as :class:`~ff_lightning.FFClassifier`.
        data: as passed.

    Raises:
        InputError: the hyperparameters do not say how a network is built.
    """

    def __init__(self, hyper_parameters: dict[str, Any], data: dict[str, Any] | None = None) -> None:
        super().__init__()
        built: FFLightningModule = build_model({"hyper_parameters": hyper_parameters}, "config.json", FFLightningModule)
        self.model = built
        self.data = {} if data is None else data

    @classmethod
    def from_checkpoint(cls, path: str) -> Self:
        """Take the model of a checkpoint.

        Args:
            path: a local file that ``ff-lightning fit`` wrote.

        Raises:
            InputError: the file is no such checkpoint.
        """
        content = check_checkpoint(path)
        states = [state for state in content.values() if isinstance(state, Mapping)]
        data = {name: state[name] for state in states for name in KEPT if name in state}
        shared = cls(hyper_parameters=dict(content.get("hyper_parameters", {})), data=data)
        take_weights(shared.model, content, path)
        return shared.eval()

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns text into the tokens of a language model, and back.

        Raises:
            KeyError: the model is none.
        """
        return Tokenizer.from_dict(self.data["tokenizer"])

    def forward(self, x: Any) -> Any:
        """What the task answers: class scores of images, or what a language model predicts."""
        return self.model(x)

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        """Load weights that fit exactly; the mixin would let some be missing."""
        del strict
        return super()._load_as_safetensor(model, model_file, map_location, strict=True)
