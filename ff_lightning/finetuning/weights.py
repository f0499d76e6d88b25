"""A new training from trained weights, and trained weights as a folder of transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ff_lightning.data.tokenizers import SubwordTokenizer, Tokenizer
from ff_lightning.engine.checkpoints import misfits
from ff_lightning.engine.completeness import check_finite
from ff_lightning.errors import InputError
from ff_lightning.finetuning.causal import CausalLM
from ff_lightning.finetuning.cutting import CONFIG, open_model
from ff_lightning.language.stack import TokenStack
from ff_lightning.module import FFLightningModule
from ff_lightning.pretrained import known_of, read_content, read_pretrained, restored
from ff_lightning.stacks import BlockStack
from ff_lightning.tasks.language_modelling import LanguageModelling

HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
NETWORK = "network."
NOT_TAKEN = f"{NETWORK}lookahead."
"""Copies of blocks, which are copied anew."""

MEANT = (
    "A new training begins with these weights: optimizer, schedule and count of updates are new. To go on with the "
    "training that wrote them, pass its checkpoint as `--ckpt_path` instead."
)


@dataclass(frozen=True)
class Taken:
    """What a training began with.

    Attributes:
        source: where it is from.
        weights: tensors that were taken.
        new: blocks that were not there and begin with new weights, by index.
    """

    source: str
    weights: int
    new: tuple[int, ...] = ()

    def __str__(self) -> str:
        grown = f"; {_blocks(self.new)} new" if self.new else ""
        return f"Took {self.weights} tensors of {self.source}{grown}. {MEANT}"


def _blocks(indices: Sequence[int]) -> str:
    names = ", ".join(map(str, indices))
    return f"block {names} is" if len(indices) == 1 else f"blocks {names} are"


def begin_from(module: FFLightningModule, source: Any, *, trust: Sequence[str] = ()) -> Taken:
    """Give a network trained weights, for a new training: other text, other context, more blocks.

    It is not a resume: optimizer, schedule, count of updates and readouts of the task are those of the module.

    Blocks that the trained network does not have stand on top of it, with new weights. Of a language model, a new block
    says the same as the highest one that was there, where its layers add nothing: it begins with the readout of that
    one, or with one of zeros where each corrects the one below. In a mean over blocks that prediction then counts more.

    What is copied of blocks, to look ahead or for goals of a :class:`CausalLM`, is copied anew. What its goals have
    learned is taken from a checkpoint that is cut alike and has the same goals.

    Args:
        module: of any task, as it was built.
        source: a checkpoint of ``ff-lightning fit``; a folder that :func:`~ff_lightning.pretrained.save_pretrained`
            wrote, or the name of one on Hugging Face's hub. For a :class:`CausalLM` also a folder of transformers, the
            name of a model of transformers on the hub, or such a model, however it is cut.
        trust: see :func:`ff_lightning.load`.

    Returns:
        What was taken.

    Raises:
        InputError: there is no such model, it is damaged, or its weights do not fit.
    """
    name = type(source).__name__ if isinstance(source, nn.Module) else str(source)
    network: Any = module.network
    if isinstance(network, CausalLM):
        return Taken(name, _take_causal(network, source, trust))
    if is_of_transformers(source):
        raise InputError(
            f"Passed `init_from={name}`, a model of transformers, to a `{type(network).__name__}`. Such weights fit "
            "`ff_lightning.finetuning.CausalLM`."
        )
    with _named(source):
        content = read_content(source)
    state = {key: value for key, value in content["state_dict"].items() if key.startswith(NETWORK)}
    return _take(module, state, name)


@contextmanager
def _named(source: Any) -> Iterator[None]:
    """Let what is wrong with a model name the option by which it was passed."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(f"`ckpt_path={source}`", f"`init_from={source}`")) from error


def _take_causal(network: CausalLM, source: Any, trust: Sequence[str]) -> int:
    """Give a model of transformers in blocks trained weights; how many tensors were taken."""
    if isinstance(source, nn.Module) or is_of_transformers(source):
        return network.load_transformers(open_model(source).state_dict())
    with _named(source):
        trained = read_pretrained(source, LanguageModelling, trust=trust).model.network
    if not isinstance(trained, CausalLM):
        raise InputError(
            f"Passed `init_from={source}`, which holds a `{type(trained).__name__}`, to a `CausalLM`. Its weights do "
            "not fit."
        )
    return network.load_transformers(trained.transformers_state()) + network.load_goals(trained)


def is_of_transformers(source: Any) -> bool:
    """Whether something is a model that transformers wrote, or the name of one on the hub; not one of ours."""
    if isinstance(source, nn.Module):
        return True
    path = Path(str(source)).expanduser()
    if path.is_dir():
        return "model_type" in _json(path / CONFIG)
    if path.exists() or not HUB.fullmatch(str(source)) or path.suffix == ".ckpt":
        return False
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return "model_type" in _json(Path(hf_hub_download(str(source), CONFIG)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return False  # whoever reads it next says what is wrong


def _json(path: Path) -> dict[str, Any]:
    """What a file of JSON holds, nothing if it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def kept_tokenizer(source: str) -> dict[str, Any] | None:
    """The state of the tokenizer that a model of ours was trained with; ``None`` where it keeps none.

    Args:
        source: a checkpoint, a folder of ours, or a name on the hub.
    """
    with _named(source):
        state: dict[str, Any] | None = known_of(read_content(source)).get("tokenizer")
    return state


@torch.no_grad()
def _take(module: FFLightningModule, state: Mapping[str, Tensor], name: str) -> Taken:
    """Give a network the weights that have its names; what is new must be whole blocks on top."""
    own = {key: value for key, value in module.state_dict().items() if key.startswith(NETWORK)}
    there, here = _count(state), _count(own)
    new = tuple(range(there, here))
    without = (NOT_TAKEN, *(f"{NETWORK}blocks.{index}." for index in new))
    wanted = {key: value for key, value in own.items() if not key.startswith(without)}
    given = {key: value for key, value in state.items() if not key.startswith(NOT_TAKEN)}
    wrong = misfits(wanted, given)
    if wrong or not there:
        raise InputError(
            f"Passed `init_from={name}`, weights of {there} blocks, to a network of {here}. They do not fit: "
            f"{wrong or 'there are none'}. Build the network as it was trained, with more blocks if it is to grow."
        )
    check_finite(module, given, f"Passed `init_from={name}`. It")
    for key, value in wanted.items():
        value.copy_(given[key])
    if isinstance(module.network, TokenStack) and not module.network.residual:
        _read_alike(own, there - 1, new)
    if isinstance(module.network, BlockStack) and module.network.lookahead is not None:
        module.network.lookahead.attach(list(module.network))
    return Taken(name, len(wanted), new)


def _read_alike(own: Mapping[str, Tensor], highest: int, new: Sequence[int]) -> None:
    """Let new blocks begin with the readout of the highest one that was there."""
    for index in new:
        for part in ("goodness", "readout"):
            below, above = (f"{NETWORK}blocks.{block}.{part}." for block in (highest, index))
            for key in [key for key in own if key.startswith(above)]:
                given = own.get(below + key.removeprefix(above))
                if given is not None and given.shape == own[key].shape:
                    own[key].copy_(given)


def _count(state: Mapping[str, Tensor]) -> int:
    """Blocks that weights are of."""
    found = [re.match(rf"{re.escape(NETWORK)}blocks\.(\d+)\.", key) for key in state]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def save_transformers(source: Any, folder: str | Path, *, trust: Sequence[str] = ()) -> None:
    """Write a language model as a folder of transformers, which ``AutoModelForCausalLM`` reads with equal logits.

    Readouts of lower blocks are left out. The tokenizer is written beside the weights if the model keeps one of the
    library `tokenizers`, with the special tokens and the chat template that it came with.

    Args:
        source: a module with a :class:`CausalLM`, such a network, or what :func:`ff_lightning.load` takes.
        folder: made if it is not there; its files of the same names are replaced.
        trust: see :func:`ff_lightning.load`.

    Raises:
        InputError: the model is another one.
    """
    tokenizer: Tokenizer | None = None
    network = source
    if isinstance(source, str | Path):
        found = restored(read_content(source), source, FFLightningModule, trust=trust)
        network, tokenizer = found.model, found.tokenizer
    network = getattr(network, "network", network)
    if not isinstance(network, CausalLM):
        raise InputError(
            f"Passed a `{type(network).__name__}`. A folder of transformers is written of models of transformers, "
            "which `CausalLM` holds; share others by `ff_lightning.pretrained.save_pretrained`."
        )
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    network.to_transformers().save_pretrained(path)
    if isinstance(tokenizer, SubwordTokenizer):
        (path / "tokenizer.json").write_text(tokenizer.description, encoding="utf-8")
        end = tokenizer.end_of_text
        told = {"tokenizer_class": "PreTrainedTokenizerFast"} | json.loads(tokenizer.configuration or "{}")
        if end is not None:
            told.setdefault("eos_token", str(tokenizer.library.id_to_token(end)))
        (path / "tokenizer_config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
