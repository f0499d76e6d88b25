"""``LayerParallelStrategy``: groups of blocks on different devices, with no pipeline bubble and no backward traffic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch import distributed as dist
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from ff_lightning.distributed import one_copy, take_from_first_rank
from ff_lightning.engine.lightning import replace_sigterm, restore_sigterm
from ff_lightning.engine.sync import NoSync
from ff_lightning.errors import InputError, whole_numbers
from ff_lightning.goodness import FollowingGoodness
from ff_lightning.normalization import RunningMean
from ff_lightning.stacks import BlockStack
from ff_lightning.stages import Stage
from ff_lightning.strategies.balance import balanced_cuts, block_seconds, check_cuts, groups_of
from ff_lightning.strategies.pipeline import PipelineStage

if TYPE_CHECKING:
    from ff_lightning.module import FFLightningModule


class LayerParallelStrategy(DDPStrategy):
    """Every rank trains a group of neighbouring blocks, and streams what they pass on to the next rank.

    No gradient crosses a block, so nothing flows back: a rank is at work on the next batch while the rank above is
    still at work on this one. Every block sees exactly what it would see in one process, and the weights come out the
    same, bit for bit. With ``lookahead`` the weights of a rank's first block go down to the rank below, and only then:
    as often as copies are made anew, which the two wait for.

    All ranks read the same training batches and hold the parameters of the whole network; gradients, optimizer state
    and activations are those of a rank's own blocks. Before a validation, a checkpoint and the end of training, the
    weights of every block go to all ranks. Evaluation is data-parallel, as under ``ddp``. Checkpoints are those of
    one process.

    Args:
        cuts: the first block of every rank but the first, such as ``[2]`` for two ranks. By default rank 0 times
            every block on the first batch, and the groups are made to take about equally long.
        **kwargs: see ``lightning.pytorch.strategies.DDPStrategy``.

    Raises:
        InputError: ``cuts`` are no numbers; or, before the first step, the task cannot be trained like that, and the
            message names what to use.
    """

    def __init__(self, *, cuts: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cuts = None if cuts is None else whole_numbers("cuts", cuts, least=1, some=False)
        self._stage: PipelineStage | None = None
        self._groups: list[range] = []
        self._told_to_stop = False
        self._envelopes: dist.ProcessGroup | None = None
        self._tensors: dist.ProcessGroup | None = None

    @property
    def module(self) -> FFLightningModule:
        """What is trained."""
        return cast("FFLightningModule", self.lightning_module)

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Every rank has the whole of a training batch, and a share of the data in evaluation."""
        module = self.lightning_module
        if module is not None and module.trainer.training:
            return {"num_replicas": 1, "rank": 0}
        return super().distributed_sampler_kwargs

    def block_sync(self) -> NoSync:
        """Nothing to average: each block is trained by one process."""
        return NoSync()

    # Start and end ---------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer) -> None:
        """Refuse what cannot be layer-parallel, and make all ranks start alike."""
        if trainer.state.fn == TrainerFn.FITTING:
            self.refuse(trainer)
            self._groups = []
        super().setup(trainer)

    def configure_ddp(self) -> None:
        """In place of the wrapper of DDP: weights and seed of the first rank, and groups of processes for signals."""
        assert self.lightning_module is not None
        take_from_first_rank(self.lightning_module)
        self.module.seed = self.broadcast(self.module.seed)
        if self._envelopes is None or self._tensors is None:
            self._envelopes = dist.new_group(backend="gloo")
            self._tensors = self._envelopes if self.root_device.type == "cpu" else dist.new_group()
        self._stop_without_collective()

    def teardown(self) -> None:
        """Leave the network whole."""
        if self._stage is not None:
            self._stage = None
            depth = len(self.module.network)
            self.module.network.stage = Stage(range(depth), depth)
        restore_sigterm(self.module.trainer)
        super().teardown()

    def refuse(self, trainer: pl.Trainer) -> None:
        """Check that a training can be layer-parallel.

        Raises:
            InputError: it cannot; the message names what to use.
        """
        refuse_task(trainer.lightning_module)
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise InputError(
                "Passed `precision='16-mixed'` with `LayerParallelStrategy`. One gradient scaler serves all blocks; "
                "use `precision='bf16-mixed'`."
            )
        if any(isinstance(callback, (WeightAveraging, StochasticWeightAveraging)) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise InputError(
                "Passed a callback that averages weights with `LayerParallelStrategy`. In between validations a rank "
                "has the weights of its own blocks alone; use `strategy='ddp'`."
            )
        if isinstance(self.cluster_environment, SLURMEnvironment) and self.cluster_environment.auto_requeue:
            raise InputError(
                "Passed `LayerParallelStrategy` under SLURM with requeueing, which saves in the middle of a batch. "
                "Pass `plugins=[SLURMEnvironment(auto_requeue=False)]` to the Trainer, and save with `ModelCheckpoint("
                "every_n_train_steps=…)`."
            )
        check_cuts(self.cuts, len(self.module.network), self.world_size)

    def _stop_without_collective(self) -> None:
        """Let ranks stop together on SIGTERM without asking each other before every batch, as Lightning does.

        That question is a broadcast, which would make every rank wait for all others. Here rank 0 notes the signal,
        and sends word in the place of the next batch's signal.
        """

        def note(*_: Any) -> None:
            self._told_to_stop = True

        def stop_if_told() -> None:
            if self._told_to_stop and self._stage is not None and self.is_global_zero:
                self._stage.stop()
                raise SIGTERMException

        self._told_to_stop = False
        replace_sigterm(self.module.trainer, note, stop_if_told)

    # Training --------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Cut the stack at the first batch, and forget what the checkpoint held for the blocks of other ranks."""
        if self._stage is not None:
            return
        network = self.module.network
        cuts = self.cuts
        if cuts is None:
            with one_copy():
                costs = block_seconds(self.module, batch) if self.is_global_zero else []
            cuts = self.broadcast(balanced_cuts(costs, self.world_size) if costs else [])
        self._groups = groups_of(cuts, len(network))
        assert self._envelopes is not None
        assert self._tensors is not None
        self._stage = PipelineStage(
            self._groups,
            self.global_rank,
            device=self.root_device,
            envelopes=self._envelopes,
            tensors=self._tensors,
            lent=network[self._groups[self.global_rank].start].parameters(),
        )
        network.stage = self._stage
        for index in self._stage.elsewhere:
            optimizer = self.optimizers[index]
            optimizer.zero_grad(set_to_none=True)
            optimizer.state.clear()
            optimizer._opt_called = True  # type: ignore[attr-defined]  # its learning rate moves, though it never steps

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The step of Lightning; nothing in it is averaged over ranks."""
        with one_copy():
            return super().training_step(*args, **kwargs)

    def on_validation_start(self) -> None:
        """Give all ranks all weights."""
        self.share_weights()

    def on_train_end(self) -> None:
        """Give all ranks all weights."""
        self.share_weights()

    def share_weights(self) -> None:
        """Give all ranks the parameters and buffers of every block; all of them must call it."""
        if self._stage is None:
            return
        network = self.module.network
        assert isinstance(network, BlockStack)
        self._stage.flush()
        works = [
            dist.broadcast(value.detach(), src=rank, async_op=True)
            for rank, group in enumerate(self._groups)
            for index in group
            for value in values_of(network, index)
        ]
        for work in works:
            assert work is not None
            work.wait()

    # Checkpoints -----------------------------------------------------------------------------------------------

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Weights of all ranks."""
        self.share_weights()
        return super().lightning_module_state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """State of the optimizer of one block, from the rank that trains it; every rank must ask."""
        index = self.optimizers.index(optimizer)
        owner = next((rank for rank, group in enumerate(self._groups) if index in group), 0)
        if owner == 0 or self.global_rank not in (0, owner):
            return super().optimizer_state(optimizer)
        content: list[Any] = [None]
        if self.global_rank == owner:
            content = [tree_map(lambda x: x.cpu() if isinstance(x, Tensor) else x, super().optimizer_state(optimizer))]
            dist.send_object_list(content, dst=0, group=self._envelopes)
        else:
            dist.recv_object_list(content, src=owner, group=self._envelopes)
        state: dict[str, Tensor] = content[0]
        return state


def values_of(network: BlockStack, index: int) -> Iterator[Tensor]:
    """Parameters and buffers of a block, and what lookahead keeps for its loss."""
    yield from network[index].parameters()
    yield from network[index].buffers()
    if network.lookahead is not None:
        yield from network.lookahead.kept(index)


def reads_what_another_learns(network: BlockStack) -> bool:
    """Whether the goal of a block reads parameters that learn in another block, wherever it keeps them."""
    owners = {id(parameter): index for index, block in enumerate(network) for parameter in block.parameters()}
    for index, block in enumerate(network):
        goal = getattr(block, "goal", None)
        for part in goal.modules() if isinstance(goal, nn.Module) else ():
            values = (value if isinstance(value, (list, tuple)) else [value] for value in vars(part).values())
            held = [each for several in values for each in several]
            beside = [p for each in held if isinstance(each, nn.Module) for p in each.parameters()]
            beside += [each for each in held if isinstance(each, nn.Parameter)]
            if any(p.requires_grad and owners.get(id(p), index) != index for p in beside):
                return True
    return False


def refuse_task(module: pl.LightningModule) -> None:
    """Check that every block of a task is trained once a batch, from what the block below passes on.

    Raises:
        InputError: it is not, or needs more than that; the message names what to use.
    """
    network = getattr(module, "network", None)
    if not isinstance(network, BlockStack):
        raise InputError(
            f"Passed a `{type(module).__name__}` with `LayerParallelStrategy`. It trains an `FFLightningModule` whose "
            "network is a `BlockStack`; use `strategy='ddp'`."
        )
    module = cast("FFLightningModule", module)
    repeats = module.repeats_blocks or type(network).local_losses is not BlockStack.local_losses
    more = [*module.local_modules()] != [*network]
    whole = getattr(module, "rollouts", None) is not None or getattr(network, "teacher_forced", False)
    moves = network.lookahead is not None and any(isinstance(part, RunningMean) for part in network.modules())
    far = network.lookahead is not None and network.lookahead.horizon > 1
    reasons = [
        (module.update == "fused", "`update='fused'` sums the losses of all blocks", "`update='streamed'`"),
        (repeats, "it has its own order of blocks, or trains one more than once a batch", "`strategy='ddp'`"),
        (
            more,
            "it trains more than the blocks, as a readout of all of them",
            "`strategy='ddp'`",
        ),
        (far, "with `lookahead` a process has the weights of one block of the next", "`Lookahead(horizon=1)`"),
        (moves, "with `lookahead` a block would need the next one's running values at every step", "`strategy='ddp'`"),
        (
            any(isinstance(block.goodness, FollowingGoodness) for block in network),
            "with `AveragedHead` a block needs the next one's weights",
            "`strategy='ddp'`",
        ),
        (whole, "the whole network makes its negatives", "`strategy='ddp'`"),
        (
            reads_what_another_learns(network),
            "the goal of a lower block reads what another block learns, as `NextToken` does the vocabulary",
            "`train_vocabulary=False`, or `strategy='ddp'`",
        ),
    ]
    for holds, reason, instead in reasons:
        if holds:
            raise InputError(
                f"Passed a `{type(module).__name__}` with `LayerParallelStrategy`. It cannot be layer-parallel, since "
                f"{reason}; use {instead}."
            )
