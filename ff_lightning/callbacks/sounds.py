"""Pictures of recordings: a spectrogram, and the goodness of every block over its time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ff_lightning.callbacks.pictures import is_spread, keep_picture
from ff_lightning.data.audio import AudioDataModule
from ff_lightning.normalization import evaluating
from ff_lightning.readouts import label_goodness
from ff_lightning.tasks.classifier import FFClassifier
from ff_lightning.tasks.spotting import FFSpotter

SECONDS = 8.0
"""Of a running recording, how much is drawn."""


class SoundPictures(pl.Callback):
    """Draws what every block makes of a recording over its time, after a training and after a test.

    Of a classifier, ``heard.png`` shows the first recording of the last validation or test, and the probability that
    every block gives to every word once it has heard so much and silence after it. Of a spotter, ``spotted.png`` shows
    the first seconds of a running recording, the probability of every word at every frame, and where words end. Both
    need an :class:`~ff_lightning.data.AudioDataModule`.
    """

    def __init__(self) -> None:
        self._batch: tuple[Tensor, Tensor] | None = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier recording."""
        self._batch = None

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first recording."""
        heard = isinstance(getattr(trainer, "datamodule", None), AudioDataModule)
        if heard and self._batch is None and isinstance(pl_module, FFClassifier | FFSpotter):
            self._batch = batch[0][:1], batch[-1]

    @torch.no_grad()
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the recording of the last validation or test."""
        module = pl_module
        if self._batch is None or not trainer.is_global_zero or not isinstance(module, FFClassifier | FFSpotter):
            return
        if is_spread(module.network):
            return
        data: AudioDataModule = trainer.datamodule  # type: ignore[attr-defined]
        (x, words), hop = self._batch, data.features.hop / 1000
        if isinstance(module, FFSpotter):
            x = x[..., : round(SECONDS / hop)]
            ends = [(int(label), (int(frame) + 1) * hop) for label, frame in words if frame < x.shape[3]]
            with evaluating(module):
                probabilities = module.network.goodness(x)[:, 0].softmax(-1)
            figure = draw_over_time(x[0, 0], probabilities, [*data.class_names, "no word"], hop, ends)
        else:
            with evaluating(module):
                probabilities = goodness_as_heard(module, x[0]).softmax(-1)
            figure = draw_over_time(x[0, 0], probabilities, data.class_names, hop, [(int(words[0]), x.shape[3] * hop)])
        keep_picture(trainer, figure, "spotted" if isinstance(module, FFSpotter) else "heard")

    # A recording of a test is kept and drawn as one of a validation is.
    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_end = on_train_end


def goodness_as_heard(module: FFClassifier, x: Tensor) -> Tensor:
    """Goodness that every block gives to every word once it has heard so much of a recording, and silence after it.

    Args:
        module: the classifier.
        x: ``(1, bands, T)``, a spectrogram.

    Returns:
        ``(L, T, C)``.
    """
    frames = torch.arange(x.shape[2], device=x.device)
    heard = torch.where(frames <= frames[:, None, None, None], x, x.new_zeros(()))
    return label_goodness(module.network, heard, module.num_classes).float()


def draw_over_time(
    spectrogram: Tensor, probabilities: Tensor, names: Sequence[str], hop: float, ends: Sequence[tuple[int, float]]
) -> Figure:
    """Draw a spectrogram, and below it the probability that every block gives to every word at every frame.

    Args:
        spectrogram: ``(bands, T)``.
        probabilities: ``(L, T, C)``.
        names: of the ``C`` words.
        hop: seconds from a frame to the next.
        ends: class and second of the end of every word in the recording.

    Returns:
        A figure that belongs to no window.
    """
    depth = len(probabilities)
    figure = Figure(figsize=(10, 1.8 + 1.5 * depth), dpi=120, layout="constrained")
    top, *rows = figure.subplots(depth + 1, 1, sharex=True)
    extent = (0.0, spectrogram.shape[1] * hop)
    heard = spectrogram.float().cpu().numpy()  # NumPy knows no bfloat16
    top.imshow(heard, origin="lower", aspect="auto", cmap="magma", extent=(*extent, 0, len(spectrogram)))
    top.set_ylabel("mel band")
    top.set_title("A recording, and the probability that every block gives to every word so far")
    for block, (ax, rows_of_block) in enumerate(zip(rows, probabilities, strict=True)):
        image = ax.imshow(
            rows_of_block.T.float().cpu().numpy(),
            aspect="auto",
            cmap="Greens",
            vmin=0,
            vmax=1,
            extent=(*extent, len(names) - 0.5, -0.5),
        )
        ax.set_yticks(range(len(names)), names, fontsize=6)
        ax.set_ylabel(f"block {block}")
        for label, second in ends:
            ax.plot([second], [label], marker="|", markersize=11, color="#c51b7d", markeredgewidth=2, clip_on=False)
    rows[-1].set_xlabel("seconds; a mark is the end of a word")
    figure.colorbar(image, ax=rows, fraction=0.02, pad=0.01)
    return figure
