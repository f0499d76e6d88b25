from __future__ import annotations

from pathlib import Path

from rich.table import Table

from ff_lightning.report.records import add_to_record, read_record, start_record, surroundings, table_values


def test_parts_are_added_to_a_record_that_was_begun(tmp_path: Path) -> None:
    add_to_record(tmp_path, "run", {"a": 1})
    assert not list(tmp_path.iterdir())
    start_record(tmp_path / "new", {"run": {"a": 1}})
    add_to_record(tmp_path / "new", "run", {"b": 2})
    add_to_record(tmp_path / "new", "tables", {"fit": {}})
    assert read_record(tmp_path / "new") == {"run": {"a": 1, "b": 2}, "tables": {"fit": {}}}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"run.json", ".record.lock"}


def test_a_printed_table_is_kept_with_its_lines() -> None:
    table = Table("", "nats", title="Test", caption="T1")
    table.add_row("unigram", "3.0")
    table.add_section()
    table.add_row("block 0", "2.0")
    assert table_values(table) == {
        "title": "Test",
        "caption": "T1",
        "columns": ["", "nats"],
        "rows": [["unigram", "3.0"], ["block 0", "2.0"]],
        "lines": [0],
    }


def test_surroundings_name_versions_and_processor() -> None:
    found = surroundings()
    assert {"Python", "torch", "lightning", "processor", "threads"} <= found.keys()
    assert not [value for value in found.values() if "/" in value], "no place on the machine"
