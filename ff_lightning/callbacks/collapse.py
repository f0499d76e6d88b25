"""Stops a training in which a block no longer tells positives from negatives."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from ff_lightning.errors import InputError, is_number, whole
from ff_lightning.metrics import separation
from ff_lightning.module import FFLightningModule
from ff_lightning.signals import LocalStep


class StopOnCollapse(pl.Callback):
    """Stops the training when the separation of a block that learns has collapsed to chance.

    It has collapsed when none of the last ``patience`` logged steps was above ``min_separation``: the block answers
    positives and negatives alike, most often because its units are dead. A step is an update. Where it has several
    losses of a block, of moments in time or of several batches, the best counts: a block that ever tells both apart is
    alive, and at the first moments, before anything has reached it, every block is at chance. Blocks whose turn has not
    come in the schedule, or is over, do not count. Not for negatives from a model's own predictions (language models
    with ``LinearContrast``): these grow as good as the positives, which is the aim.

    Checkpoints keep the count, so that a training that is stopped and resumed stops where it would have. Who goes on
    after it has stopped gets another ``patience`` steps.

    Args:
        min_separation: 0.5 is chance; see :func:`~ff_lightning.metrics.separation`.
        patience: logged steps in a row (see ``log_every_n_steps`` of the Trainer).

    Raises:
        InputError: an argument makes no sense.
    """

    def __init__(self, min_separation: float = 0.55, *, patience: int = 10) -> None:
        if not (is_number(min_separation) and 0 <= min_separation < 1):
            raise InputError(
                f"Passed `StopOnCollapse(min_separation={min_separation})`. `min_separation` must be in [0, 1)."
            )
        whole("patience", patience, least=1, owner=self)
        self.min_separation = min_separation
        self.patience = patience
        self._best: dict[int, float] = {}  # separation of every block in the step at hand
        self._low: dict[int, int] = {}  # logged steps in a row at which a block was at chance
        self._updates = 0

    def state_dict(self) -> dict[str, Any]:
        """The counts of the blocks, and what was seen of the step at hand."""
        return {"low": dict(self._low), "best": dict(self._best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from there."""
        self._low, self._best = dict(state_dict["low"]), dict(state_dict["best"])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin to count, before a checkpoint says how far the count is."""
        if stage == "fit" and trainer.global_step == 0:
            self._best, self._low = {}, {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the updates so far."""
        self._updates = trainer.global_step

    def on_local_step(self, trainer: pl.Trainer, pl_module: FFLightningModule, step: LocalStep) -> None:
        """Keep the best separation of a block in a logged step."""
        if step.g_pos is None or step.g_neg is None or not pl_module.step_context().learns(step.block):
            return
        threshold = getattr(pl_module.local_modules()[step.block], "threshold", None)
        found = float(separation(step.g_pos, step.g_neg, threshold))
        self._best[step.block] = max(found, self._best.get(step.block, 0.0))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the logged steps at which a block was at chance; stop if one has collapsed on any rank."""
        updated, self._updates = trainer.global_step > self._updates, trainer.global_step
        if not updated or not isinstance(pl_module, FFLightningModule) or not pl_module.is_logged():
            return  # a batch that waits for the rest of its update is logged, too
        highest: dict[int, float] = {}
        for part in pl_module.network.stage.gather(self._best):  # the process that writes checkpoints counts all blocks
            highest |= {block: max(best, highest.get(block, 0.0)) for block, best in part.items()}
        for block, best in highest.items():
            self._low[block] = self._low.get(block, 0) + 1 if best <= self.min_separation else 0
        self._best = {}
        collapsed = [block for block, count in self._low.items() if count >= self.patience]
        if trainer.strategy.reduce_boolean_decision(bool(collapsed), all=False):
            trainer.should_stop, self._low = True, {}
            rank_zero_info(
                f"Training stops after {trainer.global_step:,} updates: the separation of block "
                f"{', '.join(map(str, collapsed)) or 'of another rank'} was at most {self.min_separation} on the last "
                f"{self.patience} logged steps. Lower the learning rate, or choose another loss or normalisation."
            )
