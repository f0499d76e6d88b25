"""The notebooks are those of the tutorials, and one runs from top to bottom in a kernel."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MAKER = runpy.run_path(str(ROOT / "docs" / "notebooks.py"))
NOTEBOOKS = [page.with_suffix(".ipynb") for page in MAKER["PAGES"]]
RUN = """
import sys, nbclient, nbformat
nbclient.NotebookClient(nbformat.read(sys.argv[1], as_version=4), timeout=600, startup_timeout=600).execute()
"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_its_page(path: Path) -> None:
    page = path.with_suffix(".md")
    assert f"]({path.name})" in page.read_text(), "the page leads to its notebook"
    assert path.read_text() == MAKER["notebook"](page), "run `python docs/notebooks.py`"


def test_a_notebook_runs(tmp_path: Path) -> None:
    """The first one, in a kernel and with commands in processes of their own, as it stands but for its recipe: one in
    the folder goes before that of the package, and is shorter. What the others say runs in `test_docs`."""
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    (tmp_path / "recipes").mkdir()
    recipe = yaml.safe_load((ROOT / "recipes/digits_mlp.yaml").read_text())
    recipe["trainer"] |= yaml.safe_load((ROOT / "recipes/with/smoke.yaml").read_text())["trainer"]
    (tmp_path / "recipes/digits_mlp.yaml").write_text(yaml.safe_dump(recipe))
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where `ff-lightning` is
    done = subprocess.run(
        [sys.executable, "-c", RUN, ROOT / "docs/tutorials/first_run.ipynb"],
        cwd=tmp_path,
        env={**os.environ, "PATH": commands},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "runs/digits_mlp/pictures/test.png").is_file()
