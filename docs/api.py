"""Writes the pages of the reference, one a package, when the documentation is built: the front door, then each package.

A new module is found by itself. What only the package itself uses has no page: its docstrings are read in the source.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import ff_lightning as ff

PACKAGE = Path(ff.__file__).parent
INTERNALS = ("engine", "report", "cli", "stages", "distributed")
"""Packages and modules that have no page."""

PAGES = {
    "tasks": ("Tasks", "What is handed to a Trainer.", ("module", "tasks")),
    "networks": ("Networks", "Blocks, and what is made of them. No training code.", ("blocks", "stacks", "networks")),
    "language": ("Language models", "Networks of tokens, and text from them.", ("language",)),
    "parts": (
        "Parts of a block",
        "Plain torch, to be passed in.",
        ("goodness", "losses", "candidates", "normalization", "signals"),
    ),
    "training": (
        "Negatives, schedules, optimizers",
        "What a task is told beside its network.",
        ("negatives", "schedules", "optim"),
    ),
    "readouts": ("Readouts", "How a prediction is taken from blocks.", ("readouts",)),
    "data": ("Data", "Images, recordings, events, tables and text.", ("data",)),
    "callbacks": ("Callbacks", "What a run shows and keeps.", ("callbacks",)),
    "strategies": ("Strategies", "How blocks are spread over devices.", ("strategies",)),
    "metrics": ("Metrics", "What is measured.", ("metrics",)),
}
"""Pages: heading, a sentence, and the packages and modules on it. What is on none comes on a last one."""


def modules(owner: str) -> list[str]:
    """The modules of a package, or the module itself."""
    folder = PACKAGE / owner
    if not folder.is_dir():
        return [f"ff_lightning.{owner}"]
    return [f"ff_lightning.{owner}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


def owners() -> list[str]:
    """Packages and modules that have a page."""
    found = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return sorted(name for name in found if not name.startswith("__") and name not in INTERNALS)


def pages() -> dict[str, str]:
    """Every page by its name."""
    said = {owner for _, _, parts in PAGES.values() for owner in parts}
    rest = tuple(owner for owner in owners() if owner not in said)
    everything = PAGES | {"others": ("Weights, models, processors", "What is in none of the other packages.", rest)}
    found = {"front_door": front_door()}
    for name, (title, sentence, parts) in everything.items():
        bodies = [
            f"## `{module}`\n\n```{{eval-rst}}\n.. automodule:: {module}\n```\n"
            for owner in parts
            for module in modules(owner)
        ]
        found[name] = "\n".join([f"# {title}\n", f"{sentence}\n", *bodies])
    return found


def front_door() -> str:
    """What ``import ff_lightning as ff`` offers: a row a name."""
    lines = ["# The front door", "", "```python", "import ff_lightning as ff", "```", "", "| name | what it is |"]
    lines.append("|---|---|")
    for name in ff.__all__:
        thing: Any = getattr(ff, name)
        role = "class" if inspect.isclass(thing) else "func"
        sentence = (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
        said = sentence.replace("|", "\\|").replace("``", "`")
        plain = said.split(":class:")[0].split(":func:")[0].strip() if ":`" not in said else ""
        lines.append(f"| {{py:{role}}}`ff.{name} <{thing.__module__}.{thing.__qualname__}>` | {plain or said} |")
    return "\n".join([*lines, ""])


def write(folder: Path) -> None:
    """Write the pages, where they differ from what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    found = pages()
    for path in folder.glob("*.md"):
        if path.stem not in found:
            path.unlink()
    for name, text in found.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
