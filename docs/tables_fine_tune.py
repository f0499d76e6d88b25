"""Tables of pretrained models that are trained on: loss, memory and time."""

from __future__ import annotations

from typing import Any

from tables_common import Runs, Table, fold, rows, spread, spread_if_any

NAMES = {
    "before": "before",
    "backprop": "backprop, loss in parts",
    "backprop_checkpointed": "backprop, loss in parts, activation checkpointing",
    "hf_backprop": "backprop in plain transformers",
    "hf_checkpointed": "backprop in plain transformers, activation checkpointing",
    "lora": "LoRA (peft)",
    "last_block": "last block alone, lower ones at rest",
    "reconstruct": "lower blocks reconstruct their input",
    "own": "lower blocks learn the next token, readout with a layer",
    "own_mapped": "lower blocks learn the next token, readout without",
    "lookahead": "the block below the last looks ahead",
}
RECOMPUTE = "_recompute"


def fine_tuned(name: str) -> str:
    """Table of a pretrained model, fine-tuned by every way."""
    run, *others = [run for runs in rows(name) for run in runs]  # memory and time are of the first seed
    lines = [
        "| arm | loss, nats | peak over weights (total), MB; share, context 256 | the same, context 1,024 | s a step |",
        "|---|---|---|---|---|",
    ]
    whole = {arm: run.get(arm) for arm in NAMES if arm in run and arm != "last_block"}
    local = {_parts(key) for key in run["peak_mb"] if ", " in key}
    local |= {(n, arm) for n, losses in run["blocks"].items() for arm in losses}
    for arm, loss in whole.items():
        if loss is not None or arm in run["peak_mb"]:
            losses = [loss, *(other.get(arm) for other in others)]
            lines.append(_row(run, NAMES[arm], losses, arm))
    for n, arm in sorted(local, key=_place):
        recompute = ", activation checkpointing inside blocks" if arm.endswith(RECOMPUTE) else ""
        name, _, rate = arm.removesuffix(RECOMPUTE).partition(" at ")
        label = f"{n} blocks: {NAMES[name]}{f', at {rate} of the rate' if rate else ''}{recompute}"
        losses = [seed["blocks"].get(n, {}).get(arm) for seed in (run, *others)]
        lines.append(_row(run, label, losses, f"{arm}, {n} blocks"))
    trained = "float32" if run["precision"] == "32-true" else "bfloat16"
    about = (
        f"SmolLM2-135M-Instruct on 25 novels: {run['steps']} steps of {run['batch']} x {run['context']} tokens in "
        f"{trained}, {run['judged']:,} held-out ones; memory and time of float32. Shares are of "
        f"the peak of backprop with activation checkpointing. Losses are the mean of the seeds that were run, with the "
        f"lowest and the highest; one alone is a first look. {fold([run, *others])}"
    )
    return "\n".join([*lines, "", about])


def _place(cut: tuple[str, str]) -> tuple[int, int, bool, str]:
    """Where a row stands: by number of blocks, then by arm, with activation checkpointing behind the one without."""
    n, arm = cut
    name, _, _ = arm.removesuffix(RECOMPUTE).partition(" at ")
    return int(n), list(NAMES).index(name), arm.endswith(RECOMPUTE), arm


def _parts(key: str) -> tuple[str, str]:
    """Number of blocks and arm."""
    arm, blocks = key.split(", ")
    return blocks.split()[0], arm


def _row(run: dict[str, Any], label: str, losses: list[float | None], key: str) -> str:
    peaks = run["peak_mb"].get(key, {})
    cells = [_peak(run, peaks, context) for context in ("256", "1024")]
    seconds = run["seconds_per_step"].get(key, "")
    loss = spread_if_any([{"loss": loss} for loss in losses], "loss", 4)
    return f"| {label} | {loss} | {cells[0]} | {cells[1]} | {seconds} |"


def _peak(run: dict[str, Any], peaks: dict[str, Any], context: str) -> str:
    """A peak over the weights, the whole, and its share of that of backprop with activation checkpointing."""
    if context not in peaks:
        return ""
    over, whole = peaks[context]["over_weights"], run["peak_mb"]["backprop_checkpointed"][context]["over_weights"]
    return f"{over:,} ({peaks[context]['total']:,}); {over / whole:.2f}"


OWN = Table(
    {
        "before": lambda runs: spread(runs, "before", 4),
        "FF, fine-tuned": lambda runs: losses(runs, "ff"),
        "backprop, fine-tuned": lambda runs: losses(runs, "twin"),
        "FF, from nothing": lambda runs: losses(runs, "ff_from_nothing"),
        "backprop, from nothing": lambda runs: losses(runs, "twin_from_nothing"),
    }
)


def losses(runs: Runs, arm: str) -> str:
    """Loss of an arm over seeds, nats a token."""
    return spread([run[arm] for run in runs], "loss", 4)


def fine_tuned_own(name: str) -> str:
    """A model that Forward-Forward trained, fine-tuned on another text."""
    return OWN.written((runs, runs) for runs in rows(name))
