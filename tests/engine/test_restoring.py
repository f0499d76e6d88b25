"""On which device the tensors of a checkpoint come to be."""

from __future__ import annotations

import pytest
import torch

from ff_lightning.engine.restoring import where_it_was


@pytest.mark.parametrize(
    ("location", "stays"),
    [("cpu", True), ("cuda:0", True), ("cuda", True), ("cuda:1", False), ("mps", False), ("xla:0", False)],
)
def test_a_tensor_stays_where_it_was_if_that_is_here(
    location: str, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with one GPU. ``None`` is torch's own way: back to where it was."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    storage = torch.ones(2).untyped_storage()
    found = where_it_was(storage, location)
    assert found is None if stays else found.device.type == "cpu"
