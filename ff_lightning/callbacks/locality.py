"""How local learning differs from backprop: directions of gradients, and how many dimensions are in use.

What is measured changes nothing in the training: it takes passes of its own, in which no running value moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from itertools import accumulate
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.distributed import is_sharded
from ff_lightning.errors import InputError, whole
from ff_lightning.language.stack import TokenStack
from ff_lightning.module import FFLightningModule
from ff_lightning.normalization import frozen_statistics
from ff_lightning.signals import LocalStep, StepContext
from ff_lightning.stacks import BlockStack, Network

Gradients = list[list[Tensor]]
"""Of the parameters of every block's layers."""

ROWS = 512
"""Samples or positions of which a rank is taken: as many as are cheap."""


@dataclass
class Locality:
    """What was found of one block; ``None`` where it cannot be told.

    Attributes:
        cosine: between the gradient of the block's own loss and that of backprop, over the parameters of its layer.
        rank_activities: effective rank of its activities.
        rank_gradients: of the gradient of its own loss with respect to them.
        rank_backprop: of the gradient of backprop with respect to them.
    """

    cosine: float | None = None
    rank_activities: float | None = None
    rank_gradients: float | None = None
    rank_backprop: float | None = None


class LocalityMonitor(pl.Callback):
    """Logs, every so many updates, how far each block's learning is from what backprop would do at that moment.

    The names are ``train/cosine/block_0``: between the gradient of a block's own loss and that of backprop, over the
    parameters of its layer; ``train/rank_activities/block_0``; ``train/rank_gradients/block_0`` of the gradient of its
    loss with respect to its activities; and ``train/rank_backprop/block_0`` of that of backprop. Ranks are effective
    ranks (:func:`effective_rank`) over the samples, or positions, of the batch.

    Backprop's loss is that of the last block, sent through the whole chain (of a language model, the softmax over all
    tokens: :meth:`~ff_lightning.language.stack.TokenStack.as_one_block`). So the cosine of the last block of images is
    1, and networks that are no chain have ranks alone. A look costs about three training steps.

    Args:
        every: updates between two looks.

    Attributes:
        found: what every look found, block by block, by number of updates; checkpoints keep it.

    Raises:
        InputError: ``every`` is no whole number; or, when training starts, blocks are elsewhere, sharded or compiled.
    """

    def __init__(self, every: int = 500) -> None:
        self.every = whole("every", every, least=1, owner=self)
        self.found: dict[int, list[Locality]] = {}

    def state_dict(self) -> dict[str, Any]:
        """What was found so far: by number of updates the four numbers of every block."""
        return {"found": {step: [list(astuple(block)) for block in blocks] for step, blocks in self.found.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        found = state_dict["found"]
        self.found = {step: [Locality(*block) for block in blocks] for step, blocks in found.items()}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget an earlier training, before a checkpoint brings back what belongs to this one."""
        if stage == "fit" and trainer.global_step == 0:
            self.found = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that blocks are as they are written."""
        if not isinstance(pl_module, FFLightningModule):
            raise InputError(
                f"Passed `LocalityMonitor` to the training of a `{type(pl_module).__name__}`. It looks at an "
                "`FFLightningModule`."
            )
        if pl_module.compile_blocks:
            raise InputError("Passed `LocalityMonitor` with `compile_blocks=True`. Leave out one of them.")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that all blocks are here."""
        network = cast("FFLightningModule", pl_module).network
        if network.stage.elsewhere or any(is_sharded(block) for block in network):
            raise InputError(
                "Passed `LocalityMonitor` to a training whose blocks are sharded or on other processes. Take one "
                "device or `strategy='ddp'`, or leave it out."
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look, if it is time."""
        step = trainer.global_step
        if step == 0 or step % self.every or step in self.found or not isinstance(pl_module, FFLightningModule):
            return
        with torch.enable_grad(), trainer.precision_plugin.forward_context():
            self.found[step] = locality(pl_module, batch)
        if len(self.found) == 1 and self.found[step] == [Locality()] * len(self.found[step]):
            rank_zero_info(f"`LocalityMonitor` finds nothing to measure in a `{type(pl_module.network).__name__}`.")
        for index, found in enumerate(self.found[step]):
            values = {f"train/{name}/block_{index}": value for name, value in vars(found).items() if value is not None}
            pl_module.log_dict(values)


def locality(module: FFLightningModule, batch: Any) -> list[Locality]:
    """What there is to say of every block of a model on one batch.

    Args:
        module: in training mode; nothing of it is changed.
        batch: what its dataloader gives, on the device.
    """
    network = module.network
    found = [Locality() for _ in network]
    theirs: Gradients = []
    with frozen_statistics(module):  # and not the network alone: a task may keep what a model made
        if is_chain(network):
            with same_draws(module.device), activities_of(network) as seen:
                take = partial(backprop, network, seen=seen, found=found)
                theirs = received(module, batch, take)
        with same_draws(module.device), activities_of(network) as seen:
            for step in module.local_losses(batch):
                if step.block < len(network):
                    _look(network, step, seen, found, theirs)
                del step
    return found


def cosines(ours: Sequence[Sequence[Tensor]], theirs: Sequence[Sequence[Tensor]]) -> list[float]:
    """Cosine between two gradients of each of some blocks, over all of its parameters together.

    Args:
        ours: gradients of the parameters, block by block.
        theirs: the same of another loss.

    >>> cosines([[torch.ones(2), torch.zeros(1)]], [[torch.tensor([1.0, 0.0]), torch.zeros(1)]])
    [0.7071]
    """
    joined = [[torch.cat([part.flatten().float() for part in block]) for block in each] for each in (ours, theirs)]
    return [round(F.cosine_similarity(a, b, dim=0).item(), 4) for a, b in zip(*joined, strict=True)]


def effective_rank(rows: Tensor) -> float:
    """Dimensions that a matrix uses: exp of the entropy of its singular values, as shares (Roy and Vetterli 2007).

    Args:
        rows: ``(N, D)``; of more than 512 rows, evenly spaced ones are taken.

    Returns:
        From 1 to the smaller of ``N`` and ``D``; 0 of a matrix of zeros.

    >>> effective_rank(torch.eye(4)), effective_rank(torch.ones(4, 4))
    (4.0, 1.0)
    """
    if len(rows) > ROWS:
        rows = rows[torch.linspace(0, len(rows) - 1, ROWS, device=rows.device).long()]
    rows = rows.detach().double()
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    if not bool(values.max() > 0):
        return 0.0
    shares = values[values > values.max() * 1e-7] / values[values > values.max() * 1e-7].sum()
    return round(float(torch.exp(-(shares * shares.log()).sum())), 4)


def layer_parameters(block: nn.Module) -> list[nn.Parameter]:
    """What a block's own loss and backprop both train: the parameters of its layers, without those of its goodness."""
    layer = getattr(block, "layer", block)
    layers: nn.Module = getattr(layer, "layers", layer)
    return [p for p in layers.parameters() if p.requires_grad]


def is_chain(network: Network) -> bool:
    """Whether there is a loss that backprop could send through all blocks: that of the last one."""
    if isinstance(network, TokenStack):
        return not getattr(network, "teacher_forced", False)
    return isinstance(network, BlockStack) and type(network).local_losses is BlockStack.local_losses


def backprop(
    network: Network, signal: Any, context: StepContext = StepContext(), *, seen: list[Tensor | None], found: Any
) -> Gradients:
    """Gradients of backprop through the whole chain, of the parameters of every block's layers.

    Args:
        network: a chain.
        signal: what its first block receives.
        context: what is known of the step.
        seen: is filled with the activities of the blocks, as they are computed.
        found: its ranks of backprop are filled in.
    """
    if isinstance(network, TokenStack):
        return _backprop_of_text(network, signal, found)
    for index, block in enumerate(network):
        contrast, signal = block.local_step(signal, context.at(index), cut=False)
    parameters = [layer_parameters(block) for block in network]
    answers = [h for h in seen if h is not None]
    flat = [p for block in parameters for p in block]
    gradients = torch.autograd.grad(contrast.loss, [*flat, *answers], allow_unused=True)
    for place, error in zip(found, gradients[len(flat) :], strict=False):
        place.rank_backprop = None if error is None else effective_rank(units_of(error))
    some = iter(torch.zeros_like(p) if g is None else g for p, g in zip(flat, gradients, strict=False))
    return [[next(some) for _ in block] for block in parameters]


def _backprop_of_text(network: TokenStack, signal: Any, found: Any) -> Gradients:
    """The same of a language model, whose twin has the layers of all blocks in one."""
    (block,) = (twin := network.as_one_block()).token_blocks()
    ends = [*accumulate(len(each.layer) for each in network.token_blocks())]
    with outputs_of([list(block.layer)[end - 1] for end in ends]) as seen:
        (top,) = twin.local_losses(twin.signal(signal.h, signal.labels))
    answers = {index: h for index, h in enumerate(seen) if h is not None}
    flat = list(block.layer.layers.parameters())
    gradients = torch.autograd.grad(top.loss, [*flat, *answers.values()])
    for index, error in zip(answers, gradients[len(flat) :], strict=True):
        found[index].rank_backprop = effective_rank(units_of(error))
    some = iter(gradients)
    return [[next(some) for _ in layer_parameters(each)] for each in network]


def _look(
    network: Network, step: LocalStep, seen: list[Tensor | None], found: list[Locality], theirs: Gradients
) -> None:
    """Take what one local loss says of the blocks that it trains."""
    parameters = [layer_parameters(network[index]) for index in step.blocks]
    flat = [p for block in parameters for p in block]
    answers = {index: h for index in step.blocks if (h := seen[index]) is not None and h.requires_grad}
    gradients = torch.autograd.grad(step.loss, [*flat, *answers.values()], allow_unused=True)
    for index, error in zip(answers, gradients[len(flat) :], strict=True):
        found[index].rank_activities = effective_rank(units_of(answers[index]))
        found[index].rank_gradients = None if error is None else effective_rank(units_of(error))
    some = iter(torch.zeros_like(p) if g is None else g for p, g in zip(flat, gradients, strict=False))
    ours = [[next(some) for _ in block] for block in parameters]
    if theirs:
        for index, cosine in zip(step.blocks, cosines(ours, [theirs[i] for i in step.blocks]), strict=True):
            found[index].cosine = cosine


def units_of(h: Tensor) -> Tensor:
    """Activities ``(N, …)`` as rows of units: of maps ``(B, C, H, W)`` a row a position, else the last dimension."""
    return h.movedim(1 if h.dim() == 4 else -1, -1).flatten(0, -2)


def activities_of(network: Network) -> AbstractContextManager[list[Tensor | None]]:
    """Meanwhile the list holds what the layer of every block made last, with its graph."""
    return outputs_of([getattr(block, "layer", block) for block in network])


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[Tensor | None]]:
    """Meanwhile the list holds what each of some modules made last, with its graph."""
    seen: list[Tensor | None] = [None] * len(modules)

    def see(index: int, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() > 1 and torch.is_grad_enabled():
            seen[index] = output

    with ExitStack() as hooks:
        for index, module in enumerate(modules):
            hooks.callback(module.register_forward_hook(partial(see, index)).remove)
        yield seen


def received(module: FFLightningModule, batch: Any, take: Callable[..., Gradients]) -> Gradients:
    """What a function makes of what the network would receive, and of what is known of the step.

    Args:
        module: whose task makes of a batch what its network receives.
        batch: what its dataloader gives.
        take: is called in the place of the network's ``local_losses``.
    """
    found: Gradients = []

    def local_losses(*args: Any) -> Iterator[LocalStep]:
        found.extend(take(*args))
        return iter(())

    vars(module.network)["local_losses"] = local_losses
    try:
        for _ in module.local_losses(batch):  # a readout may have a loss, too
            pass
    finally:
        del vars(module.network)["local_losses"]
    return found


@contextmanager
def same_draws(device: torch.device) -> Iterator[None]:
    """Meanwhile torch's own randomness, as of dropout, is the same at every call; nothing of it is used up."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
