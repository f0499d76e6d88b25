"""The card of a trained model: what it is, what it reached, and how it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ff_lightning.candidates import Softmax
from ff_lightning.module import FFLightningModule
from ff_lightning.tasks import BackpropTwin, FFLanguageModel

HEAD = "---\nlibrary_name: ff_lightning\ntags:\n- forward-forward\n---\n"
MEANING = {
    "T1": "contrastive Forward-Forward, positives against explicit negatives",
    "T2": "a local softmax over all candidates in every block",
    "T3": "overlapping pairs of blocks, so that a gradient crosses one border",
}
IN_TEXT = """tokens = model.tokenizer.encode("The ").unsqueeze(0)
print(model.tokenizer.decode(model.generate(tokens, 100)[0]))"""
IN_BATCHES = "scores = model(x)  # (B, …); a classifier gives every class one"


def tier_of(model: FFLightningModule) -> str:
    """Tier of a training, as the page on tiers has them: ``T1``, ``T2 with lookahead``; ``backprop`` of a twin.

    Args:
        model: a task with its network.
    """
    if isinstance(model, BackpropTwin):
        return "backprop"
    network: Any = model.network
    parts = list(network.modules())
    softmax = any(isinstance(part, Softmax) or getattr(part, "matching", None) is not None for part in parts)
    tier = "T3" if getattr(network, "overlapping", False) else "T2" if softmax else "T1"
    ahead = getattr(network, "lookahead", None)
    if ahead is None:
        return tier
    far = getattr(ahead, "horizon", 1)
    return f"{tier} with lookahead" + (f", a horizon of {far} blocks" if far > 1 else "")


def model_card(
    model: FFLightningModule, content: Mapping[str, Any], known: Mapping[str, Any], results: Mapping[str, float]
) -> str:
    """The card, in Markdown.

    Args:
        model: the task with its network.
        content: of the checkpoint that it is from.
        known: what is known of its data.
        results: values that were measured, by name.
    """
    tier = tier_of(model)
    by = "by backprop, as the twin of a Forward-Forward network" if tier == "backprop" else "block by block"
    no_backprop = "" if tier in ("backprop", "T3") else " There is no backprop between blocks."
    lines = [HEAD, f"A `{type(model).__name__}`, trained {by}.{no_backprop}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts(model, content, known, tier)]
    lines += [f"| {name} | {value:.4f} |" for name, value in {**best_of(content), **results}.items()]
    use = IN_TEXT if isinstance(model, FFLanguageModel) or "tokenizer" in known else IN_BATCHES
    lines += [
        "",
        "```python",
        "import ff_lightning as ff",
        "",
        'model = ff.load("this folder, or its name on the hub")',
    ]
    lines += [use, "```", "", "Nothing of this folder is run when it is loaded.", ""]
    return "\n".join(lines)


def facts(
    model: FFLightningModule, content: Mapping[str, Any], known: Mapping[str, Any], tier: str
) -> Iterator[tuple[str, str]]:
    """Rows that say what the model is."""
    yield "tier", f"{tier}: {MEANING[tier[:2]]}" if tier[:2] in MEANING else tier
    network: Any = model.network
    sizes = f"{type(network).__name__}, {sum(one.numel() for one in network.parameters()):,} parameters"
    yield "network", sizes + (f", {len(network)} blocks" if hasattr(network, "__len__") else "")
    if "global_step" in content:
        yield "training", f"{content['global_step']:,} updates, {content['epoch'] + 1} epochs"
    if known.get("image_shape"):
        yield "images", " x ".join(map(str, known["image_shape"]))
    names = known.get("class_names")
    if names:
        yield (
            "classes",
            ", ".join(str(name).replace("|", "\\|") for name in list(names)[:20]) + ", …" * (len(names) > 20),
        )


def best_of(content: Mapping[str, Any]) -> dict[str, float]:
    """The best validation values of the training that a checkpoint is from, by what they are called."""
    states = content.get("callbacks", {})
    found = {}
    for state in states.values() if isinstance(states, Mapping) else ():
        if isinstance(state, Mapping) and state.get("monitor") and isinstance(state.get("best_model_score"), Tensor):
            found[f"`{state['monitor']}`, best of its training"] = float(state["best_model_score"])
    return found
