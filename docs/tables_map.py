"""The map of methods: what each is called, where it is here, and numbers beside those in print."""

from __future__ import annotations

import shlex
from typing import Any

import yaml
from tables_common import DOCS, caution, escape, rows

FOOTNOTE = {"quoted": "¹", "abstract": "²", "repository": "", "paper": ""}
NOTES = (
    "¹ quoted by somebody else; ² from the abstract, rounded. Others are from the authors' repository or paper. "
    "Networks, data augmentation and epochs differ from ours: a difference says little about the method alone. A "
    "number of ours opens to the command that gives it, which may have other epochs or widths than the recipe. Where "
    "nothing stands, there is no number that we could check, or none of ours yet."
)


def entries() -> list[dict[str, Any]]:
    """The lines of the map."""
    found: list[dict[str, Any]] = yaml.safe_load((DOCS / "methods.yaml").read_text(encoding="utf-8"))
    return found


def command(entry: dict[str, Any]) -> str:
    """What trains a method."""
    configs = " ".join(f"--config recipes/{name}.yaml" for name in entry["recipes"])
    return " ".join(filter(None, ["ff-lightning fit", configs, " ".join(entry.get("changes", "").split())]))


def runs_of(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Stored runs of a method, whatever part of the benchmark they were; those of the twin are left out."""
    ours = entry.get("ours")
    if ours is None:
        return []
    wanted = [run for group in rows(ours["results"]) for run in group if key_of(run["command"]) == ours["command"]]
    return [run for run in wanted if values_of(run, ours["key"])]


def key_of(words: str) -> str:
    """A command without seed, parts and pictures."""
    kept, skipping = [], False
    for word in shlex.split(words):
        skipping = word in ("--seed", "--parts", "--sheet") or (skipping and not word.startswith("--"))
        if not skipping:
            kept.append(word if word.isprintable() and " " not in word and "[" not in word else f"'{word}'")
    return " ".join(kept)


def values_of(run: dict[str, Any], key: str) -> list[float]:
    """Errors in percent, one a seed."""
    *within, last = key.split(".")
    for part in within:
        run = run.get(part, {})
    each = [one[last] for one in run.get("by_seed", []) if one.get(last) is not None] or [run.get(last)]
    whole = 1 if within else 100  # what stands within a part of the data is a share
    accuracy = "accuracy" in key or "test_accuracy" in run
    found = [whole - value if accuracy else value for value in each if value is not None]
    return [round(100 / whole * value, 2) for value in found]


def our_number(entry: dict[str, Any]) -> str:
    """Mean error over seeds, lowest and highest, and the command; fewer than three seeds are marked."""
    values = [value for run in runs_of(entry) for value in values_of(run, entry["ours"]["key"])]
    if not values:
        return ""
    mean = f"{sum(values) / len(values):.2f}"
    few = f"{len(values)} seed{'s' * (len(values) > 1)}"
    shown = f"{mean} ({few if len(values) < 3 else f'{min(values):.2f} to {max(values):.2f}'})"
    return f"<details><summary>{shown}</summary><code>{escape(entry['ours']['command'])}</code></details>"


def source(entry: dict[str, Any]) -> str:
    """The paper, as a link."""
    link = entry.get("link") or (f"https://arxiv.org/abs/{entry['arxiv']}" if "arxiv" in entry else "")
    return f"[{entry['of']}]({link})" if link else str(entry["of"])


def methods() -> str:
    """The map: a table, what its marks mean, and the command of every line."""
    lines = [
        "| method | paper | tier | in `ff_lightning` | recipe | measure, test error in % | ours | theirs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in entries():
        theirs = "" if entry["theirs"] is None else f"{entry['theirs']}{FOOTNOTE[entry['seen']]}"
        recipe = " + ".join(f"`{name}`" for name in entry["recipes"]) + (" and changes" if "changes" in entry else "")
        page = f"[{entry['method']}](methods/{entry['page']}.md)"
        part = entry["part"].removeprefix("ff_lightning.")
        lines.append(
            f"| {page} | {source(entry)} | {entry['tier']} | `{part}` | {recipe} | "
            f"{entry['measure']} | {our_number(entry)} | {theirs} |"
        )
    every = list(dict.fromkeys(command(entry) for entry in entries()))
    used = [run for entry in entries() for run in runs_of(entry)]
    text = "\n".join([*lines, "", NOTES, caution(used), "", "Every line runs:", "", "```bash", *every, "```"])
    return text.replace("\n\n\n", "\n\n")
