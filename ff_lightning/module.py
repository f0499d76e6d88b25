"""``FFLightningModule``: Forward-Forward training on Lightning, the one class made to be subclassed."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, Self

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ff_lightning.distributed import eager, leave_group_at_exit
from ff_lightning.engine.batches import is_on_host, pinned, refuse_non_finite, seed_default_generator
from ff_lightning.engine.casting import pair_of
from ff_lightning.engine.checkpoints import AtomicCheckpointIO
from ff_lightning.engine.compilation import compile_steps, leave_steps
from ff_lightning.engine.completeness import check_gradients, not_finite, watch_optimizers
from ff_lightning.engine.hyperparameters import save_plain_hyperparameters
from ff_lightning.engine.lightning import batches_trained, trainer_of
from ff_lightning.engine.plateau import PlateauWatch
from ff_lightning.engine.precision import follow_first_rank, settle_muon, tell_what_differs
from ff_lightning.engine.profiling import profile_steps
from ff_lightning.engine.reading import read_checkpoint, refuse_unsafe
from ff_lightning.engine.refusals import (
    keep_to_own,
    refuse_built,
    refuse_flags,
    refuse_optimizer,
    refuse_own_reader,
)
from ff_lightning.engine.restoring import build_module, check_resumed, take_weights, where_it_was
from ff_lightning.engine.sharding import mend_checkpoints, shard_blocks
from ff_lightning.engine.sync import gradient_sync
from ff_lightning.engine.updates import BlockUpdates, Plan
from ff_lightning.errors import DivergedError, InputError, positive, whole
from ff_lightning.metrics import FoundLosses, leave_inference_mode
from ff_lightning.parts import Part
from ff_lightning.schedules import HoldThenDecay, RestOnPlateau, Schedule, Simultaneous, update_ranges
from ff_lightning.signals import LocalStep, Signal, StepContext
from ff_lightning.stacks import Network, need_network, refuse_shared_parameters


class FFLightningModule(Part, pl.LightningModule):
    """Trains every block of a network by its own local loss; no gradient crosses a block.

    A task is a subclass. Most need only :meth:`pairs`, which says what the positives and negatives of a batch
    are, and a ``validation_step``. :meth:`local_losses` is the full freedom: yield local losses in any order.
    A callback with a method ``on_local_step(trainer, pl_module, step)`` is shown every local loss on logged steps.

    Args:
        network: the blocks to train.
        optimizer: builds the optimizer of one block from its parameters; called once a block.
        lr_scheduler: builds the scheduler of one optimizer; stepped once for each update of that block.
        schedule: when each block learns.
        update: ``"streamed"`` updates a block before the next one is computed, so that the activations of one
            block are alive at a time; ``"fused"`` runs one backward pass of the summed losses. The weights are
            the same.
        accumulate_batches: batches that share one update. (Lightning refuses its own
            ``accumulate_grad_batches`` under manual optimization.)
        clip_norm: largest gradient norm of a block; ``None`` for no clipping. (In place of Lightning's
            ``gradient_clip_val``, which would couple the blocks.)
        compile_blocks: run the training step of every block through ``torch.compile``.

    Raises:
        InputError: an argument makes no sense, or blocks share parameters.
    """

    repeats_blocks = False
    """Set to ``True`` in a subclass whose :meth:`local_losses` yields a block more than once a batch by itself."""

    def __init__(
        self,
        network: Network,
        *,
        optimizer: OptimizerCallable = partial(torch.optim.Adam, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
        schedule: Schedule | None = None,
        update: Literal["streamed", "fused"] = "streamed",
        accumulate_batches: int = 1,
        clip_norm: float | None = None,
        compile_blocks: bool = False,
    ) -> None:
        need_network(network, type(self).__name__)
        super().__init__()
        self.repeats_blocks = self.repeats_blocks or network.repeats_blocks
        if update not in ("streamed", "fused"):
            raise InputError(f"Passed `update={update!r}`. `update` must be 'streamed' or 'fused'.")
        if update == "fused" and self.repeats_blocks:
            raise InputError("Passed `update='fused'` to a task that repeats blocks within a batch; use 'streamed'.")
        if update == "fused" and network.updates_in_turn:
            raise InputError(
                "Passed `update='fused'` with a network whose blocks read each other after the update "
                "(`handed_up='after_update'`). One backward pass of all losses comes before every update; use "
                "'streamed', or `handed_up='before_update'`."
            )
        accumulate_batches = whole("accumulate_batches", accumulate_batches, least=1)
        if accumulate_batches > 1 and self.repeats_blocks:
            raise InputError(
                f"Passed `accumulate_batches={accumulate_batches}` to a task that updates its blocks several times a "
                "batch. Pass larger batches instead."
            )
        refuse_built(optimizer=optimizer, lr_scheduler=lr_scheduler)
        save_plain_hyperparameters(self, inspect.currentframe())
        self.automatic_optimization = False
        self.network = network
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.schedule = Simultaneous() if schedule is None else schedule
        self.update = update
        self.accumulate_batches = accumulate_batches
        self.clip_norm = None if clip_norm is None else positive("clip_norm", clip_norm)
        self.compile_blocks = compile_blocks
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed() % 2**32))
        self.block_optimizers: list[Optimizer] = []
        self._updates: BlockUpdates | None = None
        self._update_ranges: list[range] = []
        self._batch_idx = 0
        self._last_loss: Tensor | None = None
        self._stopped: dict[str, Any] | None = None
        self._is_on_host = False

    # What a task says ------------------------------------------------------------------------------------------

    def pairs(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Positives and negatives of a batch, both ``(B, …)``: the one thing that most tasks must say."""
        raise InputError(f"`{type(self).__name__}` must define `pairs(batch)` or `local_losses(batch)`.")

    def local_losses(self, batch: Any) -> Iterator[LocalStep]:
        """Yield the local losses of a batch, in the order in which their blocks are to be updated.

        Args:
            batch: what the dataloader gives, on the device.

        Yields:
            One :class:`~ff_lightning.signals.LocalStep` a loss. Code after a ``yield`` runs when the loss has had
            its backward pass.
        """
        streams = pair_of(self.pairs(batch), type(self).__name__)
        yield from self.network.local_losses(Signal.pair(*streams), self.step_context())

    def local_modules(self) -> Sequence[nn.Module]:
        """The modules that ``LocalStep.block`` counts: each gets an optimizer of its own. The blocks, by default."""
        return list(self.network)

    @eager
    def generator(self, stream: int = 0) -> torch.Generator:
        """Source of randomness for the current training batch.

        It depends on nothing but the module's seed, the updates done, the batch within an update, the rank's share of
        the data and ``stream``: a resumed run draws what an uninterrupted one draws, and ranks with different data
        draw different numbers.

        Args:
            stream: tells apart several uses within one batch.

        Returns:
            A generator on the module's device.
        """
        batch = self._batch_idx % self.accumulate_batches
        trainer = trainer_of(self)
        share = None if trainer is None else trainer.distributed_sampler_kwargs
        rank = self.global_rank if share is None else share["rank"]  # layer-parallel ranks have the same data
        key = [self.seed, self.global_step, batch, rank, stream]
        state = np.random.SeedSequence([part % 2**32 for part in key]).generate_state(1, np.uint64)[0] >> np.uint64(1)
        return torch.Generator(device=self.device).manual_seed(int(state))

    # How it is trained -----------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Update every block on one batch; see :class:`~ff_lightning.engine.updates.BlockUpdates`."""
        self._batch_idx = batch_idx
        if self.may_look():
            refuse_non_finite(batch, f"Training batch {batch_idx} of epoch {self.current_epoch}")
        # Lightning saves no state of torch's own generator: seeded here, dropout in a block goes on after a resume
        # as if there had been no stop.
        seed_default_generator(self.generator(stream=-1).initial_seed(), self.device)
        assert self._updates is not None
        found = FoundLosses(self.local_modules(), shown=self._shown_to() if self.is_logged() else None)
        self._updates.run(
            found.passing(self.local_losses(batch)),
            self.step_context(),
            divisor=self.accumulated_batches(),
            update=(batch_idx + 1) % self.accumulate_batches == 0 or self.trainer.is_last_batch,
        )
        self._log_found(found)

    def step_context(self) -> StepContext:
        """What is known of the current step, for ``network.local_losses(signal, context)``."""
        learning = [
            self.global_step in updates and not self.schedule.rests(index) and self._is_free(index)
            for index, updates in enumerate(self._update_ranges)
        ]
        return StepContext(self.generator, self.global_step, learning or None)

    def _is_free(self, index: int) -> bool:
        """Whether a local module has anything to learn: one that is frozen rests, until it is not any more."""
        return any(parameter.requires_grad for parameter in self._block_parameters[index])

    def accumulated_batches(self) -> int:
        """Batches that share the current update: fewer at the ragged end of an epoch.

        A loader that cannot say how far it was can give more batches than Lightning counts: each is its own update.
        """
        total = self.trainer.num_training_batches
        first = self._batch_idx - self._batch_idx % self.accumulate_batches
        return int(max(1, min(self.accumulate_batches, total - first)))

    def _shown_to(self) -> Callable[[LocalStep], None]:
        """What shows a local loss to the callbacks that ask for it."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        watching = [callback for callback in callbacks if hasattr(callback, "on_local_step")]

        def show(step: LocalStep) -> None:
            for callback in watching:
                callback.on_local_step(self.trainer, self, step)

        return show

    def _log_found(self, found: FoundLosses) -> None:
        """Log the losses of a batch, on the steps that Lightning logs: those of all processes of the network."""
        losses = found.losses
        if self.is_logged():
            parts = self.network.stage.gather((found.losses, found.values))
            losses = [loss.to(self.device) for part, _ in parts for loss in part]
            self.log_dict({name: value for _, part in parts for name, value in part.items()})
        self._last_loss = sum(losses[1:], losses[0]) if losses else None
        if self.is_logged() and self._last_loss is not None:
            self.log("train/loss", self._last_loss, prog_bar=True)
            self._refuse_divergence()

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """Look at a training batch on its way from the host to another device, and pin it.

        There a look waits for nobody. Later it would wait for the device, and a label that is no class would end the
        whole process before its message. Pinned, a copy need not wait for what the device is doing. This is Lightning's
        door to the hook of this name, which stays the user's: with a data module it warns of any other one.
        """
        batch = super()._on_before_batch_transfer(batch, dataloader_idx)
        if self.device.type == "cpu" or not self.trainer.training or not is_on_host(batch):
            return batch
        self._is_on_host = True
        try:
            refuse_non_finite(batch, f"A training batch of epoch {self.current_epoch}")
            self.look_at(batch)
        finally:
            self._is_on_host = False
        return pinned(batch)

    def look_at(self, batch: Any) -> None:
        """Refuse a training batch of other values than the task can learn from; see :meth:`may_look`.

        A task whose training batches have another form than those of its base replaces this, too.

        Raises:
            InputError: by a subclass, with what it found.
        """

    def may_look(self) -> bool:
        """Whether values may be looked at now: always on a CPU or without a Trainer, else on logged steps.

        Before the transfer to a device is as on a CPU. On the device a look makes the host wait for it; what is missed
        in between shows in the losses of the next look.
        """
        if self._is_on_host or self.device.type == "cpu" or trainer_of(self) is None:
            return True
        return not self.trainer.training or self.is_logged()

    @property
    def sample_dtype(self) -> torch.dtype | None:
        """In which precision the network takes samples: that of its weights, if it has any."""
        kinds = (parameter.dtype for parameter in self.network.parameters())
        return next((kind for kind in kinds if kind.is_floating_point), None)

    def is_logged(self) -> bool:
        """Whether Lightning writes the metrics of this batch to the loggers."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (batches_trained(self.trainer) + 1) % every == 0

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """One optimizer a local module, and one scheduler for each if asked for."""
        modules = self.local_modules()
        refuse_shared_parameters(modules)
        # Frozen ones, too: they have no gradient, so that nothing moves them, and may be freed at any time.
        self._block_parameters = [list(module.parameters()) for module in modules]
        self.block_optimizers = [self._optimizer(index) for index in range(len(modules))]
        watch_optimizers(self.block_optimizers)
        make = self.make_lr_scheduler
        return self.block_optimizers, [self._scheduler(make, optimizer) for optimizer in self.block_optimizers if make]

    def optimizer_of(self, index: int) -> OptimizerCallable:
        """What builds the optimizer of a local module; the same for all, unless a task says otherwise."""
        del index
        return self.make_optimizer

    def _optimizer(self, index: int) -> Optimizer:
        try:
            optimizer = self.optimizer_of(index)(self._block_parameters[index])
        except (ValueError, TypeError) as error:
            raise InputError(f"Passed an `optimizer` that cannot be built: {error}") from error
        refuse_optimizer(optimizer)
        keep_to_own(optimizer, self._block_parameters[index])
        for group in optimizer.param_groups:
            positive("learning rate of `optimizer`", float(group["lr"]))
            if index < len(self.network):
                group["lr"] *= self.schedule.rate(index, len(self._block_parameters))
        return optimizer

    def _scheduler(self, make: LRSchedulerCallable, optimizer: Optimizer) -> LRScheduler:
        try:
            scheduler = make(optimizer)
        except (ValueError, TypeError) as error:
            raise InputError(f"Passed an `lr_scheduler` that cannot be built: {error}") from error
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
            raise InputError(
                f"Passed `lr_scheduler={type(scheduler).__name__}`. It is stepped once an update and gets no metric: "
                "use a torch scheduler other than ReduceLROnPlateau."
            )
        return scheduler

    def on_train_start(self) -> None:
        """Plan which updates each block takes part in, now that the length of the training is known.

        Not earlier: asking Lightning for it while optimizers are configured would set up the training data before
        a checkpoint is restored, and the position in the data would be lost.
        """
        if self._updates is None:  # the batch-size finder trains before `on_fit_start`
            self.on_fit_start()
        steps = self.trainer.estimated_stepping_batches
        total = int(steps) if 0 <= steps < float("inf") else None
        self._update_ranges = update_ranges(self.schedule, len(self.block_optimizers), total)
        if not any(self._is_free(index) for index in range(len(self.block_optimizers))):
            rank_zero_info("All blocks are frozen: nothing learns until one is freed (`requires_grad_(True)`).")
        for config, updates in zip(self.trainer.lr_scheduler_configs, self._update_ranges, strict=False):
            scheduler = config.scheduler
            if isinstance(scheduler, HoldThenDecay) and scheduler.follows_training:
                if total is None:
                    raise InputError(
                        "Passed `lr_scheduler=HoldThenDecay` without `total_updates` to a training without an end. "
                        "Give the Trainer `max_epochs` or `max_steps`."
                    )
                scheduler.set_total(min(updates.stop, total) - updates.start)
        if self._stopped is not None:
            assert self._updates is not None
            if (gradients := self._stopped.get("gradients")) is not None:
                check_gradients(gradients, self._block_parameters)
                self._updates.restore(gradients)
            tell_what_differs(self.trainer, self._stopped.get("precision"), self.block_optimizers)
            self._stopped = None

    # What is checked and kept ----------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[pl.Callback]:
        """Refuse strategies and Trainer flags that cannot train blocks one by one; watch losses for a plateau.

        This is the first hook that Lightning calls, before its own check, which could not name our arguments.
        """
        if self.trainer.state.fn == "fit":
            gradient_sync(self.trainer.strategy)
        refuse_flags(self)
        return [PlateauWatch(self.schedule)] if isinstance(self.schedule, RestOnPlateau) else []

    def setup(self, stage: str) -> None:
        """Tell Lightning's counters of ``accumulate_batches``, and let no kill damage a checkpoint, no exit a run."""
        leave_group_at_exit()
        if stage == "fit":
            follow_first_rank(self.trainer)
            self.trainer.accumulate_grad_batches = self.accumulate_batches
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            mend_checkpoints(self.trainer.strategy)
        else:
            refuse_own_reader(self.trainer)

    def configure_model(self) -> None:
        """Shard the blocks under ``ModelParallelStrategy``, the one strategy that leaves a mesh of devices here."""
        if self.device_mesh is not None and self.compile_blocks:
            raise InputError(
                "Passed `compile_blocks=True` with `ModelParallelStrategy`. Sharded blocks are not compiled: use "
                "`strategy='ddp'`, or leave it out."
            )
        if self.device_mesh is not None:
            shard_blocks(self.local_modules(), self.device_mesh, self.trainer.strategy.root_device)

    def on_fit_start(self) -> None:
        """Build the engine for the strategy at hand."""
        settle_muon(self.trainer, self.block_optimizers)
        plan = Plan(self.update == "fused", self.clip_norm, self.repeats_blocks, self.network.updates_in_turn)
        self._updates = BlockUpdates(
            self.trainer, self.network, self._block_parameters, self.block_optimizers, self.manual_backward, plan
        )
        if self.compile_blocks:
            compile_steps(self.local_modules())
        profile_steps(self.local_modules(), self.trainer.profiler)  # type: ignore[attr-defined]

    def teardown(self, stage: str) -> None:
        """Leave the Trainer as it was, so that it can be used again, and let go of the engine."""
        if stage == "fit":
            self.trainer.accumulate_grad_batches = 1
            self._updates = None
            self._update_ranges = []
            leave_steps(self.local_modules())
            self.block_optimizers = []

    def on_validation_start(self) -> None:
        """Let metrics go on that an earlier evaluation left in inference mode, whatever the order of the methods."""
        leave_inference_mode(self)

    def on_test_start(self) -> None:
        """Let metrics go on that an earlier evaluation left in inference mode, whatever the order of the methods."""
        leave_inference_mode(self)

    def on_train_epoch_end(self) -> None:
        """Refuse weights that are not finite at the end of the last epoch, before anybody writes or draws them."""
        if self.trainer.current_epoch + 1 == self.trainer.max_epochs or self.global_step == self.trainer.max_steps:
            self._refuse_diverged_weights()

    def on_train_end(self) -> None:
        """Refuse weights that are not finite, however the training came to its end."""
        self._refuse_diverged_weights()

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Refuse NaN and inf in validation data."""
        refuse_non_finite(batch, f"Validation batch {batch_idx}")

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Refuse NaN and inf in test data."""
        refuse_non_finite(batch, f"Test batch {batch_idx}")

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Refuse NaN and inf in what is to be predicted; labels beside it are not looked at."""
        refuse_non_finite(batch[:1] if isinstance(batch, tuple | list) else batch, f"Prediction batch {batch_idx}")

    def _refuse_divergence(self) -> None:
        losses = [loss for loss in self.network.stage.gather(self._last_loss) if loss is not None]
        if not all(bool(torch.isfinite(loss)) for loss in losses):
            raise DivergedError(
                f"The local losses are no longer finite at step {self.trainer.global_step}; training stops and no "
                "checkpoint is written. Lower the learning rate of `optimizer`, or set `clip_norm`."
            )

    def _refuse_diverged_weights(self) -> None:
        """Refuse weights that are not finite on any rank; the last update comes after the last look at the losses."""
        name = not_finite(self)
        if not self.trainer.strategy.reduce_boolean_decision(name is None):
            raise DivergedError(
                f"The training ends at step {self.trainer.global_step} with weights that are NaN or infinite"
                f"{f', such as `{name}`' if name else ''}. Lower the learning rate of `optimizer`, set `clip_norm`, or "
                "begin with finite weights."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what Lightning does not; refuse to write a checkpoint of a training that has diverged."""
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            self._refuse_divergence()
        checkpoint["ff_lightning"] = {"seed": self.seed, "precision": str(self.trainer.precision)}
        # A training can be stopped between the batches that share an update.
        gradients = None if self._updates is None or "optimizer_states" not in checkpoint else self._updates.gradients()
        if gradients is not None:
            checkpoint["ff_lightning"]["gradients"] = gradients

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the seed of the negatives from the checkpoint, and gradients that wait for their update."""
        ours = checkpoint.get("ff_lightning", {})
        self.seed = int(ours.get("seed", self.seed))
        trainer = trainer_of(self)
        is_resumed = trainer is not None and trainer.state.fn == "fit"
        self._stopped = ours if is_resumed else None  # else a new training may follow, which does not go on with it
        check_resumed(self, checkpoint)

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        *,
        trust: Sequence[str] = (),
        **kwargs: Any,
    ) -> Self:
        """Build a module from a checkpoint. Nothing of it is run; classes that it names are of this package or torch.

        Args:
            checkpoint_path: a file, an address, or an open file.
            map_location: where its tensors go; the device that they came from, if there is one here, by default.
            hparams_file: must be ``None``: pass the arguments instead.
            strict: whether all weights must fit; ``strict_loading`` of the module by default.
            weights_only: must not be ``False``.
            trust: packages of which the checkpoint may name classes, such as ``["my_package"]``.
            **kwargs: arguments of the module, in place of those in the checkpoint.

        Raises:
            InputError: the file is damaged, holds code, names what is not trusted, or does not fit.
        """
        refuse_unsafe(checkpoint_path, weights_only)
        if hparams_file is not None:
            raise InputError(f"Passed `hparams_file={hparams_file}`. Pass the arguments themselves, by their names.")
        content = read_checkpoint(checkpoint_path, to=map_location or where_it_was)
        source = f"ckpt_path={checkpoint_path}"
        described = content.get("hyper_parameters", {})
        module = build_module(described, source, cls, trust=trust, training=True, own=kwargs)
        module.configure_model()
        strict = module.strict_loading if strict is None else strict
        take_weights(module, content, str(checkpoint_path), strict=strict)
        first = next(iter(content["state_dict"].values()), None)
        return module if first is None else module.to(first.device)
