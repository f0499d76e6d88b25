"""Networks of blocks: the only place that stops the gradient, and cuts a network over processes.

A :class:`Network` is a set of blocks under any order of visits. A :class:`BlockStack` is a chain, in which every block
reads the one below and nothing else; that is what early exit, layer-parallel training and ``convert`` ask for.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from ff_lightning.blocks import Block, ClassBlock, ContrastiveBlock
from ff_lightning.candidates import Softmax
from ff_lightning.distributed import is_sharded
from ff_lightning.errors import InputError
from ff_lightning.goodness import LinearGoodness
from ff_lightning.losses import ThresholdLoss
from ff_lightning.parts import Part, being_built
from ff_lightning.signals import BlockContext, Contrast, Labelled, LocalStep, Signal, StepContext, detached
from ff_lightning.stages import Stage

JUDGED_AT_ONCE = 3
"""Labels whose activities are alive together while negatives are chosen: the memory of a training step, about."""


HandedUp = Literal["before_update", "after_update"]
"""When the activities are computed that a block hands up, against its own update."""


class Network(Part, nn.Module, ABC):
    """Blocks, and how they are visited; the gradient is stopped between them.

    Args:
        blocks: from the input upwards. No parameter may belong to two blocks.

    Attributes:
        stage: which of the blocks this process computes in training.
        num_classes: classes that it tells apart, ``None`` if its blocks know of none; not all networks say it.
        out_features: values a sample that the last block passes on, likewise.

    Raises:
        InputError: no block, or a parameter shared between blocks (the update of one would move the other).
    """

    others_serve = True

    repeats_blocks = False
    """Whether :meth:`local_losses` yields a block more than once a batch."""

    updates_in_turn = False
    """Whether a block must have had its update before :meth:`local_losses` can say the next loss."""

    num_classes: int | None
    out_features: int

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        if not blocks:
            raise InputError("Passed `blocks=[]`. A network needs at least one block.")
        refuse_shared_parameters(blocks)
        self.blocks = nn.ModuleList(blocks)
        self.stage = Stage(range(len(blocks)), len(blocks))

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Block:
        return self.blocks[index]  # type: ignore[return-value]

    @property
    def gives_classes(self) -> bool:
        """Whether every block gives every class a goodness, so that images carry no label."""
        return all(isinstance(block, ClassBlock) for block in self)

    # Training --------------------------------------------------------------------------------------------------

    @abstractmethod
    def local_losses(self, signal: Signal, context: StepContext = StepContext()) -> Iterator[LocalStep]:
        """Yield local losses, in the order in which their blocks are to be updated.

        Every block is entered by :meth:`visit`, and :meth:`begin` stands first. Between two losses nothing of a
        block is kept but what it passed on.

        Args:
            signal: input of the network.
            context: what is known of the step.
        """

    def begin(self, context: StepContext) -> int:
        """Begin a step: find the highest block that learns.

        Returns:
            Its index, -1 if none learns.
        """
        self.stage.highest = context.highest(len(self))
        return self.stage.highest

    def learns(self, index: int, context: StepContext) -> bool:
        """Whether a block learns now: the step says so; a block that has nothing to learn from rests all the same."""
        return context.learns(index)

    def visit(
        self, index: int, signal: Signal, context: StepContext, *, cut: bool = True
    ) -> tuple[Contrast | None, Signal]:
        """Let a block learn from a signal, or only pass it on where it rests.

        Args:
            index: of the block.
            signal: what it receives.
            context: what is known of the step.
            cut: stop the gradient behind the block.

        Returns:
            Its local loss, ``None`` where it rests, and the signal that it passes on.
        """
        if self.learns(index, context):
            return self[index].local_step(signal, context.at(index), cut=cut)
        return None, self[index].rest(signal)

    # Answers ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def activities(self, x: Tensor | Labelled) -> Iterator[Tensor]:
        """Yield the activities of every block, ``(N, …)``, not normalised, without gradient."""

    @abstractmethod
    def forward(self, x: Tensor | Labelled) -> Tensor:
        """What the last block passes on, ``(N, …)``, with the gradient of the whole network (for a twin)."""

    @torch.no_grad()
    def goodness(self, x: Tensor | Labelled, *, blocks: int | None = None) -> Tensor:
        """Goodness that every block gives its input.

        Args:
            x: ``(N, …)``, or :class:`Labelled` with ``S`` labels for each of ``B`` images, ``N = S * B``.
            blocks: only this many of the lowest blocks; all by default.

        Returns:
            ``(L, N)``, or ``(L, N, C)`` for blocks with one goodness a class; at least float32.
        """
        answers = zip(islice(self, blocks), self.activities(x), strict=False)
        return torch.stack([block.goodness(h) for block, h in answers])

    def calibrated(self, goodness: Tensor) -> Tensor:
        """What goodness of classes stands for as log-probability, up to a constant, by the loss of every block.

        Args:
            goodness: ``(L, …, C)``, of blocks that give every class one.
        """
        blocks: list[Any] = list(self)
        return torch.stack([block.loss.of_classes(g) for block, g in zip(blocks, goodness, strict=True)])

    def open(self, image: Tensor) -> Opened:
        """Compute once what no label changes of images ``(B, …)``, to judge several labels and to learn from two."""
        return Opened(self, image)

    def as_one_block(self, num_classes: int | None = None) -> BlockStack:
        """The same network as one block, under a linear softmax: what backprop trains, the twin.

        Args:
            num_classes: of the softmax; that of the network by default.

        Raises:
            InputError: neither says how many classes there are.
        """
        num_classes = getattr(self, "num_classes", None) if num_classes is None else num_classes
        if num_classes is None:
            raise InputError(
                f"Passed `num_classes=None` with a `{type(self).__name__}` that knows of no classes. Pass their number."
            )
        stack = BlockStack([WholeNetwork(self._alone(), LinearGoodness(self.out_features, num_classes), Softmax())])
        stack.num_classes = num_classes
        return stack

    def as_one_judge(self) -> BlockStack:
        """The same network as one block that tells positives from negatives: a linear layer on top gives the goodness.

        It is what backprop trains where there are no classes, the twin; the loss is logistic.
        """
        on_top = nn.Sequential(nn.Flatten(), nn.Linear(self.out_features, 1), nn.Flatten(0))
        return BlockStack([ContrastiveBlock(self._alone(), on_top, ThresholdLoss(0.0))])

    def _alone(self) -> Network:
        """The network with the same blocks, and nothing beside them that only local losses read."""
        return self


class Ahead(Protocol):
    """What a block answers for beside its own loss; see :class:`~ff_lightning.networks.Lookahead`."""

    horizon: int
    """How many blocks ahead that reaches."""

    def attach(self, blocks: Sequence[Block]) -> None:
        """Get to know the blocks of the chain."""

    def renews(self, update: int) -> bool:
        """Whether the weights of the next block are read at this update, and not those of an earlier one."""

    def kept(self, block: int) -> Iterable[Tensor]:
        """What is kept from one update to the next for the loss of a block."""

    def __call__(self, blocks: Sequence[Block], first: int, signal: Signal, context: StepContext) -> Tensor:
        """A loss that the next blocks, from that index on, make of a signal with its graph."""


class BlockStack(Network):
    """Blocks one above the other: each reads what the one below passes on, and nothing else.

    Args:
        blocks: from the input upwards. No parameter may belong to two blocks.
        lookahead: lets every block answer for what the next one makes of its activities; it is copied. ``None`` for the
            own loss alone.
        handed_up: whether the next block reads what a block was before its update, ``"before_update"``, or what it
            has become, ``"after_update"``, as public implementations do that train layer after layer on a batch. The
            latter takes a second forward pass of every block but the last that learns, without a graph: about a
            quarter of a step more. Dropout draws anew for it, and running values do not move.

    Raises:
        InputError: see :class:`Network`; or ``handed_up`` is neither.
    """

    overlapping = False
    """Whether updates span pairs of neighbours in turn, so that a gradient crosses one border (tier T3)."""

    lookahead: Ahead | None

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        lookahead: Ahead | None = None,
        handed_up: HandedUp = "before_update",
    ) -> None:
        super().__init__(blocks)
        if handed_up not in get_args(HandedUp):
            allowed = " or ".join(map(repr, get_args(HandedUp)))
            raise InputError(f"Passed `handed_up={handed_up!r}`. `handed_up` must be {allowed}.")
        self.handed_up = handed_up
        self.updates_in_turn = handed_up == "after_update"
        self.lookahead = None
        if lookahead is not None:
            self.look_ahead(lookahead)

    def look_ahead(self, lookahead: Ahead) -> None:
        """Let every block answer for the next one, in a chain whose constructor takes no ``lookahead``.

        Tell it before the chain is passed to a task. A checkpoint does not say it: pass a chain that looks ahead to
        ``load_from_checkpoint(path, network=…)``.

        Args:
            lookahead: is copied.

        Raises:
            InputError: the chain has an order of its own in which its blocks learn.
        """
        if type(self).local_losses is not BlockStack.local_losses:
            raise InputError(
                f"Passed `lookahead` to a `{type(self).__name__}`, which trains its blocks in an order of its own. "
                "Leave it out."
            )
        self.lookahead = copy.deepcopy(lookahead)
        self.lookahead.attach(list(self))
        if not being_built(self):
            self.changed = "was told to look ahead after it was built"

    def _alone(self) -> Network:
        if self.lookahead is None:
            return self
        shared = [*self.children(), *self.parameters(recurse=False), *self.buffers(recurse=False)]
        known: dict[int, Any] = {id(part): part for part in shared}
        return copy.deepcopy(self, known | {id(self.lookahead): None})

    def forward(self, x: Tensor | Labelled) -> Tensor:
        """What the last block passes on, ``(N, …)``, with the gradient of the whole chain (for a twin)."""
        for block in self:
            x = block.pass_on(x, block(x))
        assert isinstance(x, Tensor)
        return x

    def local_losses(self, signal: Signal, context: StepContext = StepContext()) -> Iterator[LocalStep]:
        """Yield the local loss of every block that this process computes and that learns, from the input upwards.

        Each block's activities are computed with the weights it had before its own update. When the next loss
        is asked for, nothing of the block below is kept but its detached signal; with ``handed_up="after_update"``
        that is computed now, with the weights that the block has by then.

        Args:
            signal: input of the first block.
            context: what is known of the step.
        """
        top = self.begin(context)
        if top < self.stage.blocks.start:
            return
        signal = self.stage.receive(signal)
        for blocks in (part for span in self.spans(context.update) for part in self._parted(span, context)):
            if blocks[0] > top:
                return
            received = signal if self.updates_in_turn else None
            step, signal = self._span(blocks, signal, context)
            if received is None or step is None:
                self.stage.send(blocks[-1], signal)
            if step is None:
                continue
            yield step
            del step
            if received is not None and blocks[-1] < len(self) - 1:
                signal = self._once_more(blocks, received) if blocks[-1] < top else signal
                self.stage.send(blocks[-1], signal)

    def spans(self, update: int) -> Iterator[range]:
        """Blocks that one loss trains: each by itself, or overlapping pairs.

        On even updates the pairs are (0, 1), (2, 3), …, on odd ones (1, 2), (3, 4), …; a block without a partner, or
        whose partner rests, is trained alone (Trifecta, Dooms et al. 2023, arXiv 2311.18130, section 3.3).
        """
        if not self.overlapping:
            yield from (range(index, index + 1) for index in self.stage.blocks)
            return
        starts = sorted({0, *range(update % 2, len(self), 2)})
        yield from (range(*ends) for ends in pairwise([*starts, len(self)]))

    def _parted(self, span: range, context: StepContext) -> Sequence[range]:
        """Blocks that one loss trains together; each by itself where one of them rests."""
        if all(self.learns(index, context) for index in span):
            return [span]
        return [range(index, index + 1) for index in span]

    def _span(self, blocks: range, signal: Signal, context: StepContext) -> tuple[LocalStep | None, Signal]:
        if not self.learns(blocks[0], context):  # then it is by itself
            return None, self[blocks[0]].rest(signal)
        step: LocalStep | None = None
        for index in blocks:
            last = index == blocks[-1]
            if index + 1 < len(self):
                self[index].follow(self[index + 1], context.update)
            above = self._ahead(index, context) if last else range(0)
            found, signal = self[index].local_step(signal, context.at(index), cut=last and not above)
            loss = found.loss if step is None else found.loss + step.loss
            if above and self.lookahead is not None:
                if self.lookahead.renews(context.update):
                    self.stage.borrow(index + 1, self[index + 1].parameters())
                loss = loss + self.lookahead([self[block] for block in above], above.start, signal, context)
                signal = detached(signal)
            passed = signal.h if last and isinstance(signal.h, Tensor) else None
            step = LocalStep(index, loss, found.g_pos, found.g_neg, below=step, passed=passed)
        return step, signal

    def _once_more(self, blocks: range, received: Signal) -> Signal:
        """What blocks pass on now, after their update, of what they received before."""
        if isinstance(received.h, Labelled):  # what was computed of the image alone is of the weights before
            received = replace(received, h=replace(received.h, image_part=None))
        for index in blocks:
            received = self[index].rest(received)
        return received

    def _ahead(self, index: int, context: StepContext) -> range:
        """The next blocks that a block answers for: those within the horizon, below the first that rests."""
        horizon = 0 if self.lookahead is None else self.lookahead.horizon
        end = index + 1
        while end < len(self) and end - index <= horizon and self.learns(end, context):
            end += 1
        return range(index + 1, end)

    @torch.no_grad()
    def activities(self, x: Tensor | Labelled) -> Iterator[Tensor]:
        """Yield the activities of every block, ``(N, …)``, not normalised, without gradient.

        Nothing is computed for a block before it is asked for.
        """
        for index, block in enumerate(self):
            self.stage.require(index, training=self.training)
            h: Tensor = block(x)
            yield h
            x = block.pass_on(x, h)


class WholeNetwork(ClassBlock):
    """A network under a linear softmax, trained by backprop throughout: the one block of a twin."""

    def judge(self, h: Tensor, signal: Signal, context: BlockContext) -> Contrast:
        """Cross-entropy of the softmax; nothing is contrasted."""
        assert signal.labels is not None
        return Contrast(self.loss(self.goodness(h), signal.labels, context.generator).loss)


class Opened:
    """Images of which a network has computed once what no label changes.

    The graph of that part belongs to the first block, which learns from it. A block that is spread over processes is
    whole within its own forward pass only, so there nothing is computed beforehand.

    Args:
        network: whose first layer may have a method ``image_part``.
        image: ``(B, …)``.
    """

    def __init__(self, network: Network, image: Tensor) -> None:
        self.network = network
        self.image = image
        self.part = self.image_part()

    def image_part(self) -> Tensor | None:
        """What the first layer makes of the image alone; ``None`` if it has no such part."""
        part = None if is_sharded(self.network[0]) else getattr(self.network[0].layer, "image_part", None)
        return None if part is None else part(self.image)

    def with_labels(self, *labels: Tensor) -> Labelled:
        """The images with labels, ``(B,)`` each."""
        return Labelled(self.image, torch.stack(labels), self.part)

    def goodness(self, labels: Tensor, blocks: int) -> Tensor:
        """What the network thinks of labels now, at little cost.

        Args:
            labels: ``(S, B)``.
            blocks: how many of the lowest blocks are asked.

        Returns:
            ``(S, B)``, goodness summed over these blocks, without gradient.
        """
        some = torch.split(labels, JUDGED_AT_ONCE)
        return torch.cat([self.judge(self.with_labels(*rows), blocks) for rows in some]).view_as(labels)

    def judge(self, x: Labelled, blocks: int) -> Tensor:
        """Goodness of images with labels, ``(S * B,)``, summed over the lowest ``blocks``."""
        return self.network.goodness(x, blocks=blocks).sum(0)


def need_network(network: object, owner: str) -> None:
    """Check that a task gets a network of blocks.

    Args:
        network: that was passed.
        owner: the task.

    Raises:
        InputError: it is another model.
    """
    if not isinstance(network, Network):
        kind = type(network).__name__
        how = (
            "finetuning.CausalLM.from_transformers(model, layers_per_block=…)" if of_tokens(kind) else "convert(model)"
        )
        raise InputError(
            f"Passed `network={kind}` to `{owner}`, which trains a network of blocks. Make one of your model: "
            f"`ff_lightning.{how}`."
        )


def of_tokens(kind: str) -> bool:
    """Whether a class of transformers predicts the next token, by its name."""
    return kind.endswith(("LMHeadModel", "ForCausalLM"))


def refuse_shared_parameters(modules: Sequence[nn.Module]) -> None:
    """Check that no parameter belongs to two of the modules.

    Raises:
        InputError: names both places.
    """
    owner: dict[int, str] = {}
    for index, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            place = f"block {index}, `{name}`"
            if id(parameter) in owner:
                raise InputError(
                    f"The parameter at {place} is also the one at {owner[id(parameter)]}. Blocks must not share "
                    "parameters: the update of one would move the other."
                )
        owner.update({id(p): f"block {index}, `{n}`" for n, p in module.named_parameters()})
