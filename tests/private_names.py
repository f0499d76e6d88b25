"""Finds the private names of other packages that a file uses, in its syntax tree, and whether they exist."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache, reduce
from pathlib import Path
from types import ModuleType
from typing import Any

NAMED_TUPLES = {"_replace", "_asdict", "_make", "_fields", "_field_defaults"}
"""With an underscore, but documented: it keeps them apart from the names of fields."""


def is_private(name: str) -> bool:
    return bool(re.fullmatch(r"_[a-zA-Z]\w*", name)) and name not in NAMED_TUPLES


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(module)))


def of_self(node: ast.AST) -> bool:
    """Whether this is `self`, `cls` or `super()`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def written_in(body: ast.ClassDef) -> set[str]:
    """Private names that a class defines, or assigns to `self`."""
    found = {node.name for node in body.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    targets = [target for node in body.body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in body.body if isinstance(node, ast.AnnAssign)]
    found |= {target.id for target in targets if isinstance(target, ast.Name)}
    for node in ast.walk(body):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and of_self(node.value):
            found.add(node.attr)
    return {name for name in found if is_private(name)}


@cache
def written(kind: type) -> frozenset[str]:
    """Private names of one class, without those of its bases."""
    try:
        nodes = ast.walk(tree_of(kind.__module__))
    except (OSError, TypeError):  # it is written in C
        return frozenset(name for name in vars(kind) if is_private(name))
    bodies = [node for node in nodes if isinstance(node, ast.ClassDef) and node.name == kind.__name__]
    return frozenset().union(*map(written_in, bodies))


class Finder(ast.NodeVisitor):
    """Finds the private names of others in a file of a package: what it reads, assigns, imports and overrides."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.package = module.__name__.split(".")[0]
        self.classes: list[str] = []
        self.uses: set[str] = set()
        self.overrides: set[str] = set()

    def bases(self, *, own: bool) -> set[str]:
        """Private names of the class at hand and its bases, those of the package or those of others."""
        kind: type = reduce(getattr, self.classes, self.module)  # type: ignore[arg-type]
        kinds = [base for base in kind.__mro__ if (base.__module__.split(".")[0] == self.package) is own]
        return set().union(*map(written, kinds))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.classes.append(node.name)
        if mine := written_in(node):
            self.overrides |= mine & self.bases(own=False)
        self.generic_visit(node)
        self.classes.pop()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if is_private(node.attr):
            inside = of_self(node.value) and self.classes
            if not inside or node.attr in self.bases(own=False) or node.attr not in self.bases(own=True):
                self.uses.add(node.attr)
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.uses |= {part for alias in node.names for part in alias.name.split(".") if is_private(part)}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        self.uses |= {part for part in parts if is_private(part)}

    def visit_Call(self, node: ast.Call) -> None:
        self.uses |= set(filter(is_private, words(node.args)))  # as in `getattr(x, "_name")`
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.uses |= set(filter(is_private, words([node.slice])))  # as in `vars(x)["_name"]`
        self.generic_visit(node)


def words(nodes: list[ast.expr]) -> Iterator[str]:
    return (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def finder(file: Path, module: ModuleType) -> Finder:
    found = Finder(module)
    found.visit(ast.parse(file.read_text(encoding="utf-8")))
    return found


def exists(place: str) -> bool:
    """Whether there is a name, or an assignment to it in the source of its class or module."""
    *parts, name = place.split(".")
    owner: Any = importlib.import_module(parts[0])
    for index, part in enumerate(parts[1:], 2):
        if not hasattr(owner, part):
            importlib.import_module(".".join(parts[:index]))
        owner = getattr(owner, part)
    if hasattr(owner, name):
        return True
    if isinstance(owner, type):
        return any(name in written(kind) for kind in owner.__mro__)
    if owner.__name__ not in sys.modules:  # it has no source, as `torch.ops.mkldnn`
        return False
    stored = (node for node in ast.walk(tree_of(owner.__name__)) if isinstance(node, ast.Attribute))
    return any(node.attr == name and isinstance(node.ctx, ast.Store) for node in stored)
