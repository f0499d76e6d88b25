"""Settings of the process: they last, so each test has a process of its own."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ff_lightning.processor import multiplies_bfloat16

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


PRECISIONS = """
import sys, torch, yaml
from pathlib import Path
from ff_lightning.cli import main
from ff_lightning.optim import orthogonalised

def used(*words):
    assert main(["fit", *sys.argv[1:], "--trainer.accelerator", "cpu", *words]) == 0
    print("used", yaml.safe_load(Path("runs/precision/config.yaml").read_text())["trainer"]["precision"])

for in_file in ("bf16-mixed", "16-mixed", "bf16-true"):
    Path("precision.yaml").write_text(f"trainer: {{precision: {in_file}, default_root_dir: runs/precision}}")
    used("--config", "precision.yaml")
used("--config", "precision.yaml", "--trainer.precision", "bf16-mixed")
steps = orthogonalised(torch.randn(4, 4))
print("muon", torch.equal(steps, steps.bfloat16().float()))
"""

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
"""What oneDNN then takes a newer processor of this kind for: one without bfloat16."""


@pytest.mark.parametrize(
    ("processor", "mixed"),
    [
        pytest.param(AVX2, False, marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is x86's")),
        pytest.param(
            {},
            True,
            marks=pytest.mark.skipif(not multiplies_bfloat16("cpu"), reason="this processor has no bfloat16"),
        ),
    ],
)
def test_half_precision_is_taken_where_the_processor_has_it(
    tmp_path: Path, processor: dict[str, str], mixed: bool
) -> None:
    configs = [word for name in ("digits_mlp", "with/smoke") for word in ("--config", f"recipes/{name}.yaml")]
    done = subprocess.run(
        [sys.executable, "-c", PRECISIONS, *configs],
        env=os.environ | processor,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    used = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("used ")]
    said = done.stdout + done.stderr
    assert f"muon {mixed}" in said, "its steps are rounded to bfloat16 or they are not"
    if mixed:
        assert used == ["bf16-mixed", "16-mixed", "bf16-true", "bf16-mixed"]
        assert "many times slower" not in said
    else:
        assert used == ["32-true", "32-true", "bf16-true", "bf16-mixed"]
        assert said.count("Computing in 32-true, not in ") == 2
        assert said.count("Computing in bf16-mixed, which is many times slower on this device") == 1
