from __future__ import annotations

from pathlib import Path

import pytest

from ff_lightning.cli import main
from ff_lightning.cli.catalogue import known


def test_every_recipe_and_overlay_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for name in known():
        (line,) = [line for line in lines if line.split()[:1] == [Path(name).stem]]
        assert len(line.split()) > 2, "says what it is for"


def test_a_command_alone_says_what_a_recipe_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit"]) == 2
    said = capsys.readouterr().err
    assert "A recipe is a YAML file" in said
    assert "digits_mlp" in said
    assert said.splitlines()[-1] == "ff-lightning: error: `ff-lightning fit` needs a recipe, or `--model` and `--data`."
