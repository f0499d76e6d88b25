"""What else might make depth pay: changes to a chain with own channels and lookahead, one at a time.

    python recipes/benchmarks/depth_ideas.py --data FILE --small --lookahead 1 --refresh 10 --idea NAME [--seed 0]

A chain is trained as the arm `chain` of `depth.py`, with the same seed on the same windows, so their losses are paired;
all arguments are those of `depth.py`. `--idea` is one of:

- `none`: the arm `chain` itself, for rates and other arguments;
- `two_ahead`: a horizon of two blocks, as `depth.py --horizon 2`;
- `every_other`, `late`: lookahead at every second update, or in the second half of the training alone;
- `half_of_them`: lookahead on the first half of the sequences of a batch, with its weight;
- `fading`: the own loss of every block but the last falls to a tenth in the second half, its lookahead does not;
- `top_readout`: every block reads with a constant copy of the last block's readout, as old as the copies of lookahead;
- `rates_fall`, `rates_rise`: every block learns at .7 of the rate of the one below, or the other way round; their
  geometric mean stays;
- `distilled`: half of a block's own loss is the cross-entropy with what the copy of the next block predicts, or of the
  furthest one within `--horizon`.

It can go on after a stop, as `depth.py`. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import depth
import torch
from recipe import be_quiet, provenance
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ff_lightning.blocks import Block
from ff_lightning.language import GPT
from ff_lightning.language.blocks import Dreams, TextSignal, TokenBlock, TokenGoodness
from ff_lightning.networks import Lookahead
from ff_lightning.processor import prepare_cpu
from ff_lightning.schedules import Rates
from ff_lightning.signals import LocalStep, Signal, StepContext, detached

FADED = 0.1
"""What is left of a loss that fades."""

RATIOS = {"rates_fall": 0.7, "rates_rise": 1 / 0.7}
"""Rate of a block, of that of the one below."""


class Sometimes(Lookahead):
    """Looks ahead at some of the updates; they contain those at which copies are made anew."""

    def __init__(self, weight: float, *, refresh: int, first: int, period: int) -> None:
        super().__init__(weight, refresh=refresh)
        self.first = first
        self.period = period

    def forward(self, blocks: Sequence[Block], first: int, signal: Signal, context: StepContext) -> Tensor:
        if context.update < self.first or context.update % self.period:
            return torch.zeros(())
        return super().forward(blocks, first, signal, context)


class OnHalf(Lookahead):
    """Looks ahead on the first half of the sequences: in expectation the same gradient, for half of the work."""

    def forward(self, blocks: Sequence[Block], first: int, signal: Signal, context: StepContext) -> Tensor:
        assert isinstance(signal, TextSignal)
        assert signal.labels is not None
        assert signal.tokens is not None
        half = len(signal.h) // 2
        below = signal.below if signal.below.dim() == 1 else signal.below[:half]
        some = replace(signal, h=signal.h[:half], labels=signal.labels[:half], tokens=signal.tokens[:half], below=below)
        return super().forward(blocks, first, some, context)


class AnswerOf(nn.Module):
    """What a block passes on, and its logits, as a forward pass."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, signal: TextSignal) -> tuple[TextSignal, Tensor]:
        assert isinstance(self.block, TokenBlock)
        passed = self.block.rest(signal)
        return passed, self.block.answer(passed.h, signal.below, None)


class Chain(GPT):
    """A chain whose blocks weigh their own loss, or learn from what the copy above predicts."""

    idea = "none"
    steps = 1

    def own(self, index: int, loss: Tensor, signal: TextSignal, update: int) -> Tensor:
        """The own loss of a block that is not the last, given what it passes on."""
        if self.idea == "fading":
            gone = max(0.0, 2 * update / self.steps - 1)
            return loss * (1 - (1 - FADED) * gone)
        if self.idea == "distilled":
            block = self[index]
            assert isinstance(block, TokenBlock)
            mine = block.answer(signal.h, signal.below, None)
            taught = self.taught(index, signal, update)
            return 0.5 * loss + 0.5 * F.cross_entropy(mine.flatten(0, 1), taught.flatten(0, 1))
        return loss

    @torch.no_grad()
    def taught(self, index: int, signal: TextSignal, update: int) -> Tensor:
        """Probabilities that the furthest block within the horizon predicts, with the weights that have come down."""
        assert self.lookahead is not None
        x = detached(signal)
        for above in self._ahead(index, StepContext(update=update)):
            constants = self.lookahead._weights(self[above], above, update)
            named = {f"block.{name}": value for name, value in constants.items()}
            x, logits = functional_call(AnswerOf(self[above]), named, (x,))
        return logits.softmax(-1)

    def _span(self, blocks: range, signal: Signal, context: StepContext) -> tuple[LocalStep | None, Signal]:
        (index,) = blocks
        if index + 1 == len(self):
            return super()._span(blocks, signal, context)
        found, signal = self[index].local_step(signal, context.at(index), cut=False)
        assert isinstance(signal, TextSignal)
        assert self.lookahead is not None
        above = [self[block] for block in self._ahead(index, context)]
        ahead = self.lookahead(above, index + 1, signal, context)
        loss = self.own(index, found.loss, signal, context.update) + ahead
        return LocalStep(index, loss, found.g_pos, found.g_neg), detached(signal)


class TopReadout(GPT):
    """A chain whose blocks all read with the last one's readout."""

    def __init__(self, *sizes: Any, refresh: int, **kwargs: Any) -> None:
        super().__init__(*sizes, **kwargs)
        width = self[0].goodness.width  # type: ignore[union-attr]
        for block in list(self)[:-1]:
            block.goodness = TokenGoodness(width, self.vocab_size, inherit=True)  # type: ignore[assignment]
        self.every = refresh
        self.lookahead.attach(list(self))  # type: ignore[union-attr]
        self.register_buffer("weight_of_top", torch.zeros(self.vocab_size, width))
        self.register_buffer("bias_of_top", torch.zeros(self.vocab_size))

    def signal(
        self, tokens: Tensor, targets: Tensor, context: StepContext = StepContext(), dreams: Dreams | None = None
    ) -> TextSignal:
        signal = super().signal(tokens, targets, context, dreams)
        if context.update % self.every == 0:
            weight, bias = self[-1].goodness.snapshot()  # type: ignore[union-attr, operator]
            self.weight_of_top.copy_(weight)  # type: ignore[operator, union-attr]
            self.bias_of_top.copy_(bias)  # type: ignore[operator, union-attr]
        return replace(signal, readout=(self.weight_of_top, self.bias_of_top))  # type: ignore[arg-type]

    def predictions(self, tokens: Tensor, caches: Any = None, *, last_only: bool = False) -> Any:
        del caches, last_only
        x = tokens
        for block in self.token_blocks():
            x = block(x, None, tokens)
            yield block.answer(x, self.prior, self[-1].goodness.snapshot())  # type: ignore[union-attr, operator]


def build(args: argparse.Namespace, vocab_size: int) -> Any:
    """The chain with its idea, with the weights that the arm `chain` starts with."""
    idea, half = args.idea, args.steps // 2
    if idea == "none" or idea in RATIOS:
        return depth.network(args, "chain", vocab_size)
    if idea in ("two_ahead", "every_other", "late", "half_of_them"):
        stack = depth.network(args, "chain", vocab_size)
        ahead = {
            "two_ahead": Lookahead(args.lookahead, refresh=args.refresh, horizon=2),
            "half_of_them": OnHalf(args.lookahead, refresh=args.refresh, horizon=args.horizon),
            "every_other": Sometimes(args.lookahead, refresh=args.refresh, first=0, period=2),
            "late": Sometimes(args.lookahead, refresh=args.refresh, first=half - half % args.refresh, period=1),
        }
        stack.look_ahead(ahead[idea])
        return stack
    made = Chain if idea in ("fading", "distilled") else TopReadout
    depth.GPT = made if made is Chain else _top(args)  # type: ignore[attr-defined]
    stack = depth.network(args, "chain", vocab_size)
    if isinstance(stack, Chain):
        stack.idea, stack.steps = idea, args.steps
    return stack


def _top(args: argparse.Namespace) -> Any:
    def make(*sizes: Any, **kwargs: Any) -> TopReadout:
        return TopReadout(*sizes, refresh=args.refresh, **kwargs)

    return make


IDEAS = ("none", "two_ahead", "every_other", "late", "half_of_them", "fading", "top_readout", "distilled", *RATIOS)


def rates(idea: str, depth: int) -> Rates | None:
    """What share of the rate each block learns at, where that is the idea."""
    return Rates([RATIOS[idea] ** (index - (depth - 1) / 2) for index in range(depth)]) if idea in RATIOS else None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--idea", choices=IDEAS, required=True)
    mine, rest = parser.parse_known_args()
    words, sys.argv = sys.argv, [sys.argv[0], *rest]
    args = depth.arguments()
    sys.argv = words
    args.idea = mine.idea
    return args


def main() -> None:
    args = arguments()
    be_quiet()
    torch.set_num_threads(args.threads)
    prepare_cpu()
    text = depth.data(args)
    text.prepare_data()
    text.setup("fit")
    name = "chain" if args.idea == "none" else args.idea
    stack, folder = build(args, text.vocab_size), args.folder / f"{name}-{depth.key(args, 'chain')}"
    found = depth.train(args, stack, text, folder, schedule=rates(args.idea, len(stack)))
    tier = ("T1" if args.negatives else "T2") + (" with lookahead" if args.lookahead else "")
    sizes = {"negatives": args.negatives, "lookahead": args.lookahead, "refresh": args.refresh, "seed": args.seed}
    sizes |= {"rates": [args.muon_lr, args.lr]}
    made = provenance(filter(None, [found.get("commit")]))
    print(json.dumps({"idea": args.idea, "tier": tier} | found | sizes | made))


if __name__ == "__main__":
    main()
