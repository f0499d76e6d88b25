"""Who imports whom: no circles, every arrow downward, few modules at the top, each heavy library at home in few rooms.

    python -m tests.test_import_levels [folder of a package ...]

prints the numbers that the page on the design gives: of this package, or of other versions of it.
"""

from __future__ import annotations

import ast
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx

import ff_lightning

ROOT = Path(ff_lightning.__file__).parent

MOST_AT_THE_TOP = 20
"""Modules that lie in the folder of the package itself."""

LEVELS = {
    "maths": {"networks", "language", "readouts", "conversion"},  # and every module at the top that is not named below
    "metrics": {"metrics"},
    "training": {"module", "engine", "strategies", "tasks", "data", "callbacks", "report"},
    "doors": {"", "cli", "pretrained", "finetuning", "__main__"},  # "" is the front door, the package's `__init__`
}
"""The rooms of each level; a level imports from itself and from those before it."""

LIBRARIES = {"maths": {"torch"}, "metrics": {"torch", "torchmetrics"}}
DATA_ONLY = {"datasets", "tiktoken", "tokenizers", "sklearn"}
NOWHERE = {"wandb"}


def room(module: str) -> str:
    """The folder that a module lies in, or at the top the module itself: ``engine`` for ``engine.updates``."""
    return module.split(".")[0]


def level(module: str) -> int:
    for place, rooms in enumerate(LEVELS.values()):
        if room(module) in rooms:
            return place
    return 0 if "." not in module else len(LEVELS)  # a folder without a level fails a test of its own


def nodes(tree: ast.AST, types: bool) -> Iterator[ast.AST]:
    """All nodes, also those in functions; without ``types`` not what only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and not types and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from nodes(node, types)


def imported(file: Path, package: list[str], types: bool) -> Iterator[str]:
    """Dotted names that a file imports; a name that is imported from a module may itself be a module."""
    for node in nodes(ast.parse(file.read_text(encoding="utf-8")), types):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *filter(None, [node.module])]
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (
                word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)
            )


class Package:
    """The modules of a package and who imports whom.

    Args:
        root: its folder.
        types: whether imports for type checkers alone count.
    """

    def __init__(self, root: Path, *, types: bool = False) -> None:
        self.root = root
        self.files = {self.name(file): file for file in sorted(root.rglob("*.py"))}
        self.arrows, self.libraries = nx.DiGraph(), {name: set[str]() for name in self.files}
        self.arrows.add_nodes_from(self.files)
        for name, file in self.files.items():
            for found in imported(file, [root.name, *file.relative_to(root).parent.parts], types):
                if found.split(".")[0] != root.name:
                    self.libraries[name] |= {found.split(".")[0]} - set(sys.stdlib_module_names)
                elif (module := self.module(found)) != name:
                    self.arrows.add_edge(name, module)
        self.rooms = nx.DiGraph((room(a), room(b)) for a, b in self.arrows.edges if room(a) != room(b))
        self.rooms.add_nodes_from(map(room, self.files))

    def name(self, file: Path) -> str:
        """``engine.updates`` for ``engine/updates.py``, and ``engine`` for its ``__init__``."""
        return ".".join(file.relative_to(self.root).with_suffix("").parts).removesuffix("__init__").rstrip(".")

    def module(self, dotted: str) -> str:
        """The module that an imported name is, or comes from."""
        name = dotted.partition(".")[2]
        while name not in self.files:
            name = name.rpartition(".")[0]
        return name

    def circles(self) -> list[list[str]]:
        """Modules that import each other in a circle, and rooms that do though none of their modules does."""
        modules, rooms = (
            [circle for circle in nx.strongly_connected_components(graph) if len(circle) > 1]
            for graph in (self.arrows, self.rooms)
        )
        closed = [{room(name) for name in circle} for circle in modules]
        return [sorted(circle) for circle in (*modules, *(circle for circle in rooms if circle not in closed))]

    def floors(self) -> list[list[str]]:
        """Rooms by the longest way down from them: those of the ground floor import no other room."""
        return [sorted(rooms) for rooms in nx.topological_generations(self.rooms.reverse())]

    def at_the_top(self) -> list[str]:
        return [name for name, file in self.files.items() if file.parent == self.root]


def code_lines(file: Path) -> int:
    """Lines with code on them: neither empty, nor a comment, nor part of a docstring."""
    lines: set[int] = set()
    starts_a_line = True
    with file.open("rb") as text:
        for token in tokenize.tokenize(text.readline):
            if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING):
                starts_a_line = True
            elif token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER):
                if not (starts_a_line and token.type == tokenize.STRING):
                    lines |= set(range(token.start[0], token.end[0] + 1))
                starts_a_line = False
    return len(lines)


def numbers(root: Path) -> dict[str, int]:
    """What the page on the design says about a version of the package."""
    package = Package(root)
    return {
        "modules": len(package.files),
        "of them at the top": len(package.at_the_top()),
        "rooms": len(package.rooms),
        "floors": len(package.floors()) if not package.circles() else 0,
        "arrows between rooms": package.rooms.number_of_edges(),
        "circles": len(package.circles()),
        "circles, imports for types counted": len(Package(root, types=True).circles()),
        "lines of code": sum(map(code_lines, package.files.values())),
    }


@cache
def ours() -> Package:
    return Package(ROOT)


def test_the_package_is_read() -> None:
    package = ours()
    assert {"blocks", "networks.mlp", "engine.updates", "module", ""} <= package.files.keys()
    assert "torch" in package.libraries["blocks"]
    assert {"errors", "goodness"} <= set(package.arrows["blocks"])
    assert "engine.updates" in package.arrows["module"]
    assert nx.has_path(package.rooms, "cli", "goodness")


def test_no_module_and_no_room_is_part_of_a_circle() -> None:
    """So every arrow between rooms leads to a lower floor."""
    assert ours().circles() == [], numbers(ROOT)


def test_few_modules_lie_at_the_top() -> None:
    assert len(ours().at_the_top()) <= MOST_AT_THE_TOP, ours().at_the_top()


def test_every_folder_has_a_level_and_every_level_its_rooms() -> None:
    package = ours()
    homeless = {room(name) for name in package.files if level(name) == len(LEVELS)}
    assert homeless == set(), "name their level in LEVELS"
    named = set().union(*LEVELS.values())
    assert named <= set(package.rooms), "LEVELS names rooms that are not there"


def test_no_arrow_leads_to_a_higher_level() -> None:
    assert [(a, b) for a, b in ours().arrows.edges if level(a) < level(b)] == [], numbers(ROOT)


def test_low_levels_import_the_libraries_of_their_level_alone() -> None:
    allowed = [*LIBRARIES.values()]
    wrong = {
        name: found - allowed[level(name)]
        for name, found in ours().libraries.items()
        if level(name) < len(allowed) and found - allowed[level(name)]
    }
    assert wrong == {}


def test_data_libraries_are_imported_in_data_alone_and_wandb_nowhere() -> None:
    wrong = {
        name: found & (NOWHERE if room(name) == "data" else NOWHERE | DATA_ONLY)
        for name, found in ours().libraries.items()
    }
    assert {name: found for name, found in wrong.items() if found} == {}


def test_a_circle_is_seen(tmp_path: Path) -> None:
    """Also one that is closed within a function, and by a relative import; one of types alone is not one."""
    root = tmp_path / "package"
    (root / "upper").mkdir(parents=True)
    (root / "__init__.py").write_text('"""A door."""\n')
    (root / "low.py").write_text(
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import package.upper.high\n"
    )
    (root / "upper" / "__init__.py").write_text("")
    (root / "upper" / "high.py").write_text("from package import low\nfrom package.low import __name__\n")
    assert Package(root).circles() == []
    assert Package(root).floors() == [["", "low"], ["upper"]]
    assert Package(root, types=True).circles() == [["low", "upper.high"]]
    (root / "low.py").write_text("def later():\n    from .upper import high\n\n    return high\n")
    assert Package(root).circles() == [["low", "upper.high"]]
    assert [code_lines(root / name) for name in ("__init__.py", "low.py")] == [0, 3]
    (root / "upper" / "high.py").write_text("")
    (root / "upper" / "other.py").write_text("import package.low\n")
    assert Package(root).circles() == [["low", "upper"]], "of rooms, not of modules"


def main() -> None:
    for root in map(Path, sys.argv[1:] or [str(ROOT)]):
        print(root.resolve())
        for name, number in numbers(root).items():
            print(f"{number:>8}  {name}")
        package = Package(root)
        for height, rooms in enumerate(package.floors() if not package.circles() else []):
            print(f"floor {height}: {' '.join(name or 'ff_lightning' for name in rooms)}")


if __name__ == "__main__":
    main()
