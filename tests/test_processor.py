"""Settings of the process: they last, so each test has a process of its own."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch

BETWEEN_STEPS = """
import resource, sys, torch
from ff_lightning.processor import prepare_cpu

if sys.argv[1] == "prepared":
    prepare_cpu()
torch.set_num_threads(1)

def step():
    return (torch.ones(16, 2**20) * 2).sum()  # 64 MiB, twice

for _ in range(20):  # until it has its place
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_asked_for(how: str) -> int:
    """Pages that the system handed out in five steps."""
    return int(subprocess.run([sys.executable, "-c", BETWEEN_STEPS, how], capture_output=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_memory_of_a_step_is_kept_for_the_next_one() -> None:
    assert pages_asked_for("prepared") < 1000
    assert pages_asked_for("as it was") > 10_000


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="the CPU cannot flush denormal numbers")
def test_denormal_numbers_are_zero() -> None:
    code = (
        "import torch; from ff_lightning.processor import prepare_cpu; prepare_cpu(); "
        "print((torch.tensor([1e-38]) / 1e3).item())"
    )
    assert float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) == 0
