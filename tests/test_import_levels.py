"""Who imports whom: a level knows its own level and lower ones, and heavy libraries have one home each."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import ff_lightning

ROOT = Path(ff_lightning.__file__).parent

LEVELS = {
    0: {
        *("errors", "distributed", "stages", "goodness", "losses", "normalization", "negatives", "schedules"),
        *("batches", "blocks", "readouts", "early_exit", "networks", "language", "optim", "generation", "rollouts"),
        *("class_blocks", "class_losses", "conversion", "processor"),
    },
    1: {"metrics", "floors", "frozen", "samples"},
    2: {
        "",
        "module",
        "updates",
        "tasks",
        "data",
        "callbacks",
        "strategies",
        "checkpoints",
        "records",
        "refusals",
        "hyperparameters",
        "compilation",
        "sharding",
    },  # "" is the package's `__init__`
    3: {
        "cli",
        "cli_errors",
        "cli_export",
        "cli_generate",
        "cli_messages",
        "cli_models",
        "cli_predict",
        "cli_recipes",
        "cli_report",
        "hub",
        "report",
        "__main__",
    },
}
LEVEL_OF = {part: level for level, parts in LEVELS.items() for part in parts}

# Inside level 0. Anybody may say that an input cannot work, and average over ranks.
GROUND = {"errors", "distributed"}
PARTS = {"goodness", "losses", "normalization", "negatives", "schedules"}
KNOWS = {
    "errors": set(),
    "distributed": {"errors"},
    **dict.fromkeys(PARTS, GROUND),
    "stages": {"errors"},
    "batches": GROUND,
    "blocks": GROUND | PARTS | {"class_blocks", "stages"},  # of the former for its types alone
    "language": GROUND,
    "class_losses": GROUND | {"language", "losses"},
    "class_blocks": GROUND | PARTS | {"blocks"},
    "processor": set(),
    "conversion": GROUND | PARTS | {"blocks", "class_blocks"},
    "optim": GROUND | {"processor", "schedules"},
    "networks": GROUND | PARTS | {"blocks", "class_blocks", "class_losses", "networks", "language", "optim"},
    "generation": GROUND | {"language", "networks"},
    "rollouts": GROUND | {"generation", "networks"},
    "readouts": GROUND | PARTS | {"blocks", "class_blocks"},
    "early_exit": GROUND | {"blocks", "class_blocks", "readouts"},
}
LIBRARIES = {0: {"torch"}, 1: {"torch", "torchmetrics"}}
DATA_ONLY = {"datasets", "tiktoken", "sklearn"}


def level_of(part: str) -> int:
    return LEVEL_OF.get(part, max(LEVELS))  # a module without a place fails a test of its own


def imported(file: Path) -> set[str]:
    """Dotted names of all modules that a file imports anywhere in it, also within functions."""
    names = set()
    package = ["ff_lightning", *file.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from ff_lightning import blocks` names a module, `from ff_lightning.blocks import Block` does not.
            names |= {f"{module}.{alias.name}" if module == "ff_lightning" else module for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            names |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return names


def part_of(name: str) -> str:
    """The part of the package that a dotted name belongs to: ``blocks`` for ``ff_lightning.blocks``."""
    part = name.split(".")[1] if "." in name else ""
    return part if part in LEVEL_OF or (ROOT / part).is_dir() or (ROOT / f"{part}.py").exists() else ""


def own_part(file: Path) -> str:
    part = file.relative_to(ROOT).parts[0].removesuffix(".py")
    return "" if part == "__init__" else part


def own_imports(file: Path) -> set[str]:
    """Parts of the package that a file imports."""
    return {part_of(name) for name in imported(file) if name.split(".")[0] == "ff_lightning"}


def libraries(file: Path) -> set[str]:
    """Everything else that it imports, without the standard library."""
    return {name.split(".")[0] for name in imported(file)} - set(sys.stdlib_module_names) - {"ff_lightning"}


FILES = sorted(ROOT.rglob("*.py"))
ALL = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))


def test_the_package_is_read() -> None:
    names = {file.name for file in FILES}
    assert {"blocks.py", "mlp.py", "module.py"} <= names
    assert "torch" in libraries(ROOT / "blocks.py")
    assert {"errors", "goodness"} <= own_imports(ROOT / "blocks.py")


@ALL
def test_every_module_has_a_level(file: Path) -> None:
    assert own_part(file) in LEVEL_OF


@ALL
def test_nothing_imports_a_higher_level(file: Path) -> None:
    level = level_of(own_part(file))
    assert {part for part in own_imports(file) if level_of(part) > level} == set()


@ALL
def test_low_levels_import_the_libraries_of_their_level(file: Path) -> None:
    allowed = LIBRARIES.get(level_of(own_part(file)))
    if allowed is not None:
        assert libraries(file) - allowed == set()


@ALL
def test_parts_of_level_0_know_whom_they_should(file: Path) -> None:
    part = own_part(file)
    if part in KNOWS:
        assert own_imports(file) - KNOWS[part] == set()


@ALL
def test_data_libraries_are_imported_in_data_alone_and_wandb_nowhere(file: Path) -> None:
    forbidden = {"wandb"} | (set() if own_part(file) == "data" else DATA_ONLY)
    assert libraries(file) & forbidden == set()


def test_all_of_level_0_is_covered() -> None:
    assert KNOWS.keys() == LEVELS[0]
