"""Fixtures for all tests.

Heavy libraries are imported where they are used: the process that hands out tests to others reads this file, too, and
they wait for it.
"""

import logging
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SLOW = (
    *(
        "test_recipes",
        "test_docs",
        "cli",
        "test_benchmarks",
        "test_wandb",
        "test_notebooks",
        "test_processor",
        "report",
    ),
    *(
        "callbacks",
        "tasks",
        "test_pretrained",
        "attacks",
        "test_tuner",
        "engine/test_compilation",
        "engine/test_checkpoints",
    ),
)
"""Files and folders of tests that train recipes, run commands and draw pictures, the dearest first."""
FIRST, LATER = "test_ddp", ("engine/test_sharding", "strategies/test_layer_parallel")
"""Files that need two ranks: one starts them, at once and for both workers; the other files come when all is made."""
RUNS = {"digits_run", "text_run"}


@cache
def place(path: Path) -> int:
    """Where a test's file or folder stands in `SLOW`; behind all of these if it does not."""
    own, tests = path.with_suffix(""), Path(__file__).parent
    return next((index for index, slow in enumerate(SLOW) if own.is_relative_to(tests / slow)), len(SLOW))


@cache
def turn(path: Path) -> float:
    """When a file of tests begins, so that workers are busy together and end together."""
    name = path.with_suffix("").relative_to(Path(__file__).parents[1]).as_posix().removeprefix("tests/")
    return -1 if name == FIRST else 0.5 if name in LATER else place(path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow and what needs two ranks, and put the files in order."""
    for item in items:
        needs = set(getattr(item, "fixturenames", ()))
        if "two_ranks_folder" in needs:
            item.add_marker("ranks")
        if place(item.path) < len(SLOW) or needs & RUNS:
            item.add_marker("slow")
    items.sort(key=lambda item: turn(item.path))


def clean() -> None:
    """Lightning and wandb as in a new process, whatever an earlier test in this one did to them."""
    from lightning.pytorch.utilities import rank_zero_only

    if (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
        wandb.finish()
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
    # It keeps to itself what it says if it was imported before anybody listened, as by a file of fixtures.
    logging.getLogger("lightning.pytorch").propagate = True
    rank_zero_only.rank = 0
    # Lightning leaves these behind, and takes them for those of a launcher that starts the other ranks.
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "NODE_RANK", "LOCAL_RANK"):
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _clean() -> None:
    clean()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of local copies of real data sets."""
    if not (folder := os.environ.get("FF_LIGHTNING_DATA")):
        pytest.skip("FF_LIGHTNING_DATA does not name a folder of data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes share which share the tests."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def digits_run(shared_folder: Path) -> Path:
    """Run folder of a classifier of digits, trained for six epochs and tested; do not write to it."""
    from tests.command_line import shared_run  # a test of mathematics needs no command line

    clean()
    return shared_run(shared_folder / "runs", "digits")


@pytest.fixture(scope="session")
def text_run(shared_folder: Path) -> Path:
    """Run folder of a small GPT, trained for twenty updates; do not write to it."""
    from tests.command_line import shared_run

    clean()
    return shared_run(shared_folder / "runs", "text")


@pytest.fixture(scope="session")
def two_ranks_folder(shared_folder: Path) -> Path:
    """Folder with what two ranks have made of all cases of all strategies."""
    from tests.two_ranks import two_ranks

    clean()
    return two_ranks(shared_folder / "two_ranks")


FEW = {"train": 700, "test": 40}
"""Images that tests of whole commands need: decoding all takes longer than the rest of such a test."""


@pytest.fixture(scope="session")
def few_images(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of all data sets, with the first images of each set of images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

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


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn, and kept as one pixel: text and layout take half of a short training. For tests of commands
    that do not look at them; those of each recipe are rendered in `test_recipes`, all kinds in `callbacks`."""
    from matplotlib.figure import Figure
    from PIL import Image

    monkeypatch.setattr(Figure, "savefig", lambda _, path: Image.new("RGB", (1, 1)).save(path))


ALONE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
"""One rank of one, as a launcher would start it."""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of one rank, ended afterwards."""
    import torch

    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
