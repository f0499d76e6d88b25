"""The map of methods: what it names exists, its numbers are those that are stored, and every line is a command."""

from __future__ import annotations

import json
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import yaml

from tests.command_line import RECIPES
from tests.test_docs import commands

DOCS = RECIPES.parent / "docs"
ENTRIES: list[dict[str, Any]] = yaml.safe_load((DOCS / "methods.yaml").read_text(encoding="utf-8"))
PAGE = (DOCS / "methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["method"])
def test_a_line_of_the_map_holds(entry: dict[str, Any]) -> None:
    """That its command trains is a test of `test_docs`, or of `test_recipes` for a recipe alone."""
    assert resolve_name(entry["part"])
    assert all((RECIPES / f"{name}.yaml").is_file() for name in entry["recipes"])
    assert entry["tier"] in ("T1", "T2", "T3")
    assert ("seen" in entry) == (entry["theirs"] is not None)
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| [{entry['method']}]("))
    assert f"`{entry['part'].removeprefix('ff_lightning.')}`" in line
    words = " ".join(f"--config recipes/{name}.yaml" for name in entry["recipes"])
    assert any(command.startswith(f"ff-lightning fit {words}") for command in commands())
    if entry["theirs"] is not None:
        assert str(entry["theirs"]) in line


@pytest.mark.parametrize("page", sorted({entry["page"] for entry in ENTRIES} | {"lookahead"}))
def test_a_method_has_a_page_with_four_parts(page: str) -> None:
    """That its snippet and its commands run is a test of `test_docs`."""
    text = (DOCS / "methods" / f"{page}.md").read_text(encoding="utf-8")
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [
        "How to use it",
        "How it works",
        "When it fails",
    ]
    assert "```python" in text
    assert "```bash" in text
    assert f"methods/{page}\n" in (DOCS / "index.md").read_text(encoding="utf-8")


def stored(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DOCS / "results" / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("method", "file", "recipe", "words"),
    [
        ("the same with jitter", "mnist_mlp", "mnist_mlp_jitter", "2000,2000"),
        ("overlapping pairs of blocks, Trifecta", "class_goodness", "with/overlapping", "--max_epochs 10"),
        ("two circuits that predict, PFF", "predictive", "predictive_mnist", "mnist"),
    ],
)
def test_our_numbers_are_means_of_what_is_stored(method: str, file: str, recipe: str, words: str) -> None:
    found = []
    for run in stored(file):
        mine = recipe in run["recipe"] and words.replace("--max", "max") in run["command"]
        each = run.get("by_seed", [run]) if mine else []
        key = "test_error" if file == "predictive" else "test"
        found += [one[key] if file != "class_goodness" else 100 - one[key] for one in each if one.get(key) is not None]
    assert len(found) == 3
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| [{method}]("))
    assert f"<summary>{sum(found) / 3:.2f} ({min(found):.2f} to {max(found):.2f})</summary>" in line


def test_the_map_opens_the_documentation() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert index.index("methods.md") < index.index("tutorials/first_run.md")
    assert Path(DOCS / "methods.md").is_file()
