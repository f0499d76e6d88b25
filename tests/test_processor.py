"""Settings of the process: they last, so each test has a process of its own."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest
import torch

from ff_lightning.errors import InputError
from ff_lightning.processor import SETTING, ask

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


ASKED = """
import torch
from ff_lightning.optim import orthogonalised
from ff_lightning.processor import ask

answer = ask("cpu")
steps = orthogonalised(torch.randn(4, 4))
print(answer.pays, torch.equal(steps, steps.bfloat16().float()), answer.why, sep="|")
"""

INSTRUCTIONS = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
HAS = any(INSTRUCTIONS.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX is x86's")
needs_instructions = pytest.mark.skipif(not HAS, reason="this processor has no instructions for bfloat16")


@pytest.mark.parametrize(
    ("environment", "pays", "why"),
    [
        pytest.param({"ONEDNN_MAX_CPU_ISA": "AVX2"}, False, "a product in bfloat16 took", marks=needs_x86),
        pytest.param({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, False, "a product in bfloat16 took", marks=needs_x86),
        pytest.param(
            {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, True, "a product in bfloat16 took", marks=needs_instructions
        ),
        pytest.param({}, True, "this processor has a", marks=needs_instructions),
    ],
)
def test_bfloat16_is_asked_for_and_measured(environment: dict[str, str], pays: bool, why: str) -> None:
    """oneDNN is told what processor it runs on: AVX-512 alone, of the middle one, does not multiply bfloat16."""
    plain = {name: value for name, value in os.environ.items() if name not in ("ONEDNN_MAX_CPU_ISA", SETTING)}
    done = subprocess.run(
        [sys.executable, "-c", ASKED], env=plain | environment, capture_output=True, text=True, check=True
    )
    said, muon, reason = done.stdout.strip().split("|")
    assert said == str(pays)
    assert reason.startswith(why)
    assert muon == str(pays), "its steps are rounded to bfloat16 or they are not"


@pytest.mark.skipif(HAS or not INSTRUCTIONS or platform.machine() != "x86_64", reason="another kind of processor")
def test_a_processor_without_instructions_for_bfloat16_says_so() -> None:
    assert ask("cpu") == (False, "this processor has neither amx_bf16 nor avx512_bf16")


def test_another_word_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "maybe")
    with pytest.raises(InputError, match=r"`FF_LIGHTNING_BFLOAT16=maybe` in the environment\. It must be yes or no"):
        ask("cpu")
    assert ask("cpu", torch.float16) == ask("cpu", torch.float16), "which the setting says nothing of"
