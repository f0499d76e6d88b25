"""Where a command may write: what it reads, and what a run left, stays as it was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ff_lightning.engine.outputs import output_file, write_output
from ff_lightning.errors import InputError


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table, a run, a link to the table, and pictures with a table of their own."""
    monkeypatch.chdir(tmp_path)
    for name in ("real.csv", "run/run.json", "run/config.yaml", "run/metrics.csv", "run/last.ckpt", "pictures/own.csv"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    Path("link.csv").symlink_to("real.csv")
    return tmp_path


@pytest.mark.parametrize(
    ("output", "options", "says"),
    [
        ("real.csv", {"reads": ["run/last.ckpt", "real.csv"]}, "which is read here and would be lost"),
        ("./run/../real.csv", {"reads": ["real.csv"]}, "which is read here"),
        ("link.csv", {"reads": ["real.csv"]}, "which is read here"),
        ("run/last.ckpt", {"reads": ["run/last.ckpt"]}, "It must end in .csv"),
        ("run/config.yaml", {}, "Passed `output=run/config.yaml`. It must end in .csv"),
        ("run/metrics.csv", {}, "which the run in run recorded"),
        ("pictures/own.csv", {"folder": "pictures"}, "that is there already in `folder=pictures`"),
        ("pictures/own.csv", {"folder": "."}, "that is there already in `folder=.`"),
        ("run", {}, "Passed `output=run`, a folder. Name a file in it, which must end in .csv"),
        ("", {}, "a folder"),
    ],
)
@pytest.mark.usefixtures("there")
def test_what_would_be_lost_is_refused(output: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        output_file(output, ".csv", **options)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("output", "options"),
    [
        ("new.csv", {"reads": ["real.csv", "no/such.ckpt", "https://a.b/c.ckpt"]}),
        ("real.csv", {"reads": ["run/last.ckpt"]}),
        ("pictures/new.csv", {"folder": "pictures"}),
        ("run/other.csv", {}),
        (os.devnull, {}),
    ],
)
@pytest.mark.usefixtures("there")
def test_other_files_and_devices_serve(output: str, options: dict[str, Any]) -> None:
    assert output_file(output, ".csv", **options) == Path(output)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.csv"
    write_output(path, b"first")
    os.link(path, tmp_path / "same.csv")

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_output(path, b"second")
    assert path.read_bytes() == b"first"
    write_output(path, b"second")
    assert (path.read_bytes(), (tmp_path / "same.csv").read_bytes()) == (b"second", b"first")
    write_output(Path(os.devnull), b"third")
