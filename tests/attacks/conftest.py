"""One small trained classifier and one small language model, which every attack spoils in its own way."""

from __future__ import annotations

from pathlib import Path

import pytest

from ff_lightning.cli import main
from tests.attacks.spoiling import RECIPES


@pytest.fixture(autouse=True)
def _blank(blank_pictures: None) -> None:
    """Nobody looks at the pictures."""
    del blank_pictures


@pytest.fixture(scope="package")
def classifier_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two updates."""
    folder = tmp_path_factory.mktemp("classifier")
    assert main(["fit", *RECIPES["classifier"], "--trainer.default_root_dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="package")
def language_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two updates of a language model."""
    folder = tmp_path_factory.mktemp("language")
    assert main(["fit", *RECIPES["language"], "--trainer.default_root_dir", str(folder)]) == 0
    return folder
