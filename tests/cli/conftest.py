"""Commands are what is tested here, not the pictures that a training leaves."""

import pytest


@pytest.fixture(autouse=True)
def _blank(blank_pictures: None) -> None:
    del blank_pictures
