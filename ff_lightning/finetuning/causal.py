"""Language models of transformers as stacks of blocks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ff_lightning.candidates import CandidateLoss, Softmax
from ff_lightning.conversion.checking import CLOSE, share_off
from ff_lightning.engine.checkpoints import misfits
from ff_lightning.errors import InputError, tell_left_out, whole
from ff_lightning.finetuning.cutting import (
    PROBED,
    new_model,
    open_config,
    open_model,
    part_of,
    plain,
    shape_of,
)
from ff_lightning.finetuning.goals import Goal, of_logits, silent
from ff_lightning.finetuning.heads import Head, Lens, Table
from ff_lightning.language.blocks import Dreams, Readout, TextSignal, TokenBlock
from ff_lightning.language.chunked import chunked
from ff_lightning.language.stack import ONE_BLOCK, TokenStack, check_span
from ff_lightning.normalization import evaluating
from ff_lightning.signals import BlockContext, Contrast, Signal, StepContext
from ff_lightning.stacks import Ahead

if TYPE_CHECKING:
    from transformers import PreTrainedModel

READOUT = "lm_head.weight"
"""Name of the vectors of the tokens that a whole model predicts with; of the same values as its embedding if tied."""


class CausalLayers(nn.Module):
    """Neighbouring layers of a model of transformers; in a first block they stand behind its embedding.

    Args:
        part: the layers, as a model that takes activities.
        layers: the name of their list in it.
        embedding: of tokens; ``None`` above the first block.
        belongs: whether the embedding is kept here; else it lives elsewhere.
        learns: whether it has a gradient here.
    """

    channels = None
    _elsewhere: tuple[Table | None]

    def __init__(
        self, part: PreTrainedModel, layers: str, embedding: Table | None, *, belongs: bool, learns: bool
    ) -> None:
        super().__init__()
        self.part = part
        self.name = layers
        # Before transformers 5.24 it has another name, and what is passed by a name that is unknown is ignored.
        self.cache = "cache" if "cache" in signature(part.forward).parameters else "past_key_values"
        self.table = embedding if belongs else None
        self.learns = learns
        self._elsewhere = (embedding,)  # in a tuple, so that it is no child

    def __len__(self) -> int:
        return len(getattr(self.part, self.name))

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(getattr(self.part, self.name))

    def new_caches(self) -> list[Any]:
        """One empty cache of transformers, for all layers."""
        from transformers import DynamicCache

        return [DynamicCache(config=self.part.config)]

    @property
    def embedding(self) -> Table:
        """Of the tokens, in a first block."""
        (table,) = self._elsewhere
        assert table is not None
        return table

    def embed(self, x: Tensor) -> Tensor:
        """Tokens ``(B, T)`` to ``(B, T, width)`` in a first block; what is activities already stays."""
        if self._elsewhere[0] is None:
            return x
        weight = self.embedding.weight
        return F.embedding(x, weight if self.learns else weight.detach())

    def forward(self, x: Tensor, caches: Sequence[Any] | None = None, tokens: Tensor | None = None) -> Tensor:
        """Activities ``(B, T, width)``, not normalised.

        Args:
            x: tokens ``(B, T)`` in a first block, else activities ``(B, T, width)``.
            caches: of the tokens before, as :meth:`new_caches` makes them.
            tokens: unused.
        """
        del tokens
        kept = None if caches is None else caches[0]
        cache = {self.cache: kept, "use_cache": kept is not None}
        found: Tensor = self.part(inputs_embeds=self.embed(x), **cache).last_hidden_state
        return found


class CausalBlock(TokenBlock):
    """Layers of a pretrained model, and what they learn from.

    Args:
        layer: the layers.
        goodness: how activities are read.
        loss: of the last block.
        goal: of a lower block; ``None`` if it has none.
        last: whether it is the last one.
    """

    layer: CausalLayers  # type: ignore[assignment]
    goodness: Head  # type: ignore[assignment]

    def __init__(
        self, layer: CausalLayers, goodness: Head, loss: CandidateLoss, *, goal: Goal | None = None, last: bool = True
    ) -> None:
        super().__init__(layer, goodness, loss)  # type: ignore[arg-type]
        self.goal = goal
        self.last = last

    @property
    def has_a_loss(self) -> bool:
        """Whether it can learn without looking ahead."""
        return self.last or self.goal is not None

    def predict(self, h: Tensor, below: Tensor, readout: Readout | None) -> Tensor:
        """Logits of the next token, ``(B, T, V)``; a pretrained model starts from nothing."""
        del below, readout
        logits: Tensor = self.goodness(h)
        return logits

    def judge(self, h: Tensor, signal: Signal, context: BlockContext) -> Contrast:
        """Local loss; logits are alive for a part of the positions at a time."""
        assert isinstance(signal, TextSignal)
        assert signal.labels is not None
        if self.last:
            head = self.goodness
            return chunked(self.loss, head.energies(h), head.readout(), signal.labels, context.generator)
        if self.goal is None:
            return silent(h)
        found: Contrast = self.goal(h, self.layer.embed(signal.h).detach(), signal.labels, context)
        return found


class CausalLM(TokenStack):
    """A causal language model of transformers, cut into blocks: for fine-tuning without backprop between them.

    What has the shape of ``LlamaForCausalLM`` (Mistral, Qwen2, SmolLM …) or of ``GPT2LMHeadModel`` can be cut; that the
    blocks say what the whole model says is checked. It is trained, judged and generated from as
    :class:`~ff_lightning.language.GPT` is, and :meth:`to_transformers` gives the model back. The last block learns to
    predict the next token. The embedding of the tokens, and the readout that may be the same, are constants.

    Args:
        config: a folder with a ``config.json`` of transformers, or what such a file holds; weights are new then, and
            ``--init_from`` or :func:`~ff_lightning.finetuning.begin_from` brings trained ones. Or a model of
            transformers, whose layers are taken, not copied: see :meth:`from_transformers`.
        layers_per_block: layers trained by one local loss.
        context: largest number of tokens seen at once; the model's own by default.
        loss: of the last block: all tokens at once by default (T2); a sampled contrast has own negatives (T1). What it
            teaches must be log-probabilities, as the logits of a pretrained model are.
        below: what the lower blocks learn from; ``None`` for nothing: they rest, or look ahead. Left out where there is
            one block.
        lookahead: see :class:`~ff_lightning.stacks.BlockStack`; likewise.
        train_vocabulary: let the embedding learn with the first block and the readout with the last one; with the last
            one alone where they are one.
        recompute: activities of every layer in its backward pass, instead of keeping them (activation checkpointing).

    Raises:
        InputError: no such model, one of another shape, sizes that do not fit each other, or a loss by which logits
            are no log-probabilities.
    """

    def __init__(
        self,
        config: Any = None,
        *,
        layers_per_block: int,
        context: int | None = None,
        loss: CandidateLoss | None = None,
        below: Goal | None = None,
        lookahead: Ahead | None = None,
        train_vocabulary: bool = False,
        recompute: bool = False,
    ) -> None:
        if config is None:
            raise InputError(
                "Passed `CausalLM(config=None)`. Pass a folder of transformers, or name one by `--init_from`."
            )
        loss = Softmax() if loss is None else of_logits(loss, owner=self)
        model: Any = open_model(config) if isinstance(config, nn.Module) else new_model(open_config(config))
        shape, said = shape_of(model), _logits(model)
        layers, longest = model.config.num_hidden_layers, model.config.max_position_embeddings
        check_span(layers, whole("layers_per_block", layers_per_block, least=1, owner=self))
        if context is not None and whole("context", context, least=1, owner=self) > longest:
            raise InputError(f"Passed `CausalLM(context={context})`. The model has {longest} positions at most.")
        starts = range(0, layers, layers_per_block)
        parts = [part_of(model, range(start, start + layers_per_block), recompute=recompute) for start in starts]
        embedding, table = tables_of(model, learns=train_vocabulary)
        ends = Head(getattr(model.base_model, shape.norm), table, belongs=train_vocabulary)
        blocks = []
        for index, part in enumerate(parts):
            last, goal = index == len(parts) - 1, None
            if not last and below is not None:
                goal = below.fitted(table, parts[-1], shape.layers, ends.reader)
            head = ends if last else Lens(ends) if goal is None or goal.head is None else goal.head
            layer = CausalLayers(
                part,
                shape.layers,
                None if index else embedding,
                belongs=train_vocabulary and not index and embedding is not table,
                learns=train_vocabulary and (embedding is not table or len(parts) == 1),
            )
            blocks.append(CausalBlock(layer, head, copy.deepcopy(loss), goal=goal, last=last))
        if len(blocks) == 1:
            tell_left_out(ONE_BLOCK, below=below, lookahead=lookahead)
            lookahead = None
        super().__init__(
            blocks, vocab_size=len(table.weight), context=longest if context is None else context, lookahead=lookahead
        )
        self.config, self.layers_per_block = plain(model.config), layers_per_block
        self.tied, self.train_vocabulary, self.recompute = embedding is table, train_vocabulary, recompute
        self._names = (f"{model.base_model_prefix}.", shape)
        self.constants = nn.ModuleList([] if train_vocabulary else [embedding] if self.tied else [embedding, table])
        for name in shape.first_only:
            getattr(parts[0], name).requires_grad_(train_vocabulary)
        self.prior.zero_()
        # What it is built with, where a model was passed: the configuration of that, which a checkpoint can hold.
        self.built_with = ((), self.sizes() | {"loss": loss, "below": below, "lookahead": lookahead})
        self.built_with[1].update(train_vocabulary=train_vocabulary, recompute=recompute)
        self._check_cut(said)
        self.train()  # transformers reads models in evaluation mode, in which nothing drops out or is recomputed

    def _check_cut(self, said: Tensor) -> None:
        """Check that the blocks say what the whole model said.

        Raises:
            InputError: they do not.
        """
        *_, h = self.eval().activities(_probe(self.vocab_size, self.prior.device))
        with torch.no_grad():
            logits = self._block(len(self) - 1).predict(h, self.prior, None)
        off = share_off(logits, said)
        if not off <= CLOSE:
            raise InputError(
                f"Passed a model of `model_type={self.config['model_type']!r}` that does more between its layers than "
                f"the shape that it has: cut into blocks, its logits are off by {off:.2g} of the largest."
            )

    @classmethod
    def from_transformers(cls, source: str | Path | PreTrainedModel, *, layers_per_block: int, **options: Any) -> Self:
        """Cut a trained model.

        Args:
            source: a folder of transformers, the name of a model on Hugging Face's hub, or a model, whose layers are
                taken, not copied.
            layers_per_block: layers trained by one local loss.
            **options: see :class:`CausalLM`.

        Raises:
            InputError: there is no such model, or it cannot be cut.
        """
        return cls(open_model(source), layers_per_block=layers_per_block, **options)

    def sizes(self) -> dict[str, Any]:
        """Arguments that build a network of the same sizes, plain values; the parts that it learns by are left out."""
        return {"config": self.config, "layers_per_block": self.layers_per_block, "context": self.context}

    def set_unigram(self, counts: Tensor) -> None:
        """Do nothing: a pretrained model knows how often tokens occur."""

    def fits_vocabulary(self, size: int) -> bool:
        """Whether data of ``size`` tokens can be read; embeddings are often larger than what a tokenizer uses."""
        return size <= self.vocab_size

    def learns(self, index: int, context: StepContext) -> bool:
        """Whether a block learns now: a lower one has a goal, or looks as far ahead as to a block with a loss."""
        return super().learns(index, context) and (self._block(index).has_a_loss or self._looks_ahead(index, context))

    def _looks_ahead(self, index: int, context: StepContext) -> bool:
        horizon = 0 if self.lookahead is None else self.lookahead.horizon
        for above in range(index + 1, min(index + 1 + horizon, len(self))):
            if not super().learns(above, context):
                return False
            if self._block(above).has_a_loss:
                return True
        return False

    def _block(self, index: int) -> CausalBlock:
        block = self[index]
        assert isinstance(block, CausalBlock)
        return block

    def signal(
        self, tokens: Tensor, targets: Tensor, context: StepContext = StepContext(), dreams: Dreams | None = None
    ) -> TextSignal:
        """See :class:`~ff_lightning.language.stack.TokenStack`."""
        if self.stage.elsewhere and self.tied and self.train_vocabulary:
            raise InputError(
                "Passed `train_vocabulary=True` with tied embeddings to `LayerParallelStrategy`. The first block reads "
                "what the last one learns: use `strategy='ddp'`, or leave it out."
            )
        return super().signal(tokens, targets, context, dreams)

    def as_one_block(self, num_classes: int | None = None) -> CausalLM:
        """The same model as one block, with a copy of its weights: what backprop trains, the twin.

        Args:
            num_classes: unused: the candidates are the tokens.
        """
        del num_classes
        return CausalLM(
            self.to_transformers(),
            layers_per_block=sum(len(block.layer) for block in self.token_blocks()),
            context=self.context,
            train_vocabulary=self.train_vocabulary,
            recompute=self.recompute,
        )

    # In and out ------------------------------------------------------------------------------------------------

    def transformers_state(self) -> dict[str, Tensor]:
        """All weights by the names that transformers has for them; readouts of lower blocks are left out."""
        found = self._own_weights()
        if self.tied:
            found[READOUT] = self._block(0).goodness.weight.detach()
        return found

    def _own_weights(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, owner in self._owners():
            found |= {f"{name}{key}": value.detach() for key, value in owner.state_dict().items()}
        return found

    def load_transformers(self, state: Mapping[str, Tensor]) -> int:
        """Take weights by the names that transformers has for them.

        What is copied of blocks, for goals and to look ahead, is copied anew. What goals have learned themselves stays;
        see :meth:`load_goals`.

        Args:
            state: of a model of the same sizes, however it was cut.

        Returns:
            How many tensors were taken.

        Raises:
            InputError: something is missing, left over, of another shape, or not finite; or a readout that is not the
                embedding, where the network has one for both.
        """
        own, given = self._own_weights(), dict(state)
        readout = given.pop(READOUT, None) if self.tied else None
        wrong = misfits(own, given)
        if wrong:
            raise InputError(
                f"Passed weights of another model: {wrong}. Build the network with the configuration of that model."
            )
        spoilt = [name for name in own if not bool(torch.isfinite(given[name]).all())]
        if spoilt:
            raise InputError(f"Passed weights of a training that has diverged: `{spoilt[0]}` is not finite.")
        prefix, shape = self._names
        embedding = f"{prefix}{shape.embedding}.weight"
        if readout is not None and not _are_equal(readout, given[embedding]):
            raise InputError(
                f"Passed weights of another model: `{READOUT}` is not `{embedding}`, and the network has one table for "
                "both. Build it with the configuration of that model, where `tie_word_embeddings` is false."
            )
        for name, owner in self._owners():
            owner.load_state_dict({key: given[f"{name}{key}"] for key in owner.state_dict()})
        last = self._block(len(self) - 1)
        for goal in self.goals():
            goal.renew(last.layer.part, shape.layers, last.goodness.reader)
        self._renew_copies()
        return len(own)

    def load_goals(self, trained: CausalLM) -> int:
        """Take what the goals of lower blocks have learned, where both networks are cut alike and have the same goals.

        Args:
            trained: the other network.

        Returns:
            How many tensors were taken.
        """
        pairs = list(zip(self.goals(), trained.goals(), strict=False))
        alike = len(self) == len(trained) and all(
            type(own) is type(other) and not misfits(own.state_dict(), other.state_dict()) for own, other in pairs
        )
        for own, other in pairs if alike else ():
            own.load_state_dict(other.state_dict())
        self._renew_copies()
        return sum(len(own.state_dict()) for own, _ in pairs) if alike else 0

    def goals(self) -> list[Goal]:
        """The goals of lower blocks, from the input upwards; of blocks that have one."""
        goals = [self._block(index).goal for index in range(len(self))]
        return [goal for goal in goals if goal is not None]

    def _renew_copies(self) -> None:
        if self.lookahead is not None:
            self.lookahead.attach(list(self))

    def to_transformers(self) -> PreTrainedModel:
        """The model as transformers has it, with a copy of the weights, in evaluation mode."""
        model = new_model(open_config(self.config))
        model.load_state_dict(self.transformers_state())
        model.to(self.prior.device).eval()
        return model

    def _owners(self) -> Iterator[tuple[str, nn.Module]]:
        """Modules that hold the weights, and how the names of these begin in transformers."""
        prefix, shape = self._names
        layers = [layer for index in range(len(self)) for layer in self._block(index).layer]
        for index, layer in enumerate(layers):
            yield f"{prefix}{shape.layers}.{index}.", layer
        first, last = self._block(0), self._block(len(self) - 1)
        for name in shape.first_only:
            yield f"{prefix}{name}.", getattr(first.layer.part, name)
        yield f"{prefix}{shape.norm}.", last.goodness.reader
        yield f"{prefix}{shape.embedding}.", first.layer.embedding
        if not self.tied:
            yield READOUT.removesuffix("weight"), last.goodness.tokens


def tables_of(model: PreTrainedModel, *, learns: bool) -> tuple[Table, Table]:
    """Embedding and readout of a model; where they are tied, one and the same."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    first = Table(embedding.weight, learns=learns)
    return first, first if head.weight is embedding.weight else Table(head.weight, head.bias, learns=learns)


def _are_equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool((first == second).all())


def _probe(vocab_size: int, device: torch.device) -> Tensor:
    """A few tokens, all over the vocabulary."""
    return torch.arange(PROBED, device=device).mul_(vocab_size // PROBED).unsqueeze(0)


@torch.no_grad()
def _logits(model: PreTrainedModel) -> Tensor:
    """What a whole model says of a few tokens."""
    with evaluating(model):
        found: Tensor = model(_probe(model.config.vocab_size, model.device), use_cache=False).logits.float()
    return found
