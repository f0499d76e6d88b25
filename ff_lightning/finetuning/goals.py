"""What the blocks below the last one learn from, when a model was trained by backprop before.

The activities of such a block were made for the layers above, not for a readout. A local next-token loss on them pulls
them away from what the layers above expect, and does harm (LoPT, arXiv 2605.04913). So there are other goals; and a
block without one rests, unless it looks ahead (:class:`~ff_lightning.networks.Lookahead`).
"""

from __future__ import annotations

import copy
import reprlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.candidates import CandidateLoss, Softmax
from ff_lightning.errors import InputError, positive, whole
from ff_lightning.finetuning.cutting import last_of
from ff_lightning.finetuning.heads import Head, Table, Translation
from ff_lightning.language.chunked import chunked
from ff_lightning.parts import Part
from ff_lightning.signals import BlockContext, Contrast

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Goal(Part, nn.Module, ABC):
    """A local loss of a block below the last one; what it learns itself is left out when the model leaves.

    Attributes:
        head: how the block is read; ``None`` for the head of the last block, as a constant.
    """

    head: Head | None

    def __init__(self) -> None:
        super().__init__()
        self.head = None

    @abstractmethod
    def fitted(self, table: Table, top: PreTrainedModel, layers: str, norm: nn.Module) -> Goal:
        """A goal of this kind for one block.

        Args:
            table: of the tokens, constant.
            top: the last block's layers; what is kept of them is copied.
            layers: the name of their list in it.
            norm: of the last block; copied if it is kept.
        """

    def renew(self, top: PreTrainedModel, layers: str, norm: nn.Module) -> None:
        """Copy anew what :meth:`fitted` copied of the last block, whose weights are others now; nothing by default.

        Args:
            top: see :meth:`fitted`, as the others.
            layers: the name of their list in it.
            norm: of the last block.
        """
        del top, layers, norm

    @abstractmethod
    def forward(self, h: Tensor, x: Tensor, targets: Tensor, context: BlockContext) -> Contrast:
        """The loss.

        Args:
            h: ``(B, T, width)``, activities of the block with their graph.
            x: ``(B, T, width)``, what it received, without; of a first block, the embedded tokens.
            targets: ``(B, T)`` int64, the next tokens.
            context: negatives are drawn with its generator.
        """


class NextToken(Goal):
    """The next token, through a readout of the block's own before the constant vectors of the tokens.

    The readout is a linear map that begins as the identity, ``layers`` copies of the last layers of the model, and a
    copy of its norm. With it the block is asked what the end of the model would make of its activities.

    Args:
        loss: of the next token; all tokens at once by default (T2). A sampled contrast has own negatives (T1).
        layers: of the model's last ones that are copied into the readout. They learn with it.
        weight: of the loss.

    Raises:
        InputError: an argument is out of range, or a loss by which logits are no log-probabilities.
    """

    def __init__(self, loss: CandidateLoss | None = None, *, layers: int = 0, weight: float = 1.0) -> None:
        super().__init__()
        self.loss = Softmax() if loss is None else of_logits(loss, owner=self)
        self.layers = whole("layers", layers, least=0, owner=self)
        self.weight = positive("weight", weight)

    def fitted(self, table: Table, top: PreTrainedModel, layers: str, norm: nn.Module) -> Goal:  # noqa: D102
        found = copy.deepcopy(self)
        reader: list[nn.Module] = [Translation(table.weight.shape[1])]
        if self.layers:
            reader.append(_Above(last_of(top, layers, self.layers)))
        found.head = Head(nn.Sequential(*reader, copy.deepcopy(norm)), table)
        return found

    def renew(self, top: PreTrainedModel, layers: str, norm: nn.Module) -> None:  # noqa: D102
        if self.head is None:
            return
        *inner, own_norm = self.head.reader.children()
        own_norm.load_state_dict(norm.state_dict())
        for above in inner:
            if isinstance(above, _Above):
                above.part.load_state_dict(last_of(top, layers, self.layers).state_dict())

    def forward(self, h: Tensor, x: Tensor, targets: Tensor, context: BlockContext) -> Contrast:  # noqa: D102
        del x
        if self.head is None:
            raise InputError("Called a `NextToken` that belongs to no block. Pass it to `CausalLM(below=…)`.")
        found = chunked(self.loss, self.head.energies(h), self.head.readout(), targets, context.generator)
        return found._replace(loss=self.weight * found.loss)


class Reconstruction(Goal):
    """What the block received must be readable from what it passes on (LoPT, arXiv 2605.04913).

    A norm and a narrow network of two layers with the mean square error to the block's input. It keeps the information
    that the layers above need, and says nothing of the new text.

    Args:
        weight: of the error; LoPT's is 10.
        squeeze: the network between is ``width / squeeze`` wide; LoPT's is 4.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, *, weight: float = 10.0, squeeze: int = 4) -> None:
        super().__init__()
        self.weight = positive("weight", weight)
        self.squeeze = whole("squeeze", squeeze, least=1, owner=self)
        self.reader = nn.Identity()

    def fitted(self, table: Table, top: PreTrainedModel, layers: str, norm: nn.Module) -> Goal:  # noqa: D102
        found, width = copy.deepcopy(self), table.weight.shape[1]
        narrow = max(1, width // self.squeeze)
        found.reader = nn.Sequential(  # type: ignore[assignment]
            nn.LayerNorm(width), nn.Linear(width, narrow), nn.GELU(), nn.Linear(narrow, width)
        )
        return found

    def forward(self, h: Tensor, x: Tensor, targets: Tensor, context: BlockContext) -> Contrast:  # noqa: D102
        del targets, context
        return Contrast(self.weight * F.mse_loss(self.reader(h), x))


class _Above(nn.Module):
    """Copied layers of a model, as one that takes activities and gives activities."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, h: Tensor) -> Tensor:
        found: Tensor = self.part(inputs_embeds=h, use_cache=False).last_hidden_state
        return found


def of_logits(loss: CandidateLoss, owner: object) -> CandidateLoss:
    """``loss`` if logits that it teaches are log-probabilities, as those of a pretrained model are from the start.

    Args:
        loss: of a readout that begins as that of the model.
        owner: whose argument it is.

    Raises:
        InputError: the loss counts goodness by another measure.
    """
    logits = torch.tensor([0.0, 1.0, -2.0], device="cpu")
    said = loss.calibrated(logits, torch.zeros_like(logits))
    if torch.allclose(said.log_softmax(-1), logits.log_softmax(-1)):
        return loss
    raise InputError(
        f"Passed `{type(owner).__name__}(loss={_written(loss)})`, by which goodness counts by another measure than the "
        "logits of a pretrained model, which are log-probabilities. Pass `Softmax()`, `LinearContrast()` or "
        "`LogisticContrast(from_below=True)`."
    )


def _written(part: Part) -> str:
    """A part as code writes it, in one line."""
    args, options = vars(part)["built_with"]
    named = [*(("", value) for value in args), *((f"{name}=", value) for name, value in options.items())]
    said = [f"{name}{_written(value) if isinstance(value, Part) else reprlib.repr(value)}" for name, value in named]
    return f"{type(part).__name__}({', '.join(said)})"


def silent(h: Tensor) -> Contrast:
    """The loss of a block that has none."""
    return Contrast(torch.zeros((), device=h.device))
