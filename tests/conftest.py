"""Fixtures for all tests."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only


@pytest.fixture(autouse=True)
def _lightning_speaks() -> None:
    """Lightning's messages are heard, whatever an earlier test in this process did to them."""
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
    rank_zero_only.rank = 0


@pytest.fixture(autouse=True)
def _no_launcher() -> None:
    """Lightning leaves these behind, and takes them for those of a launcher that starts the other ranks."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "NODE_RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of local copies of real data sets."""
    if not (folder := os.environ.get("FF_LIGHTNING_DATA")):
        pytest.skip("FF_LIGHTNING_DATA does not name a folder of data sets")
    return Path(folder)


FEW = {"train": 1600, "test": 400}
"""Images that tests of whole commands need: decoding all takes longer than the rest of such a test."""


@pytest.fixture(scope="session")
def few_images(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of all data sets, with the first images of each set of images."""
    folder = tmp_path_factory.mktemp("few_images")
    for original in filter(Path.is_dir, shared_data.iterdir()):
        if not (tables := list(original.glob("*.parquet"))):
            (folder / original.name).symlink_to(original)
        for path in tables:
            (folder / original.name).mkdir(exist_ok=True)
            table = pq.ParquetFile(path)
            first = next(table.iter_batches(FEW[path.stem]))
            pq.write_table(pa.Table.from_batches([first], table.schema_arrow), folder / original.name / path.name)
    return folder


ALONE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
"""One rank of one, as a launcher would start it."""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of one rank, ended afterwards."""
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
