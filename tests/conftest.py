"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of local copies of real data sets."""
    if not (folder := os.environ.get("FF_LIGHTNING_DATA")):
        pytest.skip("FF_LIGHTNING_DATA does not name a folder of data sets")
    return Path(folder)
