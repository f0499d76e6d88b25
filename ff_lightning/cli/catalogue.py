"""``ff-lightning recipes``: which recipes there are, and how a command finds them wherever it runs."""

from __future__ import annotations

import difflib
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from ff_lightning.errors import InputError

FOLDERS = (Path(__file__).parents[1], Path(__file__).parents[2])
"""Where ``recipes/`` lies: in the package if it was installed, beside it in a checkout."""

WHAT_IT_IS = (
    "A recipe is a YAML file that names network, data and Trainer. An overlay, behind a second --config, changes one "
    "aspect of it; --model.…, --data.… and --trainer.… change anything else."
)
WIDTH = 80


def recipes() -> None:
    """List the recipes and overlays that come with the package, and what each is for."""
    sys.stdout.write(listing())


def listing() -> str:
    """Every recipe and overlay in a line, with how its heading begins."""
    found = sorted(known().items())
    overlays = [pair for pair in found if pair[0].startswith("recipes/with/")]
    lines = textwrap.wrap(WHAT_IT_IS, WIDTH)
    lines += ["", "recipes/….yaml", *_rows([pair for pair in found if pair not in overlays], "recipes/")]
    lines += ["", "recipes/with/….yaml", *_rows(overlays, "recipes/with/")]
    return "\n".join([*lines, "", "For example: ff-lightning fit --config recipes/digits_mlp.yaml", ""])


def _rows(found: Sequence[tuple[str, Path]], place: str) -> Iterator[str]:
    names = [name.removeprefix(place).removesuffix(".yaml") for name, _ in found]
    indent = max(map(len, names)) + 2
    for name, (_, path) in zip(names, found, strict=True):
        text = heading(path.read_text(encoding="utf-8"))
        yield f"  {name:<{indent}}{textwrap.shorten(text, WIDTH - indent - 2, placeholder=' …')}"


def heading(text: str) -> str:
    r"""How the comment begins that a file begins with: up to its first colon, bracket or full stop.

    >>> heading("# Three\n# blocks on digits (Hinton et al. 2022). More.\n")
    'Three blocks on digits'
    """
    lines = itertools.takewhile(lambda line: line.startswith("# "), text.splitlines())
    words = " ".join(line[2:] for line in lines)
    return re.split(r":\s| \(|\.(?:\s|$)", words)[0]


def known() -> dict[str, Path]:
    """Recipes and overlays of the package, by the path that a command names them with."""
    return {
        file.relative_to(folder).as_posix(): file for folder in FOLDERS for file in (folder / "recipes").rglob("*.yaml")
    }


def with_own_recipes(words: Sequence[str]) -> list[str]:
    """A command, with the recipes of this project found wherever it runs.

    Args:
        words: of the command; a path that begins with ``recipes/`` and is no file here is taken from the package.

    Raises:
        InputError: the package has no recipe of that name; names the nearest ones.

    >>> Path(with_own_recipes(["--config", "recipes/digits_mlp.yaml"])[1]).is_file()
    True
    """
    return [_own(word) for word in words]


def _own(word: str) -> str:
    option, equals, path = word.rpartition("=") if word.startswith("--config=") else ("", "", word)
    if Path(path).is_file() or not (path.startswith("recipes/") and path.endswith(".yaml")):
        return word
    found = known()
    if path not in found:
        near = " or ".join(f"`{name}`" for name in difflib.get_close_matches(path, found, n=2))
        hint = f" Did you mean {near}?" if near else " `ff-lightning recipes` lists them."
        raise InputError(f"Passed `{path}`. There is no such recipe, neither here nor in the package.{hint}")
    return option + equals + str(found[path])
