"""Writes the tutorials as notebooks, from their pages: nobody edits a notebook.

    python docs/notebooks.py       rewrites docs/tutorials/*.ipynb

Python and shell snippets become cells that run, what stands between them cells of text.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

PAGES = sorted((Path(__file__).parent / "tutorials").glob("*.md"))
SNIPPET = re.compile(r"^```(python|bash)\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
MAGIC = {"python": "", "bash": "%%bash -e\n"}
LINK = re.compile(r"^.*\]\(\w+\.ipynb\).*\n\n", re.MULTILINE)
"""The line of a page that leads to its notebook."""


def notebook(page: Path) -> str:
    """The notebook of a page, as JSON."""
    text, *rest = SNIPPET.split(LINK.sub("", page.read_text()))
    cells = [cell("markdown", text)]
    for language, code, after in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        cells += [cell("code", MAGIC[language] + code, execution_count=None, outputs=[]), cell("markdown", after)]
    content = {
        "cells": [{"id": f"cell-{index}", **each} for index, each in enumerate(cells) if each["source"]],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def cell(kind: str, source: str, **fields: Any) -> dict[str, Any]:
    """A cell; notebooks keep their text line by line."""
    return {"cell_type": kind, "metadata": {}, "source": source.strip().splitlines(keepends=True), **fields}


def main() -> int:
    """Rewrite the notebooks; exit status 1 if that changed something."""
    changed = False
    for page in PAGES:
        path, new = page.with_suffix(".ipynb"), notebook(page)
        changed |= not path.exists() or path.read_text() != new
        path.write_text(new)
    return int(changed)


if __name__ == "__main__":
    sys.exit(main())
