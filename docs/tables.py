"""Writes the tables of results from stored JSON: nobody types a number.

    python docs/tables.py          rewrites the tables in README.md and in the documentation

Every line of `docs/results/*.jsonl` is the last line of a benchmark's output. Lines that differ in nothing but the
seed are one row: mean, lowest and highest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from tables_circuits import predictive, spiking
from tables_claims import said
from tables_common import DOCS, cpu_hours, rows
from tables_convert import converted
from tables_depth import chains, depth, depth_ideas, wide
from tables_fine_tune import fine_tuned, fine_tuned_own
from tables_hardware import (
    before_after,
    faults,
    gpt_steps,
    memory,
    overheads,
    parallel,
    precisions,
    resumes,
    rooflines,
    step_times,
)
from tables_images import (
    beside,
    changes,
    class_goodness,
    early_exits,
    experiments,
    localities,
    peers,
    repositories,
    self_contrast,
    trials,
)
from tables_language import aesop, curve, language, negatives, tries
from tables_map import methods
from tables_sounds import speech, spotting
from tables_summary import summary
from tables_tasks import tasks
from tables_tuned import tuned

FINDINGS: dict[str, str] = yaml.safe_load((DOCS / "findings.yaml").read_text(encoding="utf-8"))


def replace(path: Path, body: str, name: str = "results") -> bool:
    """Put ``body`` between the markers of a page; tell whether that changed it."""
    start = f"<!-- {name}: written by `python docs/tables.py`, from docs/results/*.jsonl -->"
    end = f"<!-- end of {name} -->"
    old = path.read_text()
    before, rest = old.split(start, 1)
    new = f"{before}{start}\n\n{body}\n\n{end}{rest.split(end, 1)[1]}"
    path.write_text(new)
    return new != old


SECTIONS: dict[str, list[tuple[Callable[[str], str], str]]] = {
    "Images: label in the input": [(experiments, "mnist_mlp")],
    "Images: one change at a time": [(changes, "ablations")],
    "Images: public repositories": [(peers, "peers"), (repositories, "repositories")],
    "Images: goodness of every class": [(class_goodness, "class_goodness")],
    "Images: local losses of a convolutional network": [(trials, "class_losses"), (trials, "lookahead_conv")],
    "Images: labels in the input of a convolutional network": [(trials, "label_planes")],
    "Images: rates of networks and twins": [(tuned, "tune_images")],
    "Images: Hinton's networks": [(experiments, "hinton")],
    "Images: self-contrast, without labels": [(self_contrast, "scff")],
    "Images: early exit": [(early_exits, "early_exit")],
    "Local learning beside backprop": [(localities, "locality")],
    "Models of other libraries, converted": [(converted, "convert")],
    "Speech: spoken digits": [(speech, "speech")],
    "Speech: digits in running recordings": [(spotting, "spotting")],
    "Other tasks": [(tasks, "tasks")],
    "Predictive Forward-Forward": [(predictive, "predictive")],
    "Spiking Forward-Forward": [(spiking, "spiking")],
    "Language: tiny Shakespeare, characters": [(language, "language")],
    "Language: more layers, more text": [(curve, "language_scale")],
    "Language: depth on byte-pair tokens": [(depth, "depth")],
    "Language: rates for byte-pair tokens": [(tuned, "tune_language"), (wide, "rates_wide"), (tries, "language_rates")],
    "Language: depth at rates that nobody had tuned": [(chains, "depth_first_rates"), (depth_ideas, "depth_ideas")],
    "Language: Hinton's strings of Aesop": [(aesop, "aesop")],
    "Language: pretrained models, trained on": [(fine_tuned, "fine_tune"), (fine_tuned_own, "fine_tune_own")],
    "Memory of a step": [(memory, "memory")],
    "Time of a step": [(step_times, "step_time"), (gpt_steps, "step_time_gpt")],
    "A step at the limit of the machine": [(rooflines, "roofline"), (before_after, "before_after")],
    "Callbacks and logging": [(overheads, "overhead")],
    "Two ranks": [(parallel, "parallel")],
    "Killed and resumed": [(resumes, "resume")],
    "Faults": [(faults, "faults")],
    "Loss in half precision": [(precisions, "precision")],
}
"""Parts of the page of results: their tables, and the files that these are stored in."""


TRIALS = (
    "Images: one change at a time",
    "Images: local losses of a convolutional network",
    "Images: labels in the input of a convolutional network",
    "Images: rates of networks and twins",
    "Language: rates for byte-pair tokens",
    "Language: depth at rates that nobody had tuned",
)
"""Parts that stand in the lab log: short runs that chose a setting."""


def section(title: str) -> str:
    """Heading, finding and tables, or nothing as long as no run is stored."""
    bodies = [table(name) for table, name in SECTIONS[title] if rows(name)]
    return "\n\n".join([f"## {title}", FINDINGS[title], *bodies, *cost(title)]) if bodies else ""


def cost(title: str) -> list[str]:
    """A sentence on the time that the trainings of a section took, where their runs say so."""
    hours = cpu_hours(run for _, name in SECTIONS[title] for runs in rows(name) for run in runs)
    return [f"The trainings behind these tables took {hours:.1f} CPU hours."] if hours >= 0.05 else []


def main() -> int:
    """Rewrite the tables; exit status 1 if that changed something."""
    pages = {
        "README.md": summary(),
        "docs/methods.md": methods(),
        "docs/explanation/what_is_said.md": said(),
        "docs/explanation/own_negatives.md": negatives("negatives"),
        "docs/results.md": "\n\n".join(filter(None, (section(title) for title in SECTIONS if title not in TRIALS))),
        "docs/lab_log.md": "\n\n".join(filter(None, map(section, TRIALS))),
    }
    changed = [replace(DOCS.parent / page, body) for page, body in pages.items()]
    changed.append(replace(DOCS.parent / "README.md", beside("repositories"), "peers"))
    return int(any(changed))


if __name__ == "__main__":
    sys.exit(main())
