"""Pictures of a training and of a test, in the run folder and for every logger that takes images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ff_lightning.callbacks.drawings import (
    draw_evaluation,
    draw_fields,
    draw_label_goodness,
    draw_losses,
    draw_streams,
    receptive_fields,
)
from ff_lightning.distributed import is_sharded
from ff_lightning.module import FFLightningModule
from ff_lightning.normalization import evaluating
from ff_lightning.readouts import label_goodness
from ff_lightning.signals import LocalStep, true_and_hardest
from ff_lightning.stacks import Network
from ff_lightning.tasks.classifier import FFClassifier
from ff_lightning.tasks.evaluation import ImageClassification
from ff_lightning.tasks.language_modelling import LanguageModelling


def keep_picture(trainer: pl.Trainer, figure: Figure, name: str, dirpath: str | None = None) -> None:
    """Write a picture, and send it to the loggers that take images: Weights & Biases and TensorBoard.

    Args:
        trainer: has the run folder and the loggers.
        figure: the picture.
        name: of the file, without ending.
        dirpath: folder of the picture; ``pictures`` in the run folder by default.
    """
    folder = Path(trainer.default_root_dir) / "pictures" if dirpath is None else Path(dirpath)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path)
    logger: Any
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(f"pictures/{name}", [str(path)], step=trainer.global_step)
        elif hasattr(logger.experiment, "add_image"):
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            logger.experiment.add_image(f"pictures/{name}", pixels, trainer.global_step, dataformats="HWC")
    rank_zero_info(f"Wrote {path}")


class ClassificationPictures(pl.Callback):
    """Draws what an image classifier has learned.

    After a test, ``test.png``: histograms of the goodness that every block gives to right and to wrong labels, and the
    confusion matrix. After a training, the same of the last validation as ``validation.png``; ``fields.png``, weights
    of units of block 0 as images, where it sees whole images; and ``labels.png``, the goodness that every block gives
    to every label of the clearest and of the hardest image of a validation batch.

    What needs labels in the input is drawn for :class:`~ff_lightning.FFClassifier` alone. With several devices the
    histograms show the images of the first one, after a training those of one batch; the confusion matrix counts all.
    Of blocks that are spread over devices there are no pictures after a training.

    Args:
        dirpath: folder of the pictures; ``pictures`` in the run folder by default.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self._goodness: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._batch: tuple[Tensor, Tensor] | None = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier validation."""
        self._batch = None
        if isinstance(pl_module, ImageClassification):
            pl_module.val_metrics.confusion.reset()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first batch."""
        if isinstance(pl_module, ImageClassification) and self._batch is None and not isinstance(batch, Tensor):
            self._batch = pl_module.checked(batch)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw what there is to see after a training."""
        if not isinstance(pl_module, ImageClassification) or self._batch is None or is_spread(pl_module.network):
            return
        x, y = self._batch
        confusion = pl_module.val_metrics.confusion.compute().cpu()  # sums over ranks, so every rank asks
        if not trainer.is_global_zero:
            return
        names = class_names(trainer, len(confusion))
        goodness = _label_goodness(pl_module, x)
        self._keep(trainer, draw_evaluation(confusion, names, goodness, y.cpu(), what="validation"), "validation")
        fields = receptive_fields(pl_module.network[0], x.shape[1:])
        if fields is not None:
            self._keep(trainer, draw_fields(fields), "fields")
        if goodness is not None and x.dim() == 4:
            some = clearest_and_hardest(goodness, y.cpu())
            picture = draw_label_goodness(x.cpu()[some], goodness[:, some], y.cpu()[some], names)
            self._keep(trainer, picture, "labels")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier test."""
        self._goodness, self._labels = [], []
        if isinstance(pl_module, ImageClassification):
            pl_module.test_metrics.confusion.reset()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the goodness that every block gives to every label."""
        if isinstance(pl_module, FFClassifier) and trainer.is_global_zero:
            x, y = pl_module.checked(batch)
            self._goodness.append(label_goodness(pl_module.network, x, pl_module.num_classes).float().cpu())
            self._labels.append(y.cpu())

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the test."""
        if not isinstance(pl_module, ImageClassification):
            return
        confusion = pl_module.test_metrics.confusion.compute().cpu()  # sums over ranks, so every rank asks
        if not trainer.is_global_zero or not int(confusion.sum()):
            return
        goodness = torch.cat(self._goodness, dim=1) if self._goodness else None
        labels = torch.cat(self._labels) if self._labels else None
        self._keep(trainer, draw_evaluation(confusion, class_names(trainer, len(confusion)), goodness, labels), "test")

    def _keep(self, trainer: pl.Trainer, figure: Figure, name: str) -> None:
        keep_picture(trainer, figure, name, self.dirpath)


class BlockPictures(pl.Callback):
    """Draws how the blocks of a network tell positives from negatives, when it has been trained.

    ``goodness.png`` has histograms of both in the last logged batch; a classifier has better ones, and gets none here.
    ``losses.png`` shows the validation loss of a language model up to every block, over the whole training: checkpoints
    keep the losses so far.
    """

    def __init__(self) -> None:
        self._goodness: dict[int, tuple[Tensor, Tensor]] = {}
        self._losses: list[tuple[int, list[float]]] = []

    def state_dict(self) -> dict[str, Any]:
        """The losses so far: updates, and a loss for each block, one entry a validation."""
        return {"losses": [[step, list(values)] for step, values in self._losses]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._losses = [(step, list(values)) for step, values in state_dict["losses"]]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget an earlier training, before a checkpoint brings back what belongs to this one."""
        if stage == "fit":
            self._goodness = {}
        if stage == "fit" and trainer.global_step == 0:
            self._losses = []

    def on_local_step(self, trainer: pl.Trainer, pl_module: FFLightningModule, step: LocalStep) -> None:
        """Keep the goodness of a logged batch."""
        if step.g_pos is not None and step.g_neg is not None and not isinstance(pl_module, FFClassifier):
            self._goodness[step.block] = step.g_pos, step.g_neg

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the losses of the blocks of a language model."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not isinstance(pl_module, LanguageModelling):
            return
        names = [f"val/loss/block_{index}" for index in range(len(pl_module.network))]
        values = [float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics]
        if values:
            self._losses.append((trainer.global_step, values))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw."""
        if not trainer.is_global_zero:
            return
        if self._goodness:
            pairs = [self._goodness[block] for block in sorted(self._goodness)]
            flat = [(g_pos.flatten().float().cpu(), g_neg.flatten().float().cpu()) for g_pos, g_neg in pairs]
            keep_picture(trainer, draw_streams(flat), "goodness")
        if self._losses:
            keep_picture(trainer, draw_losses(self._losses), "losses")


def clearest_and_hardest(goodness: Tensor, labels: Tensor) -> list[int]:
    """Indices of the image whose true label leads the wrong ones by most, and of the one where it leads least.

    Args:
        goodness: ``(L, N, C)`` of every block, image and label; blocks are summed.
        labels: ``(N,)`` true classes.
    """
    total = goodness.sum(0)
    true, hardest = true_and_hardest(total, labels)
    lead = true - hardest
    return list(dict.fromkeys([int(lead.argmax()), int(lead.argmin())]))


def is_spread(network: Network) -> bool:
    """Whether one device alone cannot compute the network."""
    return is_sharded(network[0]) or bool(network.stage.elsewhere)


@torch.no_grad()
def _label_goodness(module: ImageClassification, x: Tensor) -> Tensor | None:
    if not isinstance(module, FFClassifier):
        return None
    with evaluating(module):
        return label_goodness(module.network, x, module.num_classes).float().cpu()


def class_names(trainer: pl.Trainer, count: int) -> list[str]:
    """Names of classes as far as the datamodule says them, else their numbers."""
    names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
    return names or [str(index) for index in range(count)]
