from __future__ import annotations

from pathlib import Path

import pytest

from ff_lightning.cli import main
from tests.command_line import error_of


def test_it_says_where_the_page_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.csv").write_text("step,val/accuracy\n0,0.5\n")
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'report.html'}\n"
    assert main(["report", str(tmp_path), str(tmp_path), "--output", str(tmp_path / "both.html")]) == 0
    assert "2 runs" in (tmp_path / "both.html").read_text()


def test_what_is_wrong_costs_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no such folder." in error_of(capsys, "report", str(tmp_path / "nothing"))
    assert "run_dirs" in error_of(capsys, "report")
    assert "did you mean" in error_of(capsys, "report", str(tmp_path), "--outputt", "x")
    (tmp_path / "metrics.csv").write_text("step,val/accuracy\n0,0.5\n")
    (tmp_path / "config.yaml").write_text("seed_everything: 0\n")
    for name in ("config.yaml", "metrics.csv"):
        before = (tmp_path / name).read_bytes()
        assert "It must end in .html." in error_of(capsys, "report", str(tmp_path), "--output", str(tmp_path / name))
        assert (tmp_path / name).read_bytes() == before
