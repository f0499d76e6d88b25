"""What the tests of the command line share."""

from __future__ import annotations

import pytest

from ff_lightning.cli import main


def error_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that a wrong call ends with."""
    capsys.readouterr()
    assert main(list(args)) == 2
    err = capsys.readouterr().err
    last = err.splitlines()[-1]
    assert "Traceback" not in err
    assert err.count("error:") == 1
    assert last.startswith("ff-lightning: error: ")
    return last.removeprefix("ff-lightning: error: ")
