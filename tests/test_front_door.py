"""The front door of the package: what stands there, and that nothing is loaded before it is asked for."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import ff_lightning as ff

PACKAGE = Path(ff.__file__).parent

LOOK = """
import contextlib, io, json, sys
import ff_lightning
from ff_lightning.cli import main

assert "FFClassifier" in dir(ff_lightning)
said = {}
for command in ("--help", "--version", "generate --help", "export --help", "predict --folder here --help"):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(command.split())
    said[command] = out.getvalue()
errors = io.StringIO()
with contextlib.redirect_stderr(errors):
    status = main(["tune"])
heavy = sorted({"torch", "lightning", "datasets", "matplotlib", "numpy"} & sys.modules.keys())
print(json.dumps({"said": said, "error": errors.getvalue(), "status": status, "heavy": heavy}))
assert ff_lightning.InputError.__name__ == "InputError" and "torch" not in sys.modules
import lightning.pytorch  # what it brings differs from version to version
before = set(sys.modules)
import ff_lightning.data
assert not {"datasets", "sklearn", "tiktoken"} & (set(sys.modules) - before)
import ff_lightning.conversion
assert callable(ff_lightning.convert) and ff_lightning.networks.MLP and "torch" in sys.modules
"""


def test_help_and_version_load_neither_torch_nor_lightning() -> None:
    run = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert seen["heavy"] == []
    assert "Train the network of a recipe." in seen["said"]["--help"]
    assert seen["said"]["--version"].split()[-1] == ff.__version__
    assert all("--ckpt_path" in text for command, text in seen["said"].items() if " " in command)
    assert seen["status"] == 2
    assert "invalid choice: 'tune'" in seen["error"]


def test_what_a_type_checker_reads_is_what_there_is() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (static,) = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    imported = {
        alias.asname: node.module for node in static.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == {name: f"ff_lightning.{home}" for name, home in ff._HOME_OF.items()}
    assert all(getattr(ff, name).__name__ == name for name in ff.__all__)


def test_no_module_has_the_name_of_something_public() -> None:
    modules = {path.stem for path in PACKAGE.iterdir()}
    assert "networks" in modules
    assert modules & set(ff.__all__) == set()


@pytest.mark.parametrize("name", ["Clasifier", "_hidden", "no_module"])
def test_what_is_not_there_is_said(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'ff_lightning' has no attribute '{name}'"):
        getattr(ff, name)


@pytest.mark.parametrize("package", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_a_package_offers_what_it_imports_for_others(package: str) -> None:
    """``from ff_lightning.networks import *`` and documentation tools read ``__all__``."""
    tree = ast.parse((PACKAGE / package / "__init__.py").read_text())
    offered = {
        alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names if alias.asname
    }
    module = getattr(ff, package)
    assert set(getattr(module, "__all__", [])) == offered
    assert all(hasattr(module, name) for name in offered)
