"""The notebooks are those of the tutorials, and run from top to bottom in a kernel."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    """As it stands, but for recipes: those in the folder go before those of the package, and are shorter."""
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    (tmp_path / "recipes").mkdir()
    smoke = yaml.safe_load((ROOT / "recipes/with/smoke.yaml").read_text())["trainer"]
    for name in ("digits_mlp", "pydoc_gpt"):
        recipe = yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text())
        recipe["trainer"] |= smoke
        if name == "pydoc_gpt":
            recipe["model"]["init_args"]["network"]["init_args"]["width"] = 32
            recipe["data"]["init_args"] |= {"max_characters": 50_000, "context": 32}
        (tmp_path / f"recipes/{name}.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "my_text.txt").write_text("".join(topics[name] for name in sorted(topics)[:20]))  # the reader's own
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where `ff-lightning` is
    done = subprocess.run(
        [sys.executable, "-c", RUN, path],
        cwd=tmp_path,
        env={**os.environ, "PATH": commands},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
