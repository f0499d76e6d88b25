"""Settings of the process: they last, so each of them is tried in a process of its own."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from typing import Any

import pytest
import torch

from ff_lightning.errors import InputError
from ff_lightning.processor import SETTING, WORTH_IT, ask

TRY = """
import json, os, resource, sys
import torch
from ff_lightning.optim import orthogonalised
from ff_lightning.processor import ask, prepare_cpu

def pages(prepared):
    if prepared:
        prepare_cpu()
    torch.set_num_threads(1)

    def step():
        return (torch.ones(16, 2**20) * 2).sum()  # 64 MiB, twice

    for _ in range(20):  # until it has its place
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def denormal():
    prepare_cpu()
    return (torch.tensor([1e-38]) / 1e3).item()

def asked(**environment):
    os.environ.update(environment)
    answer = ask("cpu")
    steps = orthogonalised(torch.randn(4, 4))
    return answer.pays, torch.equal(steps, steps.bfloat16().float()), answer.why

def alone(work, **arguments):
    reader, writer = os.pipe()
    if not (child := os.fork()):
        with os.fdopen(writer, "w") as file:
            json.dump(work(**arguments), file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        told = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(told)

found = {"prepared": alone(pages, prepared=True), "as it was": alone(pages, prepared=False)}
found |= {"denormal": alone(denormal), "unlimited": alone(asked)}
print(json.dumps(found | {isa: alone(asked, ONEDNN_MAX_CPU_ISA=isa) for isa in sys.argv[1:]}))
"""
"""Imports torch once, computes nothing, and forks a process for each trial."""
ISAS = ("AVX2", "AVX512_CORE", "AVX512_CORE_BF16")
"""What oneDNN is told to restrict itself to. AVX-512 alone, of the middle one, does not multiply bfloat16."""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What every trial says."""
    plain = {name: value for name, value in os.environ.items() if name not in ("ONEDNN_MAX_CPU_ISA", SETTING)}
    done = subprocess.run([sys.executable, "-c", TRY, *ISAS], env=plain, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    trials: dict[str, Any] = json.loads(done.stdout)
    return trials


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_memory_of_a_step_is_kept_for_the_next_one(found: dict[str, Any]) -> None:
    """Counted in pages that the system handed out in five steps."""
    assert found["prepared"] < 1000
    assert found["as it was"] > 10_000


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="the CPU cannot flush denormal numbers")
def test_denormal_numbers_are_zero(found: dict[str, Any]) -> None:
    assert found["denormal"] == 0


INSTRUCTIONS = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
HAS = any(INSTRUCTIONS.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX is x86's")
needs_instructions = pytest.mark.skipif(not HAS, reason="this processor has no instructions for bfloat16")


@pytest.mark.parametrize(
    ("trial", "pays", "why"),
    [
        pytest.param("AVX2", False, "a product in bfloat16 took", marks=needs_x86),
        pytest.param("AVX512_CORE", False, "a product in bfloat16 took", marks=needs_x86),
        # Some processors with AMX are slower at this than at float32: the answer must be what was measured.
        pytest.param("AVX512_CORE_BF16", None, "a product in bfloat16 took", marks=needs_instructions),
        pytest.param("unlimited", True, "this processor has a", marks=needs_instructions),
    ],
)
def test_bfloat16_is_asked_for_and_measured(found: dict[str, Any], trial: str, pays: bool | None, why: str) -> None:
    """oneDNN is told what processor it runs on."""
    said, muon, reason = found[trial]
    assert reason.startswith(why)
    if pays is None:
        share = float(reason.removeprefix(why).split()[0])  # rounded to a tenth
        assert share <= WORTH_IT if said else share >= WORTH_IT
    else:
        assert said == pays
    assert muon == said, "its steps are rounded to bfloat16 or they are not"


@pytest.mark.skipif(HAS or not INSTRUCTIONS or platform.machine() != "x86_64", reason="another kind of processor")
def test_a_processor_without_instructions_for_bfloat16_says_so() -> None:
    assert ask("cpu") == (False, "this processor has neither amx_bf16 nor avx512_bf16")


def test_another_word_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "maybe")
    with pytest.raises(InputError, match=r"`FF_LIGHTNING_BFLOAT16=maybe` in the environment\. It must be yes or no"):
        ask("cpu")
    assert ask("cpu", torch.float16) == ask("cpu", torch.float16), "which the setting says nothing of"
