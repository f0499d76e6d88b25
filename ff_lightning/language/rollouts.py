"""Rollouts: sequences that a language model has made itself, kept as negatives until they are replaced."""

from __future__ import annotations

import copy
import reprlib

import torch
from torch import Tensor

from ff_lightning.distributed import gather_rows, num_ranks
from ff_lightning.errors import InputError, check_sizes, is_whole, positive
from ff_lightning.language.blocks import Dreams
from ff_lightning.language.generation import Sampler, continued, stream
from ff_lightning.language.stack import TokenStack
from ff_lightning.normalization import Running


class SleepBuffer(Running):
    """Keeps sequences that begin with real tokens and go on with tokens drawn from the model's predictions.

    On a schedule, part of them is replaced: by what the model then makes of the beginnings of the current batch. The
    first time all are. Between the refreshes a step only picks some of them. The sequences are saved with the
    weights, and are the same on all ranks, each of which makes its share.

    Args:
        context: ``T``, length of the sequences.
        sequences: how many are kept.
        refresh_every: updates between two refreshes.
        renew: share that a refresh replaces, in ``(0, 1]``, the oldest first.
        prefix: smallest and largest number of real tokens at the start; one length is drawn for each refresh.
        rows: sequences that a step uses on one rank.
        temperature: of the draws.

    Raises:
        InputError: an argument makes no sense.
    """

    tokens: Tensor
    starts: Tensor
    refreshed_at: Tensor
    oldest: Tensor

    def __init__(
        self,
        context: int,
        *,
        sequences: int = 256,
        refresh_every: int = 100,
        renew: float = 0.5,
        prefix: tuple[int, int] = (8, 32),
        rows: int = 32,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        check_sizes(self, context=context, sequences=sequences, refresh_every=refresh_every, rows=rows)
        ends = list(prefix) if isinstance(prefix, list | tuple) else []
        pair = len(ends) == 2 and all(is_whole(end, least=1) for end in ends)
        if not pair or not ends[0] <= ends[1] < context:
            raise InputError(
                f"Passed `SleepBuffer(prefix={reprlib.repr(prefix)})` with `context={context}`. `prefix` must be the "
                "smallest and the largest number of real tokens, at least 1 and below `context`."
            )
        if positive("renew", renew) > 1:
            raise InputError(f"Passed `SleepBuffer(renew={renew})`. `renew` must be in (0, 1].")
        self.refresh_every = refresh_every
        self.renew = renew
        self.prefix = prefix
        self.rows = rows
        self.sampler = Sampler(temperature)
        self.register_buffer("tokens", torch.zeros(sequences, context, dtype=torch.int64))
        self.register_buffer("starts", torch.zeros(sequences, dtype=torch.int64))
        self.register_buffer("refreshed_at", torch.tensor(-1))
        self.register_buffer("oldest", torch.tensor(0))

    def due(self, update: int) -> bool:
        """Whether sequences are to be replaced before this update."""
        last = int(self.refreshed_at)
        return last < 0 or (update % self.refresh_every == 0 and update != last)

    def ready(self, network: TokenStack, real: Tensor, update: int, generator: torch.Generator) -> SleepBuffer:
        """This buffer, before a step: refreshed in training if that is due.

        An evaluation, or a look at a training, takes what is there. Where nothing is there yet it gets a copy that is
        made for it, so that it leaves no trace.

        Args:
            network: see :meth:`refresh`, as the others.
            real: continued if it is time.
            update: number of the current update.
            generator: source of randomness.
        """
        if not self.due(update) or (int(self.refreshed_at) >= 0 and not self.moves):
            return self
        found = self if self.moves else copy.deepcopy(self)
        found.refresh(network, real, update, generator)
        return found

    @torch.no_grad()
    def refresh(self, network: TokenStack, real: Tensor, update: int, generator: torch.Generator) -> None:
        """Replace the oldest sequences.

        Args:
            network: predicts, and gets no gradient.
            real: ``(B, T)`` int64; their beginnings are continued, in turn.
            update: number of the current update.
            generator: source of randomness; its own on every rank.

        Raises:
            InputError: the real sequences are too short to begin with.
        """
        if real.shape[1] <= self.prefix[0]:
            raise InputError(
                f"Passed real sequences of {real.shape[1]} tokens to a `SleepBuffer(prefix={tuple(self.prefix)})`. "
                "They must be longer than the smallest prefix."
            )
        total, context = self.tokens.shape
        count = total if int(self.refreshed_at) < 0 else max(1, round(self.renew * total))
        low, high = self.prefix
        known = int(torch.randint(low, min(high, real.shape[1] - 1) + 1, (), generator=generator, device=real.device))
        share = -(-count // num_ranks())
        prompts = real[torch.arange(share, device=real.device) % len(real), :known]
        drawn = continued(prompts, stream(network, prompts, context - known, self.sampler, generator))
        made = gather_rows(torch.cat([drawn, drawn.new_full((share, 1), known)], 1))[:count]
        places = (int(self.oldest) + torch.arange(count, device=real.device)) % total
        self.tokens[places], self.starts[places] = made[:, :-1], made[:, -1]
        self.oldest.fill_((int(self.oldest) + count) % total)
        self.refreshed_at.fill_(update)

    def draw(self, length: int, generator: torch.Generator) -> Dreams:
        """Pick sequences, each equally likely, but for those that are all real so far.

        Args:
            length: tokens from their start, at most T.
            generator: source of randomness.

        Raises:
            InputError: none has a token of the model's own there.
        """
        device = self.tokens.device
        made = (self.starts < length).nonzero().squeeze(1)
        if not len(made):
            raise InputError(
                f"Passed real sequences of {length} tokens with rollouts that begin with at least "
                f"{int(self.starts.min())} real ones. Lower `SleepBuffer(prefix={tuple(self.prefix)})`."
            )
        picked = made[torch.randint(len(made), (self.rows,), generator=generator, device=device)]
        dreamed = torch.arange(length, device=device) >= self.starts[picked, None]
        return Dreams(self.tokens[picked, :length], dreamed)
