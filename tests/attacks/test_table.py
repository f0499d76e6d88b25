"""The table of ways in names tests that exist, and has no cell without one."""

from __future__ import annotations

import re

from tests.attacks.spoiling import ROOT


def test_every_cell_of_the_table_has_its_test() -> None:
    page = (ROOT / "docs/reference/loading.md").read_text()
    named = dict(re.findall(r"^- ([A-Z]): `(tests/\S+)`$", page, re.MULTILINE))
    rows = [line for line in page.splitlines() if line.startswith("| ") and "way in" not in line]
    used = set()
    for row in rows:
        for cell in (cell.strip() for cell in row.split("|")[2:-1]):
            letters = re.findall(r"\(([A-Z])\)", cell)
            assert letters or cell == "" or cell.startswith(("as ", "nothing is built")), row
            used.update(letters)
    assert used == set(named)
    for file, test in (name.split("::") for name in named.values()):
        assert f"\ndef {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"
