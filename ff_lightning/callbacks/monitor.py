"""What every block does while it learns, on the steps that Lightning logs."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ff_lightning.metrics import margin
from ff_lightning.module import FFLightningModule
from ff_lightning.signals import LocalStep


class GoodnessMonitor(pl.Callback):
    """Logs goodness, margin, dead units and gradient norm of every block, beside what the module logs itself.

    The names are ``train/goodness_pos/block_0``, ``train/goodness_neg/block_0``, ``train/margin/block_0``
    (:func:`~ff_lightning.metrics.margin`), ``train/gradient_norm/block_0`` (as the optimizer sees it, after
    ``clip_norm``) and ``train/dead_units/block_0``: the share of the block's units that answer with 0 to all of a
    batch. The last is of blocks with rectified activities alone, of which none is negative, and not of compiled ones.

    Between logged steps it does nothing, and nothing in the training depends on it.
    """

    def __init__(self) -> None:
        self._looks = False
        self._values: dict[str, Tensor] = {}
        self._highest: dict[int, Tensor] = {}
        self._lowest: dict[int, Tensor] = {}
        self._hooks: list[RemovableHandle] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look at the activities of a step that is logged."""
        self._forget()
        self._looks = isinstance(pl_module, FFLightningModule) and pl_module.is_logged()
        if isinstance(pl_module, FFLightningModule) and self._looks and not pl_module.compile_blocks:
            layers = [getattr(block, "layer", block) for block in pl_module.network]
            self._hooks = [layer.register_forward_hook(partial(self._see, index)) for index, layer in enumerate(layers)]

    def on_local_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, step: LocalStep) -> None:
        """Take the goodness of both streams."""
        if step.g_pos is None or step.g_neg is None:
            return
        self._values |= {
            f"train/goodness_pos/block_{step.block}": step.g_pos.mean(),
            f"train/goodness_neg/block_{step.block}": step.g_neg.mean(),
            f"train/margin/block_{step.block}": margin(step.g_pos, step.g_neg),
        }

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Take the gradient norm of the block that is about to be updated."""
        if isinstance(pl_module, FFLightningModule) and pl_module.is_logged():
            block = next(index for index, own in enumerate(pl_module.block_optimizers) if own is optimizer)
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self._values[f"train/gradient_norm/block_{block}"] = nn.utils.get_total_norm(gradients)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what was seen, also by processes that train other blocks of the network."""
        for index, highest in self._highest.items():
            if float(self._lowest[index]) >= 0:
                self._values[f"train/dead_units/block_{index}"] = (highest == 0).float().mean()
        if self._looks and isinstance(pl_module, FFLightningModule):
            parts = pl_module.network.stage.gather(self._values)
            found = {name: value for part in parts for name, value in part.items()}
            if found:
                pl_module.log_dict(found)
        self._forget()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Look no more."""
        self._forget()

    def _see(self, index: int, layer: nn.Module, args: Any, output: Any) -> None:
        """Take the activities of a block in its training, and not while negatives are chosen."""
        if not torch.is_grad_enabled() or not isinstance(output, Tensor) or output.dim() < 2:
            return
        units = output.detach().movedim(1 if output.dim() == 4 else -1, -1).flatten(0, -2)
        lowest, highest = units.min(), units.amax(0)
        if index in self._highest:
            lowest, highest = torch.minimum(lowest, self._lowest[index]), torch.maximum(highest, self._highest[index])
        self._lowest[index], self._highest[index] = lowest, highest

    def _forget(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._values, self._highest, self._lowest, self._hooks = {}, {}, {}, []
