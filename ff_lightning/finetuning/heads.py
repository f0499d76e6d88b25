"""How activities of a pretrained language model are read: a norm, and the embedding of the tokens, constant."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.goodness import Goodness
from ff_lightning.signals import detached


class Table(nn.Module):
    """One vector a token: an embedding, a readout, or both.

    Args:
        weight: ``(V, width)``.
        bias: ``(V,)``, of a readout that has one.
        learns: whether it has a gradient.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, learns: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=learns)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=learns)

    def readout(self) -> tuple[Tensor, Tensor]:
        """Weight ``(V, width)`` and bias ``(V,)``."""
        return self.weight, self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias


class Head(Goodness):
    """Goodness of every token: activities, through what makes them readable, times the vectors of the tokens.

    Args:
        reader: of activities ``(B, T, width)``, to the same; a norm, with layers before it or not.
        table: of the tokens.
        belongs: whether the table learns with this head; else it is a constant that lives elsewhere.

    Shape:
        ``(B, T, width)`` to ``(B, T, V)`` float32.
    """

    _elsewhere: tuple[Table]

    def __init__(self, reader: nn.Module, table: Table, *, belongs: bool = False) -> None:
        super().__init__()
        self.reader = reader
        self.table = table if belongs else None
        self._elsewhere = (table,)  # in a tuple, so that it is no child

    @property
    def tokens(self) -> Table:
        """The vectors of the tokens, wherever they live."""
        return self._elsewhere[0]

    @property
    def weight(self) -> Tensor:
        """``(V, width)``."""
        return self.tokens.weight

    def readout(self) -> tuple[Tensor, Tensor]:
        """Weight ``(V, width)`` and bias ``(V,)``, with a gradient where they belong here."""
        weight, bias = self.tokens.readout()
        return (weight, bias) if self.table is not None else (weight.detach(), bias.detach())

    def energies(self, h: Tensor) -> Tensor:
        """What is weighed, ``(B, T, width)``."""
        x: Tensor = self.reader(h)
        return x

    def forward(self, h: Tensor, inherited: object = None) -> Tensor:
        """Goodness of all tokens."""
        del inherited
        return F.linear(self.energies(h), *self.readout()).float()


class Lens(Head):
    """The head of the last block as constants, for activities of a lower one: the logit lens (nostalgebraist, 2020).

    Args:
        last: the head of the last block, which stays there.
    """

    def __init__(self, last: Head) -> None:
        super().__init__(nn.Identity(), last.tokens)
        self._last = (last,)

    def energies(self, h: Tensor) -> Tensor:
        """What the last head would weigh, without a gradient."""
        with torch.no_grad():
            return detached(self._last[0].energies(h))


class Translation(nn.Module):
    """A linear map of activities that begins as the identity: the tuned lens (Belrose et al. 2023, arXiv 2303.08112).

    Args:
        width: of the activities.
        size: of the space between two maps; ``None`` for one map of full rank.
    """

    def __init__(self, width: int, size: int | None = None) -> None:
        super().__init__()
        inner = [] if size is None else [nn.Linear(width, size, bias=False), nn.SiLU()]
        last = nn.Linear(width if size is None else size, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.map = nn.Sequential(*inner, last)

    def forward(self, h: Tensor) -> Tensor:
        """``(…, width)`` to the same."""
        moved: Tensor = self.map(F.rms_norm(h, h.shape[-1:]))
        return h + moved * h.detach().square().mean(-1, keepdim=True).sqrt()
