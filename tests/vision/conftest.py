"""These tests need torchvision and timm beside a torch that they can be imported with: `make test-vision`."""

from importlib.metadata import PackageNotFoundError, version

import pytest

SUITS = {"torchvision": "0.29"}
"""torchvision of the release that goes with a torch of 2.14; with another torch it cannot be imported."""


def missing() -> str:
    """What keeps these tests from running, by the versions that are installed; nothing is imported."""
    try:
        found = {name: version(name) for name in ("torch", "torchvision", "timm")}
    except PackageNotFoundError as error:
        return f"{error.name or error} is not installed"
    torch, torchvision = (found[name].split("+")[0].split(".") for name in ("torch", "torchvision"))
    fits = int(torchvision[1]) == int(torch[1]) + 15
    return "" if fits else f"torchvision {found['torchvision']} is not that of torch {found['torch']}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all of them where the versions do not fit."""
    if reason := missing():
        for item in items:
            if "tests/vision" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason=f"{reason}: run `make test-vision`"))
